"""Reading element types and shapes out of ONNX type protos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

from onnx import TypeProto

from hardsight.ingest.words import listed, quoted

Shape = tuple[int, ...]

MAX_ELEMENTS: Final = 2**48
"""A tensor of more elements is taken for a damaged file: no memory holds it."""

MAX_RANK: Final = 64
"""NumPy's own limit; without one, multiplying out a hundred thousand dimensions takes hours."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type code and shape of a tensor, or of what a sequence or an optional holds."""

    elem_type: int
    shape: Shape
    kind: str = "tensor"


def holder(proto: TypeProto) -> tuple[str, TypeProto.Tensor | TypeProto.SparseTensor | None]:
    """What wraps the tensor type inside a type ("tensor": nothing), and the tensor type if any."""
    kind = "tensor"
    for _ in range(100):
        which = proto.WhichOneof("value")
        if which == "tensor_type":
            return kind, proto.tensor_type
        if which == "sparse_tensor_type":
            return "sparse tensor" if kind == "tensor" else kind, proto.sparse_tensor_type
        if which == "sequence_type":
            kind, proto = "sequence", proto.sequence_type.elem_type
        elif which == "optional_type":
            kind, proto = ("optional" if kind == "tensor" else kind), proto.optional_type.elem_type
        elif which == "map_type":
            kind, proto = "map", proto.map_type.value_type
        else:
            break
    return kind, None


def resolve(proto: TypeProto, symbols: Mapping[str, int]) -> TensorType | None:
    """The type when every dimension is a number or a bound symbol, else None."""
    kind, tensor = holder(proto)
    if tensor is None or not tensor.HasField("shape") or len(tensor.shape.dim) > MAX_RANK:
        return None
    dims = [dim.dim_value for dim in tensor.shape.dim]
    for index, dim in enumerate(tensor.shape.dim if 0 in dims else ()):  # what is not stated reads as 0, too
        if not dim.HasField("dim_value"):
            if dim.dim_param not in symbols:
                return None
            dims[index] = symbols[dim.dim_param]
    if dims and min(dims) < 0:
        return None
    return TensorType(tensor.elem_type, tuple(dims), kind)


def loose(proto: TypeProto) -> TensorType | None:
    """Like :func:`resolve`, but a sequence or optional of tensors of open shape passes as one scalar."""
    found = resolve(proto, {})
    if found is not None:
        return found
    kind, tensor = holder(proto)
    if kind == "tensor":
        return None
    return TensorType(tensor.elem_type if tensor is not None else 1, (), kind)


def elements(shape: Shape) -> int:
    """How many elements ``shape`` has; 1 for a scalar."""
    return prod(shape)


def text(proto: TypeProto) -> str:
    """The shape as people write it: ``(1, 'sequence', ?)``."""
    _, tensor = holder(proto)
    if tensor is None or not tensor.HasField("shape"):
        return "of unknown rank"
    dims = [
        str(d.dim_value) if d.HasField("dim_value") else (quoted(d.dim_param) if d.dim_param else "?")
        for d in tensor.shape.dim
    ]
    return f"({listed(dims)})"
