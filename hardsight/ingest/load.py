"""From a file, bytes or a proto to a ModelProto without weights; nothing but the model file is opened."""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from hardsight.errors import ModelError
from hardsight.ingest.wire import WireError, strip
from hardsight.ingest.words import short

Source = str | os.PathLike[str] | bytes | ModelProto


@dataclass(frozen=True, slots=True)
class Loaded:
    """A parsed model.

    Args:
        model: tensor data above a few kilobytes is cut out.
        name: what messages call it.
        folder: where external data would lie; None for bytes and protos.
    """

    model: ModelProto
    name: str
    folder: Path | None


def load(source: Source, name: str | None = None) -> Loaded:
    """Parse ``source`` without its weights.

    Raises:
        ModelError: no such file, not readable, empty, truncated or not ONNX.
    """
    if isinstance(source, ModelProto):
        try:
            data = source.SerializeToString()
        except (EncodeError, ValueError) as error:
            raise ModelError(
                f"the model cannot be serialised ({error}); keep weights as external data"
            ) from error
        label = name or short(source.graph.name) or "model"
        return Loaded(_parse(data, label), label, None)
    if isinstance(source, (bytes, bytearray, memoryview)):
        label = name or "model"
        return Loaded(_parse(bytes(source), label), label, None)
    path = Path(source)
    return Loaded(_parse_file(path), name or path.stem, path.parent)


def _parse_file(path: Path) -> ModelProto:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise ModelError(f"'{path}' is {kind}; give the path of an ONNX file")
        if status.st_size == 0:
            raise ModelError(f"'{path}' is empty; expected an ONNX model")
        with path.open("rb") as file:
            # Not closed by hand: an error's traceback may still hold slices, and closing would then fail.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ModelError(f"'{path}' does not exist; give the path of an ONNX file") from None
    except ModelError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"'{path}' cannot be read ({reason}); give a readable ONNX file") from error
    return _parse(memoryview(mapped), str(path))


def _parse(data: bytes | memoryview, label: str) -> ModelProto:
    if len(data) == 0:
        raise ModelError(f"'{label}' is empty; expected an ONNX model")
    model = ModelProto()
    try:
        model.ParseFromString(strip(data))
    except (WireError, DecodeError) as error:
        raise ModelError(
            f"'{label}' is no ONNX model, or it is truncated ({error}); export or download it again"
        ) from error
    if not model.HasField("graph"):
        raise ModelError(f"'{label}' has no graph in it; expected an ONNX model")
    if not (model.graph.node or model.graph.output):
        raise ModelError(f"'{label}' has an empty graph; expected an ONNX model with nodes and outputs")
    return model
