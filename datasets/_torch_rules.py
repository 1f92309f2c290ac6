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
            return op.call(F.linear, x, weight, op.emit.view(bias, bias.reshape(-1)))
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
        return op.call(F.prelu, op[0], op.emit.view(slope, slope.reshape(-1)))
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
        return op.call(F.linear, a, op.emit.view(b, b.t()))  # how exporters spell a dense layer
    return op.call(torch.matmul, a, b)


def _gemm(op: Op) -> Any:
    a, b, c = op[0], op[1], op.given(2)
    alpha, beta = op.attr("alpha", 1.0), op.attr("beta", 1.0)
    a = op.call(torch.t, a) if op.attr("transA", 0) else a
    if isinstance(b, torch.Tensor) and alpha == 1:
        weight = b if op.attr("transB", 0) else op.emit.view(b, b.t())
        if c is None:
            return op.call(F.linear, a, weight)
        if (
            beta == 1
            and isinstance(c, torch.Tensor)
            and shape_of(c)[-1:] == (weight.shape[0],) == (c.numel(),)
        ):
            return op.call(F.linear, a, weight, op.emit.view(c, c.reshape(-1)))
    b = op.call(torch.t, b) if op.attr("transB", 0) else b
    if c is None:
        product = op.call(torch.mm, a, b)
        return product if alpha == 1 else op.call(operator.mul, product, alpha)
    return op.call(torch.addmm, c, a, b, beta=beta, alpha=alpha)


def _einsum(op: Op) -> Any:
    return op.call(torch.einsum, op.attr("equation"), *_all(op))


# --- convolution and pooling ---------------------------------------------------------------------------------

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_GLOBAL_AVERAGE = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_GLOBAL_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


def _by_rank(op: Op, functions: dict[int, Callable[..., Any]]) -> tuple[int, Callable[..., Any]]:
    rank = len(shape_of(op[0])) - 2
    if rank not in functions:
        raise op.refuse(f"{rank} spatial dimensions")
    return rank, functions[rank]


def _pads(
    op: Op, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """Padding before and after each spatial dimension."""
    auto = op.attr("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        given = op.attr("pads") if auto == "NOTSET" else None
        flat = list(given or [0] * (2 * len(kernel)))
        return list(zip(flat[: len(kernel)], flat[len(kernel) :], strict=True))
    pads = []
    for size, k, s, d in zip(shape_of(op[0])[2:], kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / s) - 1) * s + d * (k - 1) + 1 - size)
        less = total // 2
        pads.append((less, total - less) if auto == "SAME_UPPER" else (total - less, less))
    return pads


def _padded(op: Op, x: Value, pads: Sequence[tuple[int, int]], value: float) -> Any:
    flat = [p for pair in reversed(pads) for p in pair]
    return op.call(F.pad, x, flat, "constant", value) if any(flat) else x


def _conv(op: Op) -> Any:
    rank, function = _by_rank(op, _CONV)
    kernel = list(shape_of(op[1])[2:])
    strides, dilations = op.attr("strides") or [1] * rank, op.attr("dilations") or [1] * rank
    pads, x = _pads(op, kernel, strides, dilations), op[0]
    if any(before != after for before, after in pads):
        x, pads = _padded(op, x, pads, 0.0), [(0, 0)] * rank
    padding = [before for before, _ in pads]
    return op.call(function, x, op[1], op.given(2), strides, padding, dilations, op.attr("group", 1))


def _conv_transpose(op: Op) -> Any:
    rank, function = _by_rank(op, _CONV_TRANSPOSE)
    kernel = list(shape_of(op[1])[2:])
    strides, dilations = op.attr("strides") or [1] * rank, op.attr("dilations") or [1] * rank
    extra = op.attr("output_padding") or [0] * rank
    if op.attr("output_shape") or op.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise op.refuse("padding that follows from the output's shape")
    pads = _pads(op, kernel, strides, dilations)
    if any(before != after for before, after in pads):
        raise op.refuse(f"unequal padding {pads}")
    padding = [before for before, _ in pads]
    return op.call(
        function, op[0], op[1], op.given(2), strides, padding, extra, op.attr("group", 1), dilations
    )


def _max_pool(op: Op) -> Any:
    if len(op.node.output) > 1 and op.node.output[1]:
        raise op.refuse("the indices as a second output")
    rank, function = _by_rank(op, _MAX_POOL)
    kernel = op.attr("kernel_shape")
    strides, dilations = op.attr("strides") or [1] * rank, op.attr("dilations") or [1] * rank
    pads, x = _pads(op, kernel, strides, dilations), op[0]
    if any(before != after or 2 * before > k for (before, after), k in zip(pads, kernel, strict=True)):
        x, pads = _padded(op, x, pads, -math.inf), [(0, 0)] * rank
    padding = [before for before, _ in pads]
    return op.call(function, x, kernel, strides, padding, dilations, bool(op.attr("ceil_mode", 0)))


def _average_pool(op: Op) -> Any:
    rank, function = _by_rank(op, _AVERAGE_POOL)
    kernel, strides = op.attr("kernel_shape"), op.attr("strides") or [1] * rank
    if any(d != 1 for d in op.attr("dilations") or []):
        raise op.refuse("dilations")
    pads, x = _pads(op, kernel, strides, [1] * rank), op[0]
    ceil, count_padding = bool(op.attr("ceil_mode", 0)), bool(op.attr("count_include_pad", 0))
    if all(before == after and 2 * before <= k for (before, after), k in zip(pads, kernel, strict=True)):
        padding = [before for before, _ in pads]
        return op.call(function, x, kernel, strides, padding, ceil, count_padding)
    if ceil:
        raise op.refuse(f"unequal padding {pads} with ceil_mode")
    pooled = op.call(function, _padded(op, x, pads, 0.0), kernel, strides)
    if count_padding:
        return pooled
    flat = [p for pair in reversed(pads) for p in pair]
    share = function(F.pad(torch.ones(1, 1, *shape_of(x)[2:]), flat), kernel, strides)
    return op.call(operator.truediv, pooled, share)


def _global_pool(functions: dict[int, Callable[..., Any]]) -> Rule:
    def rule(op: Op) -> Any:
        rank, function = _by_rank(op, functions)
        return op.call(function, op[0], [1] * rank)

    return rule


# --- normalisation -------------------------------------------------------------------------------------------


def _batch_norm(op: Op) -> Any:
    if op.attr("training_mode", 0):
        raise op.refuse("training mode")
    x, scale, bias, mean, variance = (op[i] for i in range(5))
    return op.call(F.batch_norm, x, mean, variance, scale, bias, False, 0.0, op.attr("epsilon", 1e-5))


def _instance_norm(op: Op) -> Any:
    return op.call(F.instance_norm, op[0], weight=op[1], bias=op[2], eps=op.attr("epsilon", 1e-5))


def _layer_norm(op: Op) -> Any:
    if sum(map(bool, op.node.output)) > 1:
        raise op.refuse("mean and deviation as outputs")
    shape = shape_of(op[0])
    shape = shape[op.attr("axis", -1) % len(shape) :]
    return op.call(F.layer_norm, op[0], shape, op[1], op.given(2), op.attr("epsilon", 1e-5))


def _rms_norm(op: Op) -> Any:
    shape = shape_of(op[0])
    shape = shape[op.attr("axis", -1) % len(shape) :]
    return op.call(F.rms_norm, op[0], shape, op[1], op.attr("epsilon", 1e-5))


def _group_norm(op: Op) -> Any:
    groups, (scale, bias) = op.attr("num_groups"), (op[1], op[2])
    channels = shape_of(op[0])[1]
    if shape_of(scale)[0] != channels:  # until opset 21: one number per group
        scale, bias = (op.call(torch.repeat_interleave, v, channels // groups) for v in (scale, bias))
    return op.call(F.group_norm, op[0], groups, scale, bias, op.attr("epsilon", 1e-5))


def _local_response(op: Op) -> Any:
    return op.call(
        F.local_response_norm,
        op[0],
        op.attr("size"),
        op.attr("alpha", 1e-4),
        op.attr("beta", 0.75),
        op.attr("bias", 1.0),
    )


def _lp_norm(op: Op) -> Any:
    return op.call(F.normalize, op[0], float(op.attr("p", 2)), op.attr("axis", -1))


# --- shapes --------------------------------------------------------------------------------------------------


def _constant(op: Op) -> Any:
    for name in ("value_float", "value_floats", "value_int", "value_ints"):
        if (numbers := op.attr(name)) is not None:
            return torch.tensor(numbers, dtype=torch.float32 if "float" in name else torch.int64)
    if op.attr("value") is None:
        raise op.refuse("a value that is no tensor of numbers")
    return to_tensor(op.attr("value"))


def _constant_of_shape(op: Op) -> Any:
    value = op.attr("value")
    filled = to_tensor(value).reshape(()) if value is not None else torch.tensor(0.0)
    return filled.expand(op.ints(0) or ())


def _shape(op: Op) -> Any:
    return torch.tensor(shape_of(op[0])[op.attr("start", 0) : op.attr("end")], dtype=torch.int64)


def _size(op: Op) -> Any:
    return torch.tensor(math.prod(shape_of(op[0])))


def _range(op: Op) -> Any:
    start, limit, delta = (op.constant(i) for i in range(3))
    assert start is not None and limit is not None and delta is not None
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _reshape(op: Op) -> Any:
    shape, wanted = shape_of(op[0]), op.ints(1, "shape") or []
    if not op.attr("allowzero", 0):
        wanted = [shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    if -1 in wanted:
        i = wanted.index(-1)
        rest = math.prod(wanted[:i] + wanted[i + 1 :])
        wanted[i] = math.prod(shape) // rest if rest else 0
    return op[0] if tuple(wanted) == shape else op.call(torch.reshape, op[0], wanted)


def _flatten(op: Op) -> Any:
    shape, axis = shape_of(op[0]), op.attr("axis", 1)
    axis = axis % len(shape) if axis < 0 else axis
    if axis == 1 and len(shape) > 1:
        return op.call(torch.flatten, op[0], 1)
    return op.call(torch.reshape, op[0], (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _transpose(op: Op) -> Any:
    perm = op.attr("perm") or list(reversed(range(len(shape_of(op[0])))))
    return op.call(torch.permute, op[0], perm)


def _squeeze(op: Op) -> Any:
    axes = op.ints(1, "axes")
    return op.call(torch.squeeze, op[0]) if axes is None else op.call(torch.squeeze, op[0], tuple(axes))


def _unsqueeze(op: Op) -> Any:
    axes = op.ints(1, "axes") or []
    rank = len(shape_of(op[0])) + len(axes)
    return reduce(lambda x, axis: op.call(torch.unsqueeze, x, axis), sorted(a % rank for a in axes), op[0])


def _concat(op: Op) -> Any:
    parts = [v for v in _all(op) if len(op.inputs) == 1 or shape_of(v) != (0,)]
    return op.call(torch.cat, parts, op.attr("axis", 1))


def _split(op: Op) -> Any:
    axis, count = op.attr("axis", 0), len(op.node.output)
    size = shape_of(op[0])[axis]
    sizes = op.ints(1, "split")
    if sizes is None:
        whole = math.ceil(size / count)
        sizes = [min(whole, size - i * whole) for i in range(count)]
    return op.call(torch.split, op[0], sizes, axis)


def _slice(op: Op) -> Any:
    starts, ends = op.ints(1, "starts") or [], op.ints(2, "ends") or []
    axes = op.ints(3, "axes") or list(range(len(starts)))
    steps = op.ints(4) or [1] * len(starts)
    shape = shape_of(op[0])
    cuts = [slice(None)] * len(shape)
    x = op[0]
    for start, end, axis, step in zip(starts, ends, (a % len(shape) for a in axes), steps, strict=True):
        kept = range(shape[axis])[start:end:step]
        if step < 0:  # torch slices forward only
            x = op.call(torch.flip, x, (axis,))
            kept = range(shape[axis])[shape[axis] - 1 - kept.start :: -step][: len(kept)]
        if len(kept) < shape[axis] or step > 1:
            cuts[axis] = slice(kept.start, kept.stop, kept.step) if kept else slice(0, 0)
    while cuts and cuts[-1] == slice(None):
        cuts.pop()
    return op.call(operator.getitem, x, tuple(cuts)) if cuts else x


def _gather(op: Op) -> Any:
    x, index, axis = op[0], op[1], op.attr("axis", 0) % len(shape_of(op[0]))
    if isinstance(index, torch.Tensor):
        index = torch.where(index < 0, index + shape_of(x)[axis], index).long()
        if index.dim() == 0:
            return op.call(torch.select, x, axis, int(index))
    if axis == 0 and len(shape_of(x)) == 2 and isinstance(index, fx.Node):
        return op.call(F.embedding, index, x)  # which, like index_select, raises on negative indices
    shape = shape_of(x)
    if len(shape_of(index)) == 1:
        return op.call(torch.index_select, x, axis, index)
    taken = op.call(torch.index_select, x, axis, op.call(torch.reshape, index, (-1,)))
    return op.call(torch.reshape, taken, (*shape[:axis], *shape_of(index), *shape[axis + 1 :]))


def _gather_elements(op: Op) -> Any:
    return op.call(torch.gather, op[0], op.attr("axis", 0), op[1])


def _gather_nd(op: Op) -> Any:
    if op.attr("batch_dims", 0):
        raise op.refuse("batch dimensions")
    index = op[1]
    return op.call(operator.getitem, op[0], op.call(torch.unbind, index, -1))


def _expand(op: Op) -> Any:
    shape = torch.broadcast_shapes(shape_of(op[0]), op.ints(1) or [])  # type: ignore[no-untyped-call]
    return op[0] if tuple(shape) == shape_of(op[0]) else op.call("expand", op[0], tuple(shape))


def _tile(op: Op) -> Any:
    return op.call(torch.tile, op[0], tuple(op.ints(1) or ()))


def _pad(op: Op) -> Any:
    rank, flat = len(shape_of(op[0])), op.ints(1, "pads") or []
    axes = [a % rank for a in op.ints(3) or range(rank)]
    pads = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        pads[axis] = (flat[i], flat[i + len(axes)])
    mode = op.attr("mode", "constant")
    if mode == "constant":
        value = op.constant(2, "value")
        return _padded(op, op[0], pads, 0.0 if value is None else value.item())
    if mode not in ("reflect", "edge") or any(any(pair) for pair in pads[: rank - min(3, rank - 2)]):
        raise op.refuse(f"mode {mode} with padding {pads}")
    inner = next(i for i in range(rank) if any(pads[i]) or i == rank - 1)
    inner = min(inner, 2) if rank > 2 else inner  # torch pads all spatial dimensions or says no
    flat = [p for pair in reversed(pads[inner:]) for p in pair]
    return op.call(F.pad, op[0], flat, "reflect" if mode == "reflect" else "replicate")


def _depth_to_space(op: Op) -> Any:
    n, c, h, w = shape_of(op[0])
    b = op.attr("blocksize")
    if op.attr("mode", "DCR") == "CRD":
        return op.call(F.pixel_shuffle, op[0], b)
    y = op.call(torch.reshape, op[0], (n, b, b, c // b**2, h, w))
    y = op.call(torch.permute, y, (0, 3, 4, 1, 5, 2))
    return op.call(torch.reshape, y, (n, c // b**2, h * b, w * b))


def _space_to_depth(op: Op) -> Any:
    n, c, h, w = shape_of(op[0])
    b = op.attr("blocksize")
    y = op.call(torch.reshape, op[0], (n, c, h // b, b, w // b, b))
    y = op.call(torch.permute, y, (0, 3, 5, 1, 2, 4))
    return op.call(torch.reshape, y, (n, c * b**2, h // b, w // b))


def _resize(op: Op) -> Any:
    """By ``F.interpolate`` where it computes the same; other nearest-neighbour rules by row and column numbers."""
    shape = shape_of(op[0])
    old = op.opset < 11 or op.node.op_type == "Upsample"
    factors = op.constant(1 if old else 2, "scales")
    sizes = None if old else op.ints(3)
    if op.attr("axes") is not None or op.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise op.refuse("axes or a policy on the aspect ratio")
    if sizes is not None:
        scales = [new / size for new, size in zip(sizes, shape, strict=True)]
    else:
        scales = [] if factors is None else [float(f) for f in factors.tolist()]
        sizes = [math.floor(size * s) for size, s in zip(shape, scales, strict=True)]
    mode = op.attr("mode", "nearest")
    place = op.attr("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    if mode == "nearest":
        return _nearest(
            op, sizes, scales, place, "floor" if old else op.attr("nearest_mode", "round_prefer_floor")
        )
    rank = len(shape) - 2
    name = {
        ("linear", 1): "linear",
        ("linear", 2): "bilinear",
        ("linear", 3): "trilinear",
        ("cubic", 2): "bicubic",
    }
    exact = all(math.isclose(size * s, new) for size, s, new in zip(shape, scales, sizes, strict=True))
    if (
        (mode, rank) not in name
        or tuple(sizes[:2]) != shape[:2]
        or place not in ("half_pixel", "pytorch_half_pixel", "align_corners")
        or (mode == "cubic" and op.attr("cubic_coeff_a", -0.75) != -0.75)
        or op.attr("exclude_outside", 0)
        or op.attr("antialias", 0)
        or not exact
    ):
        raise op.refuse(f"mode {mode}, {place} from {list(shape)} to {sizes}")
    return op.call(
        F.interpolate, op[0], size=sizes[2:], mode=name[mode, rank], align_corners=place == "align_corners"
    )


def _nearest(op: Op, sizes: list[int], scales: list[float], place: str, rounding: str) -> Any:
    shape = shape_of(op[0])
    whole = all(math.isclose(size * s, new) for size, s, new in zip(shape, scales, sizes, strict=True))
    spatial = tuple(sizes[:2]) == shape[:2] and 3 <= len(shape) <= 5 and whole
    numbers = [
        _nearest_sources(size, new, s, place, rounding)
        for size, new, s in zip(shape, sizes, scales, strict=True)
    ]
    for mode, exact_place, exact_rounding in (
        ("nearest", "asymmetric", "floor"),
        ("nearest-exact", "half_pixel", "round_prefer_ceil"),
    ):
        same = [
            _nearest_sources(size, new, s, exact_place, exact_rounding)
            for size, new, s in zip(shape, sizes, scales, strict=True)
        ]
        if spatial and same == numbers:
            return op.call(F.interpolate, op[0], size=sizes[2:], mode=mode)
    x = op[0]
    for axis, (size, sources) in enumerate(zip(shape, numbers, strict=True)):
        if sources != list(range(size)):
            x = op.call(torch.index_select, x, axis, torch.tensor(sources))
    return x


def _nearest_sources(size: int, new: int, scale: float, place: str, rounding: str) -> list[int]:
    """Which of ``size`` rows each of ``new`` rows copies."""
    rounders: dict[str, Callable[[float], int]] = {
        "floor": math.floor,
        "ceil": math.ceil,
        "round_prefer_floor": lambda x: math.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: math.floor(x + 0.5),
    }
    positions: dict[str, Callable[[int], float]] = {
        "asymmetric": lambda i: i / scale,
        "half_pixel": lambda i: (i + 0.5) / scale - 0.5,
        "pytorch_half_pixel": lambda i: (i + 0.5) / scale - 0.5 if new > 1 else 0.0,
        "align_corners": lambda i: i * (size - 1) / (new - 1) if new > 1 else 0.0,
    }
    if place not in positions or rounding not in rounders:
        return []
    at = (round(positions[place](i), 9) for i in range(new))  # 2.9999999996 means 3
    return [min(size - 1, max(0, rounders[rounding](x))) for x in at]


def _trilu(op: Op) -> Any:
    diagonal = op.ints(1) or [0]
    return op.call(torch.triu if op.attr("upper", 1) else torch.tril, op[0], diagonal[0])


def _cumsum(op: Op) -> Any:
    axis = op.ints(1)
    if axis is None or op.attr("exclusive", 0) or op.attr("reverse", 0):
        raise op.refuse("an exclusive or reversed sum")
    return op.call(torch.cumsum, op[0], axis[0])


def _top_k(op: Op) -> Any:
    k = op.ints(1, "k") or [1]
    return op.call(
        torch.topk,
        op[0],
        k[0],
        op.attr("axis", -1),
        bool(op.attr("largest", 1)),
        bool(op.attr("sorted", 1)),
    )


def _arg(function: Callable[..., Any]) -> Rule:
    def rule(op: Op) -> Any:
        if op.attr("select_last_index", 0):
            raise op.refuse("select_last_index")
        return op.call(function, op[0], op.attr("axis", 0), bool(op.attr("keepdims", 1)))

    return rule


def _reduction(function: Callable[..., Any]) -> Rule:
    """A reduction over ``axes``; all of them when none are given."""

    def rule(op: Op) -> Any:
        axes = op.ints(1, "axes")
        if not axes:
            if op.attr("noop_with_empty_axes", 0):
                return op[0]
            axes = list(range(len(shape_of(op[0]))))
        return function(op, op[0], axes, bool(op.attr("keepdims", 1)))

    return rule


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda op, x, axes, keep: op.call(function, x, axes, keep)


def _product(op: Op, x: Value, axes: list[int], keep: bool) -> Any:
    rank = len(shape_of(x))
    for axis in sorted((a % rank for a in axes), reverse=True):  # torch multiplies along one at a time
        x = op.call(torch.prod, x, axis, keep)
    return x


def _norm(order: int) -> Callable[..., Any]:
    return lambda op, x, axes, keep: op.call(torch.linalg.vector_norm, x, order, axes, keep)


def _sum_square(op: Op, x: Value, axes: list[int], keep: bool) -> Any:
    return op.call(torch.sum, op.call(torch.square, x), axes, keep)


# --- recurrent layers ----------------------------------------------------------------------------------------

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Which of ONNX's gates (iofc, zrh, i) stands where in torch's order (ifgo, rzn, i)."""


def _recurrent(op: Op) -> Any:
    """ONNX ``(length, directions, batch, hidden)`` results from torch's module of the same name."""
    kind = op.node.op_type
    weights = [op.constant(i) for i in (1, 2, 3)]
    hidden, direction = op.attr("hidden_size"), op.attr("direction", "forward")
    usual = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}[kind]
    directions = 2 if direction == "bidirectional" else 1
    activations = [a.decode() if isinstance(a, bytes) else a for a in op.attr("activations", [])]
    rectified = kind == "RNN" and activations == ["Relu"] * directions
    length = op.constant(4)
    if activations and not rectified and activations != usual * directions:
        raise op.refuse(f"activations {', '.join(activations)}")
    if kind == "GRU" and not op.attr("linear_before_reset", 0):
        raise op.refuse("linear_before_reset = 0, which torch's GRU does not have")
    if op.attr("clip") or op.attr("layout", 0) or op.attr("input_forget", 0) or op.given(7) is not None:
        raise op.refuse("a clip, a layout, an input_forget or peepholes")
    steps = shape_of(op[0])[0]
    if length is not None and any(n != steps for n in length.tolist()):
        raise op.refuse("sequences of different lengths")
    kwargs = {"nonlinearity": "relu"} if rectified else {}
    w, r, b = weights
    assert w is not None and r is not None
    module: torch.nn.RNNBase = getattr(torch.nn, kind)(
        w.shape[2], hidden, bias=b is not None, bidirectional=directions == 2, **kwargs
    )
    with torch.no_grad():
        for d in range(directions):
            suffix = "l0_reverse" if d else "l0"
            parts = [("weight_ih", w[d]), ("weight_hh", r[d])]
            if b is not None:
                parts += [("bias_ih", b[d].chunk(2)[0]), ("bias_hh", b[d].chunk(2)[1])]
            for name, data in parts:
                gates = data.reshape(len(_GATES[kind]), hidden, -1)[list(_GATES[kind])]
                parameter = getattr(module, f"{name}_{suffix}")
                parameter.copy_(gates.reshape(parameter.shape))
    x = op.call(torch.flip, op[0], (0,)) if direction == "reverse" else op[0]
    states = [s for s in (op.given(5), op.given(6) if kind == "LSTM" else None) if s is not None]
    given = () if not states else ((tuple(states),) if kind == "LSTM" else (states[0],))
    y, last = op.emit.module(op.node.name or kind.lower(), module, x, *given)
    y = op.call(torch.flip, y, (0,)) if direction == "reverse" else y
    if directions == 1:
        y = op.call(torch.unsqueeze, y, 1)
    else:
        y = op.call(torch.reshape, y, (steps, shape_of(x)[1], 2, hidden))
        y = op.call(torch.transpose, y, 1, 2)
    return (y, *last) if kind == "LSTM" else (y, last)


# --- quantization --------------------------------------------------------------------------------------------


def _quantize(op: Op) -> Any:
    """Rounding to even and saturation, as both define it (the integers are real ones: slow, but exact)."""
    scale, zero = _per_channel(op)
    dtype = zero.dtype if zero is not None else torch.uint8
    if dtype.is_floating_point:
        raise op.refuse(f"a quantized type {dtype}")
    y = op.call(torch.round, op.call(operator.truediv, op[0], scale))
    y = y if zero is None else op.call(operator.add, y, zero)
    bounds = torch.iinfo(dtype)
    return op.call("to", op.call(torch.clamp, y, bounds.min, bounds.max), dtype)


def _dequantize(op: Op) -> Any:
    scale, zero = _per_channel(op)
    y = op.call("to", op[0], op.emit.cast(scale.dtype) if isinstance(op[0], fx.Node) else scale.dtype)
    y = y if zero is None or not zero.any() else op.call(operator.sub, y, zero.to(scale.dtype))
    return op.call(operator.mul, y, scale)


def _per_channel(op: Op) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scale and zero point, shaped to broadcast along the axis."""
    scale, zero = op.constant(1), op.constant(2)
    assert scale is not None
    if op.attr("block_size", 0):
        raise op.refuse("blocks")
    if scale.numel() > 1:
        shape = [1] * len(shape_of(op[0]))
        shape[op.attr("axis", 1)] = -1
        scale = scale.reshape(shape)
        zero = None if zero is None else zero.reshape(shape)
    return scale, zero


_UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "HardSwish": F.hardswish, "IsNaN": torch.isnan, "Log": torch.log, "Mish": F.mish,
    "Neg": operator.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": F.relu,
    "Round": torch.round, "Selu": F.selu, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
    "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tanh": torch.tanh,
}  # fmt: skip

_BINARY: dict[str, Callable[..., Any]] = {
    "And": torch.logical_and, "Equal": operator.eq, "Greater": operator.gt, "GreaterOrEqual": operator.ge,
    "Less": operator.lt, "LessOrEqual": operator.le, "Mul": operator.mul, "Or": torch.logical_or,
    "Pow": operator.pow, "Sub": operator.sub, "Xor": torch.logical_xor,
}  # fmt: skip

RULES: dict[str, Rule] = {
    **{name: _unary(function) for name, function in _UNARY.items()},
    **{name: _binary(function) for name, function in _BINARY.items()},
    "Add": _add,
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Celu": _with(F.celu, ("alpha", 1.0)),
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "CumSum": _cumsum,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize,
    "Div": _div,
    "Dropout": lambda op: op[0],
    "Einsum": _einsum,
    "Elu": _with(F.elu, ("alpha", 1.0)),
    "Expand": _expand,
    "Flatten": _flatten,
    "GRU": _recurrent,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gelu": lambda op: op.call(F.gelu, op[0], approximate=op.attr("approximate", "none")),
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool(_GLOBAL_AVERAGE),
    "GlobalMaxPool": _global_pool(_GLOBAL_MAX),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "Identity": lambda op: op[0],
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
    "LSTM": _recurrent,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _with(F.leaky_relu, ("alpha", 0.01)),
    "LogSoftmax": _softmax(F.log_softmax),
    "LpNormalization": _lp_norm,
    "MatMul": _matmul,
    "Max": _extreme(torch.maximum, "min"),
    "MaxPool": _max_pool,
    "Mean": _mean,
    "Min": _extreme(torch.minimum, "max"),
    "Mod": _mod,
    "PRelu": _prelu,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "RMSNormalization": _rms_norm,
    "RNN": _recurrent,
    "Range": _range,
    "ReduceL1": _reduction(_norm(1)),
    "ReduceL2": _reduction(_norm(2)),
    "ReduceLogSumExp": _reduction(_plain(torch.logsumexp)),
    "ReduceMax": _reduction(_plain(torch.amax)),
    "ReduceMean": _reduction(_plain(torch.mean)),
    "ReduceMin": _reduction(_plain(torch.amin)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_plain(torch.sum)),
    "ReduceSumSquare": _reduction(_sum_square),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Softmax": _softmax(F.softmax),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sum": _sum,
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
    "Where": _where,
}
"""Operator type to rule."""
