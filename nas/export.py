"""Network → ONNX, with explicit quantization (QDQ) that ONNX Runtime turns into integer kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import onnx

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.weights import fill_weights
from hardsight.nas.network import INPUT, PRECISION_BITS, Layer, Network, Precision

Values = Mapping[str, npt.NDArray[Any]]
"""Data by initializer name."""

LOGITS = "logits"
LAYER_NORM_EPSILON = 1e-5

_ATTENTION_PERMUTATIONS = ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))  # of queries, keys, values


def network_to_onnx(network: Network, values: Values | None = None) -> onnx.ModelProto:
    """Write the network as ONNX, batch normalisation folded into the convolutions.

    An int8 layer is DequantizeLinear → operator → (ReLU) → QuantizeLinear with uint8 activations, int8
    weights with one scale per output channel and an int32 bias: what ONNX Runtime fuses into QLinearConv,
    QLinearAdd, QLinearMul, QLinearGlobalAveragePool and QGemm; a linear layer of tokens becomes MatMulIntegerToFloat
    and an Add in float. Signed activations have the zero point 128.

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
        y = self._compute(layer, [self._read(name) for name in layer.inputs])
        # of tokens, the zero point 0 of 8 bits is the ReLU: ONNX Runtime would not absorb the operator there
        absorbed = self._network.tensors[layer.name].tokens and layer.name in self._network.quantized
        self._hold(layer.name, self._builder.relu(y) if layer.relu and not absorbed else y)

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

    def _compute(self, layer: Layer, inputs: list[str]) -> str:
        build, x = self._builder, inputs[0]
        match layer.kind:
            case "conv":
                return build.conv(
                    x,
                    layer.channels,
                    layer.kernel,
                    stride=layer.stride,
                    groups=layer.groups,
                    padding=layer.padding,
                    name=layer.name,
                    precision=_precision(layer),
                )
            case "linear":
                if not self._network.tensors[layer.inputs[0]].tokens:
                    x = self._flat(layer.inputs[0], x)
                return build.linear(x, layer.channels, name=layer.name, precision=_precision(layer))
            case "add":
                return build.add(*inputs)
            case "mul":
                return build.mul(*inputs)
            case "pool" if self._network.tensors[layer.inputs[0]].tokens:
                return build.reduce_mean(x, [1], keepdims=False)
            case "pool":
                return build.global_average_pool(x)
            case "hard_sigmoid":
                return build.node("HardSigmoid", x, alpha=1 / 6, beta=0.5)
            case "hard_swish":
                return build.node("HardSwish", x)
            case "gelu":
                inner = build.node("Erf", build.scaled(x, math.sqrt(0.5)))
                return build.scaled(build.mul(x, build.add(inner, build.constant(np.float32(1)))), 0.5)
            case "tokens":
                _, channels, *positions = build.shape(x)
                flat = build.reshape(x, (1, channels, math.prod(positions)))
                y = build.transpose(flat, (0, 2, 1))
                return build.add(y, build.weight(f"{layer.name}.positions", build.shape(y)))
            case "layer_norm":
                scale, shift = (
                    build.weight(f"{layer.name}.{role}", build.shape(x)[-1:]) for role in ("weight", "bias")
                )
                return build.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=LAYER_NORM_EPSILON)
            case "attention":
                return self._attention(inputs, layer.heads)

    def _attention(self, inputs: list[str], heads: int) -> str:
        """Products of matrices directly on what was dequantized: on 8 bits they run in integers."""
        build = self._builder
        _, tokens, channels = build.shape(inputs[0])
        split = [build.reshape(x, (1, tokens, heads, channels // heads)) for x in inputs]
        queries, keys, values = (
            build.transpose(x, perm) for x, perm in zip(split, _ATTENTION_PERMUTATIONS, strict=True)
        )
        scores = build.scaled(build.matmul(queries, keys), (channels // heads) ** -0.5)
        mixed = build.matmul(build.softmax(scores), values)
        return build.reshape(build.transpose(mixed, (0, 2, 1, 3)), (1, tokens, channels))

    def _flat(self, name: str, tensor: str) -> str:
        """``(1, channels, …)`` → ``(1, features)``; 8 bits stay 8 bits, with the same scale."""
        if len(self._builder.shape(tensor)) == 2:
            return tensor
        flat = self._builder.flatten(tensor)
        if name not in self._network.quantized:
            return flat
        return self._builder.quantized(flat, like=self._tensors[name])


def _precision(layer: Layer) -> Precision:
    """That of the builder's operators."""
    return next(name for name in get_args(Precision) if PRECISION_BITS[name] == layer.weight_bits)
