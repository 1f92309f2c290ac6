"""If, Loop, Scan, SequenceMap and local functions."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper, parser

from hardsight.errors import ModelError
from hardsight.ingest import read_onnx


def test_if_is_priced_by_its_costlier_branch(model):
    text = """g (bool c, float[1,8] x) => (float[1,8] y) <float[8,8] w> {
        h = Relu(x)
        k = If (c) <
            then_branch = t () => (float[1,8] p) { p = Sigmoid(h) },
            else_branch = e () => (float[1,8] q) { r = MatMul(h, w)  q = Relu(r) }
        >
        y = Neg(k)
    }"""
    graph = read_onnx(model(text))
    assert [op.op_type for op in graph.operators] == ["Relu", "MatMul", "Relu", "Neg"]
    assert graph.macs == 64
    assert graph.operators[1].inputs == ((0, 0),)
    assert graph.operators[3].inputs == ((2, 0),)
    assert any("costlier branch, the else branch" in sentence for sentence in graph.assumptions)
    assert graph.operators[1].name.startswith("If/else_branch/")


def test_a_constant_condition_takes_its_branch_even_if_the_other_is_impossible(model):
    # What TorchScript exports for squeeze: the branch not taken would squeeze a dimension of 8.
    text = """g (float[1,8] x) => (float[8] y) {
        s = Shape(x)
        i = Constant<value_int=0>()
        one = Constant<value_int=1>()
        axes = Constant<value_ints=[0]>()
        wrong = Constant<value_ints=[1]>()
        d = Gather(s, i)
        c = Equal(d, one)
        k = If (c) <
            then_branch = t () => (float[8] p) { p = Squeeze(x, axes) },
            else_branch = e () => (float[8] q) { q = Squeeze(x, wrong) }
        >
        y = Neg(k)
    }"""
    graph = read_onnx(model(text))
    assert [op.op_type for op in graph.operators] == ["Squeeze", "Neg"]
    assert graph.outputs[0].shape == (8,)
    assert not graph.assumptions


LOOP = """g (float[1,8] x) => (float[1,8] y, float[{n},1,8] all)
<int64 m = {{{n}}}, bool go = {{1}}, float[8,8] w> {{
    y, all = Loop (m, go, x) <
        body = b (int64 i, bool ci, float[1,8] s) => (bool co, float[1,8] t, float[1,8] u) {{
        co = Identity(ci)
        t = MatMul(s, w)
        u = Relu(t)
    }}>
}}"""


def test_loop_with_a_constant_trip_count_repeats_its_body(model):
    graph = read_onnx(model(LOOP.format(n=5)))
    loop, matmul, relu = graph.operators
    assert (loop.op_type, matmul.op_type, relu.op_type) == ("Loop", "MatMul", "Relu")
    assert loop.bytes == 0
    assert matmul.repeats == relu.repeats == 5
    assert graph.macs == 5 * 64
    assert [spec.shape for spec in graph.outputs] == [(1, 8), (5, 1, 8)]
    assert not graph.assumptions


def test_loop_of_unknown_length_counts_once_and_says_so(model):
    text = (
        LOOP.format(n=5).replace("(float[1,8] x)", "(float[1,8] x, int64 m)").replace("int64 m = {5}, ", "")
    )
    graph = read_onnx(model(text))
    assert graph.macs == 64
    assert any("runs depends on the data, taken as once" in sentence for sentence in graph.assumptions)
    assert graph.digest != read_onnx(model(LOOP.format(n=5))).digest


def test_nested_loops_multiply(model):
    text = """g (float[1,8] x) => (float[1,8] y) <int64 m = {3}, int64 n = {4}, bool go = {1}, float[8,8] w> {
        y = Loop (m, go, x) <body = b (int64 i, bool ci, float[1,8] s) => (bool co, float[1,8] t) {
            co = Identity(ci)
            t = Loop (n, ci, s) <body = d (int64 j, bool di, float[1,8] u) => (bool eo, float[1,8] v) {
                eo = Identity(di)
                v = MatMul(u, w)
            }>
        }>
    }"""
    graph = read_onnx(model(text))
    assert graph.macs == 3 * 4 * 64
    assert graph.weight_bytes == 256  # the weight is one, however often it is read


def test_scan_runs_once_per_step(model):
    text = """g (float[1,8] s, float[7,1,8] x) => (float[1,8] y, float[7,1,8] ys) <float[8,8] w> {
        y, ys = Scan <num_scan_inputs = 1,
            body = b (float[1,8] a, float[1,8] e) => (float[1,8] n, float[1,8] o) {
            m = MatMul(e, w)
            n = Add(a, m)
            o = Identity(n)
        }> (s, x)
    }"""
    graph = read_onnx(model(text))
    assert graph.macs == 7 * 64
    assert [spec.shape for spec in graph.outputs] == [(1, 8), (7, 1, 8)]
    assert {op.op_type: op.repeats for op in graph.operators} == {"Scan": 7, "MatMul": 7, "Add": 7}


def test_functions_are_inlined():
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[1,8] x, float[8,8] w) => (float[1,8] y) { y = own.layer(x, w) }
    <domain: "own", opset_import: ["" : 17]>
    layer (x, w) => (y) { h = MatMul(x, w)  y = Relu(h) }"""
    plain = "g (float[1,8] x, float[8,8] w) => (float[1,8] y) { h = MatMul(x, w)  y = Relu(h) }"
    graph = read_onnx(parser.parse_model(text))
    assert [op.op_type for op in graph.operators] == ["MatMul", "Relu"]
    header = '<ir_version: 8, opset_import: ["" : 17]>'
    assert graph.digest == read_onnx(parser.parse_model(header + plain)).digest


def test_a_function_that_calls_itself_is_refused():
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[1,8] x) => (float[1,8] y) { y = own.again(x) }
    <domain: "own", opset_import: ["" : 17, "own" : 1]>
    again (x) => (y) { h = Relu(x)  y = own.again(h) }"""
    with pytest.raises(ModelError):
        read_onnx(parser.parse_model(text))


def test_sequences_are_priced_by_their_largest_element():
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [4, 3])
    i = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "z"], ["s"]),
        helper.make_node("SequenceAt", ["s", "i"], ["y"]),
    ]
    graph = read_onnx(helper.make_model(helper.make_graph(nodes, "g", [x, z, i], [y])))
    assert graph.outputs[0].shape == (4, 3)
    assert any("'s' is a sequence" in sentence for sentence in graph.assumptions)


def test_a_branch_is_missing():
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("If", ["c"], ["y"])
    with pytest.raises(ModelError, match="has no 'then_branch'"):
        read_onnx(helper.make_model(helper.make_graph([node], "g", [c], [y])))
