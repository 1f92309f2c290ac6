"""A feed-forward network as a list of layers: the one description behind the ONNX file and the torch module.

`hardsight.nas.export` walks it to write ONNX, `hardsight.nas.evaluators.module` to train it. A space that can
say its candidates as a `Network` gets both, and they agree by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Precision = Literal["fp32", "int8"]
Kind = Literal["conv", "add", "pool", "linear"]

IMAGE = "image"
"""Name of the network's input: values in [0, 1], shape ``(1, channels, height, width)``."""

PRECISION_BITS: dict[str, int] = {"fp32": 32, "int8": 8}


@dataclass(frozen=True)
class Layer:
    """One layer; its name is also that of its output.

    Args:
        name: letters, digits and underscores; unique.
        kind: ``conv`` (batch normalisation included), ``add``, ``pool`` (global average) or ``linear``.
        inputs: names of the layers read, or `IMAGE`.
        precision: an int8 layer reads and writes 8-bit tensors; the network's last layer writes float.
        channels: outputs of ``conv`` and ``linear``.
        kernel: side of the square window.
        stride: of the convolution; its padding keeps the size at stride 1.
        groups: of the convolution.
        relu: whether a ReLU follows.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    precision: Precision = "fp32"
    channels: int = 0
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    relu: bool = False

    @property
    def has_weights(self) -> bool:
        return self.kind in ("conv", "linear")


@dataclass(frozen=True)
class Network:
    """Layers in topological order.

    Args:
        name: of the ONNX graph.
        input_shape: channels, height and width of the image.
        layers: producers before consumers; the last one is the output.
    """

    name: str
    input_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]

    @cached_property
    def channels(self) -> dict[str, int]:
        """Channels of every tensor."""
        found = {IMAGE: self.input_shape[0]}
        for layer in self.layers:
            found[layer.name] = layer.channels if layer.has_weights else found[layer.inputs[0]]
        return found

    @cached_property
    def quantized(self) -> tuple[str, ...]:
        """Tensors held in 8 bits, in topological order: all that an int8 layer reads or writes.

        Every reader sees the 8-bit value, also an fp32 layer. The network's output stays float.
        """
        ints = [layer for layer in self.layers if layer.precision == "int8"]
        held = {t for layer in ints for t in (layer.name, *layer.inputs)} - {self.layers[-1].name}
        return tuple(t for t in (IMAGE, *(layer.name for layer in self.layers)) if t in held)

    @cached_property
    def non_negative(self) -> frozenset[str]:
        """Tensors that cannot be below zero: they use all of the 8 bits above it."""
        found = {IMAGE}
        for layer in self.layers:
            if layer.relu or (not layer.has_weights and found.issuperset(layer.inputs)):
                found.add(layer.name)
        return frozenset(found)

    def weight_shape(self, layer: Layer) -> tuple[int, ...]:
        """Shape of a layer's weight: ``(out, in / groups, k, k)`` or ``(out, in)``."""
        inputs = self.channels[layer.inputs[0]]
        if layer.kind == "linear":
            return (layer.channels, inputs)
        return (layer.channels, inputs // layer.groups, layer.kernel, layer.kernel)

    @cached_property
    def weight_bits(self) -> float:
        """Mean bits per weight, biases apart."""
        sizes = [
            (math.prod(self.weight_shape(layer)), PRECISION_BITS[layer.precision])
            for layer in self.layers
            if layer.has_weights
        ]
        return sum(n * bits for n, bits in sizes) / sum(n for n, _ in sizes)
