"""Cut the weights out of a serialised ONNX model before it is parsed.

A protobuf message is a list of (field number, wire type, payload). Only the payloads that can be
large are opened; everything else is copied as it is, in one piece. So the time to read a file grows
with its nodes, not with its weights, and a file mapped into memory is never read where weights lie.
"""

from __future__ import annotations

from typing import Final

Buffer = bytes | memoryview

SMALL: Final = 4096
"""Payloads up to this many bytes stay: shapes, axes, scalars and everything else that inference reads."""

# Field numbers of onnx.proto3. A name says which message a field holds; "" is a payload to drop.
_SCHEMA: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "train", 25: "function"},
    "train": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {4: "", 5: "", 6: "", 7: "", 9: "", 10: "", 11: ""},
}
_MAX_DEPTH: Final = 100  # protobuf's own limit on nesting


class WireError(ValueError):
    """The bytes are no protobuf message."""


def strip(data: Buffer) -> bytes:
    """The same model without tensor data above :data:`SMALL` bytes.

    Raises:
        WireError: the bytes are torn, or no protobuf message.
    """
    parts: list[Buffer] = []
    _strip(memoryview(data), 0, len(data), "model", parts, 0)
    return b"".join(parts)


def _strip(data: memoryview, start: int, end: int, kind: str, parts: list[Buffer], depth: int) -> int:
    """Append the kept parts of ``data[start:end]`` and return their total length."""
    if depth > _MAX_DEPTH:
        raise WireError("nested deeper than 100 levels")
    schema = _SCHEMA[kind]
    kept = 0  # bytes appended
    copied = start  # everything before is dealt with
    at = start
    while at < end:
        field_start = at
        key, at = _varint(data, at, end)
        wire_type = key & 7
        if wire_type == 2:
            length, at = _varint(data, at, end)
            if at + length > end:
                raise WireError("a field is longer than what holds it")
            if length > SMALL:
                target = schema.get(key >> 3)
                if target is not None:
                    parts.append(data[copied:field_start])
                    kept += field_start - copied
                    copied = at + length
                    if target:
                        inner: list[Buffer] = []
                        size = _strip(data, at, at + length, target, inner, depth + 1)
                        head = _encode(key) + _encode(size)
                        parts.append(head)
                        parts.extend(inner)
                        kept += len(head) + size
            at += length
        elif wire_type == 0:
            _, at = _varint(data, at, end)
        elif wire_type == 1:
            at += 8
        elif wire_type == 5:
            at += 4
        else:
            raise WireError(f"wire type {wire_type} is not used by ONNX")
    if at != end:
        raise WireError("a field is longer than what holds it")
    parts.append(data[copied:end])
    return kept + end - copied


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            break
    raise WireError("a number runs over its end")


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
