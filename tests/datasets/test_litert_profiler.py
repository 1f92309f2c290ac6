"""LiteRT on this machine's CPU: a stored file is run, and (slow) a model is converted, run and labelled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.profilers import PROFILERS
from hardsight.datasets.profilers.litert_cpu import LiteRtProfiler
from hardsight.datasets.quantize import quantize_static
from hardsight.datasets.weights import fill_weights
from hardsight.device import Device
from hardsight.errors import BackendError
from hardsight.ingest import read_onnx
from hardsight.metrics import Metric

TINY = Path(__file__).parent / "golden" / "vela_tiny.tflite"


def tiny() -> OnnxBuilder:
    """What the stored file was converted from."""
    net = OnnxBuilder("tiny")
    x = net.input("image", (1, 3, 32, 32))
    x = net.relu(net.conv(x, 8, 3, stride=2))
    x = net.relu(net.conv(x, 8, 3, groups=8))
    net.output(net.linear(net.flatten(net.global_average_pool(x)), 10))
    return net


def mode(name: str) -> Device:
    return Device(name=f"host/litert/{name}", kind="cpu", precisions=("fp32", "int8"))


@pytest.fixture
def profiler(tmp_path: Path) -> Iterator[LiteRtProfiler]:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    profiler = LiteRtProfiler(tmp_path)
    yield profiler
    profiler.close()


def keep(digest: str, precision: str, folder: Path) -> Path:
    """Put the stored file where a conversion would have left it."""
    kept = folder / f"{digest}.litert-{precision}"
    kept.mkdir()
    shutil.copy(TINY, kept / "model.tflite")
    (kept / "done.json").write_text(json.dumps({"file": "model.tflite", "weights": "random"}))
    return kept / "model.tflite"


def test_it_is_registered() -> None:
    assert PROFILERS["litert"].endswith("litert_cpu:LiteRtProfiler")


def test_one_inference_gives_the_outputs_and_is_repeatable() -> None:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    run = LiteRtProfiler.load(str(TINY), "int8-t1", 1, {"image": [1, 3, 32, 32]})
    first, second = run(), run()
    assert isinstance(first, list) and isinstance(second, list)
    assert [f.shape for f in first] == [(1, 10)] and first[0].dtype == np.int8
    np.testing.assert_array_equal(first[0], second[0])


def test_a_converted_file_is_measured(profiler: LiteRtProfiler, tmp_path: Path) -> None:
    model = tiny().model()
    digest = read_onnx(model).digest
    keep(digest, "int8", tmp_path)
    labels = {m.metric: m for m in profiler.measure(model, mode("int8-t1"), [Metric.LATENCY], budget_s=0.1)}
    label = labels[Metric.LATENCY]
    assert label.value > 0 and label.digest == digest and label.provenance == "measured"
    assert label.versions["weights"] == "random"


def test_the_file_of_a_model_is_taken_from_the_cache(profiler: LiteRtProfiler, tmp_path: Path) -> None:
    model = tiny().model()
    digest = read_onnx(model).digest
    expected = keep(digest, "int8", tmp_path)
    with profiler.tflite(model, digest, {"image": [1, 3, 32, 32]}, int8=True) as (path, weights):
        assert path == expected and weights == "random"


def test_quantized_models_are_not_measured_in_float(profiler: LiteRtProfiler) -> None:
    quantized = quantize_static(fill_weights(tiny().model()))
    with pytest.raises(BackendError, match="quantized with QDQ"):
        profiler.measure(quantized, mode("fp32-t1"), [Metric.LATENCY])


def test_quantized_models_are_quantized_anew(
    profiler: LiteRtProfiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[onnx.ModelProto] = []

    def convert(request: dict[str, str], packages: str = "") -> dict[str, str]:
        given.append(onnx.load(request["path"]))
        made = Path(request["folder"]) / "model.tflite"
        made.write_bytes(b"TFL3")
        return {"path": str(made)}

    monkeypatch.setattr(profiler, "_ask", convert)
    quantized = quantize_static(fill_weights(tiny().model()))
    with profiler.tflite(quantized, "0", {"image": [1, 3, 32, 32]}, int8=True) as (path, weights):
        assert path.read_bytes() == b"TFL3"
        assert weights == "model, quantized anew"
    assert "QuantizeLinear" in {node.op_type for node in quantized.graph.node}
    assert "QuantizeLinear" not in {node.op_type for node in given[0].graph.node}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp32-t1", "int8-t1"])
def test_a_model_is_converted_and_measured(profiler: LiteRtProfiler, tmp_path: Path, name: str) -> None:
    for package in ("litert_torch", "ai_edge_quantizer"):
        pytest.importorskip(package, reason=f"needs {package}")
    labels = {m.metric: m.value for m in profiler.measure(tiny().model(), mode(name), budget_s=0.1)}
    assert labels[Metric.LATENCY] > 0 and labels[Metric.PEAK_MEMORY] > 0
    assert len(list(tmp_path.glob(f"*.litert-{name[:4]}/model.tflite"))) == 1
