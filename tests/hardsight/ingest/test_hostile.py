"""What damaged files did once: each of these crashed, hung, filled the memory or printed a megabyte."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading

import numpy as np
import pytest
from mutator import bombs
from onnx import GraphProto, TensorProto, helper

import hardsight
from hardsight.errors import ModelError
from hardsight.ingest import read_onnx
from hardsight.ingest.client import Worker, WorkerCrash
from hardsight.ingest.values import Unknown, fold
from hardsight.ingest.worker import READY

DEVICE = "xeon-amx/onnxruntime/fp32-t1"
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def _info(name, shape, code=FLOAT):
    return helper.make_tensor_value_info(name, code, shape)


def _node(op_type, inputs, outputs, **attributes):
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


def _model(*nodes, weights=(), shape=(1, 8), opset=17):
    graph = helper.make_graph(nodes, "g", [_info("x", shape)], [_info("y", None)], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _loop(trips, shape=(1, 8), op_type="Sigmoid", inputs="s"):
    body = GraphProto(name="b", node=[_node(op_type, inputs, "t"), _node("Identity", "d", "c")])
    body.input.extend([_info("i", [], INT64), _info("d", [], BOOL), _info("s", shape)])
    body.output.extend([_info("c", [], BOOL), _info("t", shape)])
    go = helper.make_tensor("go", BOOL, [], [1])
    return _model(_node("Loop", "m go x", "y", body=body), weights=[trips, go], shape=shape)


@pytest.mark.parametrize("op_type", ["Begin", "End", "Select"])
def test_the_readers_own_nodes_cannot_be_forged(op_type):
    with pytest.raises(ModelError, match="of the domain 'hardsight', which is not for files"):
        read_onnx(_model(_node(op_type, "x", "y", domain="hardsight")))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_trip_count_that_is_no_number(value):
    graph = read_onnx(_loop(helper.make_tensor("m", FLOAT, [], [value])))
    assert any("runs depends on the data" in said for said in graph.assumptions) == (value != float("-inf"))


def test_a_scan_over_nothing():
    body = GraphProto(name="b", node=[_node("RandomNormal", "", "r", shape=[4])])
    body.input.append(_info("e", [8]))
    body.output.append(_info("r", [4]))
    node = _node("Scan", "x", "y", body=body, num_scan_inputs=1)
    node.input[0] = ""
    with pytest.raises(ModelError, match="cannot be computed"):
        read_onnx(_model(node))


def test_work_beyond_every_machine():
    trips = helper.make_tensor("m", INT64, [], [2**30])
    with pytest.raises(ModelError, match="more work than any machine finishes"):
        read_onnx(_loop(trips, shape=(2**20, 2**20), op_type="MatMul", inputs="s s"))


def test_work_beyond_every_float():
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGH"
    node = _node("Einsum", "x" + " w" * (len(letters) - 1), "y", equation=",".join(letters) + "->a")
    with pytest.raises(ModelError, match="more work than any machine finishes"):
        read_onnx(_model(node, weights=[TensorProto(name="w", dims=[2**40], data_type=FLOAT)], shape=[2**40]))


@pytest.mark.parametrize(
    ("bomb", "message"),
    [
        (bombs.recursive_functions, "or call themselves"),
        (bombs.many_dimensions, "65 dimensions|5000 dimensions|100000 dimensions|in all"),
    ],
)
def test_bombs_are_refused_before_they_go_off(bomb, message):
    with pytest.raises(ModelError, match=message):
        read_onnx(bomb(random.Random(0)), name="bomb")


def _doubling(levels):
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(levels):
        kind, domain = (f"f{level - 1}", "own") if level else ("Relu", "")
        nodes = [_node(kind, "x", "h", domain=domain), _node(kind, "h", "y", domain=domain)]
        functions.append(helper.make_function("own", f"f{level}", ["x"], ["y"], nodes, imports))
    model = _model(_node(f"f{levels - 1}", "x", "y", domain="own"))
    model.opset_import.add(domain="own", version=1)
    model.functions.extend(functions)
    return model


def test_functions_that_double_themselves():
    assert len(read_onnx(_doubling(6))) == 64
    with pytest.raises(ModelError, match="more than 250000 nodes once its functions are inlined"):
        read_onnx(_doubling(60))


@pytest.mark.parametrize("where", ["node", "tensor", "op_type", "dimension", "input", "body"])
def test_a_name_of_a_megabyte_is_not_printed_whole(where):
    name = "n" * 10**6
    model = _model(_node("Conv", "x", "y"))
    node = model.graph.node[0]
    if where == "node":
        node.name = name
    elif where == "tensor":
        node.input[0] = name
    elif where == "op_type":
        node.op_type, node.input[0] = name, "ghost"
    elif where == "dimension":
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = name
    elif where == "input":
        model.graph.input[0].name = name
    else:
        node.op_type, node.name, node.input[0] = "If", name, "x"
    with pytest.raises(ModelError) as caught:
        read_onnx(model, name="long")
    assert "'long'" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_long_name_around_a_body_is_not_multiplied():
    body = GraphProto(name="b", output=[_info("t999", [1, 8])])
    names = ["x", *(f"t{i}" for i in range(1000))]
    body.node.extend(_node("Relu", a, b) for a, b in itertools.pairwise(names))
    node = _node("If", "go", "y", then_branch=body, else_branch=body)
    node.name = "n" * 10**6
    graph = read_onnx(_model(node, weights=[helper.make_tensor("go", BOOL, [], [1])]))
    assert len(graph) == 1000
    assert sum(len(op.name) for op in graph.operators) < 10**6


def test_line_breaks_and_escape_codes_in_names_are_written_out():
    with pytest.raises(ModelError, match=r"reads 'a\\nb\\x1b\[31m', which nothing makes") as caught:
        read_onnx(_model(helper.make_node("Relu", ["a\nb\x1b[31m"], ["y"])))
    assert str(caught.value).isprintable()


def test_names_that_meet_the_numbers_put_behind_others():
    names = ["n" + "_2" * i for i in range(1100)] + ["n"]
    tensors = ["x", *(f"t{i}" for i in range(len(names) - 1)), "y"]
    nodes = [_node("Sigmoid", a, b, name=n) for n, a, b in zip(names, tensors, tensors[1:], strict=False)]
    graph = read_onnx(_model(*nodes))
    assert len({op.name for op in graph.operators}) == len(names)


@pytest.mark.parametrize("op_type", ["Identity", "Cast", "Dropout"])
def test_a_node_without_outputs(op_type):
    attributes = {"to": FLOAT} if op_type == "Cast" else {}
    assert len(read_onnx(_model(_node(op_type, "x", "", **attributes), _node("Relu", "x", "y")))) == 2


@pytest.mark.parametrize("offset", ["9" * 30, "9" * 6000, "-1", "x"])
def test_an_offset_beyond_every_file(offset, tmp_path):
    tensor = TensorProto(name="s", dims=[1], data_type=INT64, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    tensor.external_data.add(key="offset", value=offset)
    (tmp_path / "w.bin").write_bytes(bytes(64))
    (tmp_path / "m.onnx").write_bytes(
        _model(_node("Reshape", "x s", "y"), weights=[tensor]).SerializeToString()
    )
    with pytest.raises(ModelError, match="not in the file"):
        read_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2**62] * 60},
        {"kernel_shape": ["a", "b"], "strides": [1.5]},
        {"group": 0, "hidden_size": 2**63 - 1, "axis": "last"},
        {"group": float("nan"), "perm": [2**40, -1]},
    ],
)
def test_attributes_that_predictors_compute_with(attributes):
    model = _model(_node("Mystery", "x", "y", domain="own", **attributes))
    (operator,) = read_onnx(model).operators
    assert not set(attributes) & set(operator.attributes)
    assert hardsight.predict(model, device=DEVICE, layers=True)["latency_s"].value > 0


@pytest.mark.parametrize("widths", [(float("nan"), 3), (float("inf"), 1), (1e30, 2), (-5, 2)])
def test_floats_of_an_impossible_width(widths):
    weights = [helper.make_tensor(n, FLOAT, [], [w]) for n, w in zip("em", widths, strict=True)]
    weights.append(helper.make_tensor("s", FLOAT, [], [1.0]))
    quant = _node("FloatQuant", "x s e m e m", "h", domain="onnx.brevitas")
    graph = read_onnx(_model(quant, _node("Relu", "h", "y"), weights=weights))
    assert graph.operators[0].output_bits == 32


def test_versions_beyond_every_integer_of_native_code():
    model = _model(_node("Exp", "x", "y"))
    model.ir_version = 2**62
    model.opset_import.add(domain="own", version=2**63 - 1)
    assert len(read_onnx(model)) == 1


def test_the_first_missing_name_is_the_one_in_the_message():
    body = GraphProto(name="b", node=[_node("Add", "ghost2 ghost1", "t")], output=[_info("t", [1, 8])])
    node = _node("If", "go", "y", then_branch=body, else_branch=body)
    with pytest.raises(ModelError, match="reads 'ghost2'"):
        read_onnx(_model(node, weights=[helper.make_tensor("go", BOOL, [], [1])]))


SIDE = np.ones(4096, dtype=np.int64)


@pytest.mark.parametrize(
    ("op_type", "arrays"),
    [
        ("Add", [SIDE[:, None], SIDE[None]]),
        ("Mod", [SIDE[:, None], SIDE[None]]),
        ("Max", [SIDE[:64, None, None], SIDE[:64, None], SIDE[:64]]),
        ("Where", [SIDE[:64, None, None], SIDE[:64, None], SIDE[:64]]),
        ("Gather", [SIDE[None], SIDE * 0]),
        ("Concat", [SIDE, SIDE]),
    ],
)
def test_small_constants_with_large_results_stay_unknown(op_type, arrays):
    node = helper.make_node(op_type, [f"x{i}" for i in range(len(arrays))], ["y"], axis=0)
    with pytest.raises(Unknown):
        fold(node, arrays)


def test_equal_constants_of_the_largest_size_are_computed():
    (found,) = fold(helper.make_node("Add", ["a", "b"], ["y"]), [SIDE, SIDE])
    assert found.sum() == 2 * SIDE.size


@pytest.mark.skipif(not hasattr(signal, "SIGPROF"), reason="no limit on processor time here")
def test_a_worker_out_of_processor_time_is_a_crash_and_not_tried_again():
    worker = Worker()
    worker.ask(READY, b"")
    pid = worker.pid
    os.kill(pid, signal.SIGSTOP)  # so that it cannot answer before it is ended

    def end():
        os.kill(pid, signal.SIGPROF)
        os.kill(pid, signal.SIGCONT)

    threading.Timer(0.1, end).start()
    with pytest.raises(WorkerCrash, match="took over 3 s of processor time"):
        worker.ask(READY, b"")
    assert worker.pid is None
