"""ncnn on the CPU: what pnnx makes computes the model in fp32, or is refused."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

from hardsight.datasets.families import FAMILIES
from hardsight.datasets.profilers import _cpu, get_profiler, ncnn_cpu
from hardsight.datasets.profilers.ncnn_cpu import NcnnProfiler
from hardsight.datasets.quantize import random_feeds
from hardsight.datasets.weights import fill_weights
from hardsight.device import Device
from hardsight.errors import BackendError
from hardsight.ingest import read_onnx
from hardsight.metrics import Metric

HEAD = '<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]> '
DEVICE = Device(name="host/ncnn/fp32-t1", kind="cpu")


@pytest.fixture
def ncnn() -> None:
    pytest.importorskip("ncnn", reason="ncnn is an optional runtime")
    if find_spec("pnnx") is None:  # importing it would import torch
        pytest.skip("pnnx, ncnn's converter, is not installed")


def sample(family: str, path: Path, seed: int = 34) -> tuple[dict[str, list[int]], list[Any]]:
    """A small network written to ``path``: its inputs' shapes, and what ONNX Runtime makes of the fixed inputs."""
    model = fill_weights(FAMILIES[family].sample(np.random.default_rng(seed)))
    onnx.save(model, path)
    feeds = random_feeds(model)
    shapes = {name: list(array.shape) for name, array in feeds.items()}
    feeds = _cpu.inputs(shapes, {name: array.dtype for name, array in feeds.items()})
    return shapes, ort.InferenceSession(path).run(None, feeds)


@pytest.mark.parametrize(
    ("family", "seed"),
    [
        ("inverted_bottleneck", 34),
        ("fpn", 34),
        ("small_block", 34),
        ("bert", 53),
        ("recurrent", 34),
        ("mlp", 34),
    ],
)
def test_computes_the_model(ncnn: None, tmp_path: Path, family: str, seed: int) -> None:
    (tmp_path / "out").mkdir()
    shapes, expected = sample(family, tmp_path / "m.onnx", seed)
    path = NcnnProfiler.convert(str(tmp_path / "m.onnx"), str(tmp_path / "out"), "fp32-t1")
    run = NcnnProfiler.load(path, "fp32-t1", 1, shapes)
    found = run()
    assert isinstance(found, list)
    for ours, value in zip(found, expected, strict=True):
        flat = np.ravel(ours.numpy(batch_index=0) if np.size(ours) != value.size else ours)
        np.testing.assert_allclose(flat, value.ravel(), atol=1e-4 * np.abs(value).max())  # fp16 would be 1e-3
    assert {file.name for file in tmp_path.rglob("*.*")} == {
        "m.onnx",
        "model.param",
        "model.bin",
        "model.json",
    }


def test_a_conversion_that_changes_the_model_is_not_measured(ncnn: None, tmp_path: Path) -> None:
    """From the ONNX file, pnnx makes a mean over no axis of this one; by way of TorchScript it is right."""
    body = "{ a = Constant<value = int64[1] {1}>() y = ReduceMean<keepdims=0>(x, a) }"
    text = HEAD.replace("17", "18") + "g (float[1,100,64] x) => (float[1,64] y) " + body
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    path = NcnnProfiler.convert(str(tmp_path / "m.onnx"), str(tmp_path), "fp32-t1")
    shapes = {"x": [1, 100, 64]}
    run = NcnnProfiler.load(path, "fp32-t1", 1, shapes)
    expected = _cpu.inputs(shapes, {"x": np.float32})["x"].mean(axis=1)
    np.testing.assert_allclose(np.ravel(run()[0]), expected.ravel(), atol=1e-5)


def test_one_thread_is_the_calling_thread(ncnn: None, tmp_path: Path) -> None:
    shapes, _ = sample("inverted_bottleneck", tmp_path / "m.onnx")
    path = NcnnProfiler.convert(str(tmp_path / "m.onnx"), str(tmp_path), "fp32-t1")
    run = NcnnProfiler.load(path, "fp32-t1", 1, shapes)
    whole, own = time.process_time(), time.thread_time()
    while time.thread_time() - own < 0.1:
        run()
    assert time.process_time() - whole < 1.2 * (time.thread_time() - own)


def test_measures_and_survives_what_it_cannot_load(ncnn: None, tmp_path: Path) -> None:
    model = parser.parse_model(
        HEAD + "g (float[1,8,16] x) => (float[1,16,8] y) { y = Transpose<perm=[0,2,1]>(x) }"
    )
    profiler = NcnnProfiler()
    request = {"mode": "fp32-t1", "threads": 1, "shapes": {"x": [1]}, "budget_s": 0.1, "timeout_s": 60}
    (tmp_path / "torn.param").write_text("7767517\n1 1\nOdd a 0 1 y")
    assert "could not load" in profiler._ask({**request, "path": str(tmp_path / "torn.param")})["error"]
    odd = parser.parse_model(HEAD + "g (float[2] x) => (float[2] y) { y = my.domain.Odd(x) }")
    with pytest.raises(BackendError, match=r"converter failed .*my\.domain:Odd.* not a registered"):
        profiler.measure(odd, DEVICE)
    labels = {m.metric: m for m in profiler.measure(model, DEVICE, budget_s=0.1)}
    profiler.close()
    assert 0 < labels[Metric.LATENCY].value < 1
    assert labels[Metric.LATENCY].device == "host/ncnn/fp32-t1"
    assert labels[Metric.LATENCY].digest == read_onnx(model).digest
    assert labels[Metric.LATENCY].versions["ncnn"] == profiler.version() != ""


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cpu, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"needs the package 'ncnn': pip install 'hardsight\[ncnn\]'"):
        get_profiler(DEVICE).check()


def test_a_missing_converter_is_named_too(ncnn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncnn_cpu, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match="needs the package 'pnnx'"):
        NcnnProfiler().check()


def test_an_operator_that_only_pytorch_has_is_refused(ncnn: None, tmp_path: Path) -> None:
    """Windows of attention are cut with tensors of six dimensions; ncnn's have four."""
    sample("windowed_attention", tmp_path / "m.onnx")
    with pytest.raises(BackendError, match=r"ncnn has no layer for the model's Tensor\.reshape"):
        NcnnProfiler.convert(str(tmp_path / "m.onnx"), str(tmp_path), "fp32-t1")
