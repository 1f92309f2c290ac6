"""Single layers as hls4ml was given them: QONNX in, and the reuse factor beside it.

A quantized layer is written as a QONNX model (Pappalardo et al., "QONNX", AccML 2022) and read like any file, so
that it looks to a predictor like a user's own. ONNX has no word for the reuse factor, the number of multiplications
that share a multiplier: it is added to the layer's operator as the attribute ``reuse_factor`` afterwards, so that
two reuse factors are two graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hardsight.graph import OperatorGraph
from hardsight.ingest import read_onnx

REUSE_FACTOR = "reuse_factor"

_QONNX = "qonnx.custom_op.general"
_CONV_KERNEL = 3


def layer(key: str) -> OperatorGraph:
    """The layer of a line ``dense inputs outputs bits reuse``, or one of the two below.

    ``conv1d channels filters length bits reuse``: kernel 3, padded to keep its length.
    ``lstm features units length bits reuse``: gives its output at every step.
    """
    kind, *numbers = key.split()
    *sizes, bits, reuse = map(int, numbers)
    model = _KINDS[kind](_Layer(key, bits), *sizes)
    return with_reuse_factor(read_onnx(model, name=key), reuse)


def with_reuse_factor(graph: OperatorGraph, reuse: int) -> OperatorGraph:
    """A copy whose multiplying operators have that reuse factor."""
    operators = tuple(
        replace(op, attributes={**op.attributes, REUSE_FACTOR: reuse}) if op.macs else op
        for op in graph.operators
    )
    return replace(graph, operators=operators)


def _dense(net: _Layer, inputs: int, outputs: int) -> onnx.ModelProto:
    x = net.input((1, inputs))
    weights = [net.weight("weight", (outputs, inputs)), net.weight("bias", (outputs,))]
    return net.model("Gemm", [x, *weights], (1, outputs), alpha=1.0, beta=1.0, transB=1)


def _conv1d(net: _Layer, channels: int, filters: int, length: int) -> onnx.ModelProto:
    x = net.input((1, channels, length))
    weights = [net.weight("weight", (filters, channels, _CONV_KERNEL)), net.weight("bias", (filters,))]
    return net.model(
        "Conv",
        [x, *weights],
        (1, filters, length),
        kernel_shape=[_CONV_KERNEL],
        strides=[1],
        pads=[1, 1],
        dilations=[1],
        group=1,
    )


def _lstm(net: _Layer, features: int, units: int, length: int) -> onnx.ModelProto:
    x = net.input((length, 1, features))
    weights = [
        net.weight("weight", (1, 4 * units, features)),
        net.weight("recurrence", (1, 4 * units, units)),
        net.weight("bias", (1, 8 * units)),
    ]
    return net.model("LSTM", [x, *weights], (length, 1, 1, units), hidden_size=units)


_KINDS: dict[str, Callable[..., onnx.ModelProto]] = {"dense": _dense, "conv1d": _conv1d, "lstm": _lstm}


class _Layer:
    """A QONNX model of one layer in fixed point: input, weights and output go through quantizers.

    Args:
        name: of the graph.
        bits: of all values.
    """

    def __init__(self, name: str, bits: int) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._types: list[onnx.ValueInfoProto] = []
        self._constants = [
            numpy_helper.from_array(np.asarray(value, np.float32), name)
            for name, value in (("scale", 1.0), ("zero_point", 0.0), ("bits", bits))
        ]

    def input(self, shape: Sequence[int]) -> str:
        self._inputs.append(_float("x", shape))
        return self._quantized("x", shape)

    def weight(self, name: str, shape: Sequence[int]) -> str:
        tensor = TensorProto(
            name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL
        )
        tensor.external_data.add(key="location", value="weights.bin")
        self._constants.append(tensor)
        return self._quantized(name, shape)

    def model(
        self, op_type: str, inputs: Sequence[str], shape: Sequence[int], **attributes: Any
    ) -> onnx.ModelProto:
        self._nodes.append(helper.make_node(op_type, inputs, ["y"], f"/{op_type.lower()}", **attributes))
        self._types.append(_float("y", shape))
        output = self._quantized("y", shape)
        graph = helper.make_graph(
            self._nodes,
            self._name,
            self._inputs,
            [self._types.pop()],
            initializer=self._constants,
            value_info=self._types,
        )
        assert graph.output[0].name == output
        imports = [helper.make_opsetid("", 17), helper.make_opsetid(_QONNX, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    def _quantized(self, tensor: str, shape: Sequence[int]) -> str:
        name = f"{tensor}.quantized"
        options: dict[str, Any] = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
        inputs = [tensor, "scale", "zero_point", "bits"]
        self._nodes.append(
            helper.make_node("Quant", inputs, [name], f"/{tensor}/quant", domain=_QONNX, **options)
        )
        self._types.append(_float(name, shape))
        return name


def _float(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
