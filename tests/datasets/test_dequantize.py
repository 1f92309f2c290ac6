"""Quantization taken out of models again."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.dequantize import dequantized, is_qdq
from hardsight.datasets.quantize import quantize_static, random_feeds
from hardsight.datasets.weights import fill_weights
from hardsight.errors import ModelError
from hardsight.ingest import read_onnx


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def plain_model() -> onnx.ModelProto:
    build = OnnxBuilder("plain")
    x = build.input("x", (1, 3, 8, 8))
    y = build.relu(build.conv(x, 8, 3, padding=1))
    y = build.add(build.conv(y, 8, 3, padding=1), y)
    build.output(build.linear(build.flatten(build.global_average_pool(y)), 5))
    return fill_weights(build.model())


def test_weights_and_answers_are_almost_those_before_quantization() -> None:
    model = plain_model()
    feeds = random_feeds(model, 1)
    quantized = quantize_static(model, samples=[feeds])
    back = dequantized(quantized)
    onnx.checker.check_model(back, full_check=True)
    assert is_qdq(quantized)
    assert not is_qdq(back)
    before, after = run(model, feeds), run(back, feeds)
    assert not np.array_equal(before, after)  # weights were rounded
    np.testing.assert_allclose(after, before, atol=0.05 * np.abs(before).max())


def test_predictors_see_the_float_model() -> None:
    back = read_onnx(dequantized(quantize_static(plain_model())))
    operators = Counter(op.op_type for op in back.operators)
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(operators)
    assert back.macs == read_onnx(plain_model()).macs


def test_a_zero_point_at_the_bottom_was_a_relu() -> None:
    build = OnnxBuilder("hidden_relu")
    x = build.input("x", (1, 2, 4, 4))
    signed = build.conv(x, 4, 1, name="conv")
    build.output(build.dequantize(build.quantize(build.relu(signed))))
    model = build.model()
    (relu,) = (node for node in model.graph.node if node.op_type == "Relu")
    for node in model.graph.node:  # leave it to the zero point
        node.input[:] = [relu.input[0] if name == relu.output[0] else name for name in node.input]
    model.graph.node.remove(relu)
    back = dequantized(fill_weights(model))
    assert [node.op_type for node in back.graph.node] == ["Conv", "Relu", "Identity"]
    feeds = random_feeds(back)
    assert run(back, feeds).min() == 0


def test_a_scale_for_each_channel_and_a_zero_point() -> None:
    levels = np.array([[10, 20], [30, 40]], np.uint8)
    scale, zero = np.array([0.5, 2.0], np.float32), np.array([10, 20], np.uint8)
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"], axis=0),
        onnx.helper.make_node("MatMul", ["x", "wf"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 2])],
        [onnx.helper.make_tensor_value_info("y", 1, [1, 2])],
        [onnx.numpy_helper.from_array(a, n) for a, n in ((levels, "w"), (scale, "s"), (zero, "z"))],
    )
    back = dequantized(onnx.helper.make_model(graph))
    (weight,) = back.graph.initializer
    # (10 - 10) / 2, (20 - 10) / 2; (30 - 20) * 2, (40 - 20) * 2
    assert onnx.numpy_helper.to_array(weight).tolist() == [[0, 5], [20, 40]]


def test_operators_on_integers_are_refused() -> None:
    model = plain_model()
    model.graph.node[0].op_type = "QLinearConv"
    with pytest.raises(ModelError, match="QLinearConv"):
        dequantized(model)
