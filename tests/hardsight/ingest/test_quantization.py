"""Bit-widths: QDQ, QOperator, QONNX and every element type."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from hardsight.ingest import read_onnx
from hardsight.ingest.bits import BITS, NAMES, size_bytes

QDQ = """g (float[1,4,8,8] x) => (float[1,6,8,8] y)
<float s = {0.1}, uint8 z = {128}, int8[6,4,3,3] w, float[6] ws, int8[6] wz,
 int32[6] b, float[6] bs, int32[6] bz> {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis=0>(w, ws, wz)
    bd = DequantizeLinear<axis=0>(b, bs, bz)
    c = Conv<pads=[1,1,1,1]>(d, wd, bd)
    cq = QuantizeLinear(c, s, z)
    y = DequantizeLinear(cq, s, z)
}"""


def test_qdq_convolution_is_priced_as_an_integer_one(model):
    graph = read_onnx(model(QDQ))
    assert [op.op_type for op in graph.operators] == [
        "QuantizeLinear", "DequantizeLinear", "Conv", "QuantizeLinear", "DequantizeLinear",
    ]  # fmt: skip
    first, fused, conv, requantize, last = graph.operators
    assert (conv.input_bits, conv.weight_bits, conv.output_bits) == (8, 8, 8)
    assert conv.weight_shapes == ((6, 4, 3, 3), (6,))
    assert conv.macs == 6 * 8 * 8 * 4 * 9
    assert (conv.bytes_in, conv.bytes_out) == (4 * 8 * 8, 6 * 8 * 8)
    # int8 weight, float scales and int8 zero points of 6 channels; int32 bias, its scales and zero points
    weights = 6 * 4 * 9 + 6 * 4 + 6 + 3 * 6 * 4
    assert conv.bytes_weights == weights
    assert graph.weight_bytes == weights + 4 + 1  # and the scale and zero point that the activations share
    # The quantizer at the input reads floats; those beside the convolution are fused into it.
    assert (first.input_bits, first.output_bits, first.bytes_in, first.bytes_out) == (
        32,
        8,
        4 * 64 * 4,
        4 * 64,
    )
    assert fused.bytes == requantize.bytes == 0
    assert (last.input_bits, last.output_bits, last.bytes_out) == (8, 32, 6 * 64 * 4)


def test_a_tensor_that_is_also_read_as_float_is_held_as_float(model):
    text = QDQ.replace("=> (float[1,6,8,8] y)", "=> (float[1,6,8,8] y, float[1,6,8,8] r)").replace(
        "cq =", "r = Relu(c)  cq ="
    )
    conv = next(op for op in read_onnx(model(text)).operators if op.op_type == "Conv")
    assert (conv.input_bits, conv.weight_bits, conv.output_bits) == (8, 8, 32)


@pytest.mark.parametrize(("dtype", "bits"), [("int4", 4), ("uint4", 4), ("int16", 16), ("float8e4m3fn", 8)])
def test_width_of_a_quantized_weight(model, dtype, bits):
    text = f"""g (float[2,8] x) => (float[2,8] y) <{dtype}[8,8] w, float s = {{0.1}}> {{
        d = DequantizeLinear(w, s)
        y = MatMul(x, d)
    }}"""
    (matmul,) = read_onnx(model(text, opset=21)).operators
    assert matmul.weight_bits == bits
    assert matmul.bytes_weights == 64 * bits // 8 + 4
    assert matmul.macs == 2 * 8 * 8


def test_qoperator_takes_the_widths_of_its_types(model):
    text = """g (uint8[1,4,8,8] x) => (uint8[1,6,1,1] y)
    <float s = {0.1}, uint8 z = {128}, int8[6,4,3,3] w, float ws = {0.1}, int8 wz = {0}, int32[6] b> {
        c = QLinearConv<pads=[1,1,1,1]>(x, s, z, w, ws, wz, s, z, b)
        a = com.microsoft.QLinearAdd(c, s, z, c, s, z, s, z)
        y = com.microsoft.QLinearGlobalAveragePool(a, s, z, s, z)
    }"""
    conv, add, pool = read_onnx(model(text)).operators
    assert (conv.input_bits, conv.weight_bits, conv.output_bits) == (8, 8, 8)
    assert conv.macs == 6 * 8 * 8 * 4 * 9
    assert add.output_shapes == ((1, 6, 8, 8),)
    assert pool.output_shapes == ((1, 6, 1, 1),)
    assert pool.known


def test_integer_operators(model):
    text = "g (uint8[1,4,8,8] x) => (int32[1,6,6,6] y) <int8[6,4,3,3] w> { y = ConvInteger(x, w) }"
    (conv,) = read_onnx(model(text)).operators
    assert (conv.input_bits, conv.weight_bits, conv.output_bits) == (8, 8, 32)
    assert conv.macs == 6 * 6 * 6 * 36


def test_qonnx_widths_come_from_their_constants(model):
    text = """g (float[1,4,8,8] x) => (float[1,6,8,8] y)
    <float s = {0.1}, float z = {0}, float four = {4}, float three = {3}, float[6,4,3,3] w> {
        q = qonnx.custom_op.general.Quant<signed=1, narrow=0, rounding_mode="ROUND">(x, s, z, four)
        wq = qonnx.custom_op.general.Quant<signed=1, narrow=1, rounding_mode="ROUND">(w, s, z, three)
        c = Conv<pads=[1,1,1,1]>(q, wq)
        b = qonnx.custom_op.general.BipolarQuant(c, s)
        y = Relu(b)
    }"""
    graph = read_onnx(model(text))
    assert not graph.unknown_ops
    quant, conv, bipolar, relu = graph.operators
    assert (quant.input_bits, quant.output_bits) == (32, 4)
    assert (conv.input_bits, conv.weight_bits, conv.output_bits) == (4, 3, 1)
    assert conv.bytes_in == 4 * 8 * 8 // 2
    assert conv.bytes_weights == 6 * 4 * 9 * 3 // 8
    assert conv.bytes_out == 6 * 8 * 8 // 8
    assert bipolar.bytes == 0
    assert relu.input_bits == 1


def test_every_element_type_has_a_width_and_reads():
    standard = {code for name, code in TensorProto.DataType.items() if name != "UNDEFINED"}
    assert set(BITS) == standard
    for code in sorted(standard):
        value = helper.make_tensor_value_info("x", code, [3, 5])
        out = helper.make_tensor_value_info("y", code, [5, 3])
        node = helper.make_node("Transpose", ["x"], ["y"])
        graph = read_onnx(helper.make_model(helper.make_graph([node], "g", [value], [out])))
        assert graph.inputs[0].dtype == NAMES[code]
        assert graph.operators[0].bytes_in == size_bytes(15, BITS[code])
        assert ("strings are taken as 16 bytes each" in graph.assumptions) == (code == TensorProto.STRING)
