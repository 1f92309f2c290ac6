"""Tensors whose data lies in another file: never followed out of the folder, and read only where tiny."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from onnx import TensorProto

from hardsight.errors import ModelError
from hardsight.ingest.bits import BITS
from hardsight.ingest.types import elements
from hardsight.ingest.words import quoted

_TINY_BYTES: Final = 1024


@lru_cache(maxsize=1024)
def _leaves(location: str) -> bool:
    """Whether the path, read as any system's, is absolute or climbs; most tensors of a model name the same file."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    return (
        posix.is_absolute() or bool(windows.drive or windows.root) or ".." in (*posix.parts, *windows.parts)
    )


def settle(tensor: TensorProto, folder: Path | None, name: str) -> None:
    """Refuse a location outside ``folder``; embed small integer constants, which may decide a shape.

    A weight file that is missing is fine: then only its small constants are missing too.

    Raises:
        ModelError: the location is absolute, climbs out of the folder or links out of it.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    leaves = _leaves(location)
    path = (
        folder / location if folder is not None and location and not leaves and "\0" not in location else None
    )
    if path is not None and folder is not None:
        try:
            leaves = not path.resolve().is_relative_to(folder.resolve())
        except (OSError, RuntimeError):  # a loop of links
            leaves = True
    if leaves:
        raise ModelError(
            f"weight {quoted(tensor.name)} of {quoted(name)} lies in {quoted(location)}, outside the model's folder; "
            "keep external data beside the model"
        )
    bits = BITS.get(tensor.data_type, 0)
    size = elements(tuple(tensor.dims)) * bits // 8
    if (
        path is None
        or tensor.data_type not in (TensorProto.INT64, TensorProto.INT32)
        or not 0 < size <= _TINY_BYTES
    ):
        return
    try:
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(int(entries.get("offset") or 0))
            data = file.read(size)
    except (OSError, ValueError, OverflowError):  # an offset that is no number, or beyond every file
        return
    if len(data) == size:
        tensor.raw_data = data
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
