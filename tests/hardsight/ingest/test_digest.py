"""The digest identifies the architecture: not names, node order, weights or where they are stored."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from hardsight.ingest import read_onnx

TEXT = """g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[4,3,3,3] w, float[4,3,1,1] v> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    b = Conv(x, v)
    c = Relu(a)
    y = Add(c, b)
}"""


def _embedded(model: ModelProto, seed: int) -> ModelProto:
    rng = np.random.default_rng(seed)
    copy = ModelProto()
    copy.CopyFrom(model)
    for index, tensor in enumerate(model.graph.initializer):
        data = rng.standard_normal(tuple(tensor.dims)).astype(np.float32)
        copy.graph.initializer[index].CopyFrom(numpy_helper.from_array(data, tensor.name))
    return copy


@pytest.fixture
def base(model) -> ModelProto:
    return model(TEXT)


def test_weights_do_not_matter_and_neither_does_their_place(base, tmp_path):
    expected = read_onnx(base).digest
    assert read_onnx(_embedded(base, 1)).digest == expected
    assert read_onnx(_embedded(base, 2)).digest == expected
    bare = ModelProto()
    bare.CopyFrom(base)
    for tensor in bare.graph.initializer:
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    assert read_onnx(bare).digest == expected
    onnx.save(
        _embedded(base, 3), tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    assert read_onnx(tmp_path / "m.onnx").digest == expected
    (tmp_path / "w").unlink()
    assert read_onnx(tmp_path / "m.onnx").digest == expected


def test_names_and_node_order_do_not_matter(base):
    expected = read_onnx(base).digest
    nodes = list(base.graph.node)
    del base.graph.node[:]
    base.graph.node.extend(reversed(nodes))
    for number, node in enumerate(base.graph.node):
        node.name = f"node{number}"
    for node in base.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name not in ("x", "y"):
                    names[index] = name + "_renamed"
    for tensor in base.graph.initializer:
        tensor.name += "_renamed"
    graph = read_onnx(base, name="other")
    assert graph.digest == expected
    position = {op.name: index for index, op in enumerate(graph.operators)}
    assert all(producer < index for index, op in enumerate(graph.operators) for producer, _ in op.inputs), (
        position
    )


def test_reading_does_not_change_the_given_model(base):
    before = base.SerializeToString(deterministic=True)
    read_onnx(base, shapes={"x": (2, 3, 8, 8)})
    assert base.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("pads=[1,1,1,1]", "pads=[2,2,2,2], dilations=[2,2]"),
        ("c = Relu(a)", "c = Sigmoid(a)"),
        ("Add(c, b)", "Add(c, a)"),
        ("Add(c, b)", "Mul(c, b)"),
        ("float[1,3,8,8] x) => (float[1,4,8,8] y", "float[2,3,8,8] x) => (float[2,4,8,8] y"),
    ],
)
def test_what_changes_the_architecture_changes_the_digest(model, base, old, new):
    assert old in TEXT
    assert read_onnx(model(TEXT.replace(old, new))).digest != read_onnx(base).digest


def test_no_ops_leave_no_trace(model, base):
    padded = TEXT.replace("c = Relu(a)", "i = Identity(a)  d = Dropout(i)  e = Cast<to=1>(d)  c = Relu(e)")
    graph = read_onnx(model(padded))
    assert graph.digest == read_onnx(base).digest
    assert [op.op_type for op in graph.operators] == ["Conv", "Conv", "Relu", "Add"]


def test_the_side_of_a_constant_matters(model):
    left = "g (float[4] x) => (float[4] y) <float[4] w> { y = Sub(w, x) }"
    right = "g (float[4] x) => (float[4] y) <float[4] w> { y = Sub(x, w) }"
    assert read_onnx(model(left)).digest != read_onnx(model(right)).digest
