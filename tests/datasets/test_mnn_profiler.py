"""MNN on the CPU: what its converter makes computes the model, and nothing but converting happens."""

from __future__ import annotations

import sys
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
from hardsight.datasets.profilers.mnn_cpu import MnnProfiler
from hardsight.datasets.quantize import random_feeds
from hardsight.datasets.weights import fill_weights
from hardsight.device import Device
from hardsight.errors import BackendError
from hardsight.ingest import read_onnx
from hardsight.metrics import Metric

HEAD = '<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]> '
DEVICE = Device(name="host/mnn/fp32-t1", kind="cpu")


@pytest.fixture
def mnn() -> None:
    pytest.importorskip("MNN", reason="MNN is an optional runtime")


def sample(family: str, path: Path) -> tuple[dict[str, list[int]], list[Any]]:
    """A small network written to ``path``: its inputs' shapes, and what ONNX Runtime makes of the fixed inputs."""
    model = fill_weights(FAMILIES[family].sample(np.random.default_rng(34)))
    onnx.save(model, path)
    feeds = random_feeds(model)
    shapes = {name: list(array.shape) for name, array in feeds.items()}
    feeds = _cpu.inputs(shapes, {name: array.dtype for name, array in feeds.items()})
    return shapes, ort.InferenceSession(path).run(None, feeds)


@pytest.mark.parametrize(
    "family", ["inverted_bottleneck", "fpn", "small_block", "bert", "recurrent", "tcn", "windowed_attention"]
)
def test_computes_the_model(mnn: None, tmp_path: Path, family: str) -> None:
    shapes, expected = sample(family, tmp_path / "m.onnx")
    path = MnnProfiler.convert(str(tmp_path / "m.onnx"), str(tmp_path), "fp32-t1")
    run = MnnProfiler.load(path, "fp32-t1", 1, shapes)
    found = run()
    assert isinstance(found, list)
    assert not [name for name in sys.modules if name.startswith("MNN.tools")]  # they report to a server
    for ours, value in zip(found, expected, strict=True):  # MNN approximates erf and exp
        np.testing.assert_allclose(
            np.reshape(ours.read(), value.shape), value, atol=5e-3 * np.abs(value).max()
        )


def test_one_thread_is_the_calling_thread(mnn: None, tmp_path: Path) -> None:
    shapes, _ = sample("inverted_bottleneck", tmp_path / "m.onnx")
    path = MnnProfiler.convert(str(tmp_path / "m.onnx"), str(tmp_path), "fp32-t1")
    run = MnnProfiler.load(path, "fp32-t1", 1, shapes)
    whole, own = time.process_time(), time.thread_time()
    while time.thread_time() - own < 0.1:
        run()
    assert time.process_time() - whole < 1.2 * (time.thread_time() - own)


def test_measures_given_shapes_and_survives_what_it_cannot_load(mnn: None, tmp_path: Path) -> None:
    model = parser.parse_model(
        HEAD + "g (float[n,8,16] x) => (float[n,16,8] y) { y = Transpose<perm=[0,2,1]>(x) }"
    )
    profiler = MnnProfiler()
    request = {"mode": "fp32-t1", "threads": 1, "shapes": {"x": [1]}, "budget_s": 0.1, "timeout_s": 60}
    (tmp_path / "torn.mnn").write_bytes(b"torn")
    assert "error" in profiler._ask({**request, "path": str(tmp_path / "torn.mnn")})
    odd = parser.parse_model(HEAD + "g (float[2] x) => (float[2] y) { y = my.domain.Odd(x) }")
    with pytest.raises(BackendError, match="MNN has no ONNX::Odd"):
        profiler.measure(odd, DEVICE)
    labels = {m.metric: m for m in profiler.measure(model, DEVICE, budget_s=0.1, shapes={"x": (3, 8, 16)})}
    profiler.close()
    assert 0 < labels[Metric.LATENCY].value < 1
    assert labels[Metric.LATENCY].device == "host/mnn/fp32-t1"
    assert labels[Metric.LATENCY].digest == read_onnx(model, shapes={"x": (3, 8, 16)}).digest
    assert labels[Metric.LATENCY].versions["MNN"] == profiler.version() != ""


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cpu, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"needs the package 'MNN': pip install 'hardsight\[mnn\]'"):
        get_profiler(DEVICE).check()
