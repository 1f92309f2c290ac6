"""What decides the logic of a network that is unrolled into adders: widths of numbers, and how deep additions go.

Distributed arithmetic (da4ml: Sun et al., ACM TRETS 2025) makes of each product with constants a tree of shifted
additions and cuts the whole network into pipeline stages of a few adders each. Where the cuts fall follows from the
depth of the trees before, so that is followed along the longest path.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, prod

import numpy as np

from hardsight.graph import Operator, OperatorGraph
from hardsight.prediction import FloatArray

COLUMNS = ("in_bits", "sum_bits", "next_bits", "depth", "depth_before", "stages", "phase")
"""Per operator: bits of its input and of its sums; bits of the quantizer that follows; adders in a row within it and
before it; pipeline stages that end within it; how full the stage is that it begins in."""

ADDERS_PER_STAGE = 5  # of the shipped device's mode lc5
_DIGITS_PER_BIT = 0.285  # non-zero signed digits of a bell-shaped weight, per bit of it
_WIDEST = 32.0
_KEEP_BITS = {
    "MaxPool", "Relu", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Identity", "Slice",
    "Gather", "AveragePool", "GlobalAveragePool",
}  # fmt: skip
_PRODUCTS = {"Conv", "Gemm", "MatMul"}
_SUMS = {"Add", "Sub", "MaxPool", "AveragePool", "GlobalAveragePool"}


def is_quantizer(op_type: str) -> bool:
    """Whether the operator is one of QONNX's: only such graphs say how wide every number is."""
    return "." in op_type and op_type.rpartition(".")[2] in ("Quant", "IntQuant", "BipolarQuant")


def adder_numbers(graph: OperatorGraph, consumers: Sequence[Sequence[int]]) -> FloatArray:
    """`COLUMNS` of each operator ``(v, 7)``; zeros for a graph without quantizers."""
    operators = graph.operators
    table = np.zeros((len(operators), len(COLUMNS)))
    if not any(is_quantizer(op.op_type) for op in operators):
        return table
    bits = np.zeros(len(operators))
    depth = np.zeros(len(operators))
    for i, op in enumerate(operators):
        before = [p for p, _ in op.inputs if p >= 0]
        width = max((bits[p] for p in before), default=_WIDEST)
        begin = max((depth[p] for p in before), default=0.0)
        own, sums = _tree(op, width)
        bits[i] = op.output_bits if is_quantizer(op.op_type) else min(sums, _WIDEST)
        depth[i] = begin + own
        stages = depth[i] // ADDERS_PER_STAGE - begin // ADDERS_PER_STAGE
        phase = begin % ADDERS_PER_STAGE / ADDERS_PER_STAGE
        table[i] = [width, sums, _next_bits(operators, consumers, i), own, begin, stages, phase]
    return table


def _tree(op: Operator, width: float) -> tuple[float, float]:
    """Adders in a row, and bits of what comes out of them."""
    if op.op_type in _PRODUCTS and op.weight_shapes:
        fan_in = op.macs / max(prod(op.output_shapes[0]), 1) if op.output_shapes else 1.0
        terms = max(fan_in * op.weight_bits * _DIGITS_PER_BIT, 1.0)
        return log2(terms), width + op.weight_bits + log2(max(fan_in, 1.0))
    if op.op_type in _SUMS:
        return 1.0, width + (op.op_type == "Add")
    return 0.0, width if op.op_type in _KEEP_BITS else _WIDEST


def _next_bits(operators: Sequence[Operator], consumers: Sequence[Sequence[int]], i: int) -> float:
    """Bits of the quantizer behind the operator, activations between them passed; 0 where there is none."""
    for _ in range(3):
        if len(consumers[i]) != 1:
            return 0.0
        i = consumers[i][0]
        if is_quantizer(operators[i].op_type):
            return float(operators[i].output_bits)
    return 0.0
