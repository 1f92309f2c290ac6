"""Measuring: energy counters, the worker's isolation, and the ONNX Runtime profiler itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from hardsight.datasets.profilers import _worker, get_profiler
from hardsight.datasets.profilers.energy import NvmlCounter, RaplCounter
from hardsight.datasets.profilers.onnxruntime_cpu import OnnxRuntimeCpuProfiler as Ort
from hardsight.device import Device, available_cores, get_device
from hardsight.errors import BackendError, ModelError, NotSupportedError
from hardsight.ingest import read_onnx
from hardsight.metrics import Metric

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1,4,16,16] x) => (float[1,4,16,16] y) <float[4,4,3,3] w = {WEIGHTS}>
{ c = Conv <pads = [1,1,1,1]> (x, w)  y = Relu(c) }
""".replace("WEIGHTS", ",".join(["0.1"] * 144))


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(onnx.parser.parse_model(TEXT), path)
    return path


def _zone(root: Path, name: str, energy_uj: int, limit_uj: int = 1000) -> Path:
    zone = root / name
    zone.mkdir()
    (zone / "energy_uj").write_text(str(energy_uj))
    (zone / "max_energy_range_uj").write_text(str(limit_uj))
    return zone


def test_rapl_adds_packages_ignores_subzones_and_undoes_wrap_around(tmp_path: Path) -> None:
    first, second = _zone(tmp_path, "intel-rapl:0", 900), _zone(tmp_path, "intel-rapl:1", 0)
    _zone(tmp_path, "intel-rapl:0:0", 500)
    counter = RaplCounter(tmp_path)
    (first / "energy_uj").write_text("100")  # 900 → 1000 → wraps to 0 at 1001 → 100: 201 µJ
    (second / "energy_uj").write_text("50")
    assert counter.read_j() == pytest.approx(251e-6)


def test_rapl_without_a_zone_says_so(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no readable energy counter"):
        RaplCounter(tmp_path)


def test_nvml_reads_millijoules_and_names_a_missing_counter() -> None:
    class FakeError(Exception):
        pass

    def energy(handle: str) -> int:
        if handle == "gpu1":
            raise FakeError("Not Supported")
        return 2500

    nvml = SimpleNamespace(
        NVMLError=FakeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda i: f"gpu{i}",
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )
    assert NvmlCounter(0, nvml).read_j() == 2.5
    with pytest.raises(BackendError, match="GPU 1: Not Supported"):
        NvmlCounter(1, nvml)


def test_median_spread_covers_the_true_median() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        samples = rng.lognormal(0.0, 0.1, 40).tolist()  # true median 1
        median, spread = _worker.median_spread(samples)
        inside += abs(median - 1) <= spread * median
    assert 0.90 <= inside / 400 <= 0.995  # nominal 0.95; symmetric half-width around the sample median


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGALRM])
def test_a_crash_or_a_hang_costs_one_answer(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    monkeypatch.setattr(_worker, "_answer", lambda runtime, request: os.kill(os.getpid(), number))
    answer = json.loads(_worker._answer_in_fork(Ort, {"timeout_s": 5}))
    assert (
        "crashed (SIGSEGV)" in answer["error"] if number == signal.SIGSEGV else "after 5 s" in answer["error"]
    )


def test_measures_latency_and_memory_with_spread(model_path: Path) -> None:
    device = get_device("host/onnxruntime/fp32-t1")
    labels = {m.metric: m for m in get_profiler(device).measure(model_path, device, budget_s=0.3)}
    latency = labels[Metric.LATENCY]
    assert 1e-7 < latency.value < 1.0
    assert latency.repeats >= 3
    assert latency.spread >= 0
    assert labels[Metric.PEAK_MEMORY].value > 1e5
    assert latency.digest == read_onnx(model_path).digest
    assert latency.versions["weights"] == "model"
    assert {"cpu", "cores", "onnxruntime", "system"} <= set(latency.versions)


def test_energy_is_refused_with_the_reason_where_there_is_no_counter(model_path: Path) -> None:
    device = get_device("host/onnxruntime/fp32-t1")
    profiler = get_profiler(device)
    if Metric.ENERGY not in profiler.unavailable():
        pytest.skip("this machine has a RAPL counter")
    assert Metric.ENERGY not in {m.metric for m in profiler.measure(model_path, device, budget_s=0.1)}
    with pytest.raises(BackendError, match="no readable energy counter"):
        profiler.measure(model_path, device, [Metric.ENERGY])


def test_int8_mode_quantizes_a_float_model(model_path: Path) -> None:
    device = get_device("host/onnxruntime/int8-t1")
    (label,) = get_profiler(device).measure(model_path, device, [Metric.LATENCY], budget_s=0.1)
    assert label.digest == read_onnx(model_path).digest
    assert label.device == "host/onnxruntime/int8-t1"


def test_a_model_the_runtime_refuses_names_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    head = '<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]>'
    text = head + " n (float[2] x) => (float[2] y) { y = my.domain.Odd(x) }"
    onnx.save(onnx.parser.parse_model(text), path)
    device = get_device("host/onnxruntime/fp32-t1")
    with pytest.raises((BackendError, ModelError), match="Odd"):
        get_profiler(device).measure(path, device)


def test_another_machine_cannot_be_measured_here() -> None:
    with pytest.raises(NotSupportedError, match="is not this machine"):
        get_profiler(Device(name="board/onnxruntime/fp32-t1", kind="cpu"))


def test_more_threads_than_cores_are_refused(model_path: Path) -> None:
    cores = available_cores()
    device = Device(name=f"host/onnxruntime/fp32-t{cores + 1}", kind="cpu", threads=cores + 1)
    with pytest.raises(BackendError, match=f"needs {cores + 1} cores, and this process may use {cores}"):
        get_profiler(device).measure(model_path, device)


DYNAMIC = TEXT.replace(
    "(float[1,4,16,16] x) => (float[1,4,16,16] y)", "(float[N,4,H,W] x) => (float[N,4,H,W] y)"
)


@pytest.mark.parametrize("text", [DYNAMIC, TEXT])
@pytest.mark.parametrize("mode", ["int8-t1", "fp32-t1"])
def test_given_shapes_are_what_runs(tmp_path: Path, text: str, mode: str) -> None:
    model, shapes = onnx.parser.parse_model(text), {"x": (2, 4, 8, 12)}
    before = model.SerializeToString()
    onnx.save(model, tmp_path / "net.onnx")
    device = get_device(f"host/onnxruntime/{mode}")
    profiler = get_profiler(device)
    for source in (model, tmp_path / "net.onnx"):
        (label,) = profiler.measure(source, device, [Metric.LATENCY], budget_s=0.05, shapes=shapes)
        assert label.digest == read_onnx(source, shapes=shapes).digest
        assert label.versions["weights"] == "model"
    assert model.SerializeToString() == before


def test_a_refusal_is_readable(tmp_path: Path) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17]> '
    text = "n (float[2,3] x, int64[1] s) => (float[K] y) { y = Reshape(x, s) }"
    onnx.save(onnx.parser.parse_model(head + text), tmp_path / "bad.onnx")
    request = {
        "path": str(tmp_path / "bad.onnx"),
        "mode": "fp32-t1",
        "threads": 1,
        "shapes": {"x": [2, 3], "s": [2]},
    }
    error = json.loads(_worker._answer(Ort, request))["error"]
    assert "onnxruntime_src" not in error
    assert "ONNXRuntimeError" not in error
    assert error.endswith("cannot run it; 'hardsight predict' does not need to")
    assert not error.startswith("ONNX Runtime")


def test_an_endless_time_limit_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_worker, "_answer", lambda runtime, request: "{}")
    assert _worker._answer_in_fork(Ort, {"timeout_s": 1e30}) == "{}"


def test_a_fork_that_fails_never_becomes_a_second_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(runtime: object, request: dict[str, object]) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(_worker, "_answer", fail)
    assert "without an answer" in json.loads(_worker._answer_in_fork(Ort, {"timeout_s": 5}))["error"]


def _parents() -> dict[int, int]:
    """Parent of every live process."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            found[int(stat.parent.name)] = int(parent)
    return found


def _children(pid: int) -> list[int]:
    return [child for child, parent in _parents().items() if parent == pid]


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="follows processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_a_killed_parent(model_path: Path, number: signal.Signals) -> None:
    fifo = model_path.with_name("never.onnx")
    os.mkfifo(fifo)  # opening it waits for a writer: a model that never finishes
    request = {
        "path": str(fifo),
        "mode": "fp32-t1",
        "threads": 1,
        "shapes": {},
        "budget_s": 1e9,
        "timeout_s": 1e9,
    }
    code = (
        # a job in a shell's background inherits that SIGINT is ignored
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from hardsight.datasets.profilers.onnxruntime_cpu import OnnxRuntimeCpuProfiler as P\n"
        f"P()._ask({request!r})"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    started: list[int] = []

    def forked() -> bool:
        started[:] = _children(parent.pid)
        started.extend(c for w in list(started) for c in _children(w))
        return len(started) == 2

    try:
        assert _within(60, forked)
        parent.send_signal(number)
        parent.wait(20)
        assert _within(10, lambda: not set(started) & set(_parents()))
    finally:
        parent.kill()
        for pid in set(started) & set(_parents()):
            os.kill(pid, signal.SIGKILL)
