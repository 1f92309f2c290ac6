"""The ONNX builder: shapes and MACs by hand, and what ONNX Runtime makes of its INT8 layers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.quantize import random_feeds
from hardsight.datasets.weights import fill_weights
from hardsight.errors import InputError


def optimized_operators(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Operators that ONNX Runtime really executes, after running the model once."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = ort.InferenceSession(model.SerializeToString(), options)
    session.run(None, random_feeds(model))
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_shapes_and_macs_by_hand() -> None:
    net = OnnxBuilder("hand")
    x = net.input("x", (1, 3, 32, 32))
    x = net.conv(x, 8, 3, stride=2)  # 8 x 16 x 16 outputs, 3 x 3 x 3 each
    assert net.shape(x) == (1, 8, 16, 16)
    assert net.macs == 8 * 16 * 16 * 27
    x = net.conv(x, 8, 5, groups=8, dilation=2)  # depthwise: 25 each
    assert net.shape(x) == (1, 8, 16, 16)
    assert net.macs == 8 * 16 * 16 * (27 + 25)
    x = net.conv_transpose(x, 4, 2)  # every input meets 4 x 2 x 2 weights
    assert net.shape(x) == (1, 4, 32, 32)
    assert net.macs == 8 * 16 * 16 * (27 + 25 + 16)
    before = net.macs
    x = net.linear(net.flatten(net.global_average_pool(x)), 10)
    assert net.shape(x) == (1, 10)
    assert net.macs - before == 40
    # 4-byte weights and biases: 3*3*3*8+8, 25*8+8, 8*4*4+4, 4*10+10
    assert net.weight_bytes == 4 * (224 + 208 + 132 + 50)


def test_one_dimensional_convolution_and_matmul() -> None:
    net = OnnxBuilder("sequence")
    x = net.conv(net.input("x", (1, 4, 100)), 16, 7, stride=2)
    assert net.shape(x) == (1, 16, 50)
    y = net.linear(net.transpose(x, (0, 2, 1)), 24)
    assert net.shape(y) == (1, 50, 24)
    assert net.macs == 16 * 50 * 28 + 50 * 16 * 24


def test_model_is_weightless_and_every_tensor_has_a_shape() -> None:
    net = OnnxBuilder("big")
    x = net.linear(net.input("x", (1, 4096)), 4096, name="head")
    net.output(net.relu(x))
    model = net.model()
    assert len(model.SerializeToString()) < 1000
    weights = {t.name: t for t in model.graph.initializer}
    assert set(weights) == {"head.weight", "head.bias"}
    assert all(t.data_location == TensorProto.EXTERNAL and not t.raw_data for t in weights.values())
    known = {v.name for v in [*model.graph.value_info, *model.graph.output]}
    assert all(output in known for node in model.graph.node for output in node.output)


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("constants_as_nodes", [False, True])
def test_operators_are_spelled_for_the_opset(opset: int, constants_as_nodes: bool) -> None:
    net = OnnxBuilder("spelling", opset, constants_as_nodes=constants_as_nodes)
    a, b = net.split(net.input("x", (1, 4, 8, 8)), (1, 3))
    a = net.reduce_mean(a, [1], keepdims=False)
    assert net.shape(a) == (1, 8, 8)
    b = net.resize(net.slice(b, 0, 8, axis=2, step=2), 4, "linear")
    assert net.shape(b) == (1, 3, 16, 32)
    net.output(net.squeeze(net.max_pool(net.average_pool(b, 2, stride=2), 2), (0,)))
    net.output(a)
    model = net.model()
    onnx.checker.check_model(model, full_check=True)
    first, _ = ort.InferenceSession(model.SerializeToString()).run(None, random_feeds(model))
    assert first.shape == (3, 7, 15)


def test_misfits_are_refused_by_name() -> None:
    net = OnnxBuilder("misfit")
    x = net.input("x", (1, 4, 8, 8))
    with pytest.raises(InputError, match=r"Add \(opset 17\).*\(1, 4, 8, 8\)"):
        net.add(x, net.input("y", (1, 5, 8, 8)))
    with pytest.raises(InputError, match="NoSuchOperator"):
        net.node("NoSuchOperator", x)
    with pytest.raises(InputError, match="two tensors called 'x'"):
        net.input("x", (1,))
    with pytest.raises(InputError, match="no output"):
        net.model()
    with pytest.raises(InputError, match="opset 9"):
        OnnxBuilder("old", 9)


def int8_network() -> OnnxBuilder:
    """Residual block, pooling and head, as a quantization-aware export writes them."""
    net = OnnxBuilder("int8")
    x = net.quantized(net.input("x", (1, 3, 32, 32)))
    q = net.quantize(net.relu(net.conv(x, 16, 3, stride=2, precision="int8", name="stem")))
    y = net.relu(net.conv(net.dequantize(q), 16, 3, groups=16, precision="int8", name="depthwise"))
    y = net.conv(net.quantized(y), 16, 1, precision="int8", name="project")
    q = net.quantize(net.relu(net.add(net.dequantize(q), net.quantized(y))))
    q = net.quantize(net.max_pool(net.dequantize(q), 2, stride=2), like=q)
    q = net.quantize(net.global_average_pool(net.dequantize(q)))
    x = net.dequantize(net.quantize(net.flatten(net.dequantize(q)), like=q))
    net.output(net.quantized(net.linear(x, 10, precision="int8", name="head")))
    return net


def test_int8_layers_run_on_integer_kernels(tmp_path: Path) -> None:
    model = fill_weights(int8_network().model())
    onnx.checker.check_model(model, full_check=True)
    found = optimized_operators(model, tmp_path)
    assert found["QLinearConv"] == 3
    assert found["QGemm"] == 1
    assert found["QLinearAdd"] == 1
    assert found["QLinearGlobalAveragePool"] == 1
    assert found["QuantizeLinear"] == 1  # at the input
    assert found["DequantizeLinear"] == 1  # at the output
    assert not {"Conv", "Gemm", "Add", "Relu", "MaxPool"} & set(found)


def test_int8_matmul_runs_on_integer_kernels(tmp_path: Path) -> None:
    net = OnnxBuilder("tokens")
    x = net.quantized(net.input("x", (1, 16, 32)))
    net.output(net.quantized(net.linear(x, 24, precision="int8", bias=False)))
    found = optimized_operators(fill_weights(net.model()), tmp_path)
    assert "MatMul" not in found
    assert any(kind in found for kind in ("QLinearMatMul", "QGemm", "MatMulIntegerToFloat"))


@pytest.mark.parametrize(("layers", "integer", "float_"), [(1, 3, 0), (2, 2, 2)])
def test_fp32_layers_between_int8_layers(layers: int, integer: int, float_: int, tmp_path: Path) -> None:
    """Two in a row stay fp32; ONNX Runtime quantizes the weights of a single one by itself."""
    net = OnnxBuilder("mixed")
    x = net.quantized(net.input("x", (1, 8, 16, 16)))
    x = net.quantized(net.relu(net.conv(x, 8, 3, precision="int8")))
    for _ in range(layers):
        x = net.relu(net.conv(x, 8, 3))
    net.output(net.quantized(net.conv(net.quantized(x), 8, 3, precision="int8")))
    found = optimized_operators(fill_weights(net.model()), tmp_path)
    assert found["QLinearConv"] == integer
    assert found["Conv"] + found["FusedConv"] == float_


def test_quantization_parameters_have_predictable_names_and_zero_points() -> None:
    model = int8_network().model()
    scalars = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if not t.dims}
    assert scalars["x.zero_point"] == np.uint8(128)  # an image may be negative
    assert scalars["relu_0.out.zero_point"] == np.uint8(0)  # what absorbs the ReLU
    assert scalars["relu_0.out.scale"] == np.float32(0.05)
    names = {t.name for t in model.graph.initializer}
    stem = {"weight", "weight_scale", "weight_zero_point", "bias", "bias_scale", "bias_zero_point"}
    assert {f"stem.{role}" for role in stem} <= names


def test_unknown_precision_is_refused() -> None:
    net = OnnxBuilder("p")
    with pytest.raises(InputError, match="'int3'"):
        net.conv(net.input("x", (1, 3, 8, 8)), 8, 3, precision="int3")  # type: ignore[arg-type]
