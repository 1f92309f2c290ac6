"""Reading what native code prints: some runtimes say there, and nowhere else, why they failed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO


class Printed:
    """What was printed so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def text(self) -> str:
        """All of it; readable while it is still being written, and not after."""
        self._file.seek(0)
        return self._file.read().decode(errors="replace")


@contextlib.contextmanager
def printed() -> Iterator[Printed]:
    """Send file descriptors 1 and 2 of this process to a temporary file for as long as the context lasts."""
    kept = {fd: os.dup(fd) for fd in (1, 2)}
    with tempfile.TemporaryFile() as file:
        try:
            for fd in kept:
                os.dup2(file.fileno(), fd)
            yield Printed(file)
        finally:
            for fd, copy in kept.items():
                os.dup2(copy, fd)
                os.close(copy)
