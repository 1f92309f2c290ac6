"""Which tensors are alive when a graph holds the most of them."""

from __future__ import annotations

from typing import NamedTuple

from hardsight.graph import OperatorGraph
from hardsight.predictors.features import category_of
from hardsight.predictors.liveness import lifetimes, live_bytes
from hardsight.predictors.merging import consumers_of, merge


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
    """The peak of the activations when operators run in the order of the file, and what is alive at it.

    See `hardsight.predictors.liveness.lifetimes`, which knows merged operators and so is closer to a runtime than
    `hardsight.predictors.features.peak_live_bytes`, a feature that knows only views; without merged operators the
    two are equal. Inputs of the graph and weights are not activations. A runtime that computes in place or
    reorders holds less.
    """
    operators = graph.operators
    v = len(operators)
    if not v:
        return MemoryPeak("", 0, (), ())
    kinds = [category_of(op) for op in operators]
    merged, _ = merge(operators, consumers_of(graph), kinds)
    owner, last = lifetimes(graph, range(v), merged, kinds)
    live = live_bytes(operators, range(v), owner, last)
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
