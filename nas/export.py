"""Network → ONNX, with explicit quantization (QDQ) that ONNX Runtime turns into integer kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy.typing as npt
import onnx

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.weights import fill_weights
from hardsight.nas.network import INPUT, PRECISION_BITS, Layer, Network, Precision

Values = Mapping[str, npt.NDArray[Any]]
"""Data by initializer name."""

LOGITS = "logits"


def network_to_onnx(network: Network, values: Values | None = None) -> onnx.ModelProto:
    """Write the network as ONNX, batch normalisation folded into the convolutions.

    An int8 layer is DequantizeLinear → operator → (ReLU) → QuantizeLinear with uint8 activations, int8
    weights with one scale per output channel and an int32 bias: what ONNX Runtime fuses into QLinearConv,
    QLinearAdd, QLinearGlobalAveragePool and QGemm. Signed activations have the zero point 128.

    Args:
        network: what to write.
        values: data for every initializer, as `hardsight.nas.evaluators.module.initializer_values` gives it;
            without it the model has no weights, which is enough to predict its cost.

    Returns:
        a model with input `INPUT` ``(1, *input_shape)`` and output `LOGITS` ``(1, classes)``.
    """
    writer = _Writer(network)
    for layer in network.layers:
        writer.add(layer)
    model = writer.finish()
    return model if values is None else fill_weights(model, values=values)


class _Writer:
    """Keeps the ONNX tensor of each layer: an 8-bit one where the network holds it in 8 bits."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._builder = OnnxBuilder(network.name)
        self._tensors: dict[str, str] = {}
        self._hold(INPUT, self._builder.input(INPUT, (1, *network.input_shape)))

    def add(self, layer: Layer) -> None:
        build = self._builder
        inputs = [self._read(name) for name in layer.inputs]
        if layer.kind == "conv":
            y = build.conv(
                inputs[0],
                layer.channels,
                layer.kernel,
                stride=layer.stride,
                groups=layer.groups,
                name=layer.name,
                precision=_precision(layer),
            )
        elif layer.kind == "linear":
            flat = self._flat(layer.inputs[0], inputs[0])
            y = build.linear(flat, layer.channels, name=layer.name, precision=_precision(layer))
        elif layer.kind == "add":
            y = build.add(*inputs)
        else:
            y = build.global_average_pool(inputs[0])
        self._hold(layer.name, build.relu(y) if layer.relu else y)

    def finish(self) -> onnx.ModelProto:
        last = self._tensors[self._network.layers[-1].name]
        self._builder.output(last)
        model = self._builder.model()
        for node in model.graph.node:
            if last in node.output:
                node.output[0] = LOGITS
        model.graph.output[0].name = LOGITS
        return model

    def _hold(self, name: str, tensor: str) -> None:
        if name in self._network.quantized:
            tensor = self._builder.quantize(tensor, name)
        self._tensors[name] = tensor

    def _read(self, name: str) -> str:
        """A float tensor; every reader gets a DequantizeLinear of its own, else nothing is fused."""
        tensor = self._tensors[name]
        return self._builder.dequantize(tensor) if name in self._network.quantized else tensor

    def _flat(self, name: str, tensor: str) -> str:
        """``(1, channels, 1, 1)`` → ``(1, channels)``; 8 bits stay 8 bits, with the same scale."""
        flat = self._builder.flatten(tensor)
        if name not in self._network.quantized:
            return flat
        return self._builder.quantized(flat, like=self._tensors[name])


def _precision(layer: Layer) -> Precision:
    """That of the builder's operators."""
    return next(name for name in get_args(Precision) if PRECISION_BITS[name] == layer.weight_bits)
