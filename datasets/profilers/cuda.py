"""PyTorch on an NVIDIA GPU."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardsight.datasets.profilers._base import Profiler
from hardsight.datasets.profilers._cpu import _SCRATCH, _runnable, host_versions
from hardsight.device import Device
from hardsight.errors import BackendError
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import onnx

MODES = tuple(
    f"{how}-{precision}"
    for how in ("eager", "cuda-graph", "compile")
    for precision in ("fp32", "fp16", "bf16")
)
"""Third parts of the devices' names: ``host/cuda/eager-fp32`` and so on."""

_LOAD_S = {"eager": 60.0, "cuda-graph": 60.0, "compile": 300.0}
_ENERGY_S = 30.0


class CudaProfiler(Profiler):
    """Latency, peak memory and energy of inference with PyTorch on the first NVIDIA GPU.

    Modes (`MODES`): eager, captured once as a CUDA graph and replayed, or by ``torch.compile``; weights and
    inputs in fp32, fp16 or bf16. fp32 is what PyTorch makes of it by default, which lets convolutions use
    TF32; ``versions`` says so. Inputs and outputs stay on the GPU.

    - Latency: CUDA events around single inferences on an empty queue, so the host's launches count where
      they are slower than the kernels; the median, until its 95 % interval is within ±2 % or the budget ends.
    - Peak memory: ``torch.cuda.max_memory_allocated`` over loading and two inferences: weights, activations
      and workspaces as PyTorch's allocator sees them, not the CUDA context.
    - Energy: of the whole board, idle power included, by NVML's counter over inferences back to back for at
      least a second and many moves of the counter (`hardsight.datasets.profilers.nvml`). ``versions`` states
      the board's idle power and how often the counter moved. Spread: half the range of five parts.

    Everything runs in a worker process under a time-out; one that fails costs its cell and is replaced.
    """

    def __init__(self, cache: Path | None = None) -> None:
        super().__init__(cache)
        self._worker: subprocess.Popen[str] | None = None
        self._idle_power_w: float | None = None

    def check(self) -> None:
        if find_spec("torch") is None:
            raise BackendError("the cuda profiler needs the package 'torch', built with CUDA")
        import torch

        if torch.version.cuda is None:
            raise BackendError(
                f"this PyTorch ({torch.__version__}) is built without CUDA; install one that has it"
            )
        if not torch.cuda.is_available():
            raise BackendError("PyTorch finds no NVIDIA GPU (is one here, with its driver?)")

    def unavailable(self) -> dict[Metric, str]:
        if find_spec("pynvml") is None:
            return {
                Metric.ENERGY: "no readable energy counter: it needs 'nvidia-ml-py' (pip install 'hardsight[gpu]')"
            }
        return {}

    def measure(
        self,
        model: Path | onnx.ModelProto,
        device: Device,
        metrics: Sequence[Metric] | None = None,
        *,
        budget_s: float = 10.0,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> list[Measurement]:
        from hardsight.ingest import read_onnx

        self.check()
        if device.mode not in MODES:
            raise BackendError(f"the cuda profiler has no mode '{device.mode}'; it has {', '.join(MODES)}")
        for metric, reason in self.unavailable().items():
            if metric in (metrics or ()):
                raise BackendError(f"{metric} cannot be measured on {device.name}: {reason}")
        wanted = tuple(metrics or (Metric.LATENCY, Metric.PEAK_MEMORY, Metric.ENERGY))
        graph = read_onnx(model, shapes=shapes)
        bound = {spec.name: list(spec.shape) for spec in graph.inputs}
        with (
            tempfile.TemporaryDirectory(
                prefix="hardsight-", dir=_SCRATCH if _SCRATCH.is_dir() else None
            ) as folder,
            _runnable(model, bound, quantize=False, folder=Path(folder)) as (path, weights, quantized),
        ):
            if quantized:
                raise BackendError("PyTorch has no INT8 convolutions on GPUs; measure the float model")
            answer = self._ask(
                {
                    "path": str(path),
                    "mode": device.mode,
                    "shapes": bound,
                    "budget_s": budget_s,
                    "energy": Metric.ENERGY in wanted,
                    "idle_power_w": self._idle_power_w,
                },
                timeout_s=_LOAD_S[device.mode.rpartition("-")[0]] + _ENERGY_S + 3 * budget_s,
            )
        if "error" in answer:
            raise BackendError(f"'{graph.name}' on {device.name}: {answer['error']}")
        if metrics is not None and Metric.ENERGY in wanted and "energy_j" not in answer:
            raise BackendError(f"{Metric.ENERGY} cannot be measured on {device.name}: {answer['no_energy']}")
        self._idle_power_w = answer.get("idle_power_w", self._idle_power_w)
        versions = {**host_versions(), **answer["versions"], "weights": weights}
        return _labels(graph.digest, device.name, wanted, answer, versions)

    def close(self) -> None:
        """End the worker process."""
        if self._worker is not None:
            _kill(self._worker)
            self._worker.wait()
            for stream in (self._worker.stdin, self._worker.stdout):
                if stream is not None:
                    stream.close()
            self._worker = None

    def __del__(self) -> None:
        self.close()

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "hardsight.datasets.profilers._cuda_worker", str(os.getpid())]

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The worker's answer; whatever is wrong with it costs the worker, since CUDA's errors stay."""
        if self._worker is None or self._worker.poll() is not None:
            self.close()
            self._worker = subprocess.Popen(
                self._command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # a group to end as a whole; Ctrl-C is for the parent
            )
        worker = self._worker
        assert worker.stdin is not None and worker.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            _kill(worker)

        timer = threading.Timer(timeout_s, end)
        timer.start()
        try:
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:  # its answer, still to come, would be taken for the next one's
            self.close()
            raise
        finally:
            timer.cancel()
        answer: dict[str, Any]
        if line.endswith("\n"):
            answer = json.loads(line)
        elif late.is_set():
            answer = {"error": f"still running after {timeout_s:.0f} s"}
        else:
            status = worker.wait()
            how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            answer = {"error": f"PyTorch crashed ({how})"}
        if "error" in answer:
            self.close()
        return answer


def _kill(worker: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):  # compilers that it started, too
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)
    worker.kill()


def _labels(
    digest: str, device: str, wanted: Sequence[Metric], answer: Mapping[str, Any], versions: Mapping[str, str]
) -> list[Measurement]:
    notes: dict[Metric, dict[str, str]] = {
        Metric.LATENCY: {},
        Metric.PEAK_MEMORY: {"peak_memory": "torch.cuda.max_memory_allocated"},
        Metric.ENERGY: {},
    }
    values = {
        Metric.LATENCY: (answer["latency_s"], answer["spread"], answer["repeats"]),
        Metric.PEAK_MEMORY: (answer["peak_memory_bytes"], 0.0, 1),
    }
    if "energy_j" in answer:
        values[Metric.ENERGY] = (answer["energy_j"], answer["energy_spread"], answer["energy_runs"])
        notes[Metric.ENERGY] = {
            "idle_power_w": f"{answer['idle_power_w']:.1f}",
            "energy_counter": f"NVML total energy of the board, seen to move every {answer['counter_period_s']:.3f} s",
        }
    elif Metric.ENERGY in wanted:
        notes = {metric: {**note, "no_energy": answer["no_energy"]} for metric, note in notes.items()}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [
        Measurement(
            digest=digest,
            device=device,
            metric=metric,
            value=float(values[metric][0]),
            spread=values[metric][1],
            repeats=values[metric][2],
            time=now,
            versions={**versions, **notes[metric]},
        )
        for metric in wanted
        if metric in values
    ]
