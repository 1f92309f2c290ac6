"""Files of labelled samples → plain arrays, or a sentence on what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from hardsight.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    from hardsight.nas.data import DataSpec

Array = npt.NDArray[Any]
DataKind = Literal["images", "signals", "tables"]

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
LARGEST_SIDE = 1024


def digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    raw = load_digits()
    return raw.images[:, None], raw.target


def read(path: Path, spec: DataSpec) -> tuple[Array, Array]:
    """Samples and targets of a file or folder, as it holds them.

    Raises:
        DataError: what cannot be read.
    """
    if path.is_dir():
        return _read_folder(path, spec)
    readers = {".npz": _read_npz, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise DataError(f"data set '{path}' is neither an .npz, a .csv nor a folder of images")
    return readers[path.suffix.lower()](path, spec)


def _read_npz(path: Path, spec: DataSpec) -> tuple[Array, Array]:
    import zipfile

    advice = "save plain numbers with numpy.savez(path, x=…, y=…)"
    if path.is_file() and not zipfile.is_zipfile(path):
        raise DataError(
            f"data set '{path}' cannot be read as .npz: it is no archive (one .npy renamed, or torn); {advice}"
        )
    try:
        with np.load(path, allow_pickle=False) as held:
            missing = [key for key in ("x", "y") if key not in held]
            if missing:
                have = ", ".join(held.files) or "nothing"
                raise DataError(f"data set '{path}' has no array {' and '.join(missing)}; it holds {have}")
            return held["x"], held["y"]
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"data set '{path}' cannot be read as .npz: {error}; {advice}") from error


def _read_csv(path: Path, spec: DataSpec) -> tuple[Array, Array]:
    import pandas as pd

    if spec.shape is None and spec.kind == "images":
        raise DataError(
            f"data set '{path}' is a CSV; say the shape of its images, for example 'shape: [28, 28]'"
        )
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"data set '{path}' cannot be read as CSV: {error}") from error
    if table.empty:
        raise DataError(f"data set '{path}' is empty")
    label = spec.label if spec.label is not None else str(table.columns[-1])
    if label not in table.columns:
        raise DataError(
            f"data set '{path}' has no column '{label}'; it has {', '.join(map(str, table.columns[:8]))} …"
        )
    if table[label].isna().any():
        raise DataError(
            f"data set '{path}' has {int(table[label].isna().sum())} lines without a label in '{label}'"
        )
    values = _numbers(path, table.drop(columns=label))
    shape = spec.shape or values.shape[1:]
    if values.shape[1] != int(np.prod(shape)):
        raise DataError(
            f"data set '{path}' has {values.shape[1]} columns beside '{label}', but the shape "
            f"{'x'.join(map(str, shape))} has {int(np.prod(shape))} values"
        )
    return values.reshape(len(values), *shape), table[label].to_numpy()


def _numbers(path: Path, table: pd.DataFrame) -> Array:
    from pandas.api.types import is_numeric_dtype

    text = [str(c) for c in table.columns if not is_numeric_dtype(table[c])]
    if text:
        raise DataError(f"data set '{path}' has columns that are not numbers: {', '.join(text[:5])}")
    return np.asarray(table.to_numpy(dtype=np.float32))


def _read_folder(path: Path, spec: DataSpec) -> tuple[Array, Array]:
    from PIL import Image, UnidentifiedImageError

    classes = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [
        (f, sub.name) for sub in classes for f in sorted(sub.iterdir()) if f.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not files:
        raise DataError(
            f"folder '{path}' has no images; expected one subfolder per class with PNG or JPEG files in it"
        )
    empty = [sub.name for sub in classes if sub.name not in {label for _, label in files}]
    if empty:
        raise DataError(
            f"folder '{path}' has no images in its subfolder {', '.join(empty)}; fill or remove it: each "
            "subfolder is a class"
        )
    pictures = []
    for file, _ in files:
        try:
            with Image.open(file) as image:
                picture = _eight_bits(file, image).convert("RGB")
                pictures.append(picture.resize((spec.size, spec.size), Image.Resampling.BILINEAR))
        except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataError(f"'{file}' cannot be read as an image: {error}") from error
    stacked = np.stack([np.asarray(p, np.uint8) for p in pictures]).transpose(0, 3, 1, 2)
    if (stacked[:, :1] == stacked).all():
        stacked = stacked[:, :1]  # grey pictures need one channel
    return stacked, np.array([label for _, label in files])


def _eight_bits(file: Path, image: Image) -> Image:
    """The upper 8 of 16 bits of a deep grey picture: PIL's own conversion clips it to white.

    Raises:
        DataError: values that are no 16-bit greys.
    """
    from PIL import Image

    if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 65535):  # so that NaN is refused as well
        raise DataError(
            f"'{file}' has grey values from {low} to {high}; expected 0 to 65535, so save it with 8 or 16 bits"
        )
    return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))


def checked(name: str, raw: Array, targets: Array, kind: DataKind | None) -> tuple[DataKind, Array]:
    """What the samples are, and they as ``(n, c, h, w)``, ``(n, c, l)`` or ``(n, f)``: uint8 or float32.

    Args:
        name: for messages.
        raw: as read.
        targets: as read.
        kind: what the user says they are; else two dimensions are a table, more are images.

    Raises:
        DataError: nothing, no numbers, NaN, or another shape.
    """
    raw, targets = np.asarray(raw), np.asarray(targets)
    if raw.ndim == 0 or len(raw) == 0 or targets.size == 0:
        raise DataError(f"data set '{name}' is empty")
    if targets.ndim != 1:
        raise DataError(
            f"data set '{name}' has labels of shape {targets.shape}; expected one class per sample"
        )
    if len(raw) != len(targets):
        raise DataError(
            f"data set '{name}' has {len(raw)} samples but {len(targets)} labels; it needs one of each"
        )
    if raw.dtype.kind not in "uifb":
        raise DataError(f"data set '{name}' holds values of type {raw.dtype}; expected numbers")
    if targets.dtype.kind in "cmMV":
        raise DataError(
            f"data set '{name}' has labels of type {targets.dtype}; expected whole numbers or names"
        )
    if targets.dtype.kind == "f" and not (np.isfinite(targets) & (targets == np.rint(targets))).all():
        raise DataError(
            f"data set '{name}' has labels that are NaN or no whole numbers; expected one class per sample"
        )
    kind = kind or ("tables" if raw.ndim == 2 else "images")
    raw = _arranged(name, raw, kind)
    if raw.dtype == np.uint8:
        return kind, raw
    with np.errstate(over="ignore"):
        values = raw.astype(np.float32)  # what is too large for it becomes infinity
    bad = int((~np.isfinite(values.reshape(len(values), -1))).any(axis=1).sum())
    if bad:
        raise DataError(
            f"data set '{name}' has NaN or infinity in {bad} of {len(raw)} samples as 32-bit numbers; remove "
            "or repair them"
        )
    return kind, values


def _arranged(name: str, raw: Array, kind: DataKind) -> Array:
    """Channels first; a missing channel becomes one."""
    if kind == "images":
        if raw.ndim == 3:
            raw = raw[:, None]
        elif raw.ndim == 4 and raw.shape[3] in (1, 3, 4) and raw.shape[1] not in (1, 3, 4):
            raw = raw.transpose(0, 3, 1, 2)
        if raw.ndim != 4 or min(raw.shape[2:]) < 2 or max(raw.shape[2:]) > LARGEST_SIDE:
            raise DataError(
                f"data set '{name}' has samples of shape {raw.shape[1:]}; expected images: (height, width) or "
                f"(channels, height, width), 2 to {LARGEST_SIDE} pixels a side"
            )
    elif kind == "signals":
        if raw.ndim == 2:
            raw = raw[:, None]
        if raw.ndim != 3 or raw.shape[2] < 2:
            raise DataError(
                f"data set '{name}' has samples of shape {raw.shape[1:]}; expected signals: (length,) or "
                "(channels, length)"
            )
    elif raw.ndim != 2 or raw.shape[1] < 1:
        raise DataError(
            f"data set '{name}' has samples of shape {raw.shape[1:]}; expected rows of a table: (features,)"
        )
    return raw
