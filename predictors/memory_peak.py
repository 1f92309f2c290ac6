"""Which tensors are alive when a graph holds the most of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hardsight.graph import OperatorGraph
from hardsight.predictors.features import category_of, graph_arrays


class LiveTensor(NamedTuple):
    """What one operator made and somebody still needs.

    Args:
        operator: name of the maker.
        op_type: its type.
        shapes: of its outputs.
        bytes: of all of them.
        last_reader: name of the operator after which it is free; None for an output of the graph.
    """

    operator: str
    op_type: str
    shapes: tuple[tuple[int, ...], ...]
    bytes: int
    last_reader: str | None


class MemoryPeak(NamedTuple):
    """The moment at which the activations take the most.

    Args:
        at: name of the operator that runs then; empty for a graph without operators.
        bytes: alive then.
        tensors: what is alive then, the largest first.
        live_bytes: ``(v,)`` bytes alive while each operator runs.
    """

    at: str
    bytes: int
    tensors: tuple[LiveTensor, ...]
    live_bytes: tuple[int, ...]


def memory_peak(graph: OperatorGraph) -> MemoryPeak:
    """The peak of the activations when operators run in order, and what is alive at it.

    A tensor lives from its maker to its last reader. Views own nothing, and neither do operators that a runtime
    merges into a neighbour: what they read stays alive for them. In that it is closer to a runtime than
    `hardsight.predictors.features.peak_live_bytes`, a feature that knows only views; without merged operators the
    two are equal. Inputs of the graph and weights are not activations. A runtime that computes in place or
    reorders holds less.
    """
    operators = graph.operators
    v = len(operators)
    if not v:
        return MemoryPeak("", 0, (), ())
    kernels = set(map(int, graph_arrays(graph).kept))
    owner = list(range(v))
    for i, op in enumerate(operators):
        owns = i in kernels and category_of(op) != "view"
        if not owns and op.inputs and op.inputs[0][0] >= 0:
            owner[i] = owner[op.inputs[0][0]]
    last = list(range(v))
    for i, op in enumerate(operators):
        for producer, _ in op.inputs:
            if producer >= 0:
                last[owner[producer]] = i
    for producer, _ in graph.output_edges:
        if producer >= 0:
            last[owner[producer]] = v
    change = np.zeros(v + 2, dtype=np.int64)
    for i, op in enumerate(operators):
        if owner[i] == i:
            change[i] += op.bytes_out
            change[last[i] + 1] -= op.bytes_out
    live = np.cumsum(change)[:v]
    peak = int(live.argmax())
    alive = [
        LiveTensor(
            op.name,
            op.op_type,
            op.output_shapes,
            op.bytes_out,
            operators[last[i]].name if last[i] < v else None,
        )
        for i, op in enumerate(operators[: peak + 1])
        if owner[i] == i and last[i] >= peak and op.bytes_out
    ]
    alive.sort(key=lambda tensor: -tensor.bytes)
    return MemoryPeak(operators[peak].name, int(live[peak]), tuple(alive), tuple(map(int, live)))
