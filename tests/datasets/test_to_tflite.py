"""ONNX to TFLite: rewordings compute the same, nothing is transposed at the ends, and refusals say why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper, parser

from hardsight.datasets._tflite_words import reword
from hardsight.datasets.quantize import quantize_static, random_feeds
from hardsight.datasets.to_tflite import _fold, _images, _read, _unmask, _write, to_tflite
from hardsight.datasets.to_torch import to_torch
from hardsight.errors import ModelError

X = "(float[1,8,16,16] x)"
IMAGE = f"{X} => (float[1,8,16,16] y)"
GELU = """
    r = Constant <value = float {1.4142135}> () o = Constant <value = float {1.0}> ()
    h = Constant <value = float {0.5}> ()
"""
BODIES = {
    "mean_over_space": "m = ReduceMean <axes = [2, 3], keepdims = 0> (x) u = Unsqueeze (m, axes) y = Mul (x, u)",
    "mean_over_rows": "m = ReduceMean <axes = [-1]> (x) y = Sub (x, m)",
    "max_over_rows": "m = ReduceMax <axes = [3], keepdims = 0> (x) u = Unsqueeze (m, last) y = Sub (x, u)",
    "layer_norm": """m = ReduceMean <axes = [-1]> (x) c = Sub (x, m) s = Mul (c, c) v = ReduceMean <axes = [-1]> (s)
        d = Sqrt (v) y = Div (c, d)""",
    "rms_norm": "s = Mul (x, x) v = ReduceMean <axes = [-1]> (s) d = Sqrt (v) r = Div (one, d) y = Mul (x, r)",
    "division_by_a_number": "c = Constant <value = float {8.0}> () y = Div (x, c)",
    "hard_sigmoid": "y = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)",
    "other_hard_sigmoid": "y = HardSigmoid (x)",
    "gelu_half_last": GELU + "d = Div (x, r) e = Erf (d) a = Add (e, o) p = Mul (x, a) y = Mul (p, h)",
    "gelu_half_first": GELU + "d = Div (x, r) e = Erf (d) a = Add (o, e) p = Mul (x, h) y = Mul (p, a)",
    "gelu_half_on_gate": GELU + "d = Div (x, r) e = Erf (d) a = Add (e, o) p = Mul (h, a) y = Mul (x, p)",
    "not_gelu": GELU + "d = Div (x, r) e = Erf (d) a = Add (e, o) p = Mul (a, a) y = Mul (x, p)",
}
GONE = {  # what must not be left, by the start of a body's name
    "layer_norm": {torch.sqrt},
    "rms_norm": {torch.sqrt},
    "hard": {F.hardsigmoid},
    "other": {torch.clamp},
    "gelu": {torch.erf},
}


def model_of(body: str, signature: str = IMAGE) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {signature} {{ {body} }}')
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "w": rng.standard_normal((8, 8, 1, 1)).astype(np.float32) / 3,
        "table": rng.standard_normal((50, 8)).astype(np.float32),
        "axes": np.array([2, 3]),
        "last": np.array([3]),
        "one": np.float32(1),
    }
    for name, value in constants.items():
        if any(name in node.input for node in model.graph.node):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def reference(model: onnx.ModelProto) -> tuple[dict[str, Any], Any]:
    feeds = dict(random_feeds(model))
    return feeds, ort.InferenceSession(model.SerializeToString()).run(None, feeds)[0]


@pytest.mark.parametrize("name", BODIES)
def test_rewordings_compute_the_same(name: str) -> None:
    model = model_of(BODIES[name])
    feeds, expected = reference(model)
    arguments = [torch.from_numpy(feed) for feed in feeds.values()]
    module = to_torch(model)
    before = {node.target for node in module.graph.nodes}
    assert not reword(module, arguments)
    after = {node.target for node in module.graph.nodes}
    np.testing.assert_allclose(module(*arguments).numpy(), expected, atol=2e-5)
    assert (F.gelu in after) == name.startswith("gelu") and (torch.erf in after) == (name == "not_gelu")
    for start, words in GONE.items():
        if name.startswith(start):
            assert words & before and not words & after


def test_a_mean_over_the_last_dimension_becomes_one_over_a_matrix() -> None:
    module = to_torch(model_of(BODIES["mean_over_rows"]))
    reword(module, [torch.zeros(1, 8, 16, 16)])
    (mean,) = (node for node in module.graph.nodes if node.target is torch.mean)
    (rows,) = mean.all_input_nodes
    assert rows.target is torch.reshape and rows.args[1] == (1, -1, 16)


def test_cosines_stand_for_elus_unless_there_are_others() -> None:
    module = to_torch(model_of("y = Elu (x)"))
    assert reword(module, [torch.zeros(1, 8, 16, 16)])
    assert any(node.target is torch.cos for node in module.graph.nodes)
    for body in ("c = Cos (x) y = Elu (c)", "y = Elu <alpha = 0.5> (x)"):
        module = to_torch(model_of(body))
        assert not reword(module, [torch.zeros(1, 8, 16, 16)])
        assert any(node.target is F.elu for node in module.graph.nodes)


@pytest.mark.parametrize(
    ("body", "signature", "expected"),
    [
        ("y = Conv (x, w)", IMAGE, ([0], [0])),
        ("a = Relu (x) b = Conv (a, w) y = Sigmoid (b)", IMAGE, ([0], [0])),
        ("a = Conv (x, w) b = GlobalAveragePool (a) y = Flatten (b)", f"{X} => (float[1,8] y)", ([0], [])),
        ("y = MatMul (x, x)", IMAGE, ([], [])),
        ("a = Conv (x, w) y = Transpose <perm = [0, 2, 3, 1]> (a)", f"{X} => (float[1,16,16,8] y)", ([0], [])),
        ("a = Conv (x, w) y = Mul (a, g)", f"{X[:-1]}, float[1,8,1,1] g) => (float[1,8,16,16] y)", ([0], [0])),
        ("y = Conv (x, w)", "(float[1,8,16] x) => (float[1,8,16] y)", ([], [])),
    ],
)  # fmt: skip
def test_which_ends_are_images(body: str, signature: str, expected: tuple[list[int], list[int]]) -> None:
    assert _images(model_of(body, signature)) == expected


def test_a_quantized_model_is_refused() -> None:
    with pytest.raises(ModelError, match="quantized already; give the float model"):
        to_tflite(quantize_static(model_of("y = Conv (x, w)")), int8=True)


# --- files -----------------------------------------------------------------------------------------------------


def tflite(*operators: str) -> bytes:
    """A chain of operators on one tensor after the other; the file is only looked at, not run."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs ai-edge-litert")
    root, graph = schema.ModelT(), schema.SubGraphT()
    root.version, root.description, root.buffers = 3, "", [schema.BufferT()]
    root.operatorCodes, graph.operators, graph.tensors = [], [], []
    for i in range(len(operators) + 1):
        tensor = schema.TensorT()
        tensor.name, tensor.shape = f"t{i}", [1, 4]
        graph.tensors.append(tensor)
    for i, name in enumerate(operators):
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        op.opcodeIndex, op.inputs, op.outputs = i, [i], [i + 1]
        root.operatorCodes.append(code)
        graph.operators.append(op)
    graph.inputs, graph.outputs, root.subgraphs = [0], [len(operators)], [graph]
    return _write(root)


def chain(model: bytes) -> list[tuple[str, int, int]]:
    root, names = _read(model)
    return [(names[op.opcodeIndex], op.inputs[0], op.outputs[0]) for op in root.subgraphs[0].operators]


def test_operators_with_integer_kernels_lose_the_float_island_around_them() -> None:
    model = tflite("ADD", "DEQUANTIZE", "LEAKY_RELU", "QUANTIZE", "ADD")
    assert chain(_fold(model)) == [("ADD", 0, 1), ("LEAKY_RELU", 1, 4), ("ADD", 4, 5)]


def test_others_keep_it() -> None:
    for operators in (
        ("DEQUANTIZE", "MINIMUM", "QUANTIZE"),  # needs equal scales
        ("DEQUANTIZE", "LEAKY_RELU", "ADD"),  # goes on in float
        ("ADD", "LEAKY_RELU", "ADD"),
    ):
        model = tflite(*operators)
        assert _fold(model) == model


def test_a_dequantization_with_another_reader_stays() -> None:
    root, _ = _read(tflite("DEQUANTIZE", "EXP", "QUANTIZE", "ADD"))
    (graph,) = root.subgraphs
    graph.operators[3].inputs = [3, 1]
    assert chain(_fold(_write(root))) == [("DEQUANTIZE", 0, 1), ("EXP", 0, 3), ("ADD", 3, 4)]


def test_cosines_become_elus_again() -> None:
    assert [name for name, *_ in chain(_unmask(tflite("ADD", "COS", "ADD")))] == ["ADD", "ELU", "ADD"]


# --- the tools themselves --------------------------------------------------------------------------------------

CONVERTED = {
    "conv": ("a = Conv (x, w) b = Relu (a) y = Conv (b, w)", ["CONV_2D", "CONV_2D"]),
    "elu": ("a = Conv (x, w) b = Elu (a) y = Conv (b, w)", ["CONV_2D", "ELU", "CONV_2D"]),
    "leaky": (
        "a = Conv (x, w) b = LeakyRelu <alpha = 0.1> (a) y = Conv (b, w)",
        ["CONV_2D", "LEAKY_RELU", "CONV_2D"],
    ),
    "hard_swish": (
        "a = Conv (x, w) b = HardSigmoid <alpha = 0.16666667, beta = 0.5> (a) y = Mul (a, b)",
        ["CONV_2D", "HARD_SWISH"],
    ),
}


def run_tflite(model: bytes, feed: Any) -> tuple[Any, list[str]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    if given["dtype"] is np.int8:
        scale, zero = given["quantization"]
        feed = np.clip(np.round(feed / scale + zero), -128, 127)
    interpreter.set_tensor(given["index"], feed.astype(given["dtype"]))
    interpreter.invoke()
    found = interpreter.get_tensor(made["index"]).astype(np.float32)
    if made["dtype"] is np.int8:
        scale, zero = made["quantization"]
        found = (found - zero) * scale
    names = [op["op_name"] for op in interpreter._get_ops_details()]
    return found, [name for name in names if name != "DELEGATE"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.parametrize("int8", [False, True])
def test_files_compute_what_the_model_does_without_transpositions(name: str, int8: bool) -> None:
    for package in ("litert_torch", "ai_edge_quantizer"):
        pytest.importorskip(package, reason=f"needs {package}")
    body, operators = CONVERTED[name]
    model = model_of(body)
    feeds, expected = reference(model)
    found, names = run_tflite(to_tflite(model, int8=int8), feeds["x"].transpose(0, 2, 3, 1))
    assert names == operators
    error = np.abs(found.transpose(0, 3, 1, 2) - expected).max()
    assert error < (0.15 * expected.std() if int8 else 1e-4)


@pytest.mark.slow
def test_ids_are_looked_up_in_a_quantized_table() -> None:
    for package in ("litert_torch", "ai_edge_quantizer"):
        pytest.importorskip(package, reason=f"needs {package}")
    model = model_of("y = Gather <axis = 0> (table, x)", "(int64[1,6] x) => (float[1,6,8] y)")
    feeds, expected = reference(model)
    found, names = run_tflite(to_tflite(model, int8=True), feeds["x"])
    assert "GATHER" in names and "EMBEDDING_LOOKUP" not in names
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_rules_are_for_what_the_converter_writes() -> None:
    """A rule for a function that `to_torch` never calls would be dead."""
    from hardsight.datasets import _torch_rules
    from hardsight.datasets._tflite_words import _RULES

    source = Path(_torch_rules.__file__).read_text()
    for function in _RULES:
        module = {"torch": "torch", "_operator": "operator"}.get(function.__module__, "F")
        name = function.__name__.lstrip("_")
        assert f"{module}.{name}" in source or f"torch.{name}" in source, name
