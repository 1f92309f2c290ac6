"""Multiply-accumulates and bytes against arithmetic done by hand."""

from __future__ import annotations

import pytest

from hardsight.ingest import costs, read_onnx
from hardsight.ingest.costs import Call

CASES = {
    # 6 x 8 x 8 outputs, each a sum over 4 channels of a 3 x 3 kernel: 384 * 36
    "conv": (
        "g (float[1,4,8,8] x) => (float[1,6,8,8] y) <float[6,4,3,3] w> { y = Conv<pads=[1,1,1,1]>(x, w) }",
        13824,
    ),
    # stride 2 halves both sides: 6 x 4 x 4 outputs * 36
    "conv stride": (
        "g (float[1,4,8,8] x) => (float[1,6,4,4] y) <float[6,4,3,3] w> {"
        " y = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w) }",
        3456,
    ),
    # depthwise: 4 x 8 x 8 outputs, each a sum over 1 channel of a 3 x 3 kernel: 256 * 9
    "depthwise": (
        "g (float[1,4,8,8] x) => (float[1,4,8,8] y) <float[4,1,3,3] w>"
        " { y = Conv<pads=[1,1,1,1], group=4>(x, w) }",
        2304,
    ),
    # batch of 2, one dimension: 2 x 5 x (10 - 3 + 1) outputs * 3 channels * 3 taps: 80 * 9
    "conv 1d": ("g (float[2,3,10] x) => (float[2,5,8] y) <float[5,3,3] w> { y = Conv(x, w) }", 720),
    # every one of 4 x 5 x 5 inputs meets 6 channels of a 2 x 2 kernel: 100 * 24
    "transposed": (
        "g (float[1,4,5,5] x) => (float[1,6,10,10] y) <float[4,6,2,2] w>"
        " { y = ConvTranspose<strides=[2,2]>(x, w) }",
        2400,
    ),
    # 7 x 5 outputs, each a sum over 3
    "gemm": (
        "g (float[7,3] x) => (float[7,5] y) <float[5,3] w, float[5] b> { y = Gemm<transB=1>(x, w, b) }",
        105,
    ),
    "gemm transposed": (
        "g (float[3,7] x) => (float[7,5] y) <float[3,5] w> { y = Gemm<transA=1>(x, w) }",
        105,
    ),
    # batch 2 x 4 broadcast over 1 x 4: 2 * 4 * 5 * 7 outputs, each a sum over 6
    "matmul": ("g (float[2,4,5,6] a, float[1,4,6,7] b) => (float[2,4,5,7] y) { y = MatMul(a, b) }", 1680),
    "matvec": ("g (float[5,6] a, float[6] b) => (float[5] y) { y = MatMul(a, b) }", 30),
    "integer": ("g (uint8[5,6] a) => (int32[5,7] y) <int8[6,7] b> { y = MatMulInteger(a, b) }", 210),
    # indices b=2, i=3, j=4, k=5, one multiplication each
    "einsum": (
        "g (float[2,3,4] a, float[2,4,5] b) => (float[2,3,5] y)"
        ' { y = Einsum<equation="bij,bjk->bik">(a, b) }',
        120,
    ),
    "einsum dots": (
        "g (float[2,3,4] a, float[2,4,5] b) => (float[2,3,5] y)"
        ' { y = Einsum<equation="...ij,...jk->...ik">(a, b) }',
        120,
    ),
    # 7 steps x 2 samples x (4 gates * 8 hidden) x (5 inputs + 8 hidden)
    "lstm": (
        "g (float[7,2,5] x) => (float[7,1,2,8] y) <float[1,32,5] w, float[1,32,8] r> {"
        " y = LSTM<hidden_size=8>(x, w, r) }",
        5824,
    ),
    # both directions of a GRU: 7 x 2 x 2 x (3 * 8) x (5 + 8)
    "gru": (
        "g (float[7,2,5] x) => (float[7,2,2,8] y) <float[2,24,5] w, float[2,24,8] r> {"
        ' y = GRU<hidden_size=8, direction="bidirectional">(x, w, r) }',
        8736,
    ),
    # 1 sample x 10 positions x (16 -> 48) projection + 10 * 10 * (16 + 16)
    "attention": (
        "g (float[1,10,16] x) => (float[1,10,16] y) <float[16,48] w, float[48] b> {"
        " y = com.microsoft.Attention<num_heads=4>(x, w, b) }",
        7680 + 3200,
    ),
    # 10 queries x 12 keys x (16 + 16)
    "multi-head": (
        "g (float[1,10,16] q, float[1,12,16] k, float[1,12,16] v) => (float[1,10,16] y) {"
        " y = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v) }",
        3840,
    ),
    # 3 rows x 32 x 8, the weight packed in blocks of 4 bits
    "nbits": (
        "g (float[3,32] x) => (float[3,8] y) <uint8[8,1,16] w, float[8] s> {"
        " y = com.microsoft.MatMulNBits<K=32, N=8, bits=4, block_size=32>(x, w, s) }",
        768,
    ),
    # dimension 0 moves to the last but one: (12, 1, 4, 16) is 4 heads of 12 x 16; 4 * 12 * 12 * 16
    "fused, batch transposed": (
        "g (float[12,1,4,16] a, float[12,1,4,16] b) => (float[1,4,12,12] y) {"
        " y = com.microsoft.FusedMatMul<transB=1, transBatchA=1, transBatchB=1>(a, b) }",
        9216,
    ),
    "fused": (
        "g (float[1,4,8,8] x) => (float[1,6,6,6] y) <float[6,4,3,3] w>"
        ' { y = com.microsoft.FusedConv<activation="Relu">(x, w) }',
        7776,  # 6 * 6 * 6 outputs * 36
    ),
    "elementwise": ("g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Relu(x) }", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_macs_by_hand(model, case):
    text, expected = CASES[case]
    graph = read_onnx(model(text))
    assert graph.macs == expected
    assert not graph.unknown_ops


def test_standard_attention(model):
    text = """g (float[1,4,10,6] q, float[1,4,12,6] k, float[1,4,12,5] v) => (float[1,4,10,5] y)
    { y = Attention(q, k, v) }"""
    # 4 heads x 10 queries x 12 keys x (6 + 5)
    assert read_onnx(model(text, opset=23)).macs == 5280


def test_bytes_of_a_convolution(model):
    text = """g (float16[1,4,8,8] x) => (float16[1,6,6,6] y) <float16[6,4,3,3] w, float16[6] b>
    { y = Conv(x, w, b) }"""
    (conv,) = read_onnx(model(text)).operators
    assert (conv.input_bits, conv.weight_bits, conv.output_bits) == (16, 16, 16)
    assert conv.bytes_in == 4 * 8 * 8 * 2
    assert conv.bytes_out == 6 * 6 * 6 * 2
    assert conv.bytes_weights == (6 * 4 * 3 * 3 + 6) * 2
    assert conv.weight_shapes == ((6, 4, 3, 3), (6,))


def test_an_embedding_costs_its_rows_and_a_view_nothing(model):
    text = """g (int64[1,5] ids) => (float[1,80] y) <float[1000,16] table, int64[2] s = {1, 80}> {
        rows = Gather(table, ids)
        y = Reshape(rows, s)
    }"""
    graph = read_onnx(model(text))
    gather, view = graph.operators
    assert gather.bytes_weights == 5 * 16 * 4
    assert (gather.bytes_in, gather.bytes_out) == (5 * 8, 5 * 16 * 4)
    assert view.bytes == 0
    assert view.known
    assert graph.weight_bytes == 1000 * 16 * 4 + 16


def test_shared_weights_count_once(model):
    text = """g (float[1,8] x) => (float[1,8] y) <float[8,8] w> {
        h = MatMul(x, w)
        y = MatMul(h, w)
    }"""
    assert read_onnx(model(text)).weight_bytes == 8 * 8 * 4


def test_an_unknown_operator_is_counted_named_and_never_free(model):
    text = "g (float[1,8] x) => (float[1,8] y) { h = own.Mystery(x)  k = own.Mystery(h)  y = Relu(k) }"
    graph = read_onnx(model(text))
    assert graph.unknown_ops == {"own.Mystery": 2}
    mystery = graph.operators[0]
    assert not mystery.known
    assert mystery.bytes == 2 * 8 * 4
    assert any("'h' (own.Mystery) is unknown" in sentence for sentence in graph.assumptions)


def test_every_type_is_in_one_table_only():
    assert not set(costs.MACS) & costs.MOVERS
    assert not set(costs.MACS) & costs.VIEWS
    assert not costs.MOVERS & costs.VIEWS


def test_channels_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="5 input channels"):
        costs.macs("Conv", Call({}, [(1, 5, 8, 8), (6, 4, 3, 3)], [(1, 6, 6, 6)]))
