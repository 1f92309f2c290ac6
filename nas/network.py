"""A feed-forward network as a list of layers: the one description behind the ONNX file and the torch module.

`hardsight.nas.export` walks it to write ONNX, `hardsight.nas.evaluators.module` to train it. A space that can
say its candidates as a `Network` gets both, and they agree by construction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self

Precision = Literal["fp32", "int8"]
Kind = Literal["conv", "add", "pool", "linear"]

INPUT = "input"
"""Name of the network's input, shape ``(1, *sample)``."""

FLOAT_BITS = 32
PRECISION_BITS: dict[str, int] = {"fp32": FLOAT_BITS, "int8": 8}


@dataclass(frozen=True)
class Layer:
    """One layer; its name is also that of its output.

    Args:
        name: letters, digits and underscores; unique.
        kind: ``conv`` (batch normalisation included), ``add``, ``pool`` (global average) or ``linear``
            (of all that its input holds).
        inputs: names of the layers read, or `INPUT`.
        weight_bits: 32 is float.
        output_bits: of the tensor it writes, for every reader; 32 is float.
        channels: outputs of ``conv`` and ``linear``.
        kernel: side of the square window.
        stride: of the convolution; its padding keeps the size at stride 1.
        groups: of the convolution.
        relu: whether a ReLU follows.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    weight_bits: int = FLOAT_BITS
    output_bits: int = FLOAT_BITS
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
        input_shape: of a sample: channels, height and width of an image.
        layers: producers before consumers; the last one is the output.
        input_bits: of the input as the first layers read it; 32 is float.
        signed_input: whether a sample has values below zero.
        fixed_point: whether all scales are powers of two, as logic without multipliers has them: written as QONNX,
            trained without batch normalisation.
    """

    name: str
    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    input_bits: int = FLOAT_BITS
    signed_input: bool = False
    fixed_point: bool = False

    @classmethod
    def of_precisions(
        cls,
        name: str,
        input_shape: tuple[int, ...],
        layers: Iterable[tuple[Layer, Precision]],
        signed_input: bool = False,
    ) -> Self:
        """A network for runtimes with kernels in fp32 and in int8.

        All that an int8 layer reads or writes is held in 8 bits, also for a reader in fp32; the output stays
        float.
        """
        chosen = list(layers)
        held = {t for layer, kind in chosen if kind == "int8" for t in (layer.name, *layer.inputs)}
        held -= {chosen[-1][0].name}

        def bits(tensor: str) -> int:
            return 8 if tensor in held else FLOAT_BITS

        return cls(
            name,
            input_shape,
            tuple(
                replace(
                    layer,
                    weight_bits=PRECISION_BITS[kind] if layer.has_weights else FLOAT_BITS,
                    output_bits=bits(layer.name),
                )
                for layer, kind in chosen
            ),
            bits(INPUT),
            signed_input,
        )

    @cached_property
    def channels(self) -> dict[str, int]:
        """Channels of every tensor."""
        return {name: shape[0] for name, shape in self.shapes.items()}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of a sample."""
        found = {INPUT: self.input_shape}
        for layer in self.layers:
            shape = found[layer.inputs[0]]
            if layer.kind == "conv":
                margin = 2 * ((layer.kernel - 1) // 2) - layer.kernel
                shape = (layer.channels, *((side + margin) // layer.stride + 1 for side in shape[1:]))
            elif layer.kind == "linear":
                shape = (layer.channels,)
            elif layer.kind == "pool":
                shape = shape[:1]
            found[layer.name] = shape
        return found

    @cached_property
    def quantized(self) -> dict[str, int]:
        """Bits of the tensors that are not held in float, in topological order."""
        bits = {INPUT: self.input_bits, **{layer.name: layer.output_bits for layer in self.layers}}
        return {tensor: held for tensor, held in bits.items() if held < FLOAT_BITS}

    @cached_property
    def non_negative(self) -> frozenset[str]:
        """Tensors that cannot be below zero: they use all of their bits above it."""
        found = set() if self.signed_input else {INPUT}
        for layer in self.layers:
            if layer.relu or (not layer.has_weights and found.issuperset(layer.inputs)):
                found.add(layer.name)
        return frozenset(found)

    def weight_shape(self, layer: Layer) -> tuple[int, ...]:
        """Shape of a layer's weight: ``(out, in / groups, k, k)`` or ``(out, in)``."""
        inputs = self.shapes[layer.inputs[0]]
        if layer.kind == "linear":
            return (layer.channels, math.prod(inputs))
        return (layer.channels, inputs[0] // layer.groups, layer.kernel, layer.kernel)

    @cached_property
    def weight_bits(self) -> float:
        """Mean bits per weight, biases apart."""
        sizes = [
            (math.prod(self.weight_shape(layer)), layer.weight_bits)
            for layer in self.layers
            if layer.has_weights
        ]
        return sum(n * bits for n, bits in sizes) / sum(n for n, _ in sizes)
