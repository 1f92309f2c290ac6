"""Which operators a runtime merges into a neighbour, so that they cost nothing by themselves."""

from __future__ import annotations

from collections.abc import Sequence

from hardsight.graph import Operator, OperatorGraph

SWALLOWED = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid")
"""Activations that a convolution or matrix product takes along."""

_NUMBER = {name: i + 1 for i, name in enumerate(SWALLOWED)}
_MERGED = {*SWALLOWED, "DequantizeLinear", "QuantizeLinear"}
_HEAVY = {"conv", "depthwise", "matmul"}


def consumers_of(graph: OperatorGraph) -> list[list[int]]:
    """For each operator, those that read what it makes; once for every input of theirs."""
    consumers: list[list[int]] = [[] for _ in graph.operators]
    for i, op in enumerate(graph.operators):
        for producer, _ in op.inputs:
            if producer >= 0:
                consumers[producer].append(i)
    return consumers


def merge(
    operators: Sequence[Operator], consumers: Sequence[Sequence[int]], kinds: Sequence[str]
) -> tuple[list[bool], dict[int, int]]:
    """Activations behind a convolution or matrix product, and quantize/dequantize pairs around an integer kernel.

    Args:
        operators: of a graph.
        consumers: see `consumers_of`.
        kinds: category of each operator.

    Returns:
        Which operators are merged, and for each that swallows an activation, that one's number from 1 in `SWALLOWED`.
    """
    merged = [False] * len(operators)
    swallowed: dict[int, int] = {}
    for i, op in enumerate(operators):
        name = op.op_type
        if name not in _MERGED:
            continue
        producer = op.inputs[0][0] if op.inputs else -1
        if name in _NUMBER:
            if producer >= 0 and kinds[producer] in _HEAVY and len(consumers[producer]) == 1:
                merged[i] = True
                swallowed[producer] = _NUMBER[name]
        elif name == "DequantizeLinear":
            merged[i] = bool(consumers[i]) and all(
                operators[c].input_bits <= 8 and kinds[c] != "quantize" for c in consumers[i]
            )
        elif producer >= 0:
            merged[i] = operators[producer].input_bits <= 8 and operators[producer].output_bits <= 8
    return merged, swallowed
