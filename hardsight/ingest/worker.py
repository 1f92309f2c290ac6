"""The process that native ONNX code runs in: ``python -m hardsight.ingest.worker``.

Some malformed models crash native shape inference or the inliner. Here a crash takes only this process
down, and its memory is limited. Requests come on standard input and answers go to standard output, both as
a one-byte tag, a length of eight bytes and that many bytes. The end of the input, also by the death of the
parent, ends the process.
"""

from __future__ import annotations

import os
import signal
import struct
from typing import IO, Final

from hardsight.ingest.words import short

HEADER: Final = struct.Struct("<cQ")
INLINE: Final = b"f"
INFER: Final = b"i"
READY: Final = b"?"
OK: Final = b"o"
REFUSED: Final = b"r"
MEMORY_LIMIT_BYTES: Final = 640 << 20
MEMORY_LIMIT_PER_BYTE: Final = 50
"""Of a request: a model of 100,000 nodes takes 20 MB, and its protos and types about ten times that."""
CPU_LIMIT_S: Final = 3.0
CPU_LIMIT_S_PER_BYTE: Final = 2e-6
"""A node takes about 200 bytes and a tenth of a millisecond; this allows four times as much."""
OUT_OF_TIME: Final = int(getattr(signal, "SIGPROF", 0))
"""The signal that ends a process whose time is over."""
_LONGEST_REFUSAL: Final = 500


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
        tag, payload = message
        if tag != READY:  # the imports that come with it may be slow
            limit(len(payload))
        try:
            tag, payload = OK, answer(tag, payload)
        except MemoryError:
            tag, payload = REFUSED, b"it needs more memory than a model of its size should"
        except Exception as error:  # the parent turns every refusal into a ModelError
            reason = short(" ".join(str(error).split()), _LONGEST_REFUSAL) or type(error).__name__
            tag, payload = REFUSED, reason.encode()
        send(replies, tag, payload)


def cpu_limit_s(request_bytes: int) -> float:
    """Processor time that a request of that size may take."""
    return CPU_LIMIT_S + CPU_LIMIT_S_PER_BYTE * request_bytes


def limit(request_bytes: int) -> None:
    """Give this process as much address space and processor time as a request of that size may need."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = MEMORY_LIMIT_BYTES + MEMORY_LIMIT_PER_BYTE * request_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.setitimer(signal.ITIMER_PROF, cpu_limit_s(request_bytes))
    except (ImportError, AttributeError, ValueError, OSError):
        pass  # no such limits on this system: the parent's time limit still holds


def main() -> None:
    """Keep the pipes for ourselves and serve."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # whatever native code prints must not get between the answers
        os.dup2(nothing, descriptor)
    serve(requests, replies)


if __name__ == "__main__":
    main()
