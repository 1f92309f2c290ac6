"""From a QONNX graph to da4ml's combinational logic: an interpreter whose numbers may be symbols.

The same rules run on numpy arrays, where constants are folded, and on da4ml's arrays of symbolic fixed-point
variables, where every operation becomes hardware: all layers are fully unrolled, every multiplication by
a constant matrix becomes shared additions (distributed arithmetic; Sun et al., "da4ml: Distributed arithmetic
for real-time neural networks on FPGAs", ACM TRETS 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from hardsight.datasets.fpga.quantizer import Array, Quantizer, constants, is_dyadic, is_quant
from hardsight.errors import BackendError

_SOLVER = {"hard_dc": 2}  # the default of da4ml's own converter: two adders deeper than the shallowest tree
_VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity")


def trace(model: onnx.ModelProto, shape: Sequence[int]) -> Any:
    """The network as one block of logic without registers.

    Args:
        model: a QONNX graph with weights and one input, quantized before it is used.
        shape: of the input; a batch of one.

    Returns:
        da4ml's ``CombLogic``; its inputs and outputs are the model's, flattened.

    Raises:
        BackendError: when the network is not quantized, or has an operator that is not hardware here.
    """
    from da4ml.trace import FixedVariableArray, HWConfig, comb_trace

    graph = model.graph
    known = constants(model)
    name = _input(graph)
    if not shape or shape[0] != 1:
        raise BackendError(
            f"'{graph.name}' takes an input of shape {tuple(shape)}; a design takes one sample at a time"
        )
    k, i, f = _input_quantizer(graph, name, known).fixed_point(tuple(shape))
    signs = np.full(shape, int(k))
    x = FixedVariableArray.from_kif(signs, i, f, HWConfig(1, -1, -1), 0.0, _SOLVER)
    values: dict[str, Any] = {**known, name: x}
    for node in graph.node:
        if node.op_type != "Constant":
            values[node.output[0]] = _apply(node, [values.get(name) for name in node.input], known)
    y = values[graph.output[0].name]
    if isinstance(y, np.ndarray) or y.collapsed:
        raise BackendError(
            f"the output of '{graph.name}' is the same for every input; there is nothing to synthesise"
        )
    return comb_trace(np.ravel(x), np.ravel(y), keep_dead_inputs=True)


def input_quantizer(model: onnx.ModelProto) -> Quantizer:
    """What brings a sample to the numbers that the circuit reads.

    Raises:
        BackendError: when the network's input is not quantized.
    """
    return _input_quantizer(model.graph, _input(model.graph), constants(model))


def _input(graph: onnx.GraphProto) -> str:
    inputs = [value for value in graph.input if value.name not in {t.name for t in graph.initializer}]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise BackendError(
            f"'{graph.name}' has {len(inputs)} inputs and {len(graph.output)} outputs; "
            "a design here has one of each"
        )
    return str(inputs[0].name)


def _input_quantizer(graph: onnx.GraphProto, name: str, known: dict[str, Array]) -> Quantizer:
    """The one quantizer through which the graph's input is read, at most reshaped before."""
    found: list[Quantizer] = []
    names = [name]
    while names:
        tensor = names.pop()
        for node in graph.node:
            if tensor not in node.input:
                continue
            if is_quant(node):
                found.append(Quantizer.read(node, known))
            elif node.op_type in _VIEWS:
                names.append(node.output[0])
            else:
                raise BackendError(
                    f"'{graph.name}' is not quantized: its input is read by {node.op_type} '{node.name}', "
                    "not by a Quant operator; give a QONNX model (Brevitas: export_qonnx)"
                )
    if len({(q.bits, q.signed, q.scale.tobytes()) for q in found}) != 1 or found[0].scale.size != 1:
        raise BackendError(
            f"the input of '{graph.name}' must have one quantizer with one scale; found {len(found)}"
        )
    return found[0]


def _apply(node: onnx.NodeProto, inputs: list[Any], known: dict[str, Array]) -> Any:
    """One operator on numpy arrays or on symbols."""
    if any(value is None for name, value in zip(node.input, inputs, strict=True) if name):
        raise BackendError(
            f"'{node.name}' ({node.op_type}) reads a tensor without data; give the model with weights"
        )
    if is_quant(node):
        return _quant(inputs[0], Quantizer.read(node, known))
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if rule is None:
        raise BackendError(
            f"'{node.name}' ({node.op_type}) cannot be synthesised: designs are made of Quant, {', '.join(_RULES)}"
        )
    for name, value in zip(node.input, inputs, strict=True):
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not is_dyadic(value):
            raise BackendError(
                f"'{name}' of '{node.name}' ({node.op_type}) is not quantized; put a Quant operator behind it"
            )
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return rule(inputs, attributes, node)


def _quant(x: Any, quantizer: Quantizer) -> Any:
    if isinstance(x, np.ndarray):
        return quantizer(x)
    k, i, f = quantizer.fixed_point(x.shape)
    return x.quantize(int(k), i, f, "SAT_SYM" if quantizer.narrow else "SAT", quantizer.rounding)


Rule = Callable[[list[Any], dict[str, Any], onnx.NodeProto], Any]


def _matmul(inputs: list[Any], attributes: dict[str, Any], node: onnx.NodeProto) -> Any:
    x, w = inputs[:2]
    if not isinstance(w, np.ndarray) or w.ndim != 2:
        raise BackendError(f"'{node.name}' ({node.op_type}) must multiply by a constant matrix on the right")
    return x @ w.astype(np.float64)


def _gemm(inputs: list[Any], attributes: dict[str, Any], node: onnx.NodeProto) -> Any:
    if attributes.get("transA") or any(attributes.get(a, 1.0) != 1.0 for a in ("alpha", "beta")):
        raise BackendError(f"'{node.name}' (Gemm) has transA, alpha or beta set; only A B + C is synthesised")
    w = inputs[1].T if attributes.get("transB") else inputs[1]
    y = _matmul([inputs[0], w], attributes, node)
    return y + inputs[2].astype(np.float64) if len(inputs) > 2 else y


def _conv(inputs: list[Any], attributes: dict[str, Any], node: onnx.NodeProto) -> Any:
    """Every output position is a matrix product of its own; where padding reaches in, a smaller one."""
    x, w = inputs[0], np.asarray(inputs[1], np.float64)
    if isinstance(x, np.ndarray) or not isinstance(inputs[1], np.ndarray):
        raise BackendError(f"'{node.name}' (Conv) must have data as input and a constant weight")
    groups = attributes.get("group", 1)
    c_out, c_in = w.shape[0] // groups, w.shape[1]
    flat = w.reshape(groups, c_out, c_in, -1)
    channels = x.reshape(groups, c_in, -1)
    columns = []
    for pixels, taps in _windows(x.shape[2:], w.shape[2:], attributes, node):
        column = [
            channels[g][:, pixels].ravel() @ flat[g][:, :, taps].reshape(c_out, -1).T for g in range(groups)
        ]
        columns.append(np.concatenate(column))
    y: Any = np.stack(columns, axis=-1)
    if len(inputs) > 2:
        y = y + inputs[2].astype(np.float64)[:, None]
    return y.reshape((1, w.shape[0], *_out_sizes(x.shape[2:], w.shape[2:], attributes)))


def _pool(reduce: Callable[[Any], Any]) -> Rule:
    def rule(inputs: list[Any], attributes: dict[str, Any], node: onnx.NodeProto) -> Any:
        x = inputs[0]
        if "Global" in node.op_type:
            kernel = x.shape[2:]
            attributes = {}
        else:
            kernel = tuple(attributes["kernel_shape"])
        channels = x.reshape(x.shape[1], -1)
        columns = [
            reduce(channels[:, pixels]) for pixels, _ in _windows(x.shape[2:], kernel, attributes, node)
        ]
        y: Any = np.stack(columns, axis=-1)
        return y.reshape((1, x.shape[1], *_out_sizes(x.shape[2:], kernel, attributes)))

    return rule


def _mean(x: Any) -> Any:
    n = x.shape[-1]
    if n & (n - 1):
        raise BackendError(f"an average over {n} numbers is no shift; pool over a power of two")
    return np.sum(x, axis=-1) * (1.0 / n)


def _out_sizes(sizes: Sequence[int], kernel: Sequence[int], attributes: dict[str, Any]) -> list[int]:
    rank = len(sizes)
    strides = attributes.get("strides", [1] * rank)
    dilations = attributes.get("dilations", [1] * rank)
    pads = attributes.get("pads", [0] * 2 * rank)
    return [
        (sizes[d] + pads[d] + pads[rank + d] - dilations[d] * (kernel[d] - 1) - 1) // strides[d] + 1
        for d in range(rank)
    ]


def _windows(
    sizes: Sequence[int], kernel: Sequence[int], attributes: dict[str, Any], node: onnx.NodeProto
) -> Iterator[tuple[Array, Array]]:
    """For each output position, row-major: the input positions its window covers, and which taps these meet."""
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or attributes.get("ceil_mode"):
        raise BackendError(f"'{node.name}' ({node.op_type}) has auto_pad or ceil_mode; give explicit pads")
    rank = len(sizes)
    strides = attributes.get("strides", [1] * rank)
    dilations = attributes.get("dilations", [1] * rank)
    pads = attributes.get("pads", [0] * 2 * rank)
    taps = np.indices(kernel).reshape(rank, -1)
    for position in np.ndindex(*_out_sizes(sizes, kernel, attributes)):
        start = np.array(position) * strides - pads[:rank]
        at = start[:, None] + taps * np.array(dilations)[:, None]
        inside = np.all((at >= 0) & (at < np.array(sizes)[:, None]), axis=0)
        yield np.ravel_multi_index(tuple(at[:, inside]), tuple(sizes)), np.flatnonzero(inside)


def _relu(inputs: list[Any], attributes: dict[str, Any], node: onnx.NodeProto) -> Any:
    return np.maximum(inputs[0], 0) if isinstance(inputs[0], np.ndarray) else inputs[0].relu()


def _reshape(inputs: list[Any], attributes: dict[str, Any], node: onnx.NodeProto) -> Any:
    x, target = inputs
    return x.reshape([x.shape[i] if size == 0 else int(size) for i, size in enumerate(target)])


def _flatten(inputs: list[Any], attributes: dict[str, Any], node: onnx.NodeProto) -> Any:
    axis = attributes.get("axis", 1)
    return inputs[0].reshape((math.prod(inputs[0].shape[:axis]), -1))


def _squeeze(inputs: list[Any], attributes: dict[str, Any], node: onnx.NodeProto) -> Any:
    x = inputs[0]
    axes = (
        {int(a) % len(x.shape) for a in inputs[1]}
        if len(inputs) > 1
        else {d for d, size in enumerate(x.shape) if size == 1}
    )
    return x.reshape([size for d, size in enumerate(x.shape) if d not in axes])


def _unsqueeze(inputs: list[Any], attributes: dict[str, Any], node: onnx.NodeProto) -> Any:
    x = inputs[0]
    rank = len(x.shape) + len(inputs[1])
    axes = {int(a) % rank for a in inputs[1]}
    sizes = iter(x.shape)
    return x.reshape([1 if d in axes else next(sizes) for d in range(rank)])


def _average_pool(inputs: list[Any], attributes: dict[str, Any], node: onnx.NodeProto) -> Any:
    if any(attributes.get("pads", ())):
        raise BackendError(f"'{node.name}' (AveragePool) pads; pool without padding")
    return _pool(_mean)(inputs, attributes, node)


_RULES: dict[str, Rule] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Conv": _conv,
    "Add": lambda inputs, attributes, node: inputs[0] + inputs[1],
    "Sub": lambda inputs, attributes, node: inputs[0] - inputs[1],
    "Relu": _relu,
    "MaxPool": _pool(lambda x: np.amax(x, axis=-1)),
    "AveragePool": _average_pool,
    "GlobalAveragePool": _pool(_mean),
    "Concat": lambda inputs, attributes, node: np.concatenate(inputs, axis=attributes["axis"]),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": lambda inputs, attributes, node: np.transpose(inputs[0], attributes.get("perm")),
    "Identity": lambda inputs, attributes, node: inputs[0],
}
