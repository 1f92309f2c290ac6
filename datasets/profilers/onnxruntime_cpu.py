"""ONNX Runtime on this machine's CPU."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardsight.datasets.profilers._base import Profiler
from hardsight.datasets.profilers.energy import RaplCounter
from hardsight.device import Device
from hardsight.errors import BackendError, ModelError
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import onnx

_SCRATCH = Path("/dev/shm")  # weights never touch a slow disk where memory-backed files exist


_MEMORY_RUNS = 5


class OnnxRuntimeCpuProfiler(Profiler):
    """Latency, peak memory and (where RAPL is readable) energy under ONNX Runtime's CPU provider.

    Latency is the median of ``session.run`` wall times: warm-up of 0.1 s, then at least 20 samples
    until the median's 95 % interval is within ±2 % or the budget ends. Peak memory is the resident
    memory that loading the file and running it twice adds to a process that has the runtime
    imported, median of five processes (the allocator's luck moves it by up to a quarter); the
    file's own buffers while it loads count, as they do for a user. Energy is that
    of the whole CPU package, idle power included.

    The worker process is started on first use and lives as long as this object.
    """

    def __init__(self) -> None:
        self._worker: subprocess.Popen[str] | None = None

    def check(self) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError("the ONNX Runtime profiler needs the package 'onnxruntime'") from error
        if "CPUExecutionProvider" not in onnxruntime.get_available_providers():
            raise BackendError("this onnxruntime has no CPU execution provider")

    def unavailable(self) -> dict[Metric, str]:
        reasons: dict[Metric, str] = {}
        try:
            RaplCounter()
        except BackendError as error:
            reasons[Metric.ENERGY] = str(error)
        if not Path("/proc/self/status").exists():
            reasons[Metric.PEAK_MEMORY] = "peak memory is read from /proc, which this system does not have"
        return reasons

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
        missing = self.unavailable()
        for metric in metrics or ():
            if metric in missing:
                raise BackendError(f"{metric} cannot be measured on {device.name}: {missing[metric]}")
        wanted = tuple(metrics or (Metric.LATENCY, Metric.PEAK_MEMORY, Metric.ENERGY))
        graph = read_onnx(model, shapes=shapes)
        bound = {spec.name: spec.shape for spec in graph.inputs}
        with _runnable(model, bound, quantize=device.mode.startswith("int8")) as (path, weights):
            request = {
                "path": str(path),
                "threads": device.threads,
                "shapes": bound,
                "budget_s": budget_s,
                "timeout_s": 60 + 3 * budget_s,
                "energy": Metric.ENERGY not in missing,
            }
            answer = self._ask(request)
            if "error" in answer:
                raise BackendError(f"'{graph.name}' on {device.name}: {answer['error']}")
            peaks = [answer[Metric.PEAK_MEMORY]]
            if Metric.PEAK_MEMORY in wanted and peaks[0] is not None:
                again = [self._ask({**request, "memory_only": True}) for _ in range(_MEMORY_RUNS - 1)]
                peaks += [a[Metric.PEAK_MEMORY] for a in again if "error" not in a]
                answer[Metric.PEAK_MEMORY] = float(np.median(peaks))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        versions = {**host_versions(), "weights": weights}
        spreads = {
            Metric.LATENCY: (answer["spread"], answer["repeats"]),
            Metric.PEAK_MEMORY: (_half_range(peaks), len(peaks)),
            Metric.ENERGY: (0.0, answer["repeats"]),
        }
        return [
            Measurement(
                digest=graph.digest,
                device=device.name,
                metric=metric,
                value=float(answer[str(metric)]),
                spread=spreads[metric][0],
                repeats=spreads[metric][1],
                time=now,
                versions=versions,
            )
            for metric in wanted
            if answer[str(metric)] is not None
        ]

    def close(self) -> None:
        """End the worker process, and the one that is running a model."""
        if self._worker is not None:
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._worker.pid, signal.SIGKILL)
            self._worker.kill()
            self._worker.wait()
            for stream in (self._worker.stdin, self._worker.stdout):
                if stream is not None:
                    stream.close()
            self._worker = None

    def __del__(self) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._worker is None or self._worker.poll() is not None:
            self.close()
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "hardsight.datasets.profilers._ort_worker", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # a group to end as a whole; Ctrl-C is for the parent
            )
        stdin, stdout = self._worker.stdin, self._worker.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:  # its answer, still to come, would be taken for the next one's
            self.close()
            raise
        if not line:
            self.close()
            return {"error": "the profiling process ended without an answer"}
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def _runnable(
    model: Path | onnx.ModelProto, shapes: Mapping[str, Sequence[int]], *, quantize: bool
) -> Iterator[tuple[Path, str]]:
    """A file that ONNX Runtime runs with such inputs, and whence its weights: ``"model"`` or ``"random"``."""
    import onnx

    from hardsight.datasets.quantize import quantize_static
    from hardsight.datasets.weights import fill_weights

    if isinstance(model, Path):
        proto = onnx.load(model, load_external_data=False)
        complete = _has_weights(proto, model.parent)
    else:
        proto = model
        complete = _has_weights(proto, None)
    quantize = quantize and not _is_quantized(proto)
    rebind = quantize or _contradicts(proto, shapes)
    if isinstance(model, Path) and complete:
        if not rebind:
            yield model, "model"
            return
        proto = onnx.load(model)
    if rebind:
        proto = _bound(proto, shapes)
    if not complete:
        proto = fill_weights(proto)
    if quantize:
        proto = quantize_static(proto)
    scratch = _SCRATCH if _SCRATCH.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="hardsight-", dir=scratch) as folder:
        path = Path(folder) / "model.onnx"
        try:
            data = proto.SerializeToString()
        except ValueError as error:
            raise ModelError(f"the model is too large to be written as one file: {error}") from error
        path.write_bytes(data)
        del proto, data
        yield path, "model" if complete else "random"


def _contradicts(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether the file fixes an input's dimension to another number; ONNX Runtime would refuse the input."""
    return any(
        dim.HasField("dim_value") and dim.dim_value != size
        for value in model.graph.input
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False)
    )


def _bound(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """A copy with these input shapes, and without what the file says of other tensors' shapes."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        if value.name in shapes and value.type.HasField("tensor_type"):
            tensor = value.type.tensor_type
            tensor.ClearField("shape")
            tensor.shape.SetInParent()  # present though empty: a scalar
            for size in shapes[value.name]:
                tensor.shape.dim.add(dim_value=size)
    del copy.graph.value_info[:]
    for value in copy.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return copy


def _has_weights(model: onnx.ModelProto, folder: Path | None) -> bool:
    """Whether every initializer's data is in the file or lies beside it."""
    import onnx

    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        if folder is None or not location or not (folder / location).is_file():
            return False
    return True


def _is_quantized(model: onnx.ModelProto) -> bool:
    """Whether some operator already quantizes; such a model runs in INT8 as it is."""
    return any("Quant" in node.op_type or node.op_type.startswith("QLinear") for node in model.graph.node)


def _half_range(values: Sequence[float | None]) -> float:
    """Half the range relative to the median; the spread of a few runs that have no distribution to speak of."""
    known = [v for v in values if v]
    return (max(known) - min(known)) / 2 / float(np.median(known)) if known else 0.0


@cache
def host_versions() -> dict[str, str]:
    """What labels taken on this machine depend on: CPU, cores, system, runtime."""
    import onnxruntime

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "cpu": cpu_name(),
        "cores": str(cores),
        "system": f"{platform.system()} {platform.release()}",
        "onnxruntime": onnxruntime.__version__,
    }


@cache
def cpu_name() -> str:
    """The CPU's marketing name and the instruction sets that matter here."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        import cpuinfo

        return str(cpuinfo.get_cpu_info().get("brand_raw", platform.processor()))
    text = info.read_text()
    name = re.search(r"model name\s*: (.*)", text)
    flags = re.search(r"flags\s*: (.*)", text)
    have = set(flags.group(1).split()) if flags else set()
    useful = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16") if f in have]
    return " ".join([name.group(1) if name else platform.machine(), *useful])
