"""Local functions, put in place of their calls: by native code, once it is clear that they come to an end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import FunctionProto, ModelProto, NodeProto

from hardsight.errors import ModelError
from hardsight.ingest.client import ask
from hardsight.ingest.words import quoted
from hardsight.ingest.worker import INLINE

MAX_INLINED: Final = 250_000
"""Nodes that functions may stand for. A kilobyte of functions that call each other twice can mean 2^60."""
_DEEPEST: Final = 100

Key = tuple[str, str, str]


def inlined(model: ModelProto, name: str) -> ModelProto:
    """The model without local functions.

    Raises:
        ModelError: functions that call themselves, nest too deep or stand for too many nodes; native code
            fails on them.
    """
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    if _size(model.graph.node, functions, {}, name, 0) > MAX_INLINED:
        raise ModelError(
            f"{quoted(name)} has more than {MAX_INLINED} nodes once its functions are inlined; split it into parts"
        )
    data = ask(INLINE, model.SerializeToString(), name)
    result = ModelProto()
    try:
        result.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            f"the functions of {quoted(name)} cannot be inlined ({error}); export it again"
        ) from error
    return result


def _size(
    nodes: Iterable[NodeProto],
    functions: Mapping[Key, FunctionProto],
    known: dict[Key, int],
    name: str,
    depth: int,
) -> int:
    """How many nodes these are when every call is replaced by what it calls."""
    if depth > _DEEPEST:
        raise ModelError(
            f"the functions of {quoted(name)} nest deeper than {_DEEPEST} calls or call themselves; "
            "export it again"
        )
    total = 0
    for node in nodes:
        key = (node.domain, node.op_type, node.overload)
        called = functions.get(key)
        if called is None:
            total += 1
        else:
            if key not in known:
                known[key] = _size(called.node, functions, known, name, depth + 1)
            total += known[key]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                total += _size(attribute.g.node, functions, known, name, depth + 1)
    return total
