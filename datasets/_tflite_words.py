"""Saying a module in words that have integer kernels in LiteRT and hardware on a small NPU.

Exporters take composite functions apart, and litert-torch translates the parts one by one: a Gelu becomes a
polynomial of forty operators, a hard sigmoid two float operators between dequantizations. Every rule here puts
one such spelling into another that computes the same.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

_REDUCTIONS = (torch.mean, torch.amax, torch.sum)


def reword(module: fx.GraphModule, arguments: Sequence[torch.Tensor]) -> bool:
    """Apply every rule to a module made by `hardsight.datasets.to_torch`, in place.

    Args:
        arguments: of the shapes that ``forward`` takes; their values are not looked at.

    Returns:
        whether cosines now stand for ELUs, which litert-torch would take apart into exponentials and selections;
        no module gets there that has cosines of its own.
    """
    _find_shapes(module, arguments)
    nodes = list(module.graph.nodes)
    disguised = False
    if not any(node.target is torch.cos for node in nodes):
        for node in nodes:
            if node.target is F.elu and tuple(node.args[1:]) in ((), (1.0,)) and not node.kwargs:
                node.target, node.args, disguised = torch.cos, node.args[:1], True
    for node in nodes:
        if node.op == "call_function" and node.target in _RULES:
            _RULES[node.target](module.graph, node)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    for node in module.graph.nodes:
        node.meta.clear()
    return disguised


def _find_shapes(module: fx.GraphModule, arguments: Sequence[torch.Tensor]) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*arguments)


def _reduction(graph: fx.Graph, node: fx.Node) -> None:
    """Over space, reduce with channels last; over the last dimension, the rows of a matrix.

    Vela leaves a reduction over the depth of a tensor that has height and width to the CPU. Transpositions that
    this adds cancel with those that litert-torch adds.
    """
    x, axes, *_ = _arguments(node)
    shape, result_shape = tuple(x.meta["val"].shape), tuple(node.meta["val"].shape)
    axes = sorted(a % len(shape) for a in axes)
    target: Any = node.target
    if len(shape) == 4 and axes == [2, 3]:
        _replace(node, _over_space(graph, node, x, target, result_shape))
    elif axes == [len(shape) - 1] and math.prod(shape[:-2]) > 1:
        with graph.inserting_before(node):
            rows = graph.call_function(torch.reshape, (x, (1, -1, shape[-1])))
            reduced = graph.call_function(target, (rows, [2], True))
            _replace(node, graph.call_function(torch.reshape, (reduced, result_shape)))


def _global_pool(graph: fx.Graph, node: fx.Node) -> None:
    """A mean over space."""
    x, size = _arguments(node)
    if tuple(size) == (1, 1):
        _replace(node, _over_space(graph, node, x, torch.mean, tuple(node.meta["val"].shape)))


def _over_space(graph: fx.Graph, node: fx.Node, x: fx.Node, function: Any, shape: tuple[int, ...]) -> fx.Node:
    """The function over height and width of an image, put before a node."""
    with graph.inserting_before(node):
        channels_last = graph.call_function(torch.permute, (x, (0, 2, 3, 1)))
        reduced = graph.call_function(function, (channels_last, [1, 2], True))
        kept = graph.call_function(torch.permute, (reduced, (0, 3, 1, 2)))
        return kept if len(shape) == 4 else graph.call_function(torch.reshape, (kept, shape))


def _division(graph: fx.Graph, node: fx.Node) -> None:
    """Multiply by the inverse: of a number, or of a square root."""
    a, b = _arguments(node)
    with graph.inserting_before(node):
        if isinstance(b, int | float):
            result = graph.call_function(operator.mul, (a, 1 / b))
        elif isinstance(b, fx.Node) and b.target is torch.sqrt:
            result = graph.call_function(torch.rsqrt, (b.args[0],))
            if a != 1:
                result = graph.call_function(operator.mul, (a, result))
        else:
            return
    _replace(node, result)


def _clamp(graph: fx.Graph, node: fx.Node) -> None:
    """Between 0 and 1, by the clamp that every kernel has: ``relu6(6 x) / 6``."""
    if tuple(node.args[1:]) != (0, 1) or node.kwargs:
        return
    with graph.inserting_before(node):
        scaled = graph.call_function(operator.mul, (node.args[0], 6.0))
        clamped = graph.call_function(F.relu6, (scaled,))
        _replace(node, graph.call_function(operator.mul, (clamped, 1 / 6)))


def _hard_sigmoid(graph: fx.Graph, node: fx.Node) -> None:
    """``relu6(x + 3) / 6``, its definition."""
    with graph.inserting_before(node):
        clamped = graph.call_function(F.relu6, (graph.call_function(operator.add, (node.args[0], 3.0)),))
        _replace(node, graph.call_function(operator.mul, (clamped, 1 / 6)))


def _gather(graph: fx.Graph, node: fx.Node) -> None:
    """Rows by one operator that is quantized: not by a lookup in float, nor with every index checked by ten more."""
    import litert_torch  # noqa: F401  (which registers the operator)

    if node.target is F.embedding:
        (index, x, *_), axis = _arguments(node), 0
    else:
        x, axis, index = _arguments(node)
    with graph.inserting_before(node):
        flat = graph.call_function(torch.reshape, (index, (-1,)))  # it takes no other
        taken = graph.call_function(torch.ops.tfl.gather, (x, flat, axis))
        _replace(node, graph.call_function(torch.reshape, (taken, tuple(node.meta["val"].shape))))


def _gelu(graph: fx.Graph, node: fx.Node) -> None:
    """``x (1 + erf(x / √2)) / 2``, factors in any order, as one Gelu."""
    scaled, *_ = _arguments(node)
    if not isinstance(scaled, fx.Node) or scaled.target not in (operator.truediv, operator.mul):
        return
    x, factor = _arguments(scaled)
    factor = 1 / factor if scaled.target is operator.truediv and isinstance(factor, float) else factor
    if not isinstance(factor, float) or not math.isclose(factor, math.sqrt(0.5), rel_tol=1e-5):
        return
    gate = _only_user(node)
    if gate is None or gate.target is not operator.add or 1 not in gate.args:
        return
    product, factors = gate, list[Any]()
    while (user := _only_user(product)) is not None and user.target is operator.mul and len(factors) < 2:
        factors += [other for other in user.args if other is not product]
        product = user
        if _is_half(factors, x):
            with graph.inserting_after(product):
                _replace(product, graph.call_function(F.gelu, (x,)))
            return


def _is_half(factors: list[Any], x: fx.Node) -> bool:
    """Whether the factors are x and one half, in two pieces or in one product."""
    if len(factors) == 1 and isinstance(factors[0], fx.Node) and factors[0].target is operator.mul:
        factors = list(factors[0].args)
    return len(factors) == 2 and x in factors and 0.5 in factors


def _replace(node: fx.Node, result: fx.Node) -> None:
    result.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(result)


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    return node.args


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


_RULES: dict[Callable[..., Any], Callable[[fx.Graph, fx.Node], None]] = {
    **dict.fromkeys(_REDUCTIONS, _reduction),
    F.adaptive_avg_pool2d: _global_pool,
    operator.truediv: _division,
    torch.clamp: _clamp,
    F.hardsigmoid: _hard_sigmoid,
    F.embedding: _gather,
    torch.index_select: _gather,
    torch.erf: _gelu,
}
