"""Labelled images: the embedded default or a user's own, checked, split once and identified by a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator

from hardsight.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

Array = npt.NDArray[Any]
Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Part = Literal["train", "validation", "test"]

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
MIN_PER_PART = (
    2  # of each class in each part: fewer and neither an error rate nor a stratified split means much
)
_LARGEST_SIDE = 1024


class DataSpec(BaseModel):
    """Where images and labels come from.

    Args:
        source: ``digits`` (scikit-learn's, embedded) or the path of an ``.npz`` (arrays ``x`` and ``y``), a
            ``.csv`` (one image per line) or a folder (one subfolder per class).
        label: column of a CSV that holds the class; by default the last.
        shape: of a CSV's images: height and width, or channels, height and width.
        size: side in pixels to which an image folder is brought.
        limit: use only that many samples, drawn by the seed.
        validation: share of the samples that the search judges by.
        test: share that only the final report touches.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = "digits"
    label: str | None = None
    shape: tuple[Annotated[int, Field(strict=True, ge=1)], ...] | None = Field(
        default=None, min_length=2, max_length=3
    )
    size: int = Field(default=32, strict=True, ge=8, le=_LARGEST_SIDE)
    limit: int | None = Field(default=None, strict=True, ge=1)
    validation: float = Field(default=0.2, gt=0, lt=0.5)
    test: float = Field(default=0.2, gt=0, lt=0.5)

    @field_validator("source")
    @classmethod
    def _can_be_a_path(cls, value: str) -> str:
        if not value.strip() or "\0" in value:
            raise ValueError(f"{value!r} is no path; give 'digits', an .npz, a .csv or an image folder")
        return value


@dataclass(frozen=True)
class ImageData:
    """Images in [0, 1] with classes, split into three parts.

    Args:
        name: for messages and reports.
        images: ``(n, channels, height, width)``.
        labels: ``(n,)``, index into ``classes``.
        classes: their names.
        offset: what was subtracted from the raw values, …
        scale: … and what they were divided by then; a deployed network needs the same.
        digest: SHA-256 of images and labels.
        parts: indices of train, validation and test.
    """

    name: str
    images: Images
    labels: Labels
    classes: tuple[str, ...]
    offset: float
    scale: float
    digest: str
    parts: dict[Part, npt.NDArray[np.int64]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, c, h, w = self.images.shape
        return c, h, w

    def part(self, name: Part, resolution: int) -> tuple[Images, Labels]:
        """Images of one part as squares of that side, and their labels."""
        chosen = self.parts[name]
        return resize(self.images[chosen], resolution), self.labels[chosen]


def load_data(spec: DataSpec, seed: int, folder: Path | None = None) -> ImageData:
    """Read, check and split.

    Args:
        spec: what to read.
        seed: of the split (and of the draw, with ``limit``).
        folder: to which a relative path refers; the current one by default.

    Raises:
        DataError: a file that is missing, empty or of another form; NaN; one class; lengths that differ; too
            few samples of a class for three parts.
    """
    if spec.source == "digits":
        name, (raw, targets) = "digits", _digits()
    else:
        path = (folder or Path()) / Path(spec.source).expanduser()
        if not path.exists():
            raise DataError(
                f"data set '{spec.source}' does not exist; give 'digits', an .npz, a .csv or an image folder"
            )
        name, (raw, targets) = path.name, _reader(path)(path, spec)
    images = _checked(name, raw, targets)
    if spec.limit is not None and spec.limit < len(images):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(images))[: spec.limit])
        images, targets = images[chosen], targets[chosen]
    targets = np.asarray(targets)
    if targets.dtype.kind == "O":
        targets = targets.astype(str)  # a CSV may mix numbers and names, which have no order
    found, labels = np.unique(targets, return_inverse=True)
    if len(found) < 2:
        raise DataError(
            f"data set '{name}' has {len(found)} class ({found[0]}); a classifier needs at least two"
        )
    classes = tuple(str(c) for c in found)
    offset, scale = _range(name, images)
    digest = hashlib.sha256(repr((images.shape, images.dtype.str)).encode())
    digest.update(np.ascontiguousarray(images).tobytes())
    digest.update(repr(targets.tolist()).encode())
    return ImageData(
        name=name,
        images=((images - np.float32(offset)) / np.float32(scale)).astype(np.float32),
        labels=labels.astype(np.int64).reshape(-1),
        classes=classes,
        offset=offset,
        scale=scale,
        digest=digest.hexdigest(),
        parts=_split(name, labels.reshape(-1), classes, spec, seed),
    )


def resize(images: Images, side: int) -> Images:
    """Bilinear, with antialiasing where the image shrinks.

    Args:
        images: ``(n, channels, height, width)``.
        side: height and width wanted.
    """
    rows, columns = (_weights(length, side) for length in images.shape[2:])
    out = np.einsum("rh,nchw,sw->ncrs", rows, images, columns, optimize=True)
    return np.ascontiguousarray(out, np.float32)


def _weights(length: int, side: int) -> Images:
    """``(side, length)``: share of every old pixel in every new one, a triangle around its centre."""
    if length == side:
        return np.eye(side, dtype=np.float32)
    step = length / side
    centres = (np.arange(side) + 0.5) * step
    distance = np.abs(np.arange(length)[None, :] + 0.5 - centres[:, None])
    weights = np.maximum(0.0, 1.0 - distance / max(1.0, step))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    raw = load_digits()
    return raw.images[:, None], raw.target


def _reader(path: Path) -> Callable[[Path, DataSpec], tuple[Array, Array]]:
    if path.is_dir():
        return _read_folder
    readers = {".npz": _read_npz, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise DataError(f"data set '{path}' is neither an .npz, a .csv nor a folder of images")
    return readers[path.suffix.lower()]


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

    if spec.shape is None:
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
    pixels = _numbers(path, table.drop(columns=label))
    shape = spec.shape if len(spec.shape) == 3 else (1, *spec.shape)
    if pixels.shape[1] != int(np.prod(shape)):
        raise DataError(
            f"data set '{path}' has {pixels.shape[1]} columns beside '{label}', but the shape "
            f"{'x'.join(map(str, spec.shape))} has {int(np.prod(shape))} values"
        )
    return pixels.reshape(len(pixels), *shape), table[label].to_numpy()


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


def _checked(name: str, raw: Array, targets: Array) -> Array:
    """Images as ``(n, c, h, w)``, uint8 or float32."""
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
    if raw.ndim == 3:
        raw = raw[:, None]
    elif raw.ndim == 4 and raw.shape[3] in (1, 3, 4) and raw.shape[1] not in (1, 3, 4):
        raw = raw.transpose(0, 3, 1, 2)
    if raw.ndim != 4 or min(raw.shape[2:]) < 2 or max(raw.shape[2:]) > _LARGEST_SIDE:
        raise DataError(
            f"data set '{name}' has samples of shape {raw.shape[1:]}; expected images: (height, width) or "
            f"(channels, height, width), 2 to {_LARGEST_SIDE} pixels a side"
        )
    if raw.dtype == np.uint8:
        return raw
    with np.errstate(over="ignore"):
        values = raw.astype(np.float32)  # what is too large for it becomes infinity
    bad = int((~np.isfinite(values.reshape(len(values), -1))).any(axis=1).sum())
    if bad:
        raise DataError(
            f"data set '{name}' has NaN or infinity in {bad} of {len(raw)} samples as 32-bit numbers; remove "
            "or repair them"
        )
    return values


def _range(name: str, images: Array) -> tuple[float, float]:
    if images.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(images.min()), float(images.max())
    if high - low > float(np.finfo(np.float32).max):
        raise DataError(
            f"data set '{name}' has values from {low:g} to {high:g}, a range too wide for 32-bit numbers; "
            "scale them"
        )
    return low, (high - low) or 1.0


def _split(
    name: str, labels: Array, classes: tuple[str, ...], spec: DataSpec, seed: int
) -> dict[Part, npt.NDArray[np.int64]]:
    """Stratified by class, decided by the seed alone."""
    rng = np.random.default_rng(seed)
    found: dict[Part, list[Array]] = {"train": [], "validation": [], "test": []}
    for c, label in enumerate(classes):
        members = rng.permutation(np.flatnonzero(labels == c))
        n_validation = max(MIN_PER_PART, round(len(members) * spec.validation))
        n_test = max(MIN_PER_PART, round(len(members) * spec.test))
        if len(members) < n_validation + n_test + MIN_PER_PART:
            raise DataError(
                f"data set '{name}' has {len(members)} samples of its class '{label}'; train, "
                f"validation and test need {3 * MIN_PER_PART} together at least"
            )
        found["test"].append(members[:n_test])
        found["validation"].append(members[n_test : n_test + n_validation])
        found["train"].append(members[n_test + n_validation :])
    return {part: np.sort(np.concatenate(indices)).astype(np.int64) for part, indices in found.items()}
