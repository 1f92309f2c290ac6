"""How each ONNX operator is said in PyTorch: one short function per operator, or one line in a table.

A rule takes an `Op` and returns its result (a tuple when there are several). It may ask for constants and
shapes, which are known, and writes the rest by ``op.call``. Semantics are those of the ONNX operator
specification; what torch cannot say the same way is refused.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from hardsight.datasets._torch_emit import Op, Value, dtype_of, shape_of, to_tensor, torch_dtype

Rule = Callable[[Op], Any]

# --- elementwise ---------------------------------------------------------------------------------------------


def _unary(function: Callable[..., Any]) -> Rule:
    return lambda op: op.call(function, op[0])


def _binary(function: Callable[..., Any]) -> Rule:
    return lambda op: op.call(function, *_scalars(op[0], op[1]))


def _scalars(*values: Value) -> tuple[Any, ...]:
    """One-element constants as Python numbers, as anybody would write them, unless they decide the shape."""
    rank = max((len(shape_of(v)) for v in values if isinstance(v, fx.Node)), default=-1)
    return tuple(
        v.item() if isinstance(v, torch.Tensor) and v.numel() == 1 and v.dim() <= rank else v for v in values
    )


def _add(op: Op) -> Any:
    """An addition; that of a bias goes into the dense layer before it, where the exporter took it from."""
    for layer, bias, sole in ((op[0], op[1], op.sole[0]), (op[1], op[0], op.sole[1])):
        if (
            isinstance(layer, fx.Node)
            and layer.target is F.linear
            and len(layer.args) == 2
            and sole
            and isinstance(bias, torch.Tensor)
            and bias.numel() == shape_of(layer)[-1] == (shape_of(bias) or (0,))[-1]
            and bias.dim() <= len(shape_of(layer))
        ):
            x, weight = layer.args
            return op.call(F.linear, x, weight, op.emit.alias(bias, bias.reshape(-1)))
    return op.call(operator.add, *_scalars(op[0], op[1]))


def _div(op: Op) -> Any:
    if dtype_of(op[0]).is_floating_point:
        return op.call(operator.truediv, *_scalars(op[0], op[1]))
    return op.call(torch.div, op[0], op[1], rounding_mode="trunc")


def _mod(op: Op) -> Any:
    return op.call(torch.fmod if op.attr("fmod", 0) else torch.remainder, op[0], op[1])


def _extreme(function: Callable[..., Any], bound: str) -> Rule:
    """Max or Min of any number of inputs; a scalar constant becomes a clamp."""

    def rule(op: Op) -> Any:
        def pair(a: Value, b: Value) -> Any:
            first, second = _scalars(a, b)
            if not isinstance(first, torch.Tensor | fx.Node):
                first, second = second, first
            if isinstance(second, torch.Tensor | fx.Node):
                return op.call(function, first, second)
            return op.call(torch.clamp, first, **{bound: second})

        return reduce(pair, _all(op))

    return rule


def _sum(op: Op) -> Any:
    return reduce(lambda a, b: op.call(operator.add, a, b), _all(op))


def _mean(op: Op) -> Any:
    return op.call(operator.truediv, _sum(op), float(len(op.inputs)))


def _all(op: Op) -> list[Value]:
    return [op[i] for i in range(len(op.inputs))]


def _where(op: Op) -> Any:
    return op.call(torch.where, op[0], op[1], op[2])


def _clip(op: Op) -> Any:
    low, high = (
        None if (v := op.constant(i, name)) is None else v.item() for i, name in ((1, "min"), (2, "max"))
    )
    if low is None and high is None:
        return op[0]
    return op.call(F.relu6, op[0]) if (low, high) == (0, 6) else op.call(torch.clamp, op[0], low, high)


def _cast(op: Op) -> Any:
    dtype = torch_dtype(op.attr("to"))
    value = op[0]
    if isinstance(value, torch.Tensor):
        return value.to(dtype)
    dtype = op.emit.cast(dtype)
    return value if dtype_of(value) is dtype else op.call("to", value, dtype)


def _cast_like(op: Op) -> Any:
    return op.call("to", op[0], dtype_of(op[1]))


# --- activations ---------------------------------------------------------------------------------------------


def _with(function: Callable[..., Any], *attributes: tuple[str, float]) -> Rule:
    """An activation whose attributes are positional arguments in torch too."""
    return lambda op: op.call(function, op[0], *(op.attr(name, default) for name, default in attributes))


def _hard_sigmoid(op: Op) -> Any:
    alpha, beta = op.attr("alpha", 0.2), op.attr("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return op.call(F.hardsigmoid, op[0])
    scaled = op.call(operator.add, op.call(operator.mul, op[0], alpha), beta)
    return op.call(torch.clamp, scaled, 0.0, 1.0)


def _prelu(op: Op) -> Any:
    slope = op[1]
    shape = shape_of(op[0])
    per_channel = (shape[1], *[1] * (len(shape) - 2)) if len(shape) > 1 else ()
    if isinstance(slope, torch.Tensor) and (slope.numel() == 1 or tuple(slope.shape) == per_channel):
        return op.call(F.prelu, op[0], op.emit.alias(slope, slope.reshape(-1)))
    return op.call(torch.where, op.call(operator.gt, op[0], 0), op[0], op.call(operator.mul, op[0], slope))


def _softmax(function: Callable[..., Any]) -> Rule:
    def rule(op: Op) -> Any:
        shape = shape_of(op[0])
        axis = op.attr("axis", -1 if op.opset >= 13 else 1) % max(1, len(shape))
        if op.opset >= 13 or axis == len(shape) - 1:
            return op.call(function, op[0], axis if axis < len(shape) - 1 else -1)
        flat = op.call(torch.flatten, op[0], axis)  # until opset 13: over everything from the axis on
        return op.call(torch.reshape, op.call(function, flat, -1), shape)

    return rule


# --- dense layers --------------------------------------------------------------------------------------------


def _matmul(op: Op) -> Any:
    a, b = op[0], op[1]
    if isinstance(b, torch.Tensor) and b.dim() == 2 and isinstance(a, fx.Node):
        return op.call(F.linear, a, op.emit.alias(b, b.t()))  # the exporter's spelling of a dense layer
    return op.call(torch.matmul, a, b)


def _gemm(op: Op) -> Any:
    a, b, c = op[0], op[1], op.given(2)
    alpha, beta = op.attr("alpha", 1.0), op.attr("beta", 1.0)
    a = op.call(torch.t, a) if op.attr("transA", 0) else a
    bias = c is None or (isinstance(c, torch.Tensor) and c.numel() == shape_of(c)[-1:][0] if c is not None and shape_of(c) else False)
    return a, b, alpha, beta, bias
