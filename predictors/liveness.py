"""How many bytes of activations are alive while each operator runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from hardsight.graph import Operator, OperatorGraph

if TYPE_CHECKING:
    from hardsight.predictors.features import IntArray


def running_order(graph: OperatorGraph, consumers: Sequence[Sequence[int]]) -> list[int]:
    """Operators in the order of a depth-first walk from the results, first inputs first.

    The order in which a file lists its nodes is no property of the network (the digest does not know it), and runtimes
    choose their own. Where there are several results, they are walked in the order of their fingerprints.

    Args:
        graph: the network.
        consumers: see `hardsight.predictors.merging.consumers_of`.
    """
    operators = graph.operators
    results = {p for p, _ in graph.output_edges if p >= 0} | {i for i, of in enumerate(consumers) if not of}
    roots = list(results)
    if len(roots) > 1:
        fingerprints = graph.fingerprints()
        roots.sort(key=lambda i: fingerprints[i])
    order: list[int] = []
    seen = [False] * len(operators)
    stack = roots[::-1]
    while stack:
        i = stack.pop()
        if i < 0:  # everything before it has run
            order.append(~i)
        elif not seen[i]:
            seen[i] = True
            stack.append(~i)
            for producer, _ in reversed(operators[i].inputs):
                if producer >= 0 and not seen[producer]:
                    stack.append(producer)
    return order


def lifetimes(
    graph: OperatorGraph, order: Sequence[int], merged: Sequence[bool], kinds: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Who owns what each operator makes ``(v,)``, and at which place in the order its last reader stands ``(v,)``.

    A tensor lives from its maker to its last reader. Views own nothing, and neither do operators that a runtime
    merges into a neighbour: what they read stays alive for them. Outputs of the graph are never free.

    Args:
        graph: the network.
        order: in which its operators run.
        merged: see `hardsight.predictors.merging.merge`.
        kinds: category of each operator.
    """
    operators = graph.operators
    owner = list(range(len(operators)))
    last = [0] * len(operators)
    for place, i in enumerate(order):
        last[i] = place
        inputs = operators[i].inputs
        if (merged[i] or kinds[i] == "view") and inputs and inputs[0][0] >= 0:
            owner[i] = owner[inputs[0][0]]
        for producer, _ in inputs:
            if producer >= 0:
                last[owner[producer]] = place
    for producer, _ in graph.output_edges:
        if producer >= 0:
            last[owner[producer]] = len(operators)
    return owner, last


def live_bytes(
    operators: Sequence[Operator], order: Sequence[int], owner: Sequence[int], last: Sequence[int]
) -> IntArray:
    """Bytes alive while each operator runs ``(v,)``; arguments as in `lifetimes`, and what it gives."""
    change = [0] * (len(operators) + 2)
    for place, i in enumerate(order):
        if owner[i] == i:
            size = operators[i].bytes_out
            change[place] += size
            change[last[i] + 1] -= size
    live = np.zeros(len(operators), dtype=np.int64)
    live[list(order)] = list(accumulate(change[: len(order)]))
    return live
