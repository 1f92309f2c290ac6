"""What follows from the shapes of a node's inputs, for the types that make up most networks.

It serves twice. Editors that change a batch size often leave the old shapes of inner tensors behind: a single
contradiction makes the reader infer all shapes anew instead of believing the file. And a shape that the file
does not state, but that follows here, need not be asked of the worker.

Whatever a rule does not expect, it leaves open; the worker then says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from hardsight.ingest.rules import conv_spatial, matmul_shape, operand
from hardsight.ingest.types import Shape, TensorType, elements

BROADCASTING: Final = 7
"""The operator set that brought NumPy's broadcasting."""

Attributes = Mapping[str, Any]
Derivation = Callable[[Attributes, Sequence[Shape]], Shape]
Check = Callable[[Attributes, Sequence[Shape], Shape], bool]


def _same(attrs: Attributes, x: Sequence[Shape]) -> Shape:
    return x[0]


def _broadcast(attrs: Attributes, x: Sequence[Shape]) -> Shape:
    return x[0] if len(x) == 2 and x[0] == x[1] else tuple(np.broadcast_shapes(*x))


def _conv(weight: int) -> Derivation:
    def rule(attrs: Attributes, x: Sequence[Shape]) -> Shape:
        data, w = x[0], x[weight]
        kernel = attrs.get("kernel_shape")
        if (
            len(data) != len(w)
            or data[1] != w[1] * attrs.get("group", 1)
            or kernel not in (None, list(w[2:]))
        ):
            raise ValueError("the weight does not fit")
        return (data[0], w[0], *conv_spatial(attrs, data[2:], w[2:]))

    return rule


def _global_pool(attrs: Attributes, x: Sequence[Shape]) -> Shape:
    return (*x[0][:2], *(1 for _ in x[0][2:]))


def _gemm(attrs: Attributes, x: Sequence[Shape]) -> Shape:
    if len(x[0]) != 2 or len(x[1]) != 2:
        raise ValueError("not two matrices")
    return matmul_shape(operand(x[0], attrs, "A"), operand(x[1], attrs, "B"))


def _matmul(attrs: Attributes, x: Sequence[Shape]) -> Shape:
    return matmul_shape(x[0], x[1])


def _einsum(attrs: Attributes, x: Sequence[Shape]) -> Shape:
    left, _, right = attrs["equation"].replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, shape in zip(left.split(","), x, strict=True):
        for letter, size in zip(term, shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError("a letter of two sizes")
    if "." in left or not right or len(set(right)) < len(right):
        raise ValueError("not spelt out in full")
    return tuple(sizes[letter] for letter in right)


def _flatten(attrs: Attributes, x: Sequence[Shape]) -> Shape:
    axis = attrs.get("axis", 1)
    return (elements(x[0][:axis]), elements(x[0][axis:]))


def _concat(attrs: Attributes, x: Sequence[Shape]) -> Shape:
    axis = attrs["axis"] % len(x[0])
    rests = {(*part[:axis], *part[axis + 1 :]) for part in x}
    if len(rests) > 1:
        raise ValueError("the parts do not fit together")
    return (*x[0][:axis], sum(part[axis] for part in x), *x[0][axis + 1 :])


def _transpose(attrs: Attributes, x: Sequence[Shape]) -> Shape:
    perm = attrs.get("perm") or range(len(x[0]))[::-1]
    if sorted(perm) != list(range(len(x[0]))):
        raise ValueError("not a permutation")
    return tuple(x[0][axis] for axis in perm)


def _pool(attrs: Attributes, x: Sequence[Shape]) -> Shape:
    if attrs.get("ceil_mode"):
        raise ValueError("rounded in more than one way")
    return (*x[0][:2], *conv_spatial(attrs, x[0][2:], tuple(attrs["kernel_shape"])))


def _pooled(attrs: Attributes, x: Sequence[Shape], out: Shape) -> bool:
    spatial = conv_spatial(attrs, x[0][2:], tuple(attrs["kernel_shape"]))
    slack = 1 if attrs.get("ceil_mode") else 0
    near = all(0 <= o - s <= slack for o, s in zip(out[2:], spatial, strict=True))
    return out[:2] == x[0][:2] and near


def _same_elements(attrs: Attributes, x: Sequence[Shape], out: Shape) -> bool:
    return elements(x[0]) == elements(out)


_SAME: Final = (
    "BatchNormalization", "Cast", "Clip", "DequantizeLinear", "Dropout", "Elu", "Erf", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "QuantizeLinear",
    "Relu", "Sigmoid", "Softmax", "Sqrt", "Tanh",
)  # fmt: skip

FOLLOWING: Final[dict[str, Derivation]] = {
    **dict.fromkeys(
        ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Where", "And", "Equal", "PRelu"), _broadcast
    ),
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pool),
    "Concat": _concat,
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "Einsum": _einsum,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearConv": _conv(3),
    "Transpose": _transpose,
}
"""Types whose output shape follows from those of the inputs."""

CHECKED: Final[dict[str, Check]] = {
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze"), _same_elements),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pooled),
}
"""Types whose output shape can be held against those of the inputs."""

RULES: Final = FOLLOWING.keys() | CHECKED.keys()
_OTHER_TYPES: Final = frozenset({"And", "ConvInteger", "Equal", "MatMulInteger", "QLinearConv", "Where"})
_ODD: Final = (IndexError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError)


def consistent(op_type: str, attrs: Attributes, inputs: Sequence[TensorType], output: TensorType) -> bool:
    """Whether the stated output shape can come from the inputs that there are; True for types without a rule."""
    shapes = [x.shape for x in inputs]
    try:
        if (check := CHECKED.get(op_type)) is not None:
            return check(attrs, shapes, output.shape)
        derivation = FOLLOWING.get(op_type)
        return derivation is None or derivation(attrs, shapes) == output.shape
    except _ODD:
        return False


def follows(
    op_type: str, attrs: Attributes, inputs: Sequence[TensorType | None], outputs: int
) -> TensorType | None:
    """Type of the output of a node that has one; None where it does not follow from these inputs.

    The rules are those of operator sets from :data:`BROADCASTING` on. An input that is absent or unknown is None.
    """
    derivation = FOLLOWING.get(op_type)
    if derivation is None or op_type in _OTHER_TYPES or outputs != 1:
        return None
    if op_type == "Clip":
        inputs = inputs[:1]
    known = [x for x in inputs if x is not None and x.kind == "tensor"]
    if len(known) < len(inputs):
        return None
    try:
        shape = derivation(attrs, [x.shape for x in known])
        code = _elem_type(op_type, attrs, known)
    except _ODD:
        return None
    fits = op_type != "PRelu" or shape == known[0].shape
    return TensorType(code, shape) if fits and all(dim > 0 for dim in shape) else None


def _elem_type(op_type: str, attrs: Attributes, inputs: Sequence[TensorType]) -> int:
    if op_type == "Cast":
        return int(attrs["to"])
    if op_type in ("QuantizeLinear", "DequantizeLinear"):
        if "output_dtype" in attrs:
            raise ValueError("stated by an attribute that only newer operator sets have")
        return inputs[2 if op_type == "QuantizeLinear" else 1].elem_type
    if op_type not in _SAME and len({x.elem_type for x in inputs}) > 1:
        raise ValueError("of several types")
    return inputs[0].elem_type
