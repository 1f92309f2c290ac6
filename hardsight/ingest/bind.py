"""Give every dimension of the graph's inputs a number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from onnx import TensorShapeProto, TypeProto, ValueInfoProto

from hardsight.errors import InputError, ModelError
from hardsight.ingest.flatten import FlatGraph, require_text
from hardsight.ingest.types import MAX_ELEMENTS, MAX_RANK, elements, holder, text
from hardsight.ingest.words import listed, quoted, short

_BATCH: Final = re.compile(r"batch|^(n|b|bs|none|unk__\d+)$", re.IGNORECASE)
_NOT_BATCH: Final = re.compile(
    r"seq|len|time|height|width|token|channel|frame|^(h|w|c|t|s|l)$", re.IGNORECASE
)


def bind(flat: FlatGraph, shapes: Mapping[str, Sequence[int]], name: str) -> tuple[dict[str, int], bool]:
    """Replace the inputs of ``flat`` by ones of static shape and say in its assumptions what was assumed.

    A dimension without a number is taken from ``shapes``, else from another input that uses the same symbol,
    else it is 1 if it is a batch dimension: the first one, unless its name says otherwise, or one whose name
    says batch.

    Returns:
        What each symbol stands for, and whether what the file declares of inner tensors still holds.

    Raises:
        ModelError: an unknown input, a wrong rank, a negative or absurd dimension, two values for one
            symbol, a dimension left open.
    """
    _check_names(flat, shapes, name)
    for value in flat.inputs:
        _, tensor = holder(value.type)
        if tensor is not None:
            require_text(name, *(dim.dim_param for dim in tensor.shape.dim))
    symbols: dict[str, int] = {}
    overridden = False
    for value in flat.inputs:
        if value.name in shapes:
            overridden |= _apply(flat, value, tuple(shapes[value.name]), symbols, name)
    for value in flat.inputs:
        if value.name not in shapes:
            _assume_batch(flat, value, symbols)
    flat.inputs = [_bound(value, shapes.get(value.name), symbols, name) for value in flat.inputs]
    if overridden:  # what the file says about inner tensors holds for the old shape only
        flat.declared.clear()
        flat.outputs = [ValueInfoProto(name=value.name) for value in flat.outputs]
    return symbols, not overridden


def _check_names(flat: FlatGraph, shapes: Mapping[str, Sequence[int]], name: str) -> None:
    if not isinstance(shapes, Mapping):
        raise InputError(f"shapes is {shapes!r}; give input names with shapes: {{'x': (1, 3, 224, 224)}}")
    known = [value.name for value in flat.inputs]
    for given, dims in shapes.items():
        if given not in known:
            inputs = [f"{quoted(value.name)} {text(value.type)}" for value in flat.inputs]
            raise ModelError(
                f"{quoted(name)} has no input {quoted(given)} to give a shape to; "
                f"its inputs: {listed(inputs) or 'none'}"
            )
        try:
            usable = all(not isinstance(d, bool) and int(d) == d and d >= 1 for d in dims)
            usable = usable and len(dims) <= MAX_RANK and elements(tuple(dims)) <= MAX_ELEMENTS
        except (TypeError, ValueError, OverflowError):
            usable = False
        if not usable:
            raise ModelError(
                f"shape {short(str(dims))} for input {quoted(given)} is unusable; give positive whole numbers"
            )


def _apply(
    flat: FlatGraph, value: ValueInfoProto, given: tuple[int, ...], symbols: dict[str, int], name: str
) -> bool:
    """Bind the symbols of one input to the given shape; True when a static dimension is overridden."""
    _, tensor = holder(value.type)
    if tensor is None or not tensor.HasField("shape"):
        return False
    dims = tensor.shape.dim
    if len(dims) != len(given):
        raise ModelError(
            f"input {quoted(value.name)} of {quoted(name)} has {len(dims)} dimensions {text(value.type)}, "
            f"but the shape given has {len(given)}: ({listed(given)}); give one number for each"
        )
    overridden = False
    for dim, number in zip(dims, given, strict=True):
        if dim.HasField("dim_value"):
            overridden |= dim.dim_value != number
        elif dim.dim_param and symbols.setdefault(dim.dim_param, number) != number:
            raise ModelError(
                f"dimension {quoted(dim.dim_param)} of {quoted(name)} is given as {symbols[dim.dim_param]} "
                f"and as {number} (input {quoted(value.name)}); give it one value"
            )
    if overridden:
        flat.assumptions.append(
            f"input {quoted(value.name)} is {text(value.type)} in the file, read as {given}"
        )
    return overridden


def _assume_batch(flat: FlatGraph, value: ValueInfoProto, symbols: dict[str, int]) -> None:
    _, tensor = holder(value.type)
    if tensor is None:
        return
    for position, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") or dim.dim_param in symbols:
            continue
        says_batch = bool(_BATCH.search(dim.dim_param))
        if says_batch or (position == 0 and not _NOT_BATCH.search(dim.dim_param)):
            if dim.dim_param:
                symbols[dim.dim_param] = 1
                flat.assumptions.append(f"batch dimension {quoted(dim.dim_param)} unbound, taken as 1")
            else:
                flat.assumptions.append(f"batch dimension of input {quoted(value.name)} unbound, taken as 1")


def _bound(
    value: ValueInfoProto, given: Sequence[int] | None, symbols: Mapping[str, int], name: str
) -> ValueInfoProto:
    result = ValueInfoProto()
    result.CopyFrom(value)
    kind, tensor = holder(result.type)
    if tensor is None:
        if result.type.WhichOneof("value") is None:
            raise ModelError(
                f"input {quoted(value.name)} of {quoted(name)} has no type; export the model again"
            )
        return result
    if given is not None:
        _set(tensor, given)
    elif not tensor.HasField("shape"):
        if kind != "tensor":
            return result  # a sequence of tensors of any shape: priced later by what is known
        raise ModelError(
            f"input {quoted(value.name)} of {quoted(name)} has no shape; "
            f"give one, like --shape {short(value.name)}=1,3,224,224"
        )
    if len(tensor.shape.dim) > MAX_RANK:
        raise ModelError(
            f"input {quoted(value.name)} of {quoted(name)} has {len(tensor.shape.dim)} dimensions, "
            f"over {MAX_RANK}; export the model again"
        )
    for position, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value"):
            if dim.dim_value < 0:
                raise ModelError(
                    f"input {quoted(value.name)} of {quoted(name)} has the negative dimension {dim.dim_value}; "
                    f"give a shape: --shape {short(value.name)}=…"
                )
        elif dim.dim_param in symbols:
            dim.dim_value = symbols[dim.dim_param]
        elif position == 0 and not dim.dim_param:
            dim.dim_value = 1
        else:
            example = ",".join(_example(d, symbols, at) for at, d in enumerate(tensor.shape.dim))
            raise ModelError(
                f"input {quoted(value.name)} of {quoted(name)} has unbound dimensions {text(value.type)}; "
                f"bind them, for example --shape {short(value.name)}={example}"
            )
    if elements(tuple(dim.dim_value for dim in tensor.shape.dim)) > MAX_ELEMENTS:
        raise ModelError(
            f"input {quoted(value.name)} of {quoted(name)} has an impossible shape {text(result.type)}: over 2^48 "
            f"elements; give another: --shape {short(value.name)}=…"
        )
    return result


def _set(tensor: TypeProto.Tensor | TypeProto.SparseTensor, dims: Sequence[int]) -> None:
    tensor.shape.CopyFrom(TensorShapeProto(dim=[TensorShapeProto.Dimension(dim_value=int(d)) for d in dims]))


def _example(dim: TensorShapeProto.Dimension, symbols: Mapping[str, int], position: int) -> str:
    """A number for one dimension of the hint: the known one, or a plausible one."""
    if dim.HasField("dim_value"):
        return str(dim.dim_value)
    if dim.dim_param in symbols:
        return str(symbols[dim.dim_param])
    return "1" if position == 0 and not dim.dim_param else "128"
