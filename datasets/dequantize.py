"""The float model behind one that is quantized in QDQ form, for tools that quantize in their own way."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hardsight.errors import ModelError

_MAY_BE_NEGATIVE = frozenset({"Conv", "Gemm", "MatMul", "Add", "Sub"})
_UNSIGNED = (TensorProto.UINT8, TensorProto.UINT16)


def is_qdq(model: onnx.ModelProto) -> bool:
    """Whether something in the model quantizes."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def dequantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take QuantizeLinear and DequantizeLinear out of a model.

    Weights become the floats that their integers stand for; activations are no longer rounded. An unsigned tensor
    with zero point 0 had lost its negative values, so that a Relu stands there instead.

    Args:
        model: in QDQ form, with or without the data of its weights.

    Returns:
        a new model, in float.

    Raises:
        ModelError: it has operators on integers other than those two.
    """
    odd = {n.op_type for n in model.graph.node if n.op_type.startswith("QLinear") or "Integer" in n.op_type}
    if odd:
        raise ModelError(
            f"'{model.graph.name}' computes on integers by {', '.join(sorted(odd))}; give it in QDQ form, or in float"
        )
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node.op_type for node in graph.node for name in node.output}
    renamed: dict[str, str] = {}
    weights: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        source = renamed.get(node.input[0], node.input[0]) if node.input else ""
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            weights.append(_float(node, constants))
        elif node.op_type == "QuantizeLinear" and _clips(node, constants, producers):
            nodes.append(helper.make_node("Relu", [source], [node.output[0]], node.name))
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            renamed[node.output[0]] = source
        else:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            nodes.append(node)
    nodes += [
        helper.make_node("Identity", [renamed[value.name]], [value.name])
        for value in graph.output
        if value.name in renamed
    ]
    read = {name for node in nodes for name in node.input}
    kept = [*(tensor for tensor in graph.initializer if tensor.name in read), *weights]
    for field, values in (("node", nodes), ("initializer", kept), ("value_info", [])):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
    return made


def _clips(node: onnx.NodeProto, constants: dict[str, TensorProto], producers: dict[str, str]) -> bool:
    if len(node.input) < 3 or node.input[2] not in constants:
        return False
    zero_point = constants[node.input[2]]
    return (
        producers.get(node.input[0]) in _MAY_BE_NEGATIVE
        and zero_point.data_type in _UNSIGNED
        and not numpy_helper.to_array(zero_point).any()
    )


def _float(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> TensorProto:
    """The constant that a DequantizeLinear gives."""
    (name,), integers = node.output, constants[node.input[0]]
    if integers.data_location == TensorProto.EXTERNAL:  # without data, as predictors need none
        tensor = TensorProto()
        tensor.CopyFrom(integers)
        tensor.name, tensor.data_type = name, TensorProto.FLOAT
        return tensor
    values = numpy_helper.to_array(integers).astype(np.float64)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    scale, *zero_point = (numpy_helper.to_array(constants[i]).astype(np.float64) for i in node.input[1:])
    shape = [1] * values.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    for offset in zero_point:
        values = values - offset.reshape(shape if offset.size > 1 else ())
    return numpy_helper.from_array(
        (values * scale.reshape(shape if scale.size > 1 else ())).astype(np.float32), name
    )
