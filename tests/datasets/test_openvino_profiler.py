"""OpenVINO on the CPU: what runs is the model, in the threads and the precision that the mode says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

from hardsight.datasets.families import FAMILIES
from hardsight.datasets.profilers import _cpu, get_profiler
from hardsight.datasets.profilers.openvino_cpu import OpenVinoProfiler
from hardsight.datasets.quantize import quantize_static, random_feeds
from hardsight.datasets.weights import fill_weights
from hardsight.device import Device
from hardsight.errors import BackendError
from hardsight.ingest import read_onnx
from hardsight.metrics import Metric

HEAD = '<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]> '


@pytest.fixture
def openvino(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CI", "true")  # importing it reports usage elsewhere
    return pytest.importorskip("openvino", reason="OpenVINO is an optional runtime")


def device(mode: str, threads: int = 1) -> Device:
    return Device(name=f"host/openvino/{mode}", kind="cpu", threads=threads)


def sample(family: str, path: Path, *, quantize: bool = False) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """A small network written to ``path``: its inputs' shapes, and what ONNX Runtime makes of the fixed inputs."""
    model = fill_weights(FAMILIES[family].sample(np.random.default_rng(34)))
    if quantize:
        model = quantize_static(model)
    onnx.save(model, path)
    feeds = random_feeds(model)
    shapes = {name: list(array.shape) for name, array in feeds.items()}
    feeds = _cpu.inputs(shapes, {name: array.dtype for name, array in feeds.items()})
    session = ort.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return shapes, dict(zip(names, session.run(None, feeds), strict=True))


@pytest.mark.parametrize("family", ["inverted_bottleneck", "fpn", "small_block", "bert", "recurrent", "tcn"])
def test_computes_the_model(openvino: Any, tmp_path: Path, family: str) -> None:
    shapes, expected = sample(family, tmp_path / "m.onnx")
    run = OpenVinoProfiler.load(str(tmp_path / "m.onnx"), "fp32-t1", 1, shapes)
    found = run()
    assert len(found) == len(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5 * np.abs(value).max())


def test_modes_compute_in_their_precision(openvino: Any, tmp_path: Path) -> None:
    shapes, expected = sample("inverted_bottleneck", tmp_path / "m.onnx")
    (name, value), errors = next(iter(expected.items())), {}
    for mode in ("fp32-t1", "bf16-t1"):
        run = OpenVinoProfiler.load(str(tmp_path / "m.onnx"), mode, 1, shapes)
        found = run()[name]
        errors[mode] = float(np.abs(found - value).max() / np.abs(value).max())
    assert errors["fp32-t1"] < 1e-5
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert 1e-4 < errors["bf16-t1"] < 0.1
    shapes, expected = sample("inverted_bottleneck", tmp_path / "q.onnx", quantize=True)
    run = OpenVinoProfiler.load(str(tmp_path / "q.onnx"), "int8-t1", 1, shapes)
    found = run()
    for name, value in expected.items():
        assert np.corrcoef(found[name].ravel(), value.ravel())[0, 1] > 0.99


def test_one_thread_is_the_calling_thread(openvino: Any, tmp_path: Path) -> None:
    shapes, _ = sample("inverted_bottleneck", tmp_path / "m.onnx")
    run = OpenVinoProfiler.load(str(tmp_path / "m.onnx"), "fp32-t1", 1, shapes)
    run()
    whole, own = time.process_time(), time.thread_time()
    while time.thread_time() - own < 0.1:
        run()
    assert time.process_time() - whole < 1.2 * (time.thread_time() - own)


def test_threads_that_it_cannot_have_are_refused(openvino: Any, tmp_path: Path) -> None:
    shapes, _ = sample("small_block", tmp_path / "m.onnx")
    with pytest.raises(BackendError, match="threads, not 4096"):
        OpenVinoProfiler.load(str(tmp_path / "m.onnx"), "fp32-t4096", 4096, shapes)


def test_measures_given_shapes_and_survives_what_it_cannot_load(openvino: Any, tmp_path: Path) -> None:
    model = parser.parse_model(
        HEAD + "g (float[n,8,16] x) => (float[n,16,8] y) { y = Transpose<perm=[0,2,1]>(x) }"
    )
    profiler = OpenVinoProfiler()
    request = {"mode": "fp32-t1", "threads": 1, "shapes": {"x": [1]}, "budget_s": 0.1, "timeout_s": 60}
    (tmp_path / "torn.onnx").write_bytes(b"torn")
    assert "cannot run it" in profiler._ask({**request, "path": str(tmp_path / "torn.onnx")})["error"]
    odd = parser.parse_model(HEAD + "g (float[2] x) => (float[2] y) { y = my.domain.Odd(x) }")
    with pytest.raises(BackendError, match="Odd"):
        profiler.measure(odd, device("fp32-t1"))
    labels = {
        m.metric: m
        for m in profiler.measure(model, device("fp32-t1"), budget_s=0.1, shapes={"x": (3, 8, 16)})
    }
    profiler.close()
    assert 0 < labels[Metric.LATENCY].value < 1
    assert labels[Metric.LATENCY].device == "host/openvino/fp32-t1"
    assert labels[Metric.LATENCY].digest == read_onnx(model, shapes={"x": (3, 8, 16)}).digest
    assert labels[Metric.LATENCY].versions["openvino"] == profiler.version() != ""


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cpu, "find_spec", lambda name: None)
    with pytest.raises(
        BackendError, match=r"needs the package 'openvino': pip install 'hardsight\[openvino\]'"
    ):
        get_profiler(device("fp32-t1")).check()
