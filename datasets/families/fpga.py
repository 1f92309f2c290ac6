"""Quantized networks for FPGAs, small enough to be unrolled into a circuit; in QONNX's spelling.

Each family draws widths, depth and bit-widths; of many draws, the one nearest to a log-uniform number of bit
operations is taken. Weights are dense, as a quantizer leaves them: unstructured pruning could not be seen in a
graph without weights, so it would be noise to whoever predicts from one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hardsight.datasets.families._family import Family
from hardsight.datasets.families._net import Net, log_integer, log_uniform
from hardsight.datasets.fpga.quantizer import suitable_deviation

BIT_OPERATIONS_RANGE = (250.0, 10_000.0)
"""Sizes aimed at: from about 40 to 2,500 logic cells, or 3 to 20 seconds of synthesis."""

_DRAWS = 60  # designs of which the one nearest to the target is taken
_CLOSE = 0.1  # natural-log distance that is good enough
_BIAS = 0.25  # deviation of a bias over that of the sum it is added to


@dataclass(frozen=True)
class Signal:
    """A tensor, and what the scales behind it follow from.

    Args:
        name: of the tensor.
        power: estimated mean square of its values.
        bits: its width; 0 where it is not quantized.
        scale: its quantizer's step.
    """

    name: str
    power: float
    bits: int = 0
    scale: float = 0.0


class QuantNet(Net):
    """A builder of QONNX graphs with power-of-two scales.

    Weights being normal with a deviation known from their width, the power of every layer's output follows,
    and with it the scale of the quantizer there; nothing needs calibrating.

    ``bit_operations`` counts MACs x weight bits x activation bits (Baskin et al., UNIQ, ACM TOCS 2021).
    """

    def __init__(self, name: str, rng: np.random.Generator) -> None:
        super().__init__(name, rng, 1.0)
        self.bit_operations = 0
        self._rng = rng
        self._widths = int(rng.integers(2, 9)), int(rng.integers(2, 9))
        self._mixed = bool(rng.random() < 0.4)
        self._bias = bool(rng.random() < 0.8)

    def quantized_input(self, *shape: int) -> Signal:
        """The graph's input, a standard normal sample of that shape, quantized."""
        x = Signal(self.input("x", (1, *shape)), 1.0)
        return self.quant(x, signed=True, bits=int(self._rng.integers(4, 11)))

    def quant(self, x: Signal, *, signed: bool, bits: int | None = None) -> Signal:
        """An activation quantizer; without a sign where ``x`` comes from a ReLU."""
        bits = bits or self._activation_bits()
        deviation = math.sqrt(x.power if signed else 2 * x.power)  # a ReLU takes half of the power,
        full = suitable_deviation(bits if signed else bits + 1, 1.0)  # and half of the levels
        scale = 2.0 ** round(math.log2(deviation / full))
        return Signal(self._quant_node(x.name, scale, bits, signed=signed), x.power, bits, scale)

    def relu_quant(self, x: Signal) -> Signal:
        """ReLU and a quantizer."""
        return self.quant(Signal(self.relu(x.name), x.power / 2), signed=False)

    def plus(self, a: Signal, b: Signal) -> Signal:
        """The sum, not quantized."""
        return Signal(self.add(a.name, b.name), a.power + b.power)

    def dense(self, x: Signal, out: int) -> Signal:
        """Dense layer on a matrix, not quantized at its output."""
        fan_in = self.shape(x.name)[1]
        return self._layer("Gemm", x, (out, fan_in), fan_in, alpha=1.0, beta=1.0, transB=1)

    def convolve(self, x: Signal, out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> Signal:
        """Convolution without padding over as many dimensions as ``x`` has, not quantized at its output."""
        _, channels, *spatial = self.shape(x.name)
        rank = len(spatial)
        shape = (out, channels // groups, *[kernel] * rank)
        sizes: dict[str, Any] = {"kernel_shape": [kernel] * rank, "strides": [stride] * rank, "group": groups}
        return self._layer("Conv", x, shape, math.prod(shape[1:]), **sizes)

    def reshaped(self, x: Signal, name: str) -> Signal:
        """``x`` under another name: pooled by its maximum, flattened."""
        return Signal(name, x.power, x.bits, x.scale)

    def _layer(
        self, op_type: str, x: Signal, shape: tuple[int, ...], fan_in: int, **attributes: Any
    ) -> Signal:
        assert x.bits, "a layer's input is quantized"
        name = self.unique(op_type.lower())
        bits = self._weight_bits()
        scale = 2.0 ** (1 - bits)
        power = fan_in * suitable_deviation(bits, scale) ** 2 * x.power
        weight = self.weight(f"{name}.weight", shape)
        weights = [self._quant_node(weight, scale, bits, signed=True, narrow=True)]
        if self._bias:
            step = _BIAS * math.sqrt(power) / suitable_deviation(bits, 1.0)
            step = max(scale * x.scale, 2.0 ** round(math.log2(step)))  # no finer than the sum
            bias = self.weight(f"{name}.bias", shape[:1])
            weights.append(self._quant_node(bias, step, bits, signed=True, narrow=True))
        before = self.macs
        y = self.node(op_type, x.name, *weights, name=name, **attributes)
        self.bit_operations += (self.macs - before) * bits * x.bits
        return Signal(y, power)

    def _quant_node(self, x: str, scale: float, bits: int, *, signed: bool, narrow: bool = False) -> str:
        return self.qonnx_quant(x, self.constant(np.float32(scale)), bits, signed=signed, narrow=narrow)

    def _weight_bits(self) -> int:
        return self._near(self._widths[0])

    def _activation_bits(self) -> int:
        return self._near(self._widths[1])

    def _near(self, bits: int) -> int:
        """The network's width, or, in one of mixed precision, one near it."""
        return min(8, max(2, bits + int(self._rng.integers(-2, 3)))) if self._mixed else bits


Design = Callable[[QuantNet, np.random.Generator], Signal]


@dataclass(frozen=True)
class FpgaFamily(Family):
    """A family of designs, sized by bit operations instead of MACs.

    Args:
        bit_operations_range: sizes that the family aims at.
    """

    bit_operations_range: tuple[float, float] = BIT_OPERATIONS_RANGE

    def sample_net(self, rng: np.random.Generator) -> Net:
        target = log_uniform(rng, *self.bit_operations_range)
        best, best_distance = self._draw(rng), math.inf
        for _ in range(_DRAWS):
            net = self._draw(rng)
            distance = abs(math.log(net.bit_operations / target))
            if distance < best_distance:
                best, best_distance = net, distance
            if distance < _CLOSE:
                break
        return best

    def _draw(self, rng: np.random.Generator) -> QuantNet:
        net = QuantNet(self.name, np.random.default_rng(int(rng.integers(2**62))))
        self.build(net, net._rng)
        return net


def _family(name: str, citation: str, design: Design) -> FpgaFamily:
    def build(net: Net, rng: np.random.Generator) -> Net:
        assert isinstance(net, QuantNet)
        return net.finish(design(net, rng).name)

    return FpgaFamily(name, citation, build)


def _mlp(net: QuantNet, rng: np.random.Generator) -> Signal:
    """Such as the jet tagger of 16 features, 64, 32 and 32 hidden units and 5 classes."""
    x = net.quantized_input(log_integer(rng, 3, 24))
    width, taper = log_integer(rng, 4, 64), float(rng.choice([1.0, 0.75, 0.5]))
    for layer in range(log_integer(rng, 1, 5)):
        x = net.relu_quant(net.dense(x, max(3, round(width * taper**layer))))
    return net.dense(x, log_integer(rng, 1, 10))


def _residual_mlp(net: QuantNet, rng: np.random.Generator) -> Signal:
    width = log_integer(rng, 4, 24)
    x = net.relu_quant(net.dense(net.quantized_input(log_integer(rng, 3, 16)), width))
    for _ in range(log_integer(rng, 1, 3)):
        y = net.relu_quant(net.dense(x, max(3, round(width * float(rng.choice([0.5, 1.0, 1.5]))))))
        y = net.quant(net.dense(y, width), signed=True)
        x = net.relu_quant(net.plus(y, x))
    return net.dense(x, log_integer(rng, 1, 10))


def _autoencoder(net: QuantNet, rng: np.random.Generator) -> Signal:
    """Down to a few numbers and up again."""
    features, latent = log_integer(rng, 6, 32), log_integer(rng, 2, 4)
    x = net.quantized_input(features)
    steps = log_integer(rng, 1, 3)
    widths = [max(latent, round(features * (latent / features) ** (i / steps))) for i in range(1, steps + 1)]
    for width in [*widths, *reversed(widths[:-1])]:
        x = net.relu_quant(net.dense(x, width))
    return net.quant(net.dense(x, features), signed=True)


def _cnn(rank: int, net: QuantNet, rng: np.random.Generator) -> Signal:
    """Convolutions (some separable), pooling, a dense classifier; every position is a circuit of its own."""
    side = log_integer(rng, 8, 32) if rank == 1 else log_integer(rng, 4, 9)
    x = net.quantized_input(log_integer(rng, 1, 4 if rank == 1 else 3), *[side] * rank)
    for _ in range(log_integer(rng, 1, 3)):
        _, channels, *spatial = net.shape(x.name)
        kernel = int(rng.choice([2, 3, 3, 5] if rank == 1 else [2, 3]))
        if min(spatial) < kernel + 1:
            break
        out, stride = log_integer(rng, 2, 6), int(rng.choice([1, 1, 2]))
        if channels > 1 and rng.random() < 0.25:
            x = net.relu_quant(net.convolve(x, channels, kernel, stride=stride, groups=channels))
            x = net.relu_quant(net.convolve(x, out, 1))
        else:
            x = net.relu_quant(net.convolve(x, out, kernel, stride=stride))
        if min(net.shape(x.name)[2:]) >= 4 and rng.random() < 0.5:
            x = net.reshaped(x, net.max_pool(x.name, 2, stride=2))
    if rng.random() < 0.2:  # a detector: one answer per position
        return net.convolve(x, log_integer(rng, 1, 3), 1)
    return net.dense(net.reshaped(x, net.flatten(x.name)), log_integer(rng, 1, 6))


QUANTIZED_MLP = _family(
    "quantized_mlp",
    "Duarte et al., Fast inference of deep neural networks in FPGAs for particle physics, JINST 2018",
    _mlp,
)
QUANTIZED_RESIDUAL_MLP = _family("quantized_residual_mlp", "He et al., CVPR 2016", _residual_mlp)
QUANTIZED_AUTOENCODER = _family(
    "quantized_autoencoder",
    "Govorkova et al., Autoencoders on FPGAs for real-time detection of new physics, Nature MI 2022",
    _autoencoder,
)
QUANTIZED_CONV1D = _family(
    "quantized_conv1d",
    "Aarrestad et al., Fast convolutional neural networks on FPGAs, MLST 2021",
    partial(_cnn, 1),
)
QUANTIZED_CONV2D = _family(
    "quantized_conv2d",
    "Aarrestad et al., Fast convolutional neural networks on FPGAs, MLST 2021",
    partial(_cnn, 2),
)

FPGA_FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        QUANTIZED_MLP,
        QUANTIZED_RESIDUAL_MLP,
        QUANTIZED_AUTOENCODER,
        QUANTIZED_CONV1D,
        QUANTIZED_CONV2D,
    )
}
"""Families of designs by name; no part of `hardsight.datasets.families.FAMILIES`, whose members run anywhere."""
