"""Kernels of many graphs as one matrix: each with its own numbers, its neighbours', and the graph's.

Neighbours enter by averages that are taken once, before learning, as in SIGN (Frasca et al., "SIGN: Scalable
inception graph neural networks", 2020), so that equal kernels in equal surroundings are equal rows. Networks
repeat their blocks: a few thousand networks have some ten times fewer distinct rows than kernels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hardsight.device import MacArray
from hardsight.graph import OperatorGraph
from hardsight.prediction import FloatArray
from hardsight.predictors.adders import COLUMNS as ADDER_COLUMNS
from hardsight.predictors.arrays import ArrayCosts, array_costs
from hardsight.predictors.features import (
    BANDWIDTH_BYTES_PER_S,
    CATEGORIES,
    DISPATCH_S,
    INT8_SPEEDUP,
    PEAK_MACS_PER_S,
    TYPES,
    IntArray,
)
from hardsight.predictors.features import SCHEMA as TOTALS_SCHEMA
from hardsight.predictors.kernels import RAW, Array, Kernels, kernels
from hardsight.predictors.patterns import PATTERNS

_VERSION = 4
SCHEMA = hashlib.sha256(repr((TOTALS_SCHEMA, RAW, PATTERNS, _VERSION)).encode()).hexdigest()[:16]
"""Changes whenever the meaning of a feature does; a saved predictor of another schema is refused."""

_QUANTIZE, _VIEW, _RECURRENT = (CATEGORIES.index(name) for name in ("quantize", "view", "recurrent"))


ADDED = ("time", "macs", "bytes", "weights", "elements", "kernels", "logic")
"""Generic costs of a kernel that add up: roofline seconds, MACs, bytes moved, bytes of weights, output elements, one,
and bits that adders and registers hold."""
HELD = ("live", "working", "all weights", "all inputs", "constant")
"""What memory holds while a kernel runs: activations alive, what the kernel reads and writes, the graph's weights and
inputs, all in bytes; and one."""
PRIORS = (*ADDED, *HELD)
OF_ARRAY = ArrayCosts._fields
"""Costs of a kernel on one array of multipliers; they stand after `PRIORS`, and add up."""


_SUMMARY = len(CATEGORIES) + 12
_PARTS = {
    "neighbours": 2 * (_SUMMARY + len(CATEGORIES)),
    "graph": 5,
    "category": len(CATEGORIES),
    "type": len(TYPES),
}
"""The last columns of a row: averages of the kernel's neighbours, totals of its graph, and what it is."""


def columns_of(part: str) -> slice:
    """Where ``neighbours``, ``graph``, ``category`` or ``type`` stand in a row, counted from its end."""
    widths = list(_PARTS.values())[list(_PARTS).index(part) :]
    return slice(-sum(widths), -sum(widths[1:]) or None)


class Encoded(NamedTuple):
    """Kernels of several graphs.

    Args:
        rows: ``(v, f)`` features.
        priors: ``(v, len(PRIORS))`` what a kernel would cost by generic constants, repeats included; what memory
            holds while it runs; then ``len(OF_ARRAY)`` more for each array.
        owner: ``(v,)`` which graph a kernel belongs to.
        n: number of graphs.
    """

    rows: Array
    priors: FloatArray
    owner: IntArray
    n: int


def encode_graphs(graphs: Sequence[OperatorGraph], arrays: Sequence[MacArray] = ()) -> Encoded:
    """`encode` of the graphs' kernels."""
    return encode([kernels(graph) for graph in graphs], arrays)


def encode(graphs: Sequence[Kernels], arrays: Sequence[MacArray] = ()) -> Encoded:
    """Features of the kernels of several graphs, in order; more of them where the devices have arrays."""
    sizes = np.array([len(g.kept) for g in graphs], dtype=np.int64)
    owner = np.repeat(np.arange(len(graphs)), sizes)
    raw = np.concatenate([g.raw for g in graphs])
    category = np.concatenate([g.category for g in graphs])
    kind = np.concatenate([g.type for g in graphs])
    starts = np.cumsum(sizes) - sizes
    edges = np.concatenate([g.edges + s for g, s in zip(graphs, starts, strict=True)], axis=1)
    c = dict(zip(RAW, np.ascontiguousarray(raw.T), strict=True))

    int8 = (c["in_bits"] <= 8) & (c["weight_bits"] <= 8) & (category != _QUANTIZE)
    fetches = np.where(
        category == _RECURRENT, c["axis"], 1
    )  # a recurrent layer needs its weights at every step
    fetched_bytes = c["bytes_weights"] * fetches
    moved_bytes = np.where(category == _VIEW, 0, c["bytes_in"] + c["bytes_out"] + fetched_bytes)
    compute_s = c["macs"] / np.where(int8, INT8_SPEEDUP * PEAK_MACS_PER_S, PEAK_MACS_PER_S)
    prior = c["repeats"] * (np.maximum(compute_s, moved_bytes / BANDWIDTH_BYTES_PER_S) + DISPATCH_S)

    per_group_in, per_group_out = c["c_in"] / c["groups"], c["c_out"] / c["groups"]
    positions = c["elements"] / np.maximum(c["c_out"], 1)
    depth = c["macs"] / np.maximum(c["elements"], 1)
    logs = [
        c["macs"], c["bytes_in"], c["bytes_out"], c["bytes_weights"], c["elements"], depth,
        c["macs"] / np.maximum(moved_bytes, 1), c["c_in"], c["c_out"], per_group_in, per_group_out, positions,
        c["area"], c["groups"], c["width"], c["height"], c["inner"], c["axis"], c["in_elements"], c["batch"],
        c["smallest_in"], c["repeats"], c["into"], c["consumers"], c["kernel"], moved_bytes, c["dilation"],
        prior * 1e9, c["in_bits"], c["weight_bits"], c["out_bits"], c["live_bytes"],
        c["live_bytes"] - c["bytes_in"] - c["bytes_out"],
    ]  # fmt: skip
    filled = [  # how full the last vector, tile or panel is
        _fill(per_group_out, 16), _fill(per_group_out, 8), _fill(per_group_out, 64), _fill(per_group_in, 16),
        _fill(per_group_in, 4), _fill(depth, 64), _fill(positions, 8), _fill(positions, 32), _fill(c["width"], 16),
        _fill(c["inner"], 16), _fill(c["c_in"], 16), _fill(c["c_out"], 16),
    ]  # fmt: skip
    flags = [
        c["stride"] > 1, c["stride"] >= np.maximum(c["kernel"], 2), c["dilation"] > 1, c["rank"] == 1,
        c["rank"] == 2, (c["rank"] > 0) & (c["area"] == 1), c["kernel"] == 3, c["kernel"] == 5, c["kernel"] > 5,
        per_group_in < 8, per_group_out < 8, c["c_in"] < 16, c["c_in"] % 16 == 0, c["c_out"] % 16 == 0, int8,
        c["out_bits"] <= 8, c["in_bits"] <= 8, c["weight_bits"] > 0, c["directions"] > 1, c["mode"] == 1,
        c["mode"] == 2, c["inner"] == 1, c["from_input"] > 0, c["to_output"] > 0, c["leads"] > 0, c["batch"] == 1,
        positions == 1,
    ]  # fmt: skip
    adder = raw[:, -len(ADDER_COLUMNS) :]
    own = [
        adder * 0.1,
        np.log1p(np.maximum(np.stack(logs), 0)).T * 0.1,
        np.stack(filled).T,
        np.stack(flags).T,
        _one_hot(np.minimum(c["out_rank"], 5).astype(int), 6),
        _one_hot(c["operand"].astype(int), 6),
        _one_hot(c["activation"].astype(int), 7),
        _one_hot(c["pattern"].astype(int), len(PATTERNS) + 1),
    ]
    on_arrays = [array_costs(c, category, array) for array in arrays]
    own += [_of_array(c["macs"], costs, array) for costs, array in zip(on_arrays, arrays, strict=True)]
    summary = np.concatenate(
        [
            _one_hot(category, len(CATEGORIES)),
            np.stack(
                [
                    int8,
                    c["out_bits"] <= 8,
                    c["pattern"] > 0,
                    c["leads"] > 0,
                    c["area"] > 1,
                    c["c_out"] % 16 == 0,
                    c["c_in"] % 16 == 0,
                    c["rank"] == 2,
                ],
                axis=1,
            ),
            np.log1p(np.stack([c["bytes_out"], c["macs"], c["c_out"], c["inner"]], axis=1)) * 0.1,
        ],
        axis=1,
    ).astype(np.float32)
    producer, consumer = edges
    before = mean_over(summary, producer, consumer)
    after = mean_over(summary, consumer, producer)
    kinds = len(CATEGORIES)
    context = np.stack(
        [
            np.log1p(np.array([g.weight_bytes for g in graphs])),
            np.log1p(sizes),
            np.log1p(_largest(c["bytes_out"], owner, len(graphs))),
            np.log1p(_largest(c["live_bytes"], owner, len(graphs))),
            np.log1p(np.array([g.input_bytes for g in graphs])),
        ],
        axis=1,
    )
    rows = np.concatenate(
        [
            *own,
            before,
            after,
            mean_over(before[:, :kinds], producer, consumer),
            mean_over(after[:, :kinds], consumer, producer),
            (context * 0.1)[owner],
            _one_hot(category, kinds),
            _one_hot(kind, len(TYPES)),
        ],
        axis=1,
        dtype=np.float32,
    )
    in_bits = np.where(c["adder_in_bits"] > 0, c["adder_in_bits"], c["in_bits"])
    adder_bits = np.maximum(c["weight_bits"] / 3, 0.5) * (np.minimum(in_bits, 16) + 4)
    logic = c["macs"] * adder_bits + c["elements"] * np.minimum(in_bits, 16)
    once = [
        c["macs"],
        moved_bytes,
        c["bytes_weights"] / np.maximum(c["repeats"], 1.0),
        c["elements"],
        np.ones_like(prior),
        logic,
    ]
    priors = np.stack([prior, *(c["repeats"] * quantity for quantity in once)], axis=1)
    weights, inputs = (
        np.array([getattr(g, name) for g in graphs])[owner] for name in ("weight_bytes", "input_bytes")
    )
    held = np.stack(
        [c["live_bytes"], c["bytes_in"] + c["bytes_out"], weights, inputs, np.ones_like(prior)], axis=1
    )
    on = [(c["repeats"] * cost)[:, None] for costs in on_arrays for cost in costs]
    return Encoded(rows, np.concatenate([priors, held, *on], axis=1), owner, len(graphs))


def _of_array(macs: FloatArray, costs: ArrayCosts, array: MacArray) -> Array:
    """Features of one array ``(v, 6)``: its costs, how full it is, and how much longer than it memory takes."""
    full = macs / array.mappings[0].macs_per_cycle / np.maximum(costs.busy, 1)
    longer = np.log((1 + costs.reached) / (1 + costs.busy))
    table: Array = np.stack([*(0.1 * np.log1p(cost) for cost in costs), full, 0.1 * longer], axis=1)
    return table.astype(np.float32)


def mean_over(values: Array, source: IntArray, target: IntArray) -> Array:
    """Mean of ``values[source]`` over the edges into each target ``(v, d)``; zero where there is none."""
    out = np.zeros_like(values)
    if len(source):
        order = np.argsort(target, kind="stable")
        ends, starts, counts = np.unique(target[order], return_index=True, return_counts=True)
        out[ends] = np.add.reduceat(values[source[order]], starts, axis=0) / counts[:, None].astype(
            np.float32
        )
    return out


def _fill(x: FloatArray, tile: int) -> FloatArray:
    filled: FloatArray = x / (np.ceil(np.maximum(x, 1) / tile) * tile)
    return filled


def _one_hot(index: IntArray, n: int) -> Array:
    """``(v, n)``; a negative index gives zeros."""
    table = np.zeros((len(index), n), np.float32)
    known = index >= 0
    table[np.flatnonzero(known), index[known]] = 1
    return table


def _largest(values: FloatArray, owner: IntArray, n: int) -> FloatArray:
    most = np.zeros(n)
    np.maximum.at(most, owner, values)
    return most
