"""A graph as if all of it were in float: what a device sees that brings every network to its own 8 bits anyway."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import NamedTuple

from hardsight.graph import Operator, OperatorGraph
from hardsight.predictors.features import category_of

_BITS = 32


class InFloat(NamedTuple):
    """A graph without quantizers.

    Args:
        graph: itself where nothing in it is narrow; else without digest or names of its own.
        kept: which operator of the original each of its operators is.
    """

    graph: OperatorGraph
    kept: tuple[int, ...]


@lru_cache(maxsize=4096)
def in_float(graph: OperatorGraph) -> InFloat:
    """Quantizers taken out, and every number as wide as a float; the same object for the same graph."""
    quantizer = [category_of(op) == "quantize" and bool(op.inputs) for op in graph.operators]
    if not any(quantizer) and not any(map(_is_narrow, graph.operators)):
        return InFloat(graph, tuple(range(len(graph.operators))))
    made_by: list[tuple[int, int] | None] = []  # what stands for an operator that was taken out
    number: list[int] = []
    kept: list[int] = []
    operators: list[Operator] = []

    def source(edge: tuple[int, int]) -> tuple[int, int]:
        producer, slot = edge
        if producer < 0:
            return edge
        instead = made_by[producer]
        return (number[producer], slot) if instead is None else instead

    for i, op in enumerate(graph.operators):
        number.append(len(kept))
        if quantizer[i]:
            made_by.append(source(op.inputs[0]))
            continue
        made_by.append(None)
        kept.append(i)
        operators.append(_widened(op, tuple(map(source, op.inputs))))
    weights = sum(op.bytes_weights for op in operators)
    narrow_weights = sum(graph.operators[i].bytes_weights for i in kept)
    wide = replace(
        graph,
        operators=tuple(operators),
        inputs=tuple(replace(spec, bits=max(spec.bits, _BITS)) for spec in graph.inputs),
        output_edges=tuple(map(source, graph.output_edges)),
        weight_bytes=round(graph.weight_bytes * weights / max(narrow_weights, 1)),
    )
    return InFloat(wide, tuple(kept))


def _is_narrow(op: Operator) -> bool:
    return min(op.input_bits, op.output_bits, op.weight_bits or _BITS) < _BITS


def _widened(op: Operator, inputs: tuple[tuple[int, int], ...]) -> Operator:
    weights = op.bytes_weights
    if 0 < op.weight_bits < _BITS:  # constants beside the weights, such as a bias, are wide already
        narrow = max(map(prod, op.weight_shapes), default=0)
        weights += round(narrow * (_BITS - op.weight_bits) / 8)
    return replace(
        op,
        inputs=inputs,
        input_bits=max(op.input_bits, _BITS),
        weight_bits=max(op.weight_bits, _BITS) if op.weight_bits else 0,
        output_bits=max(op.output_bits, _BITS),
        bytes_in=round(op.bytes_in * max(_BITS / op.input_bits, 1)),
        bytes_out=round(op.bytes_out * max(_BITS / op.output_bits, 1)),
        bytes_weights=weights,
    )
