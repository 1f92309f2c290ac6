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
Kind = Literal[
    "conv",
    "linear",
    "add",
    "mul",
    "pool",
    "hard_sigmoid",
    "hard_swish",
    "gelu",
    "tokens",
    "layer_norm",
    "attention",
]

INPUT = "input"
"""Name of the network's input, shape ``(1, *sample)``."""

FLOAT_BITS = 32
PRECISION_BITS: dict[str, int] = {"fp32": FLOAT_BITS, "int8": 8}

_KEEPS_SIGN = frozenset({"add", "mul", "pool"})


@dataclass(frozen=True)
class Layer:
    """One layer; its name is also that of its output.

    Kinds with weights are ``conv`` (batch normalisation included) and ``linear`` (of the last dimension of tokens; of
    all values of anything else). Without are ``add``; ``mul``, whose second input may have one value per channel;
    ``pool`` (the mean over pixels or tokens); ``hard_sigmoid``, ``hard_swish`` and ``gelu``. ``tokens`` turns an image
    or a signal into one token per position and adds a learned embedding of the position; ``layer_norm`` normalises
    each token; ``attention`` mixes them (queries, keys, values: Vaswani et al., NeurIPS 2017, without projections).

    Args:
        name: letters, digits and underscores; unique.
        kind: what it computes.
        inputs: names of the layers read, or `INPUT`.
        weight_bits: 32 is float.
        output_bits: of the tensor it writes, for every reader; 32 is float.
        channels: outputs of ``conv`` and ``linear``.
        kernel: length of the window in each dimension.
        stride: of the convolution. An odd window is padded so that stride 1 keeps the size; an even one (a patch) is
            not padded.
        groups: of the convolution.
        relu: whether a ReLU follows.
        heads: of ``attention``, into which the channels are split.
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
    heads: int = 1

    @property
    def has_weights(self) -> bool:
        return self.kind in ("conv", "linear")

    @property
    def padding(self) -> int:
        """Of the convolution, on every side."""
        return self.kernel // 2 if self.kernel % 2 else 0


@dataclass(frozen=True)
class Tensor:
    """What a layer writes, without the batch.

    Args:
        shape: ``(channels, *positions)``, ``(features,)``, or ``(tokens, channels)``.
        tokens: whether it is the last of these.
    """

    shape: tuple[int, ...]
    tokens: bool = False

    @property
    def channels(self) -> int:
        return self.shape[-1] if self.tokens else self.shape[0]


@dataclass(frozen=True)
class Network:
    """Layers in topological order.

    Args:
        name: of the ONNX graph.
        input_shape: of a sample: channels, height and width of an image; channels and length of a signal; features.
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

    def floating(self) -> Network:
        """The same layers without quantization."""
        layers = (replace(layer, weight_bits=FLOAT_BITS, output_bits=FLOAT_BITS) for layer in self.layers)
        return replace(self, layers=tuple(layers), input_bits=FLOAT_BITS)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Shapes of the input and of all that the layers write."""
        found = {INPUT: Tensor(self.input_shape)}
        for layer in self.layers:
            found[layer.name] = _written(layer, found[layer.inputs[0]])
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
            keeps = layer.kind in _KEEPS_SIGN and found.issuperset(layer.inputs)
            if layer.relu or layer.kind == "hard_sigmoid" or keeps:
                found.add(layer.name)
        return frozenset(found)

    def weight_shape(self, layer: Layer) -> tuple[int, ...]:
        """Shape of a layer's weight: ``(out, in / groups, *kernel)`` or ``(out, in)``."""
        read = self.tensors[layer.inputs[0]]
        if layer.kind == "linear":
            return (layer.channels, read.channels if read.tokens else math.prod(read.shape))
        return (layer.channels, read.channels // layer.groups, *[layer.kernel] * (len(read.shape) - 1))

    @cached_property
    def weight_bits(self) -> float:
        """Mean bits per weight, biases apart."""
        sizes = [
            (math.prod(self.weight_shape(layer)), layer.weight_bits)
            for layer in self.layers
            if layer.has_weights
        ]
        return sum(n * bits for n, bits in sizes) / sum(n for n, _ in sizes)


def _written(layer: Layer, read: Tensor) -> Tensor:
    channels, *positions = read.shape
    match layer.kind:
        case "conv":
            sides = [(n + 2 * layer.padding - layer.kernel) // layer.stride + 1 for n in positions]
            return Tensor((layer.channels, *sides))
        case "linear":
            return Tensor((*(read.shape[:1] if read.tokens else ()), layer.channels), read.tokens)
        case "pool":
            return Tensor(read.shape[1:] if read.tokens else (channels, *[1] * len(positions)))
        case "tokens":
            return Tensor((math.prod(positions), channels), tokens=True)
        case _:
            return read
