"""QONNX's Quant operator: what it does to numbers, and the fixed-point format it stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from hardsight.errors import BackendError

Array = npt.NDArray[Any]
Rounding = Literal["RND", "TRN"]

_ROUNDINGS: dict[str, Rounding] = {"ROUND": "RND", "HALF_EVEN": "RND", "HALF_UP": "RND", "FLOOR": "TRN"}


@dataclass(frozen=True)
class Quantizer:
    """A uniform quantizer with power-of-two steps, hence a fixed-point number in hardware.

    Pappalardo et al., "QONNX: representing arbitrary-precision quantized neural networks", AccML 2022.

    Args:
        scale: step size, one number or one per channel, broadcast against the tensor.
        bits: width, sign included.
        signed: whether there are negative levels.
        narrow: whether the lowest of them is left out, so that the levels are symmetric.
        rounding: to the nearest level, halves upwards (``RND``), or to the next lower one (``TRN``).
    """

    scale: Array
    bits: int
    signed: bool
    narrow: bool
    rounding: Rounding

    @classmethod
    def read(cls, node: onnx.NodeProto, constants: Mapping[str, Array]) -> Quantizer:
        """The quantizer of a node.

        ``ROUND`` rounds halves to even in QONNX and upwards here, which is cheaper in hardware and all that da4ml
        has. It matters only where a value lies in the middle between two levels.

        Args:
            node: of type Quant or IntQuant.
            constants: values of initializers and constants.

        Raises:
            BackendError: when no fixed-point number does the same.
        """
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        given = [constants.get(name) for name in node.input[1:4]]
        if len(given) < 3 or any(value is None for value in given):
            raise BackendError(
                f"'{node.name}' (Quant) takes its scale, zero point or width from data; give constants"
            )
        scale, zero_point, width = (np.asarray(value, np.float64) for value in given)
        mode = attributes.get("rounding_mode", b"ROUND").decode().upper()
        signed, narrow = bool(attributes.get("signed", 1)), bool(attributes.get("narrow", 0))
        if zero_point.any():
            raise BackendError(
                f"'{node.name}' (Quant) has a zero point; hardware wants symmetric quantization"
            )
        if not np.all(np.frexp(scale)[0] == 0.5):
            raise BackendError(
                f"the scale of '{node.name}' (Quant), {scale.flat[0]:.6g}, is no power of two; "
                "train with power-of-two scales (Brevitas: RestrictValueType.POWER_OF_TWO)"
            )
        if width.size != 1 or not 1 <= width.flat[0] <= 32 or width.flat[0] % 1:
            raise BackendError(
                f"'{node.name}' (Quant) has no whole width from 1 to 32 bits; give one for the tensor"
            )
        if mode not in _ROUNDINGS:
            raise BackendError(
                f"'{node.name}' (Quant) rounds by {mode}; hardware here rounds by {', '.join(_ROUNDINGS)}"
            )
        if narrow and not signed:
            raise BackendError(f"'{node.name}' (Quant) is unsigned and narrow; leave out 'narrow'")
        return cls(scale, int(width.flat[0]), signed, narrow, _ROUNDINGS[mode])

    @property
    def low(self) -> int:
        """Lowest level, in steps."""
        return -(2 ** (self.bits - 1)) + self.narrow if self.signed else 0

    @property
    def high(self) -> int:
        """Highest level, in steps."""
        return int(2 ** (self.bits - self.signed)) - 1

    def __call__(self, x: Array) -> Array:
        """``x`` on the quantizer's levels."""
        steps = np.floor(x / self.scale + (0.5 if self.rounding == "RND" else 0.0))
        return np.asarray(np.clip(steps, self.low, self.high) * self.scale)

    def fixed_point(self, shape: tuple[int, ...]) -> tuple[bool, Array, Array]:
        """Sign bit, integer bits (without sign) and fraction bits, the latter two of ``shape``."""
        fraction = np.broadcast_to(1 - np.frexp(self.scale)[1].astype(int), shape)
        return self.signed, self.bits - self.signed - fraction, fraction


def suitable_deviation(bits: int, scale: float) -> float:
    """Standard deviation of the normal numbers that a quantizer of such width and step suits best.

    Trained weights are bell-shaped, and a quantizer fitted to them (by least squares, or learned as in
    Esser et al., "Learned step size quantization", ICLR 2020) ends near the least mean squared error for a
    normal distribution. Its step, in deviations, is tabulated by Max, "Quantizing for minimum distortion",
    IRE Trans. Information Theory 1960, table II. Of ternary weights, 38 % are then zero.
    """
    return scale / _STEP.get(bits, _STEP[8] * 2.0 ** (8 - bits))


_STEP = {1: 1.596, 2: 0.9957, 3: 0.5860, 4: 0.3352, 5: 0.1881, 6: 0.1041, 7: 0.0569, 8: 0.0308}


def is_quant(node: onnx.NodeProto) -> bool:
    """Whether the node is QONNX's Quant, by any of the names exporters give it."""
    return node.op_type in ("Quant", "IntQuant") and node.domain != ""


def random_weights(model: onnx.ModelProto, seed: int) -> dict[str, Array]:
    """Normal numbers for every weight without data behind a quantizer, spread as `suitable_deviation` says.

    A weight's values are the quantiles of the normal distribution in random order, not independent draws: of two
    seeds, none is luckier in how many bits its weights have set, and labels vary less between them.

    Every neuron and channel has a positive weight: one without would be dead behind a ReLU, and training would have
    put it to use or its designer taken it out.

    Returns:
        values by initializer name, for `hardsight.datasets.weights.fill_weights`.
    """
    rng = np.random.default_rng(seed)
    known = constants(model)
    missing = {t.name: tuple(t.dims) for t in model.graph.initializer if t.name not in known}
    values: dict[str, Array] = {}
    for node in model.graph.node:
        name = node.input[0] if node.input else ""
        if is_quant(node) and name in missing:
            quantizer = Quantizer.read(node, known)
            drawn = _normal(missing[name], rng) * (suitable_deviation(quantizer.bits, 1.0) * quantizer.scale)
            if drawn.ndim > 1:
                _revive(drawn, quantizer)
            values[name] = drawn.astype(np.float32)
    return values


def _normal(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Quantiles of the normal distribution in random order, their mean square 1."""
    n = math.prod(shape)
    standard = NormalDist()
    quantiles = np.array([standard.inv_cdf((i + 0.5) / n) for i in range(n)])
    power = np.mean(quantiles**2) if n else 0.0
    return np.asarray(rng.permutation(quantiles / math.sqrt(power) if power else np.ones(n)).reshape(shape))


def _revive(weights: Array, quantizer: Quantizer) -> None:
    """Give each row without a positive level one, in place, and change as little as possible."""
    rows, levels = weights.reshape(len(weights), -1), quantizer(weights).reshape(len(weights), -1)
    for dead in np.flatnonzero(~levels.any(axis=1)):
        counts = np.count_nonzero(levels, axis=1)
        richest = np.argmax(counts)
        mine, theirs = np.argmax(np.abs(rows[dead])), np.argmax(np.abs(rows[richest]))
        for table in (rows, levels):  # swap, or copy where the other has but one itself
            table[dead, mine], given = table[richest, theirs], table[dead, mine]
            if counts[richest] > 1:
                table[richest, theirs] = given
    rows[levels.max(axis=1) <= 0] *= -1


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    """Values of the initializers and Constant nodes that have data."""
    from onnx import TensorProto, numpy_helper

    found: dict[str, Array] = {
        t.name: numpy_helper.to_array(t)
        for t in model.graph.initializer
        if t.data_location != TensorProto.EXTERNAL
    }
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def is_dyadic(values: Array, fraction_bits: int = 20) -> bool:
    """Whether all numbers are multiples of 2^-fraction_bits: what quantized constants are."""
    scaled = np.asarray(values, np.float64) * math.ldexp(1.0, fraction_bits)
    return bool(np.all(scaled == np.rint(scaled)))
