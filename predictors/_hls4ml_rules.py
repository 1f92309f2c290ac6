"""What hls4ml makes of a layer: legal reuse factors, multipliers, cycles, DSP blocks and memories.

hls4ml (Duarte et al., "Fast inference of deep neural networks in FPGAs for particle physics", JINST 13 P07027, 2018)
turns a layer into products of a vector and a matrix of ``n_in x n_out`` weights. The reuse factor says how many
multiplications share a multiplier. With the ``resource`` strategy it must be legal
(`FPGABackend._validate_reuse_factor`), and hls4ml takes the closest legal one in place of an illegal one: the layer is
*folded*. With reuse factor 1 every multiplication gets hardware of its own and the weights are constants of the
circuit: it is *unrolled*. With the ``latency`` strategy and a higher reuse factor they are constants, too, but
share DSP blocks: it is *limited*.

Each rule was checked on the public tables; ``experiments/hls4ml/README.md`` says how often each holds.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from math import ceil, isqrt, prod
from typing import NamedTuple

import numpy as np

from hardsight.errors import NotSupportedError
from hardsight.graph import Operator, OperatorGraph
from hardsight.metrics import Metric
from hardsight.predictors.features import category_of

REUSE_FACTOR = "reuse_factor"  # the attribute that `hardsight.datasets.sources` adds; hls4ml's default is 1
KINDS = ("dense", "conv", "lstm")
WAYS = ("folded", "unrolled", "limited")
LATENCY = "latency"  # last part of a device's name: the strategy

_KIND_OF = {"Gemm": "dense", "MatMul": "dense", "Conv": "conv", "LSTM": "lstm"}
_GATES = 4
_FREE = {"quantize", "view"}  # a change of type or shape; hls4ml makes no circuit of it
_FUSED = {"Relu", "Clip"}  # comparators and wires beside a layer's thousands of look-up tables
_UNROLL_LIMIT = 4096  # hls4ml's `config_array_partition -maximum_size`; at the limit synthesis fails already
_NO_DSP_BITS = 4  # Vivado builds products this narrow from look-up tables
_STATE_PRODUCTS = 3  # of an LSTM's unit: input gate, forget gate, output gate
_SMALL_BITS = 1024  # weights of so few bits stay in look-up tables
_DEEPEST = 1024  # words of a block, before they become too narrow to be of use
_KNOTS = (2, 4, 6, 8, 10, 12, 14)


class Matrix(NamedTuple):
    """A product of a vector and a matrix.

    Args:
        n_in: length of the vector.
        n_out: length of the result.
        reuse: legal reuse factor.
    """

    n_in: int
    n_out: int
    reuse: int

    @property
    def size(self) -> int:
        """Weights, and multiplications."""
        return self.n_in * self.n_out

    @property
    def multipliers(self) -> int:
        """hls4ml's block factor: multipliers that work at once."""
        return ceil(self.size / self.reuse)

    @property
    def rounds(self) -> float:
        """Results that one multiplier adds to, when the reuse factor exceeds ``n_in``."""
        return self.reuse / self.n_in


class Layer(NamedTuple):
    """One layer as hls4ml sees it.

    Args:
        kind: one of `KINDS`.
        matrices: one; an LSTM has one for its input and one for its state.
        positions: how often they are used: pixels of the output, steps of a sequence.
        bits: width of a weight.
        way: one of `WAYS`.
    """

    kind: str
    matrices: tuple[Matrix, ...]
    positions: int
    bits: int
    way: str

    @property
    def stratum(self) -> str:
        """Kind of code: kinds share no rule, so each has its own constants and its own interval."""
        return f"{self.kind}/{self.way}"

    @property
    def folded(self) -> bool:
        """Whether weights are in memories; else they are constants of the circuit."""
        return self.way == "folded"

    @property
    def multipliers(self) -> int:
        """Of all matrices."""
        return sum(m.multipliers for m in self.matrices)

    @property
    def size(self) -> int:
        """Weights of all matrices."""
        return sum(m.size for m in self.matrices)

    @property
    def state_products(self) -> int:
        """Products of an LSTM outside of its matrices."""
        return _STATE_PRODUCTS * self.matrices[-1].n_in if self.kind == "lstm" else 0


@lru_cache(maxsize=4096)
def legal_reuse_factors(n_in: int, n_out: int) -> tuple[int, ...]:
    """The reuse factors of hls4ml's ``resource`` strategy, ascending.

    A factor divides ``n_in * n_out``; below ``n_in`` it leaves a multiple of ``n_out`` multipliers, above it is a
    multiple of ``n_in``.

    Example:
        >>> legal_reuse_factors(4, 2)
        (1, 2, 4, 8)
    """
    size = n_in * n_out
    small = [rf for rf in range(1, isqrt(size) + 1) if size % rf == 0]
    divisors = sorted({*small, *(size // rf for rf in small)})
    return tuple(rf for rf in divisors if (rf % n_in == 0 if rf >= n_in else (size // rf) % n_out == 0))


def closest_reuse_factor(n_in: int, n_out: int, wanted: int) -> int:
    """The legal reuse factor closest to the one asked for; of two equally close ones the smaller."""
    legal = legal_reuse_factors(n_in, n_out)
    at = bisect_left(legal, wanted)
    around = legal[max(at - 1, 0) : at + 1]
    return min(around, key=lambda rf: (abs(rf - wanted), rf))


def strategy_of(device: str) -> str:
    """``latency`` or ``resource``, the last part of a device's name.

    Raises:
        NotSupportedError: the device is none of hls4ml's.
    """
    parts = device.split("/")
    if len(parts) != 3 or parts[1] != "hls4ml" or parts[2] not in (LATENCY, "resource"):
        raise NotSupportedError(
            f"'{device}' is no device of hls4ml; expected HARDWARE/hls4ml/latency or HARDWARE/hls4ml/resource"
        )
    return parts[2]


@lru_cache(maxsize=4096)
def layers_of(graph: OperatorGraph, strategy: str) -> tuple[Layer, ...]:
    """The layers of a graph that become circuits, in order.

    Raises:
        NotSupportedError: naming the operators that no rule covers.
    """
    layers = []
    foreign = []
    for op in graph.operators:
        if op.op_type in _KIND_OF and op.weight_shapes:
            layers.append(_layer(op, strategy))
        elif category_of(op) not in _FREE and op.op_type not in _FUSED:
            foreign.append(op.op_type)
    if foreign or not layers:
        what = f"operators {', '.join(sorted(set(foreign)))}" if foreign else "no layer with weights"
        raise NotSupportedError(
            f"'{graph.name}' has {what}; the hls4ml predictor covers {', '.join(_KIND_OF)} with constant weights, "
            "quantizers, reshapes and ReLU"
        )
    return tuple(layers)


def _layer(op: Operator, strategy: str) -> Layer:
    kind = _KIND_OF[op.op_type]
    weight = max(op.weight_shapes, key=prod)
    shape = op.output_shapes[0]
    width_in, width_out = op.input_shapes[0][-1], shape[-1]
    sizes: list[tuple[int, int]]
    if kind == "lstm":
        sizes, positions = [(n, _GATES * width_out) for n in (width_in, width_out)], op.input_shapes[0][0]
    elif kind == "conv":
        sizes, positions = [(prod(weight[1:]), weight[0])], prod(shape[2:])
    else:
        sizes, positions = [(width_in, width_out)], prod(shape[:-1])
    wanted = op.attributes.get(REUSE_FACTOR, 1)
    assert isinstance(wanted, int)
    way = "unrolled" if wanted == 1 else "limited" if strategy == LATENCY else "folded"
    matrices = tuple(Matrix(n_in, n_out, closest_reuse_factor(n_in, n_out, wanted)) for n_in, n_out in sizes)
    return Layer(kind, matrices, positions, op.weight_bits, way)


# --- counts ------------------------------------------------------------------------------------------------------


def dsp_blocks(layer: Layer) -> int:
    """One per multiplier, none for narrow products; for an unrolled layer, whose weights are constants, at most."""
    return 0 if layer.bits <= _NO_DSP_BITS else layer.multipliers + layer.state_products


def within_unroll_limit(layer: Layer) -> bool:
    """Whether hls4ml's scripts let Vivado unroll the layer: one with constant weights must not have too many."""
    return layer.folded or layer.size < _UNROLL_LIMIT


def block_rams(layer: Layer) -> int:
    """18-kbit blocks for the weights: words of all multipliers' weights, as many as the reuse factor.

    A block is 36 bits wide at up to 512 words and 18 at up to 1024 (AMD UG573); more words are cut. Where a
    multiplier adds to more than one result, hls4ml keeps a table of which. An LSTM adds its activations' tables.
    """
    tables = 2 * layer.matrices[-1].n_in + 1 if layer.kind == "lstm" else 0
    return tables + sum(_memory(matrix, layer) for matrix in layer.matrices)


def _memory(matrix: Matrix, layer: Layer) -> int:
    if not layer.folded or matrix.size * layer.bits <= _SMALL_BITS:
        return 0
    whole, rest = divmod(matrix.reuse, _DEEPEST)
    word = matrix.multipliers * layer.bits
    blocks = whole * ceil(word / block_width(_DEEPEST)) + (rest > 0) * ceil(word / block_width(rest))
    return blocks + _has_index_table(matrix)


def _has_index_table(matrix: Matrix) -> bool:
    """Whether the table of results that a multiplier adds to is large enough for a block."""
    return matrix.rounds > 1 and _address_bits(ceil(matrix.rounds)) * matrix.reuse >= _SMALL_BITS


def block_width(depth: int) -> int:
    """Bits of a word in one 18-kbit block at that many words, at most 1024."""
    return 36 if depth <= _DEEPEST // 2 else 18


def rule(layer: Layer, metric: Metric) -> tuple[float, float] | None:
    """What the rules say of a metric, as ``a + depth * b`` with a pipeline depth that labels have to tell.

    Cycles and initiation interval are ``positions * (reuse + depth)``. None where there is no rule: a limited layer's
    cycles depend on how many of its constants take a DSP block.
    """
    if metric in (Metric.CYCLES, Metric.INTERVAL_CYCLES) and layer.way != "limited":
        return float(layer.positions * max(m.reuse for m in layer.matrices)), float(layer.positions)
    if metric is Metric.DSP:
        return float(dsp_blocks(layer)), 0.0
    if metric is Metric.BRAM_18K:
        return float(block_rams(layer)), 0.0
    if metric is Metric.URAM:  # Vivado puts no weights there of itself
        return 0.0, 0.0
    return None


# --- numbers to learn from ---------------------------------------------------------------------------------------

TERMS = (
    "one", "inputs", "outputs", "multipliers", "weight_word_bits", "narrow_products", "select_outputs",
    "select_two", "multipliers_outputs", "state_products", "positions", "cycles", "positions_inputs",
    *(f"{what}_{bits}" for what in ("weights", "rounds") for bits in _KNOTS),
)  # fmt: skip
"""Quantities that resources and cycles are sums of, all of them non-negative."""


def terms(layer: Layer) -> list[float]:
    """One row of `TERMS`; the last ones are of layers with constant weights alone."""
    matrices = layer.matrices
    multipliers = layer.multipliers
    inputs = sum(m.n_in for m in matrices)
    outputs = sum(m.n_out for m in matrices)
    near = np.interp(layer.bits, _KNOTS, np.arange(len(_KNOTS)))
    hats = np.maximum(0, 1 - np.abs(np.arange(len(_KNOTS)) - near)) * (not layer.folded)
    return [
        1.0,
        inputs,
        outputs,
        multipliers,
        multipliers * layer.bits,
        multipliers * layer.bits * (layer.bits <= _NO_DSP_BITS),
        # each multiplier adds to one of the results: a multiplexer of the next power of two
        sum(m.multipliers * 2 ** _address_bits(m.n_out) for m in matrices if m.rounds > 2),
        sum(m.multipliers for m in matrices if m.rounds == 2),
        sum(m.multipliers * m.n_out for m in matrices),
        layer.state_products,
        layer.positions,
        layer.positions * max(m.reuse for m in matrices),
        layer.positions * inputs,
        # what a product with a constant takes is no smooth function of its width: linear between knots
        *(layer.size * hats),
        *(max(m.reuse for m in matrices) * hats),
    ]


FEATURES = (
    "bits", "inputs", "outputs", "positions", "reuse", "multipliers", "weights", "rounds",
    "address_bits", "fan", "word_bits", "word_rest", "word_rest_deep", "index_table", "dsp", "bram",
)  # fmt: skip
"""What trees split on."""


def features(layer: Layer) -> list[float]:
    """One row of `FEATURES`."""
    first = layer.matrices[0]
    word = first.multipliers * layer.bits
    return [
        layer.bits,
        first.n_in,
        first.n_out,
        layer.positions,
        first.reuse,
        layer.multipliers,
        layer.size,
        first.rounds,
        _address_bits(first.n_out),
        first.n_in + first.n_out,  # the range of Glorot's random weights, which become constants
        word,
        word % 36,
        word % block_width(min(first.reuse, _DEEPEST)),
        _has_index_table(first),
        dsp_blocks(layer),
        block_rams(layer),
    ]


def _address_bits(n: int) -> int:
    return (n - 1).bit_length()
