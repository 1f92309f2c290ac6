"""Does what a file states about its tensors hold together?

Editors that change a batch size often leave the old shapes of inner tensors behind. These few rules cover
the types that make up most networks; a single contradiction makes the reader infer all shapes anew instead
of believing the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from hardsight.ingest.rules import conv_spatial, matmul_shape, operand
from hardsight.ingest.types import Shape, elements

Rule = Callable[[Mapping[str, Any], Sequence[Shape], Shape], bool]


def _same(attrs: Mapping[str, Any], x: Sequence[Shape], out: Shape) -> bool:
    return x[0] == out


def _broadcast(attrs: Mapping[str, Any], x: Sequence[Shape], out: Shape) -> bool:
    return x[0] == out == x[1] or np.broadcast_shapes(*x) == out


def _conv(weight: int) -> Rule:
    def rule(attrs: Mapping[str, Any], x: Sequence[Shape], out: Shape) -> bool:
        data, w = x[0], x[weight]
        return out == (data[0], w[0], *conv_spatial(attrs, data[2:], w[2:]))

    return rule


def _pool(attrs: Mapping[str, Any], x: Sequence[Shape], out: Shape) -> bool:
    spatial = conv_spatial(attrs, x[0][2:], tuple(attrs["kernel_shape"]))
    slack = 1 if attrs.get("ceil_mode") else 0
    near = all(0 <= o - s <= slack for o, s in zip(out[2:], spatial, strict=True))
    return out[:2] == x[0][:2] and near


def _global_pool(attrs: Mapping[str, Any], x: Sequence[Shape], out: Shape) -> bool:
    return out == (*x[0][:2], *(1 for _ in x[0][2:]))


def _gemm(attrs: Mapping[str, Any], x: Sequence[Shape], out: Shape) -> bool:
    return matmul_shape(operand(x[0], attrs, "A"), operand(x[1], attrs, "B")) == out


def _matmul(attrs: Mapping[str, Any], x: Sequence[Shape], out: Shape) -> bool:
    return matmul_shape(x[0], x[1]) == out


def _elements(attrs: Mapping[str, Any], x: Sequence[Shape], out: Shape) -> bool:
    return elements(x[0]) == elements(out)


def _concat(attrs: Mapping[str, Any], x: Sequence[Shape], out: Shape) -> bool:
    axis = attrs.get("axis", 1)
    return sum(part[axis] for part in x) == out[axis] and elements(out) == sum(map(elements, x))


def _transpose(attrs: Mapping[str, Any], x: Sequence[Shape], out: Shape) -> bool:
    perm = attrs.get("perm") or range(len(x[0]))[::-1]
    return tuple(x[0][axis] for axis in perm) == out


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(
        ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Where", "And", "Equal", "PRelu"), _broadcast
    ),
    **dict.fromkeys(
        (
            "BatchNormalization",
            "Cast",
            "Clip",
            "DequantizeLinear",
            "Dropout",
            "Erf",
            "Gelu",
            "HardSigmoid",
            "HardSwish",
            "Identity",
            "InstanceNormalization",
            "LayerNormalization",
            "LeakyRelu",
            "QuantizeLinear",
            "Relu",
            "Sigmoid",
            "Softmax",
            "Sqrt",
            "Tanh",
        ),
        _same,
    ),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _elements),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    "AveragePool": _pool,
    "Concat": _concat,
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "MaxPool": _pool,
    "QLinearConv": _conv(3),
    "Transpose": _transpose,
}


def consistent(op_type: str, attrs: Mapping[str, Any], inputs: Sequence[Shape], output: Shape) -> bool:
    """Whether the stated output shape can come from the stated inputs; True for types without a rule."""
    rule = RULES.get(op_type)
    if rule is None:
        return True
    try:
        return rule(attrs, inputs, output)
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return False
