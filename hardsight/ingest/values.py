"""Arithmetic on the small constants that decide shapes: Shape -> Gather -> Concat -> Reshape and the like.

One literal table from operator to NumPy. Nothing here makes an array of more than :data:`LIMIT` elements,
however large a shape a file declares; such a value simply stays unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

LIMIT: Final = 4096

Array = np.ndarray[Any, Any]
Attributes = Mapping[str, Any]
Rule = Callable[[Attributes, Sequence[Array | None]], Sequence[Array]]


class Unknown(Exception):
    """The value cannot be had, or is not worth having."""


def fold(node: NodeProto, inputs: Sequence[Array | None]) -> list[Array]:
    """The outputs of ``node`` on known inputs (None where an optional one is absent).

    Raises:
        Unknown: no rule, too large, or not computable.
    """
    rule = RULES.get(node.op_type)
    if rule is None:
        raise Unknown
    try:
        with np.errstate(all="ignore"):
            outputs = [np.asarray(out) for out in rule(attributes(node), inputs)]
    except Unknown:
        raise
    except Exception as error:  # whatever NumPy refuses is left to shape inference to explain
        raise Unknown from error
    if any(out.size > LIMIT for out in outputs):
        raise Unknown
    return outputs


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes as Python values; tensors stay protos, graphs are left out."""
    kinds = AttributeProto
    values: dict[str, Any] = {}
    for a in node.attribute:
        if a.type == kinds.INT:
            values[a.name] = a.i
        elif a.type == kinds.INTS:
            values[a.name] = list(a.ints)
        elif a.type == kinds.FLOAT:
            values[a.name] = a.f
        elif a.type == kinds.FLOATS:
            values[a.name] = list(a.floats)
        elif a.type == kinds.STRING:
            values[a.name] = a.s.decode("utf-8", "replace")
        elif a.type == kinds.STRINGS:
            values[a.name] = [s.decode("utf-8", "replace") for s in a.strings]
        elif a.type == kinds.TENSOR:
            values[a.name] = a.t
    return values


def small_value(tensor: TensorProto) -> Array | None:
    """The content of a small tensor that is really there, else None."""
    count = 1
    for dim in tensor.dims:
        if dim < 0:
            return None
        count *= dim
    if (
        count > LIMIT
        or tensor.data_location == TensorProto.EXTERNAL
        or tensor.data_type == TensorProto.STRING
    ):
        return None
    if count and not _has_data(tensor):
        return None
    try:
        value = numpy_helper.to_array(tensor)
    except Exception:  # damaged data is no constant; whoever needs the value will say that it is missing
        return None
    return value if value.dtype.kind in "biuf" else None


def _has_data(tensor: TensorProto) -> bool:
    return bool(
        tensor.HasField("raw_data")
        or tensor.float_data
        or tensor.int32_data
        or tensor.int64_data
        or tensor.double_data
        or tensor.uint64_data
    )


def _need(value: Array | None) -> Array:
    if value is None:
        raise Unknown
    return value


def _optional(inputs: Sequence[Array | None], index: int) -> Array | None:
    return inputs[index] if index < len(inputs) else None


def _axes(attrs: Attributes, inputs: Sequence[Array | None], index: int = 1) -> list[int] | None:
    if "axes" in attrs:
        return list(attrs["axes"])
    given = _optional(inputs, index)
    return None if given is None else [int(axis) for axis in given.reshape(-1)]


def _fitting(*arrays: Array) -> Sequence[Array]:
    """The arrays, if what they broadcast to is small."""
    if prod(a.size for a in arrays) > LIMIT:
        _checked(np.broadcast_shapes(*(a.shape for a in arrays)))
    return arrays


def _binary(function: Callable[[Array, Array], Array]) -> Rule:
    return lambda attrs, x: [function(*_fitting(_need(x[0]), _need(x[1])))]


def _unary(function: Callable[[Array], Array]) -> Rule:
    return lambda attrs, x: [np.asarray(function(_need(x[0]))).astype(_need(x[0]).dtype)]


def _folded(function: Callable[[Array, Array], Array]) -> Rule:
    def rule(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
        out = _need(x[0])
        for other in x[1:]:
            out = function(*_fitting(out, _need(other)))
        return [out]

    return rule


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu":
        if not np.all(b):
            raise Unknown
        quotient = np.abs(a) // np.abs(b) * np.sign(a) * np.sign(b)  # ONNX rounds towards zero
        return quotient.astype(a.dtype)
    return a / b


def _mod(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    a, b = _fitting(_need(x[0]), _need(x[1]))
    if a.dtype.kind in "iu" and not np.all(b):
        raise Unknown
    return [np.fmod(a, b) if attrs.get("fmod") else np.mod(a, b)]


def _pow(a: Array, b: Array) -> Array:
    return np.power(a.astype(np.float64), b.astype(np.float64)).astype(a.dtype)


def _reduce(function: Callable[..., Any]) -> Rule:
    def rule(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
        data, axes = _need(x[0]), _axes(attrs, x)
        if not axes and attrs.get("noop_with_empty_axes"):
            return [data]
        keep = bool(attrs.get("keepdims", 1))
        return [
            np.asarray(function(data, axis=tuple(axes) if axes else None, keepdims=keep)).astype(data.dtype)
        ]

    return rule


def _cast(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    target = helper.tensor_dtype_to_np_dtype(attrs["to"])
    if np.dtype(target).kind not in "biuf":
        raise Unknown
    return [_need(x[0]).astype(target)]


def _concat(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    parts = [_need(part) for part in x]
    if sum(part.size for part in parts) > LIMIT:
        raise Unknown
    return [np.concatenate(parts, axis=attrs.get("axis", 1))]


def _constant_of_shape(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    shape = _checked(_need(x[0]).tolist())
    fill = numpy_helper.to_array(attrs["value"]).reshape(-1)[0] if "value" in attrs else np.float32(0)
    return [np.full(shape, fill)]


def _checked(shape: Sequence[int]) -> list[int]:
    count = 1
    for dim in shape:
        if dim < 0:
            raise Unknown
        count *= dim
    if count > LIMIT:
        raise Unknown
    return list(shape)


def _expand(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    data, shape = _need(x[0]), _need(x[1])
    target = np.broadcast_shapes(data.shape, tuple(_checked(shape.tolist())))
    _checked(target)
    return [np.broadcast_to(data, target)]


def _gather(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    data, indices, axis = _need(x[0]), _need(x[1]).astype(np.int64), attrs.get("axis", 0)
    if data.size // max(data.shape[axis], 1) * indices.size > LIMIT:
        raise Unknown
    return [np.take(data, indices, axis=axis)]


def _range(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    start, limit, delta = (_need(part).reshape(-1)[0] for part in x)
    if not delta or not (float(limit) - float(start)) / float(delta) <= LIMIT:
        raise Unknown
    return [np.arange(start, limit, delta, dtype=_need(x[0]).dtype)]


def _reshape(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    data, wanted = _need(x[0]), [int(d) for d in _need(x[1])] if len(x) > 1 else list(attrs["shape"])
    if not attrs.get("allowzero"):
        wanted = [data.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    return [data.reshape(wanted)]


def _slice(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    data = _need(x[0])
    if len(x) > 1:
        starts, ends = _need(x[1]).tolist(), _need(x[2]).tolist()
        axes, steps = _optional(x, 3), _optional(x, 4)
        along = axes.tolist() if axes is not None else list(range(len(starts)))
        stride = steps.tolist() if steps is not None else [1] * len(starts)
    else:
        starts, ends = attrs["starts"], attrs["ends"]
        along, stride = attrs.get("axes") or list(range(len(starts))), [1] * len(starts)
    where: list[slice] = [slice(None)] * data.ndim
    for axis, start, end, step in zip(along, starts, ends, stride, strict=True):
        # A negative end below -length means "past the first element" when going backwards.
        stop = None if step < 0 and end < -data.shape[axis] else end
        where[axis] = slice(start, stop, step)
    return [data[tuple(where)]]


def _split(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    data, axis = _need(x[0]), attrs.get("axis", 0)
    given = _optional(x, 1)
    sizes = given.tolist() if given is not None else attrs.get("split")
    if sizes is None:
        raise Unknown
    return np.split(data, np.cumsum(sizes)[:-1], axis=axis)


def _squeeze(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    axes = _axes(attrs, x)
    return [np.squeeze(_need(x[0]), axis=None if axes is None else tuple(axes))]


def _unsqueeze(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    axes = _axes(attrs, x)
    if axes is None:
        raise Unknown
    return [np.expand_dims(_need(x[0]), tuple(axes))]


def _tile(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    data, repeats = _need(x[0]), [int(r) for r in _need(x[1])]
    _checked([d * r for d, r in zip(data.shape, repeats, strict=True)])
    return [np.tile(data, repeats)]


def _scatter_nd(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    if attrs.get("reduction", "none") != "none":
        raise Unknown
    out, indices, updates = _need(x[0]).copy(), _need(x[1]), _need(x[2])
    for position in np.ndindex(*indices.shape[:-1]):
        out[tuple(indices[position])] = updates[position]
    return [out]


def _arg(function: Callable[..., Any]) -> Rule:
    def rule(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
        if attrs.get("select_last_index"):
            raise Unknown
        axis, keep = attrs.get("axis", 0), bool(attrs.get("keepdims", 1))
        return [np.asarray(function(_need(x[0]), axis=axis, keepdims=keep), dtype=np.int64)]

    return rule


def _constant(attrs: Attributes, x: Sequence[Array | None]) -> list[Array]:
    if "value" in attrs:
        value = small_value(attrs["value"])
        if value is None:
            raise Unknown
        return [value]
    for key, dtype in (("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32)):
        if key in attrs:
            return [np.asarray(attrs[key], dtype=dtype)]
    if "value_floats" in attrs:
        return [np.asarray(attrs["value_floats"], dtype=np.float32)]
    raise Unknown


RULES: Final[dict[str, Rule]] = {
    "Abs": _unary(np.abs),
    "Add": _binary(np.add),
    "And": _binary(np.logical_and),
    "ArgMax": _arg(np.argmax),
    "ArgMin": _arg(np.argmin),
    "Cast": _cast,
    "Ceil": _unary(np.ceil),
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Div": _binary(_divide),
    "Equal": _binary(np.equal),
    "Expand": _expand,
    "Floor": _unary(np.floor),
    "Gather": _gather,
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "Identity": lambda attrs, x: [_need(x[0])],
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "Max": _folded(np.maximum),
    "Min": _folded(np.minimum),
    "Mod": _mod,
    "Mul": _binary(np.multiply),
    "Neg": _unary(np.negative),
    "NonZero": lambda attrs, x: [np.array(np.nonzero(_need(x[0])), dtype=np.int64)],
    "Not": _unary(np.logical_not),
    "Or": _binary(np.logical_or),
    "Pow": _binary(_pow),
    "Range": _range,
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "Round": _unary(np.rint),
    "ScatterND": _scatter_nd,
    "Sign": _unary(np.sign),
    "Size": lambda attrs, x: [np.asarray(_need(x[0]).size, dtype=np.int64)],
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _unary(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(np.subtract),
    "Tile": _tile,
    "Transpose": lambda attrs, x: [np.transpose(_need(x[0]), attrs.get("perm"))],
    "Unsqueeze": _unsqueeze,
    "Where": lambda attrs, x: [np.where(*_fitting(_need(x[0]), _need(x[1]), _need(x[2])))],
    "Xor": _binary(np.logical_xor),
}
