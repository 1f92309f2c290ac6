"""The GPU profiler without a GPU: a board with a clock of its own, a counter that moves in steps, a fake NVML."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from onnx import parser

from hardsight.datasets.profilers import cuda, get_profiler, nvml
from hardsight.datasets.profilers._cuda_worker import Server, TorchGpu, idle_power_w, profile
from hardsight.datasets.profilers.cuda import MODES, CudaProfiler
from hardsight.datasets.profilers.energy import NvmlCounter
from hardsight.device import Device
from hardsight.errors import BackendError
from hardsight.ingest import read_onnx
from hardsight.metrics import Metric

IDLE_W, BUSY_W = 70.0, 400.0


class NvmlError(Exception):
    pass


class Board:
    """A GPU and its NVML: time passes only by work and rest; the counter shows the energy of the last update."""

    NVMLError = NvmlError

    def __init__(self, latency_s: float = 1e-3, period_s: float = 0.02) -> None:
        self.now = self.joules = self.shown = 0.0
        self.latency_s, self.period_s = latency_s, period_s
        self.busy_w: Callable[[float], float] = lambda now: BUSY_W
        self.queue = self.updates = 0
        self.loaded: list[str] = []

    def pass_time(self, seconds: float, watts: float) -> None:
        end = self.now + seconds
        while (update := (self.updates + 1) * self.period_s) <= end:
            self.joules += (update - self.now) * watts
            self.now, self.shown, self.updates = update, self.joules, self.updates + 1
        self.joules += (end - self.now) * watts
        self.now = end

    # NVML
    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{'abc'[handle]}"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        return int(self.shown * 1e3)

    # what the measurements need of a GPU
    def load(self, path: str, mode: str, shapes: Any) -> Callable[[], object]:
        self.loaded.append(mode)

        def run() -> None:
            self.queue += 1

        return run

    def synchronize(self) -> None:
        self.pass_time(self.queue * self.latency_s, self.busy_w(self.now))
        self.queue = 0

    def timed_s(self, run: Callable[[], object]) -> float:
        self.synchronize()
        run()
        self.synchronize()
        self.pass_time(1e-5, IDLE_W)
        return self.latency_s

    def peak_bytes(self) -> int:
        return 12345

    def clock(self) -> float:
        return self.now

    def rest(self) -> None:
        self.pass_time(2e-3, IDLE_W)

    def counter(self) -> NvmlCounter:
        return NvmlCounter(nvml.gpu_index("b", self), self)

    def versions(self) -> dict[str, str]:
        return {"gpu": "Fake 1", "torch": "2.13"}


def request(**changes: Any) -> dict[str, Any]:
    return {"path": "m.onnx", "mode": "eager-fp16", "shapes": {}, "budget_s": 1.0, "energy": True} | changes


@pytest.mark.parametrize("latency_s", [2e-5, 1e-3, 0.03, 0.7])
@pytest.mark.parametrize("period_s", [0.001, 0.02, 0.1])
def test_energy_is_power_times_latency_however_coarse_the_counter(latency_s: float, period_s: float) -> None:
    board = Board(latency_s, period_s)
    answer = profile(board, board.counter(), request())
    assert answer["latency_s"] == latency_s
    assert answer["energy_j"] == pytest.approx(BUSY_W * latency_s, rel=0.02)
    assert answer["energy_spread"] < 0.1
    assert answer["idle_power_w"] == pytest.approx(IDLE_W, rel=0.02)
    assert answer["peak_memory_bytes"] == 12345


@pytest.mark.parametrize("period_s", [0.001, 0.1])
def test_loops_last_a_second_and_many_moves_of_the_counter(period_s: float) -> None:
    board = Board(1e-3, period_s)
    run = board.load("", "", {})

    def work() -> int:
        for _ in range(5):
            run()
        board.synchronize()
        return 5

    steps = nvml.watch(board.counter(), work, board.clock)
    lasted = steps[-1].time_s - steps[0].time_s
    assert lasted >= nvml.LOOP_S and len(steps) > nvml.MIN_STEPS
    assert lasted < max(nvml.LOOP_S, (nvml.MIN_STEPS + 1) * period_s) + 0.1
    assert nvml.period_s(steps) == pytest.approx(max(period_s, 0.005), rel=0.1)


def test_slow_inferences_do_not_make_the_loop_endless() -> None:
    board = Board(latency_s=0.9)
    begin = board.now
    profile(board, board.counter(), request(idle_power_w=70.0, budget_s=0.0))
    assert board.now - begin < 2 * 0.9 + 5 * 0.9 + nvml.PATIENCE * nvml.LOOP_S + 2 * 0.9


def test_power_that_drifts_is_a_spread() -> None:
    board = Board()
    board.busy_w = lambda now: 300.0 + 100.0 * now
    assert profile(board, board.counter(), request())["energy_spread"] > 0.05


def test_a_counter_that_stands_still_costs_only_the_energy() -> None:
    board = Board(period_s=1e9)
    answer = profile(board, board.counter(), request())
    assert "has not moved for 2.0 s" in answer["no_energy"]
    assert "energy_j" not in answer and answer["latency_s"] == 1e-3


def test_a_counter_that_runs_backwards_costs_only_the_energy() -> None:
    board = Board()

    def reloaded(now: float) -> float:
        if now > 1.8:
            board.shown = board.joules = 0.0
        return BUSY_W

    board.busy_w = reloaded
    answer = profile(board, board.counter(), request())
    assert "ran backwards" in answer["no_energy"] and "energy_j" not in answer


def test_idle_power_is_that_of_the_board_at_rest() -> None:
    board = Board()
    assert idle_power_w(board, board.counter()) == pytest.approx(IDLE_W, rel=0.01)
    begin = board.now
    profile(board, None, request())
    assert board.now - begin < 1.0  # no counter: no second of energy, no second of idling


def test_the_counter_is_that_of_cudas_gpu() -> None:
    board = Board()
    assert [nvml.gpu_index(uuid, board) for uuid in ("a", "GPU-c")] == [0, 2]
    with pytest.raises(BackendError, match="NVML does not list the GPU MIG-d"):
        nvml.gpu_index("MIG-d", board)

    def broken() -> None:
        raise NvmlError("Driver Not Loaded")

    with pytest.raises(BackendError, match="NVML says Driver Not Loaded"):
        nvml.gpu_index("a", SimpleNamespace(NVMLError=NvmlError, nvmlInit=broken))


def test_the_worker_answers_in_sentences() -> None:
    board = Board()
    server = Server(lambda: board)
    answer = server.answer(request())
    assert answer["versions"]["gpu"] == "Fake 1" and answer["energy_j"] > 0
    assert "energy_j" not in server.answer(request(energy=False))

    def out_of_memory(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\n Tried to allocate 2 GiB")

    board.load = out_of_memory  # type: ignore[method-assign]
    assert server.answer(request()) == {
        "error": "CUDA out of memory. Tried to allocate 2 GiB. PyTorch cannot run it on this GPU"
    }


def test_without_a_counter_the_worker_says_why() -> None:
    board = Board()

    def refuse() -> NvmlCounter:
        raise BackendError("no readable energy counter on GPU 0: Not Supported")

    board.counter = refuse  # type: ignore[method-assign]
    answer = Server(lambda: board).answer(request())
    assert answer["no_energy"] == "no readable energy counter on GPU 0: Not Supported"
    assert answer["latency_s"] == 1e-3


# --- PyTorch's side, with its CUDA functions replaced and tensors on the CPU ---------------------------------


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts what is called of ``torch.cuda``; events are one millisecond apart."""
    calls: dict[str, int] = {}

    def stub(name: str, result: Any = None) -> Callable[..., Any]:
        def call(*_: Any, **__: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            return result

        return call

    class Event:
        def __init__(self, enable_timing: bool) -> None: ...

        def record(self) -> None: ...

        def synchronize(self) -> None: ...

        def elapsed_time(self, other: Event) -> float:
            return 1.0

    def nothing(*_: Any) -> Any:
        return contextlib.nullcontext()

    replaced = {
        "Event": Event,
        "Stream": lambda: SimpleNamespace(wait_stream=stub("wait")),
        "current_stream": lambda: SimpleNamespace(wait_stream=stub("wait")),
        "stream": nothing,
        "graph": nothing,
        "CUDAGraph": lambda: SimpleNamespace(replay=stub("replay")),
        "synchronize": stub("synchronize"),
        "empty_cache": stub("empty_cache"),
        "reset_peak_memory_stats": stub("reset_peak"),
        "max_memory_allocated": stub("peak", 4096),
        "is_bf16_supported": lambda: False,
        "get_device_name": lambda: "Fake 1",
        "current_device": lambda: 0,
        "get_device_properties": lambda index: SimpleNamespace(uuid="b"),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", stub("clear"), raising=False)
    monkeypatch.setattr(torch, "compile", lambda module, dynamic: stub("compiled"))
    monkeypatch.setitem(sys.modules, "pynvml", Board())
    return calls


def test_torch_loads_every_mode(fake_cuda: dict[str, int], tmp_path: Path) -> None:
    path = str(tmp_path / "m.onnx")
    onnx.save(model(), path)
    gpu, shapes = TorchGpu("cpu"), {"x": [1, 4]}
    for mode, dtype in (("eager-fp32", torch.float32), ("eager-fp16", torch.float16)):
        assert gpu.load(path, mode, shapes)().dtype is dtype
    assert fake_cuda["clear"] == fake_cuda["empty_cache"] == fake_cuda["reset_peak"] == 2
    replay = gpu.load(path, "cuda-graph-fp16", shapes)
    assert replay() is None and fake_cuda["replay"] == 1 and fake_cuda["wait"] == 2
    gpu.load(path, "compile-fp32", shapes)()
    assert fake_cuda["compiled"] == 1
    with pytest.raises(BackendError, match="Fake 1 does not compute in bfloat16"):
        gpu.load(path, "eager-bf16", shapes)
    assert gpu.timed_s(lambda: None) == 1e-3 and gpu.peak_bytes() == 4096
    assert gpu.versions()["gpu"] == "Fake 1" and gpu.versions()["tf32"] in ("off", "conv", "matmul conv")
    assert gpu.counter().read_j() == 0.0


# --- the profiler, with a script in the worker's place -------------------------------------------------------


def device(mode: str = "eager-fp16") -> Device:
    return Device(name=f"host/cuda/{mode}", kind="gpu")


def model() -> onnx.ModelProto:
    return parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }'
    )


def scripted(monkeypatch: pytest.MonkeyPatch, script: str) -> CudaProfiler:
    """A profiler on a machine that has a GPU, with a worker that runs ``script`` for each request."""
    monkeypatch.setattr(CudaProfiler, "check", lambda self: None)
    monkeypatch.setattr(cuda, "find_spec", lambda name: name)
    profiler = CudaProfiler()
    loop = (
        f"import json, os, sys, time\nfor line in sys.stdin:\n    request = json.loads(line)\n    {script}\n"
    )
    monkeypatch.setattr(profiler, "_command", lambda: [sys.executable, "-c", loop])
    return profiler


ANSWER = {
    "latency_s": 2e-3,
    "spread": 0.01,
    "repeats": 40,
    "peak_memory_bytes": 1000,
    "energy_j": 0.5,
    "energy_spread": 0.02,
    "energy_runs": 600,
    "idle_power_w": 71.26,
    "counter_period_s": 0.02,
    "versions": {"gpu": "Fake 1"},
}


def test_labels_say_what_was_measured_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    profiler = scripted(monkeypatch, f"print({json.dumps(json.dumps(ANSWER))}, flush=True)")
    labels = {label.metric: label for label in profiler.measure(model(), device())}
    profiler.close()
    assert {metric: label.value for metric, label in labels.items()} == {
        Metric.LATENCY: 2e-3,
        Metric.PEAK_MEMORY: 1000.0,
        Metric.ENERGY: 0.5,
    }
    assert labels[Metric.ENERGY].versions["idle_power_w"] == "71.3"
    assert "every 0.020 s" in labels[Metric.ENERGY].versions["energy_counter"]
    assert labels[Metric.PEAK_MEMORY].versions["peak_memory"] == "torch.cuda.max_memory_allocated"
    assert {label.digest for label in labels.values()} == {read_onnx(model()).digest}
    assert {label.versions["gpu"] for label in labels.values()} == {"Fake 1"}


def test_idle_power_is_measured_once_and_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "requests"
    script = f"open({str(log)!r}, 'a').write(line); print({json.dumps(json.dumps(ANSWER))}, flush=True)"
    profiler = scripted(monkeypatch, script)
    for mode in ("eager-fp32", "compile-bf16"):
        profiler.measure(model(), device(mode), [Metric.ENERGY])
    profiler.close()
    requests = [json.loads(line) for line in log.read_text().splitlines()]
    assert [r["idle_power_w"] for r in requests] == [None, 71.26]
    assert [r["mode"] for r in requests] == ["eager-fp32", "compile-bf16"]
    assert requests[0]["shapes"] == {"x": [1, 4]}


def test_missing_energy_is_noted_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {k: v for k, v in ANSWER.items() if "energy" not in k} | {"no_energy": "the counter stood still"}
    profiler = scripted(monkeypatch, f"print({json.dumps(json.dumps(answer))}, flush=True)")
    labels = profiler.measure(model(), device())
    assert [label.metric for label in labels] == [Metric.LATENCY, Metric.PEAK_MEMORY]
    assert labels[0].versions["no_energy"] == "the counter stood still"
    with pytest.raises(BackendError, match=r"energy_j cannot be measured .*: the counter stood still"):
        profiler.measure(model(), device(), [Metric.ENERGY])
    profiler.close()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("os.kill(os.getpid(), 11)", r"PyTorch crashed \(SIGSEGV\)"),
        ("sys.exit(3)", r"PyTorch crashed \(exit code 3\)"),
        ("print(json.dumps({'error': 'CUDA out of memory'}), flush=True)", "CUDA out of memory"),
        ("time.sleep(60)", "still running after 1 s"),
    ],
)
def test_whatever_ends_the_worker_costs_one_cell(
    monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    for name, value in (("_LOAD_S", {"eager": 1.0}), ("_ENERGY_S", 0.0)):
        monkeypatch.setattr(f"hardsight.datasets.profilers.cuda.{name}", value)
    profiler = scripted(monkeypatch, script)
    with pytest.raises(BackendError, match=rf"'g' on host/cuda/eager-fp16: {reason}"):
        profiler.measure(model(), device(), budget_s=0.0)
    assert profiler._worker is None  # the next cell gets a new one


def test_check_says_in_one_sentence_why_it_cannot_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    profiler = CudaProfiler()
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(BackendError, match="built without CUDA; install one that has it"):
        profiler.check()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="finds no NVIDIA GPU"):
        profiler.check()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    profiler.check()


def test_other_modes_and_quantized_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    profiler = scripted(monkeypatch, "pass")
    with pytest.raises(BackendError, match="no mode 'int8-t1'; it has eager-fp32"):
        profiler.measure(model(), device("int8-t1"))
    quantized = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) '
        "{ s = Constant<value = float {0.1}>() q = QuantizeLinear(x, s) y = DequantizeLinear(q, s) }"
    )
    with pytest.raises(BackendError, match="no INT8 convolutions"):
        profiler.measure(quantized, device())


def test_the_registry_finds_it_under_every_mode() -> None:
    assert len(MODES) == 9
    for mode in MODES:
        assert isinstance(get_profiler(device(mode)), CudaProfiler)


@pytest.mark.device
@pytest.mark.parametrize("mode", MODES)
def test_on_a_real_gpu(mode: str) -> None:
    profiler = CudaProfiler()
    try:
        profiler.check()
    except BackendError as error:
        pytest.skip(str(error))
    labels = {label.metric: label for label in profiler.measure(model(), device(mode), budget_s=1.0)}
    profiler.close()
    assert 1e-6 < labels[Metric.LATENCY].value < 0.01
    assert labels[Metric.PEAK_MEMORY].value >= 16
