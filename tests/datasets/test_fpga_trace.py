"""The circuit computes what the QONNX file says, and what cannot become one is refused with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from hardsight.datasets.families.fpga import FPGA_FAMILIES
from hardsight.datasets.fpga.quantizer import Quantizer, constants, is_quant, random_weights
from hardsight.datasets.fpga.trace import trace
from hardsight.datasets.weights import fill_weights
from hardsight.errors import BackendError

pytest.importorskip("da4ml", reason="needs the extra 'fpga'")
qonnx_quant = pytest.importorskip("qonnx.custom_op.general.intquant", reason="needs the extra 'dev'")


class Quant(OpRun):
    """QONNX's own definition."""

    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale, zero_point, bits, signed=None, narrow=None, rounding_mode=None):  # type: ignore[no-untyped-def]
        y = qonnx_quant.int_quant(x, scale, zero_point, bits, signed, narrow, rounding_mode)
        return (np.asarray(y, np.float32),)


class HalvesUp(Quant):
    """The same, with halves rounded upwards."""

    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale, zero_point, bits, signed=None, narrow=None, rounding_mode=None):  # type: ignore[no-untyped-def]
        return super()._run(x + scale / 2, scale, zero_point, bits, signed, narrow, "FLOOR")


HalvesUp.__name__ = "Quant"


def _with_rounding(model: onnx.ModelProto, mode: str) -> onnx.ModelProto:
    """A copy whose activations (weights stay as they are) round like that."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {t.name for t in copy.graph.initializer}
    for node in copy.graph.node:
        for attribute in node.attribute:
            if attribute.name == "rounding_mode" and node.input[0] not in weights:
                attribute.s = mode.encode()
    return copy


def _shape(model: onnx.ModelProto) -> list[int]:
    return [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]


def _outputs(model: onnx.ModelProto, operator: type[OpRun], n: int = 24) -> tuple[Any, Any]:
    """What the circuit and what the reference make of the same ``n`` samples."""
    shape = _shape(model)
    x = np.random.default_rng(5).standard_normal((n, *shape[1:])).astype(np.float32)
    first = next(node for node in model.graph.node if is_quant(node) and node.input[0] == "x")
    levels = Quantizer.read(first, constants(model))(x)
    circuit = trace(model, shape).predict(levels.reshape(n, -1), n_threads=1)
    reference = ReferenceEvaluator(model, new_ops=[operator])
    expected = np.stack([reference.run(None, {"x": sample[None]})[0].ravel() for sample in x])
    return circuit, expected


@pytest.mark.parametrize("family", FPGA_FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_design_computes_what_its_graph_says(family: str, seed: int) -> None:
    model = FPGA_FAMILIES[family].sample(np.random.default_rng(seed))
    model = fill_weights(model, 0, random_weights(model, 0))
    circuit, expected = _outputs(_with_rounding(model, "FLOOR"), Quant)
    assert expected.std() > 0
    np.testing.assert_array_equal(circuit, expected)


def test_halves_are_rounded_upwards() -> None:
    model = FPGA_FAMILIES["quantized_residual_mlp"].sample(np.random.default_rng(0))
    model = fill_weights(model, 0, random_weights(model, 0))
    weights = {node.input[0]: node for node in model.graph.node if is_quant(node)}
    for tensor in model.graph.initializer:  # weights on their levels: the reference rounds these upwards, too
        if tensor.name in weights:
            values = Quantizer.read(weights[tensor.name], constants(model))(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    circuit, expected = _outputs(model, HalvesUp)
    np.testing.assert_array_equal(circuit, expected)
    assert not np.array_equal(circuit, _outputs(model, Quant)[1])  # else there was no half to round


HEADER = '<ir_version: 8, opset_import: ["" : 13, "qonnx.custom_op.general" : 1]>'
NUMBERS = """float half = {0.5}, float step = {0.125}, float zero = {0}, float two = {2}, float three = {3},
 float four = {4}, float six = {6}"""
QUANT = "qonnx.custom_op.general.Quant"
SIGNED = '<signed=1, narrow=0, rounding_mode="FLOOR">'
UNSIGNED = '<signed=0, narrow=0, rounding_mode="FLOOR">'
NARROW = '<signed=1, narrow=1, rounding_mode="FLOOR">'


def _parse(text: str, **values: Any) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"{HEADER}\n{text}")
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    for i, node in enumerate(model.graph.node):
        node.name = f"node{i}"
    return model


def _levels(*shape: int) -> Any:
    return np.random.default_rng(0).integers(-3, 4, shape).astype(np.float32) / 2


def test_operators_that_families_do_not_use() -> None:
    """Padded, strided, dilated and grouped convolution, both poolings, concatenation, views, MatMul and Sub."""
    model = _parse(
        f"""net (float[1,2,6,6] x) => (float[1,3] y)
        <{NUMBERS}, float[4,1,3,3] grouped, float[2,4,2,2] dilated, float[2] bias, float[36,3] dense,
         float[1,2,1,1] bias3, int64[2] shape, int64[1] axis> {{
            q = {QUANT}{SIGNED}(x, step, zero, six)
            a = Conv<group=2, pads=[1,1,1,1], strides=[2,2]>(q, grouped)
            r = Relu(a)
            b = {QUANT}{UNSIGNED}(r, half, zero, three)
            c = Conv<pads=[1,1,1,1], dilations=[2,2]>(b, dilated, bias)
            d = {QUANT}{NARROW}(c, half, zero, three)
            e = MaxPool<kernel_shape=[2,2], strides=[2,2], pads=[1,1,1,1]>(q)
            f = AveragePool<kernel_shape=[2,2]>(e)
            g = {QUANT}{SIGNED}(f, step, zero, four)
            i = Sub(d, bias3)
            j = Concat<axis=1>(i, g)
            k = Transpose<perm=[0,2,3,1]>(j)
            l = Reshape(k, shape)
            m = Unsqueeze(l, axis)
            n = Squeeze(m, axis)
            o = {QUANT}{SIGNED}(n, step, zero, six)
            y = MatMul(o, dense)
        }}""",
        grouped=_levels(4, 1, 3, 3),
        dilated=_levels(2, 4, 2, 2),
        bias=_levels(2),
        bias3=_levels(1, 2, 1, 1),
        dense=_levels(36, 3),
        shape=np.array([1, 36]),
        axis=np.array([0]),
    )
    circuit, expected = _outputs(model, Quant)
    assert expected.std() > 0
    np.testing.assert_array_equal(circuit, expected)


def _dense(quantizer: str, *, head: str = "", tail: str = "y = Gemm(q, w)", x: str = "float[1,4] x") -> str:
    return f"""net ({x}) => (float[1,2] y) <{NUMBERS}, float odd = {{0.3}}, float[4,2] w, float[4,2] wild> {{
        {head} q = {quantizer} {tail}
    }}"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (_dense("Relu(x)"), "'net' is not quantized: its input is read by Relu 'node0'"),
        (_dense(f"{QUANT}(x, odd, zero, four)"), "is no power of two"),
        (_dense(f"{QUANT}(x, zero, zero, four)"), "is no power of two"),
        (_dense(f"{QUANT}(x, half, half, four)"), "has a zero point"),
        (_dense(f"{QUANT}(x, half, zero, half)"), "no whole width"),
        (_dense(f'{QUANT}<rounding_mode="CEIL">(x, half, zero, four)'), "rounds by CEIL"),
        (_dense(f"{QUANT}<signed=0, narrow=1>(x, half, zero, four)"), "unsigned and narrow"),
        (_dense(f"{QUANT}(x, half, zero, four)", tail="s = Sigmoid(q) y = Gemm(s, w)"), r"\(Sigmoid\) cannot be"),
        (_dense(f"{QUANT}(x, half, zero, four)", tail="y = Gemm(q, wild)"), "'wild' of .* is not quantized"),
        (_dense(f"{QUANT}(x, half, zero, four)", tail="y = Gemm<alpha=0.5>(q, w)"), "has transA, alpha"),
        (_dense(f"{QUANT}<signed=0>(x, half, zero, four)", tail="n = Sub(zero, q) r = Relu(n) y = Gemm(r, w)"),
         "the same for every input"),
        (_dense(f"{QUANT}(x, half, zero, four)", x="float[1,4] x, float[1,4] x2"), "2 inputs"),
    ],
)  # fmt: skip
def test_what_is_no_circuit_is_refused(text: str, reason: str) -> None:
    model = _parse(text, w=_levels(4, 2), wild=np.full((4, 2), 0.3, np.float32))
    with pytest.raises(BackendError, match=reason):
        trace(model, (1, 4))


def test_a_batch_is_refused() -> None:
    model = _parse(_dense(f"{QUANT}(x, half, zero, four)"), w=_levels(4, 2))
    with pytest.raises(BackendError, match="one sample at a time"):
        trace(model, (3, 4))


def test_an_average_that_is_no_shift_is_refused() -> None:
    model = _parse(
        f"net (float[1,2,3] x) => (float[1,2,1] y) <{NUMBERS}> "
        f"{{ q = {QUANT}(x, half, zero, four) y = GlobalAveragePool(q) }}"
    )
    with pytest.raises(BackendError, match="an average over 3"):
        trace(model, (1, 2, 3))
