"""The process that native ONNX code runs in: ``python -m hardsight.ingest.worker``.

Some malformed models crash native shape inference or the inliner. Here a crash takes only this process
down, and its memory is limited. Requests come on standard input and answers go to standard output, both as
a one-byte tag, a length of eight bytes and that many bytes. The end of the input, also by the death of the
parent, ends the process.
"""

from __future__ import annotations

import os
import struct
from typing import IO, Final

HEADER: Final = struct.Struct("<cQ")
INLINE: Final = b"f"
INFER: Final = b"i"
READY: Final = b"?"
OK: Final = b"o"
REFUSED: Final = b"r"
MEMORY_LIMIT_BYTES: Final = 4 << 30


def send(stream: IO[bytes], tag: bytes, payload: bytes) -> None:
    """Write one message."""
    stream.write(HEADER.pack(tag, len(payload)))
    stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[bytes, bytes] | None:
    """Read one message; None at the end of the stream."""
    head = stream.read(HEADER.size)
    if len(head) < HEADER.size:
        return None
    tag, length = HEADER.unpack(head)
    payload = stream.read(length)
    return (tag, payload) if len(payload) == length else None


def answer(tag: bytes, payload: bytes) -> bytes:
    """Do what a request asks."""
    from onnx import ModelProto, inliner

    from hardsight.ingest.infer import infer

    if tag == READY:
        return b""
    model = ModelProto.FromString(payload)
    result = inliner.inline_local_functions(model) if tag == INLINE else infer(model)
    return bytes(result.SerializeToString())


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer until the requests end."""
    while (message := receive(requests)) is not None:
        try:
            tag, payload = OK, answer(*message)
        except Exception as error:  # the parent turns every refusal into a ModelError
            tag, payload = REFUSED, " ".join(str(error).split())[:500].encode()
        send(replies, tag, payload)


def main() -> None:
    """Keep the pipes for ourselves, limit the memory, serve."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # whatever native code prints must not get between the answers
        os.dup2(nothing, descriptor)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # no such limit on this system: the time limit still holds
    serve(requests, replies)


if __name__ == "__main__":
    main()
