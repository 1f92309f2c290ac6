"""Static quantization: integer kernels in ONNX Runtime, and a quiet, clean house."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.families import FAMILIES, Family
from hardsight.datasets.layers import LAYER_TYPES
from hardsight.datasets.quantize import quantize_some, quantize_static, random_feeds
from hardsight.datasets.weights import fill_weights, strip_weights
from hardsight.errors import BackendError, ModelError
from hardsight.ingest import read_onnx


def executed(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = ort.InferenceSession(model.SerializeToString(), options)
    session.run(None, random_feeds(model))
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def tiny(channels: int = 16) -> onnx.ModelProto:
    net = OnnxBuilder("tiny")
    x = net.input("x", (1, 3, 16, 16))
    x = net.relu(net.conv(x, channels, 3))
    net.output(net.linear(net.flatten(net.global_average_pool(x)), 10))
    return fill_weights(net.model())


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_family_runs_on_integer_kernels(family: Family, tmp_path: Path) -> None:
    net = next(
        net
        for seed in range(100)
        if (net := family.sample_net(np.random.default_rng(seed))).macs < 1e7
        and {"Conv", "Gemm", "MatMul"} & {node.op_type for node in net.model().graph.node}
    )
    model = net.model()
    float_layers = Counter(node.op_type for node in model.graph.node)
    found = executed(quantize_static(fill_weights(model)), tmp_path)
    left = sum(found[kind] for kind in ("Conv", "FusedConv", "Gemm", "MatMul", "FusedMatMul"))
    assert left == 0, f"{left} of {float_layers} stayed in float"
    integer = {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"}
    assert sum(found[kind] for kind in integer) > 0


def test_a_twin_can_be_stripped_and_filled_again(tmp_path: Path) -> None:
    twin = strip_weights(quantize_static(tiny()))
    graph = read_onnx(twin)
    assert graph.digest != read_onnx(tiny()).digest
    assert "QLinearConv" in executed(fill_weights(twin), tmp_path)


def in_int8(model: onnx.ModelProto) -> list[bool]:
    """Of every layer in turn, whether it reads what is quantized."""
    quantized = {out for n in model.graph.node if n.op_type == "DequantizeLinear" for out in n.output}
    layers = (n for n in model.graph.node if n.op_type in LAYER_TYPES)
    return [quantized.issuperset(n.input[:2]) for n in layers]


def deep(layers: int) -> onnx.ModelProto:
    net = OnnxBuilder("deep")
    x = net.input("x", (1, 8))
    for _ in range(layers):
        x = net.relu(net.linear(x, 8))
    net.output(x)
    return fill_weights(net.model())


def test_some_layers_are_quantized_in_runs_and_at_random() -> None:
    model = deep(6)
    assert in_int8(quantize_static(model)) == [True] * 6
    drawn = [in_int8(quantize_some(model, np.random.default_rng(seed))) for seed in range(24)]
    assert {sum(layers) for layers in drawn} == {1, 2, 3, 4, 5}
    switches = [sum(a != b for a, b in pairwise(layers)) for layers in drawn]
    assert min(switches) == 1  # a run at one end
    assert max(switches) > 2  # no run
    assert in_int8(quantize_some(model, np.random.default_rng(3))) == drawn[3]


def test_a_layer_alone_cannot_be_quantized_in_part() -> None:
    with pytest.raises(ModelError, match="'deep' has 1 of the two or more layers"):
        quantize_some(deep(1), np.random.default_rng(0))


def test_calibration_samples_set_the_ranges() -> None:
    def input_scale(amplitude: float) -> float:
        sample = np.linspace(-amplitude, amplitude, 768, dtype=np.float32).reshape(1, 3, 16, 16)
        twin = quantize_static(tiny(), samples=[{"x": sample}])
        node = next(n for n in twin.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "x")
        scales = {t.name: onnx.numpy_helper.to_array(t) for t in twin.graph.initializer}
        return float(scales[node.input[1]])

    assert input_scale(1.0) == pytest.approx(2 / 255, rel=1e-3)
    assert input_scale(8.0) == pytest.approx(16 / 255, rel=1e-3)


def test_the_twin_computes_nearly_the_same() -> None:
    model, sample = tiny(), random_feeds(tiny(), 3)
    twin = quantize_static(model, samples=[sample])
    (exact,) = ort.InferenceSession(model.SerializeToString()).run(None, sample)
    (close,) = ort.InferenceSession(twin.SerializeToString()).run(None, sample)
    assert np.abs(exact - close).max() < 0.05 * np.ptp(exact)


def test_it_prints_nothing_leaves_no_file_and_no_log_handler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before, level = list(logging.getLogger().handlers), logging.root.manager.disable
    given = tiny()
    data = given.SerializeToString()
    quantize_static(given)
    assert given.SerializeToString() == data
    assert logging.getLogger().handlers == before
    assert logging.root.manager.disable == level
    assert list(tmp_path.iterdir()) == []
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_model_that_cannot_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mystery", ["x"], ["y"], domain="no.such.domain")],
        "mystery",
        [value("x", TensorProto.FLOAT, [1, 4])],
        [value("y", TensorProto.FLOAT, [1, 4])],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("no.such.domain", 1)]
    with pytest.raises(BackendError, match=r"'mystery'.*Measure it in float"):
        quantize_static(helper.make_model(graph, opset_imports=imports, ir_version=8))


def test_unbound_inputs_and_nothing_to_quantize_are_refused() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Erf", ["x"], ["y"])],
        "erf",
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
    )
    imports = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    with pytest.raises(ModelError, match="input 'x' has no fixed shape"):
        quantize_static(model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ModelError, match="'erf' has no operator"):
        quantize_static(model)


def test_the_runtime_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,4] x) => (float[1,4] y) <float[4,4] w = {%s}, float[1] unused = {1}>
    { y = MatMul(x, w) }
    """
    quantize_static(onnx.parser.parse_model(text % ",".join(["0.1"] * 16)))
    assert capfd.readouterr() == ("", "")
