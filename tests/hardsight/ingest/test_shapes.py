"""Binding dynamic dimensions, and inference where a file states no inner shapes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from hardsight.errors import ModelError
from hardsight.ingest import read_onnx
from hardsight.ingest.client import WORKER
from hardsight.ingest.values import RULES, Unknown, fold

FLATTEN = """g (float[N,3,8,8] x) => (float[N,10] y)
<float[4,3,3,3] w, float[10,256] f, int64[1] minus = {-1}> {
    c = Conv<pads=[1,1,1,1]>(x, w)
    s = Shape(c)
    zero = Constant<value_int=0>()
    n = Gather(s, zero)
    axes = Constant<value_ints=[0]>()
    n1 = Unsqueeze(n, axes)
    target = Concat<axis=0>(n1, minus)
    r = Reshape(c, target)
    y = Gemm<transB=1>(r, f)
}"""


def test_a_torchscript_chain_resolves_and_costs_nothing(model):
    graph = read_onnx(model(FLATTEN))
    assert [op.op_type for op in graph.operators] == ["Conv", "Reshape", "Gemm"]
    assert graph.operators[1].output_shapes == ((1, 256),)
    assert graph.macs == 4 * 64 * 27 + 256 * 10
    assert graph.assumptions == ("batch dimension 'N' unbound, taken as 1",)


def test_a_bound_batch_is_taken_and_not_assumed(model):
    graph = read_onnx(model(FLATTEN), shapes={"x": (4, 3, 8, 8)})
    assert graph.inputs[0].shape == (4, 3, 8, 8)
    assert graph.operators[1].output_shapes == ((4, 256),)
    assert graph.macs == 4 * (4 * 64 * 27 + 256 * 10)
    assert not graph.assumptions


def test_a_static_shape_may_be_replaced_and_the_answer_says_so(model):
    text = "g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[4,3,1,1] w> { y = Conv(x, w) }"
    graph = read_onnx(model(text), shapes={"x": (2, 3, 16, 16)})
    assert graph.outputs[0].shape == (2, 4, 16, 16)
    assert graph.assumptions == ("input 'x' is (1, 3, 8, 8) in the file, read as (2, 3, 16, 16)",)


def test_other_open_dimensions_must_be_given(model):
    text = "g (int64[batch,sequence] ids) => (float[b,s,4] y) <float[9,4] t> { y = Gather(t, ids) }"
    with pytest.raises(ModelError, match=r"input 'ids'.*\('batch', 'sequence'\).*--shape ids=1,128"):
        read_onnx(model(text))
    assert read_onnx(model(text), shapes={"ids": (1, 7)}).outputs[0].shape == (1, 7, 4)


def test_one_symbol_has_one_value(model):
    text = "g (float[b,n] x, float[b,n] z) => (float[b,n] y) { y = Add(x, z) }"
    graph = read_onnx(model(text), shapes={"x": (2, 5)})
    assert [spec.shape for spec in graph.inputs] == [(2, 5), (2, 5)]
    with pytest.raises(ModelError, match="'n' of 'm' is given as 5 and as 6"):
        read_onnx(model(text), shapes={"x": (2, 5), "z": (2, 6)}, name="m")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"nope": (1,)}, "no input 'nope'.*its inputs: 'x'"),
        ({"w": (4, 3, 3, 3)}, "no input 'w'"),
        ({"x": (1, 3, 8)}, "has 4 dimensions .* but the shape given has 3"),
        ({"x": (1, 3, 8, 0)}, "give positive whole numbers"),
        ({"x": (1, 3, -8, 8)}, "give positive whole numbers"),
        ({"x": (2**40, 3, 2**40, 8)}, "give positive whole numbers"),
    ],
)
def test_wrong_shapes_are_refused(model, shapes, message):
    with pytest.raises(ModelError, match=message):
        read_onnx(model(FLATTEN), shapes=shapes)


def _stated(batch: int):
    """Relu and a convolution whose inner shape is stated for the given batch."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4, 8, 8])],
        [TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3, 1, 1])],
        value_info=[helper.make_tensor_value_info("c", TensorProto.FLOAT, [batch, 4, 8, 8])],
    )
    return helper.make_model(graph)


def test_stale_inner_shapes_are_not_believed():
    assert read_onnx(_stated(1)).operators[0].output_shapes == ((2, 4, 8, 8),)


def test_a_complete_file_needs_no_worker():
    WORKER.close()
    assert read_onnx(_stated(2)).operators[0].output_shapes == ((2, 4, 8, 8),)
    assert WORKER.pid is None


def test_sizes_that_depend_on_data_are_the_largest_possible(model):
    text = "g (float[4,5] x) => (int64[2,k] y) { y = NonZero(x) }"
    graph = read_onnx(model(text))
    assert graph.outputs[0].shape == (2, 20)
    assert any("'y' (NonZero) depends on the data" in sentence for sentence in graph.assumptions)


def test_a_shape_that_the_file_cannot_tell_is_refused(model):
    text = "g (float[4,5] x, int64[k] s) => (float[a,b] y) { y = Reshape(x, s) }"
    with pytest.raises(ModelError, match="depends on values that are not in the file"):
        read_onnx(model(text), shapes={"s": (2,)})


def test_declared_shapes_never_allocate(model):
    text = """g (float[1] x) => (float[1] y) <int64[3] huge = {1000000, 1000000, 100}> {
        big = ConstantOfShape(huge)
        more = Expand(big, huge)
        s = Shape(more)
        n = Size(more)
        y = Relu(x)
    }"""
    assert [op.op_type for op in read_onnx(model(text)).operators] == ["Relu"]


def test_an_operator_set_of_the_future_is_read_as_the_newest_known(model):
    graph = read_onnx(model("g (float[1] x) => (float[1] y) { h = Relu(x)  y = Neg(h) }", opset=999))
    assert any("operator set 999 is newer" in sentence for sentence in graph.assumptions)


@pytest.mark.parametrize("opset", range(7, 29))
def test_operator_sets(model, opset):
    text = """g (float[2,4] x) => (float[2,4] y) <float[4,4] w> {
        h = MatMul(x, w)
        k = Softmax(h)
        y = Add(k, x)
    }"""
    graph = read_onnx(model(text, opset=opset))
    assert graph.macs == 32
    assert not graph.assumptions


def _evaluate(op_type, arrays, opset, **attributes):
    from onnx.reference import ReferenceEvaluator

    names = [f"x{i}" for i in range(len(arrays))]
    node = helper.make_node(op_type, names, ["y"], **attributes)
    value = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, arrays, strict=True)
    ]
    graph = helper.make_graph([node], "g", value, [helper.make_empty_tensor_value_info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return node, ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))[0]


FOLDS = [
    ("Add", [np.array([1, 2]), np.array([3])], {}),
    ("Div", [np.array([-7, 7]), np.array([2, -2])], {}),
    ("Mod", [np.array([-7, 7]), np.array([3, -3])], {}),
    ("Mod", [np.array([-7, 7]), np.array([3, -3])], {"fmod": 1}),
    ("Concat", [np.array([1, 2]), np.array([3])], {"axis": 0}),
    ("Gather", [np.array([4, 5, 6]), np.array(-1)], {"axis": 0}),
    ("Slice", [np.arange(9), np.array([7]), np.array([1]), np.array([0]), np.array([-2])], {}),
    ("Slice", [np.arange(9), np.array([-1]), np.array([-100]), np.array([0]), np.array([-1])], {}),
    ("Slice", [np.arange(12).reshape(3, 4), np.array([1]), np.array([2**62]), np.array([1])], {}),
    ("Squeeze", [np.array([[3]]), np.array([0])], {}),
    ("Unsqueeze", [np.array([3, 4]), np.array([0, 2])], {}),
    ("Reshape", [np.arange(6).reshape(2, 3), np.array([0, -1, 1])], {}),
    ("Expand", [np.array([[1], [2]]), np.array([2, 3])], {}),
    ("Tile", [np.array([1, 2]), np.array([3])], {}),
    ("Range", [np.array(1), np.array(10), np.array(3)], {}),
    ("Where", [np.array([True, False]), np.array([1, 2]), np.array([-1, -2])], {}),
    ("ReduceProd", [np.arange(1, 7).reshape(2, 3), np.array([1])], {"keepdims": 0}),
    ("Cast", [np.array([1.7, -1.7], dtype=np.float32)], {"to": TensorProto.INT64}),
    ("ConstantOfShape", [np.array([2, 2])], {"value": helper.make_tensor("v", TensorProto.INT64, [1], [7])}),
    ("ScatterND", [np.arange(4), np.array([[1]]), np.array([9])], {}),
    ("Transpose", [np.arange(6).reshape(2, 3)], {}),
    ("Max", [np.array([1, 5]), np.array([4, 2]), np.array([3])], {}),
    ("Pow", [np.array([2, 3]), np.array([3])], {}),
    ("NonZero", [np.array([0, 1, 2])], {}),
    ("Equal", [np.array([1, 2]), np.array([1, 3])], {}),
    ("ArgMax", [np.array([1, 9, 2])], {}),
]


@pytest.mark.parametrize("case", FOLDS, ids=lambda case: case[0])
def test_constant_arithmetic_agrees_with_the_reference(case):
    op_type, arrays, attributes = case
    node, expected = _evaluate(op_type, arrays, 18, **attributes)
    (found,) = fold(node, arrays)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("op_type", "arrays"),
    [
        ("ConstantOfShape", [np.array([10**9, 10**9])]),
        ("Expand", [np.array([1]), np.array([10**12])]),
        ("Tile", [np.array([1]), np.array([10**12])]),
        ("Range", [np.array(0), np.array(10**15), np.array(1)]),
        ("Div", [np.array([1]), np.array([0])]),
        ("Mystery", [np.array([1])]),
    ],
)
def test_what_is_too_large_or_impossible_stays_unknown(op_type, arrays):
    node = helper.make_node(op_type, [f"x{i}" for i in range(len(arrays))], ["y"])
    with pytest.raises(Unknown):
        fold(node, arrays)
    assert "Constant" in RULES
