"""Worker process of the NVIDIA GPU profiler: one JSON request a line in, one JSON answer a line out.

Unlike on CPUs, requests share the process: a CUDA context takes about a second to make. Each starts from an
emptied allocator; whoever asks starts a new worker after any error, since CUDA's often outlive their cause.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from hardsight.datasets.profilers import nvml
from hardsight.datasets.profilers._worker import (
    MIN_SAMPLES,
    TARGET_SPREAD,
    WARMUP_S,
    _die_with,
    median_spread,
)
from hardsight.datasets.profilers.energy import EnergyCounter, NvmlCounter
from hardsight.errors import BackendError

BATCH_S = 0.005
"""Inferences between two looks at the energy counter take about this long."""

Run = Callable[[], object]


class Gpu(Protocol):
    """What the measurements need of a GPU; the tests have a fake one."""

    def load(self, path: str, mode: str, shapes: Mapping[str, Sequence[int]]) -> Run:
        """Forget the model before, load this one; returns one inference, which need not have ended on return."""

    def timed_s(self, run: Run) -> float:
        """Seconds on the GPU from an idle queue to the end of one inference."""

    def synchronize(self) -> None:
        """Wait until the queue is empty."""

    def peak_bytes(self) -> int:
        """Most memory allocated at a time since `load` began."""

    def clock(self) -> float:
        """Seconds of the host's clock."""

    def rest(self) -> None:
        """Leave the GPU alone for a few milliseconds."""


def profile(gpu: Gpu, counter: EnergyCounter | None, request: Mapping[str, Any]) -> dict[str, Any]:
    """Load, warm up and measure one model.

    Args:
        gpu: where.
        counter: of its energy; None leaves energy out.
        request: ``path``, ``mode``, ``shapes``, ``budget_s`` and ``idle_power_w`` (None: not known yet, so it is
            measured first).

    Returns:
        ``latency_s``, ``spread``, ``repeats``, ``peak_memory_bytes``; ``energy_j``, ``energy_spread``,
        ``energy_runs``, ``idle_power_w`` and ``counter_period_s``, or ``no_energy`` with the reason.
    """
    idle_w: float | None = request.get("idle_power_w")
    no_energy = ""
    if counter and idle_w is None:
        try:
            idle_w = idle_power_w(gpu, counter)
        except BackendError as error:
            counter, no_energy = None, str(error)
    run = gpu.load(request["path"], request["mode"], request["shapes"])
    for _ in range(2):  # the first compiles, chooses algorithms and makes workspaces
        run()
    gpu.synchronize()
    answer: dict[str, Any] = {"peak_memory_bytes": gpu.peak_bytes()}
    samples = latencies(gpu, run, request["budget_s"])
    answer["latency_s"], answer["spread"] = median_spread(samples)
    answer["repeats"] = len(samples)
    if counter:
        try:
            steps = nvml.watch(counter, _batch(gpu, run, answer["latency_s"]), gpu.clock)
            answer["energy_j"], answer["energy_spread"] = nvml.joules_per_run(steps)
            answer["energy_runs"] = steps[-1].runs - steps[0].runs
            answer["counter_period_s"] = nvml.period_s(steps)
            answer["idle_power_w"] = idle_w
        except BackendError as error:
            no_energy = str(error)
    return {**answer, "no_energy": no_energy} if no_energy else answer


def latencies(gpu: Gpu, run: Run, budget_s: float) -> list[float]:
    """Seconds of single inferences, after a warm-up.

    Ends when the median is known to ± 2 %, or when the budget is spent and there are three.
    """
    begin = gpu.clock()
    while gpu.clock() - begin < WARMUP_S:
        gpu.timed_s(run)
    samples: list[float] = []
    begin = gpu.clock()
    while True:
        samples.append(gpu.timed_s(run))
        enough = len(samples) >= MIN_SAMPLES and len(samples) % 5 == 0
        if enough and median_spread(samples)[1] < TARGET_SPREAD:
            return samples
        if gpu.clock() - begin > budget_s and len(samples) >= 3:
            return samples


def idle_power_w(gpu: Gpu, counter: EnergyCounter) -> float:
    """Watts of the board with a CUDA context and nothing to do, over at least a second."""

    def rest() -> int:
        gpu.rest()
        return 0

    gpu.synchronize()
    return nvml.watts(nvml.watch(counter, rest, gpu.clock))


def _batch(gpu: Gpu, run: Run, latency_s: float) -> Callable[[], int]:
    """A few milliseconds of inferences back to back."""
    size = max(1, math.floor(BATCH_S / latency_s))

    def work() -> int:
        for _ in range(size):
            run()
        gpu.synchronize()
        return size

    return work


class TorchGpu:
    """The first GPU that PyTorch sees.

    Args:
        torch_device: where tensors go; tests have no GPU and say so.
    """

    def __init__(self, torch_device: str = "cuda") -> None:
        import torch

        self._torch: Any = torch
        self._torch_device = torch_device
        self._torch.zeros(1, device=torch_device)  # makes the context
        self._start, self._end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._kept: object = None

    def versions(self) -> dict[str, str]:
        """What labels taken here depend on."""
        torch = self._torch
        tf32 = [
            name
            for name, on in (
                ("matmul", torch.backends.cuda.matmul.allow_tf32),
                ("conv", torch.backends.cudnn.allow_tf32),
            )
            if on
        ]
        return {
            "gpu": torch.cuda.get_device_name(),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
            "torch": torch.__version__,
            "tf32": " ".join(tf32) or "off",
        }

    def counter(self) -> EnergyCounter:
        """This GPU's energy counter.

        Raises:
            BackendError: when it has none that can be read.
        """
        try:
            pynvml = import_module("pynvml")
        except ImportError as error:
            raise BackendError("no readable energy counter: 'nvidia-ml-py' is not installed") from error
        uuid = str(self._torch.cuda.get_device_properties(self._torch.cuda.current_device()).uuid)
        return NvmlCounter(nvml.gpu_index(uuid, pynvml), pynvml)

    def load(self, path: str, mode: str, shapes: Mapping[str, Sequence[int]]) -> Run:
        import onnx

        from hardsight.datasets.profilers._cpu import inputs
        from hardsight.datasets.to_torch import to_torch

        torch = self._torch
        self._forget()
        how, _, precision = mode.rpartition("-")
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        if dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported():
            raise BackendError(f"{torch.cuda.get_device_name()} does not compute in bfloat16")
        model = onnx.load(path)
        module = to_torch(model, dtype=dtype, shapes=shapes).to(self._torch_device)
        kinds = {
            spec.name: onnx.helper.tensor_dtype_to_np_dtype(spec.type.tensor_type.elem_type)
            for spec in model.graph.input
        }
        feeds = {name: torch.from_numpy(array) for name, array in inputs(shapes, kinds).items()}
        arguments = [
            (feed.to(dtype) if feed.dtype is torch.float32 else feed).to(self._torch_device)
            for feed in (feeds[spec.name] for spec in model.graph.input if spec.name in feeds)
        ]
        forward = torch.compile(module, dynamic=False) if how == "compile" else module

        def run() -> object:
            with torch.inference_mode():
                return forward(*arguments)

        return self._captured(run) if how == "cuda-graph" else run

    def timed_s(self, run: Run) -> float:
        self._torch.cuda.synchronize()
        self._start.record()
        run()
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) / 1e3

    def synchronize(self) -> None:
        self._torch.cuda.synchronize()

    def peak_bytes(self) -> int:
        return int(self._torch.cuda.max_memory_allocated())

    def clock(self) -> float:
        return time.perf_counter()

    def rest(self) -> None:
        time.sleep(0.002)

    def _captured(self, run: Run) -> Run:
        """The inference as a CUDA graph, captured after the warm-up on a side stream that PyTorch asks for."""
        torch = self._torch
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._kept = run()  # outputs live in the graph's own memory
        replay: Run = graph.replay
        return replay

    def _forget(self) -> None:
        """Free what the model before left: its tensors, compiled code and cuBLAS workspaces."""
        torch = self._torch
        self._kept = None
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()
        gc.collect()
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()  # no public name in 2.13 (pytorch/pytorch#184084)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class Server:
    """Answers requests; the GPU and its counter are found at the first of them."""

    def __init__(self, make_gpu: Callable[[], Any] = TorchGpu) -> None:
        self._make_gpu = make_gpu
        self._gpu: Any = None
        self._counter: EnergyCounter | None = None
        self._no_counter = ""

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A `profile` with ``versions``, or ``error`` with one sentence."""
        try:
            if self._gpu is None:
                self._gpu = self._make_gpu()
                try:
                    self._counter = self._gpu.counter()
                except BackendError as error:
                    self._no_counter = str(error)
            found = profile(self._gpu, self._counter if request["energy"] else None, request)
            if request["energy"] and self._counter is None:
                found["no_energy"] = self._no_counter
            return {**found, "versions": self._gpu.versions()}
        except BackendError as error:
            return {"error": str(error)}
        except Exception as error:  # whatever PyTorch or CUDA throws becomes the cell's reason
            text = " ".join(str(error).split())[:300].strip(" .")
            return {"error": f"{text or type(error).__name__}. PyTorch cannot run it on this GPU"}


def main() -> None:
    """Serve requests, dying with the parent process given."""
    _die_with(int(sys.argv[1]))
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what a compiler prints must not be taken for an answer
        server = Server()
        for line in sys.stdin:
            answers.write(json.dumps(server.answer(json.loads(line))) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
