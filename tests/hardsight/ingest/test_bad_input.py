"""What cannot be used is refused by a ModelError of one sentence that says what was given and what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from onnx import ModelProto, TensorProto, helper

from hardsight.errors import ModelError
from hardsight.ingest import read_onnx

FLOAT = TensorProto.FLOAT


def _info(name, shape, code=FLOAT):
    return helper.make_tensor_value_info(name, code, shape)


def _model(nodes, inputs=None, outputs=None, weights=(), **kwargs) -> ModelProto:
    inputs = [_info("x", [1, 3, 8, 8])] if inputs is None else inputs
    outputs = [_info("y", None)] if outputs is None else outputs
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, list(weights)), **kwargs)


def _node(op="Relu", inputs=("x",), outputs=("y",), **attributes):
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def _weight(dims, code=FLOAT, name="w"):
    return TensorProto(name=name, data_type=code, dims=dims)


def _deep(levels: int) -> bytes:
    """If inside If; written by hand because protobuf itself would not build it."""
    graph = helper.make_graph([_node()], "leaf", [], [_info("y", [1])]).SerializeToString()
    for _ in range(levels):
        attribute = _field(1, b"then_branch") + _field(6, graph) + b"\xa0\x01\x05"
        graph = _field(1, _field(2, b"y") + _field(4, b"If") + _field(5, attribute))
    return b"\x08\x08" + _field(7, graph)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


MODELS = {
    "cycle": (
        lambda: _model([_node("Add", "xb", "a"), _node("Relu", "a", "b"), _node("Relu", "b")]),
        "cycle",
    ),
    "self loop": (lambda: _model([_node("Add", ["x", "y"], ["y"])]), "cycle"),
    "nothing makes it": (lambda: _model([_node(inputs=["ghost"])]), "reads 'ghost', which nothing makes"),
    "made twice": (lambda: _model([_node(), _node("Neg")]), "makes the tensor 'y' twice"),
    "input made again": (lambda: _model([_node(outputs=["x"])]), "makes the tensor 'x' twice"),
    "weight twice": (
        lambda: _model([_node()], weights=[_weight([1]), _weight([1])]),
        "makes the tensor 'w' twice",
    ),
    "output of nothing": (lambda: _model([_node(outputs=["z"])]), "output 'y'.*made by no node"),
    "no graph": (lambda: ModelProto(ir_version=8), "has no graph|is empty"),
    "empty graph": (lambda: helper.make_model(helper.make_graph([], "g", [], [])), "empty graph"),
    "shapeless": (lambda: _model([_node()], [_info("x", None)]), "input 'x'.*has no shape; give one"),
    "typeless": (
        lambda: _model([_node()], [helper.make_empty_tensor_value_info("x")]),
        "input 'x'.*has no (type|shape)",
    ),
    "negative input": (lambda: _model([_node()], [_info("x", [1, -3, 8, 8])]), "negative dimension -3"),
    "negative weight": (lambda: _model([_node()], weights=[_weight([-1, 4])]), "impossible shape"),
    "overflowing input": (lambda: _model([_node()], [_info("x", [2**40, 2**40])]), "impossible shape"),
    "overflowing weight": (lambda: _model([_node()], weights=[_weight([2**62, 2**62])]), "impossible shape"),
    "overflowing inside": (
        lambda: _model(
            [_node("Expand", ["x", "s"])],
            weights=[helper.make_tensor("s", TensorProto.INT64, [4], [2**30, 3, 2**30, 2**30])],
        ),
        "contradicts itself|impossible shape",
    ),
    "wrong channels": (
        lambda: _model([_node("Conv", ["x", "w"])], weights=[_weight([4, 5, 3, 3])]),
        "input channels|does not fit",
    ),
    "wrong rank": (lambda: _model([_node("Conv", ["x", "w"])], weights=[_weight([4])]), "does not fit"),
    "shapes that do not broadcast": (
        lambda: _model([_node("Add", ["x", "w"])], weights=[_weight([7])]),
        "does not fit its inputs",
    ),
    "element type": (
        lambda: _model([_node("Add", ["x", "w"])], weights=[_weight([1], code=99)]),
        "element type|does not fit",
    ),
    "operator set 0": (
        lambda: _model([_node()], opset_imports=[helper.make_opsetid("", 0)]),
        "operator set 0",
    ),
    "missing attribute": (lambda: _model([_node("Concat", ["x", "x"])]), "does not fit its inputs"),
    "missing input": (lambda: _model([_node("Conv", ["x"])]), "does not fit|missing|cannot be computed"),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_contradicts_itself(case):
    make, message = MODELS[case]
    with pytest.raises(ModelError, match=message) as caught:
        read_onnx(make(), name="bad")
    _one_sentence(caught.value)


def _one_sentence(error: ModelError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 600
    assert error.exit_code == 2


def test_a_constant_of_another_kind_than_its_attribute_says_is_no_crash():
    graph = read_onnx(_model([_node("Constant", (), ("y",), value=[1, 2])], outputs=[_info("y", [2])]))
    assert [op.op_type for op in graph.operators] == ["Constant"]


@pytest.mark.parametrize("levels", [20, 100, 5000])
def test_nested_too_deep(levels):
    with pytest.raises(ModelError) as caught:
        read_onnx(_deep(levels))
    _one_sentence(caught.value)


GOOD = _model([_node("Conv", ["x", "w"])], weights=[_weight([4, 3, 3, 3])])


FILES = {
    "empty": (b"", "is empty"),
    "text": (b"this is no protobuf message at all, only text\n" * 9, "no ONNX model|has no graph"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "no ONNX model"),
    "zeros": (bytes(5000), "no ONNX model"),
    "truncated": (GOOD.SerializeToString()[:-7], "no ONNX model, or it is truncated"),
    "zip": (b"PK\x03\x04" + bytes(100), "no ONNX model|has no graph"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_model(case, tmp_path):
    data, message = FILES[case]
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    for source in (path, str(path), data):
        with pytest.raises(ModelError, match=message) as caught:
            read_onnx(source)
        _one_sentence(caught.value)


def test_truncated_in_the_middle_of_a_weight(tmp_path):
    model = _model(
        [_node("Conv", ["x", "w"])], weights=[helper.make_tensor("w", FLOAT, [64, 3, 3, 3], [0.0] * 1728)]
    )
    data = model.SerializeToString()
    assert read_onnx(data).macs == 64 * 36 * 27
    for cut in range(1, len(data), 97):
        with pytest.raises(ModelError):
            read_onnx(data[:cut])


def test_paths_that_cannot_be_read(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        read_onnx(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        read_onnx(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_onnx("a\0b.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelError, match="no regular file"):
        read_onnx(tmp_path / "pipe.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_no_permission(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(GOOD.SerializeToString())
    path.chmod(0)
    with pytest.raises(ModelError, match="cannot be read"):
        read_onnx(path)


def _external(location: str, *, constant: bool = False) -> ModelProto:
    tensor = _weight([4, 3, 3, 3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    if constant:
        return _model([_node("Constant", [], ["w"], value=tensor), _node("Conv", ["x", "w"])])
    return _model([_node("Conv", ["x", "w"])], weights=[tensor])


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd",
        "../weights.bin",
        "a/../../weights.bin",
        "C:\\weights.bin",
        "..\\weights.bin",
        "\\\\host\\w",
    ],
)
def test_external_data_never_leaves_the_folder(location, constant, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(_external(location, constant=constant).SerializeToString())
    for source in (path, path.read_bytes()):
        with pytest.raises(ModelError, match="outside the model's folder") as caught:
            read_onnx(source)
        _one_sentence(caught.value)


def test_a_link_does_not_lead_out_of_the_folder_either(tmp_path):
    (tmp_path / "secret").write_bytes(b"s" * 999)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").symlink_to(tmp_path / "secret")
    (folder / "m.onnx").write_bytes(_external("w.bin").SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        read_onnx(folder / "m.onnx")


def test_external_data_inside_the_folder_need_not_be_there(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(_external("sub/weights.bin").SerializeToString())
    assert read_onnx(path).macs == 4 * 6 * 6 * 27


def test_a_small_external_shape_is_read_where_it_lies(tmp_path):
    shape = TensorProto(name="s", data_type=TensorProto.INT64, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "w.bin"), ("offset", "8"), ("length", "16")):
        shape.external_data.add(key=key, value=value)
    path = tmp_path / "m.onnx"
    path.write_bytes(_model([_node("Reshape", ["x", "s"])], weights=[shape]).SerializeToString())
    with pytest.raises(ModelError, match="not in the file"):
        read_onnx(path)
    (tmp_path / "w.bin").write_bytes(bytes(8) + (1).to_bytes(8, "little") + (192).to_bytes(8, "little"))
    assert read_onnx(path).outputs[0].shape == (1, 192)


def test_a_long_chain_does_not_exhaust_the_stack():
    nodes = [_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(20_000)]
    nodes.append(_node("Relu", ["t20000"], ["y"]))
    model = _model(nodes, [_info("t0", [1, 4])])
    graph = read_onnx(model)
    assert len(graph) == 20_001
    nodes.reverse()
    assert read_onnx(_model(nodes, [_info("t0", [1, 4])])).digest == graph.digest


def test_weights_are_cut_out_and_not_loaded(tmp_path):
    """A sparse file stands for a large model: its weights are never touched."""
    model = _model([_node("Conv", ["x", "w"])], weights=[_weight([4, 3, 3, 3])])
    size = 1 << 30
    raw = b"\x4a" + _varint(size)  # field 9, raw_data
    tensor = model.graph.initializer[0].SerializeToString()
    tensor_head = b"\x2a" + _varint(len(tensor) + len(raw) + size) + tensor + raw
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString()
    graph_head = b"\x3a" + _varint(len(graph) + len(tensor_head) + size) + graph + tensor_head
    model.ClearField("graph")
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.write(model.SerializeToString() + graph_head)
        file.truncate(file.tell() + size)
    assert Path(path).stat().st_size > size
    assert read_onnx(path).macs == 4 * 36 * 27


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
