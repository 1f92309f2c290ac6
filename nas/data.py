"""Labelled samples: the embedded default or a user's own, checked, split once and identified by a digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator

from hardsight.errors import DataError
from hardsight.nas.data_files import IMAGE_SUFFIXES, LARGEST_SIDE, DataKind, checked, digits, read
from hardsight.nas.data_torchvision import PREFIX, read_torchvision

__all__ = [
    "IMAGE_SUFFIXES",
    "DataKind",
    "DataSpec",
    "LabelledData",
    "Part",
    "load_data",
    "resize",
    "without_samples",
]

Array = npt.NDArray[Any]
Samples = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Part = Literal["train", "validation", "test"]

MIN_PER_PART = (
    2  # of each class in each part: fewer and neither an error rate nor a stratified split means much
)


class DataSpec(BaseModel):
    """Where samples and labels come from.

    Args:
        source: ``digits`` (scikit-learn's, embedded), the path of an ``.npz`` (arrays ``x`` and ``y``), a
            ``.csv`` (one sample per line) or a folder of images (one subfolder per class), or ``torchvision:`` and
            the name of a data set of torchvision (``torchvision:CIFAR10``).
        root: folder in which torchvision keeps its data sets; nothing is downloaded.
        kind: ``images``, ``signals`` or ``tables``; by default rows of numbers are a table, what has more
            dimensions are images.
        label: column of a CSV that holds the class; by default the last.
        shape: of a CSV's samples: height and width of an image, channels and length of a signal, with or without
            channels before; without it a line is a row of a table.
        size: side in pixels to which an image folder is brought.
        limit: use only that many samples, drawn by the seed.
        validation: share of the samples that the search judges by.
        test: share that only the final report touches.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = "digits"
    root: str = "data"
    kind: DataKind | None = None
    label: str | None = None
    shape: tuple[Annotated[int, Field(strict=True, ge=1)], ...] | None = Field(
        default=None, min_length=1, max_length=3
    )
    size: int = Field(default=32, strict=True, ge=8, le=LARGEST_SIDE)
    limit: int | None = Field(default=None, strict=True, ge=1)
    validation: float = Field(default=0.2, gt=0, lt=0.5)
    test: float = Field(default=0.2, gt=0, lt=0.5)

    @field_validator("source")
    @classmethod
    def _can_be_a_path(cls, value: str) -> str:
        if not value.strip() or "\0" in value:
            raise ValueError(
                f"{value!r} is no path; give 'digits', an .npz, a .csv, an image folder or 'torchvision:CIFAR10'"
            )
        return value


@dataclass(frozen=True)
class LabelledData:
    """Samples with classes, split into three parts.

    Images lie in [0, 1]. Features of a table and channels of a signal have mean 0 and standard deviation 1 on the
    training part.

    Args:
        name: for messages and reports.
        kind: what a sample is.
        samples: ``(n, channels, height, width)``, ``(n, channels, length)`` or ``(n, features)``.
        labels: ``(n,)``, index into ``classes``.
        classes: their names.
        offset: what was subtracted from the raw values, …
        scale: … and what they were divided by then, both broadcast to a sample; a deployed network needs the same.
        digest: SHA-256 of samples and labels.
        parts: indices of train, validation and test.
    """

    name: str
    kind: DataKind
    samples: Samples
    labels: Labels
    classes: tuple[str, ...]
    offset: Array
    scale: Array
    digest: str
    parts: dict[Part, npt.NDArray[np.int64]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample."""
        return self.samples.shape[1:]

    @property
    def signed(self) -> bool:
        """Whether samples may have values below zero."""
        return self.kind != "images"

    def part(self, name: Part, shape: tuple[int, ...] | None = None) -> tuple[Samples, Labels]:
        """Samples of one part and their labels.

        Args:
            name: of the part.
            shape: of a sample as a network reads it; images are brought to its height and width.

        Raises:
            DataError: a shape that the samples cannot be brought to.
        """
        chosen = self.parts[name]
        samples = self.samples[chosen]
        if shape is not None and shape != self.shape:
            if self.kind != "images" or len(shape) != 3 or shape[0] != self.shape[0]:
                raise DataError(
                    f"data set '{self.name}' has samples of shape {self.shape}; {shape} was asked for"
                )
            samples = resize(samples, shape[1], shape[2])
        return samples, self.labels[chosen]


def load_data(spec: DataSpec, seed: int, folder: Path | None = None) -> LabelledData:
    """Read, check and split.

    Args:
        spec: what to read.
        seed: of the split (and of the draw, with ``limit``).
        folder: to which a relative path refers; the current one by default.

    Raises:
        DataError: a file that is missing, empty or of another form; NaN; one class; lengths that differ; too
            few samples of a class for three parts.
        UnknownNameError: a data set that torchvision does not have.
        BackendError: torchvision is asked for and missing.
    """
    if spec.source == "digits":
        name, (raw, targets) = "digits", digits()
    elif spec.source.startswith(PREFIX):
        name = spec.source.removeprefix(PREFIX)
        raw, targets = read_torchvision(name, (folder or Path()) / Path(spec.root).expanduser())
    else:
        path = (folder or Path()) / Path(spec.source).expanduser()
        if not path.exists():
            raise DataError(
                f"data set '{spec.source}' does not exist; give 'digits', an .npz, a .csv or an image folder"
            )
        name, (raw, targets) = path.name, read(path, spec)
    kind, samples = checked(name, raw, targets, spec.kind)
    if spec.limit is not None and spec.limit < len(samples):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(samples))[: spec.limit])
        samples, targets = samples[chosen], targets[chosen]
    targets = np.asarray(targets)
    if targets.dtype.kind == "O":
        targets = targets.astype(str)  # a CSV may mix numbers and names, which have no order
    found, labels = np.unique(targets, return_inverse=True)
    if len(found) < 2:
        raise DataError(
            f"data set '{name}' has {len(found)} class ({found[0]}); a classifier needs at least two"
        )
    classes = tuple(str(c) for c in found)
    digest = hashlib.sha256(repr((samples.shape, samples.dtype.str)).encode())
    digest.update(np.ascontiguousarray(samples).tobytes())
    digest.update(repr(targets.tolist()).encode())
    parts = _split(name, labels.reshape(-1), classes, spec, seed)
    offset, scale = _range(name, samples) if kind == "images" else _moments(samples[parts["train"]])
    return LabelledData(
        name=name,
        kind=kind,
        samples=((samples - offset) / scale).astype(np.float32),
        labels=labels.astype(np.int64).reshape(-1),
        classes=classes,
        offset=offset,
        scale=scale,
        digest=digest.hexdigest(),
        parts=parts,
    )


def without_samples(name: str, shape: tuple[int, ...], classes: int, digest: str) -> LabelledData:
    """Images that others trained on, of which only results are here: every part is empty.

    Args:
        name: for messages and reports.
        shape: of an image.
        classes: how many there are.
        digest: of the results.
    """
    parts: tuple[Part, ...] = ("train", "validation", "test")
    return LabelledData(
        name=name,
        kind="images",
        samples=np.zeros((0, *shape), np.float32),
        labels=np.zeros(0, np.int64),
        classes=tuple(map(str, range(classes))),
        offset=np.zeros(1),
        scale=np.ones(1),
        digest=digest,
        parts={part: np.zeros(0, np.int64) for part in parts},
    )


def resize(images: Samples, height: int, width: int) -> Samples:
    """Bilinear, with antialiasing where the image shrinks.

    Args:
        images: ``(n, channels, height, width)``.
        height: wanted.
        width: wanted.
    """
    rows, columns = _weights(images.shape[2], height), _weights(images.shape[3], width)
    out = np.einsum("rh,nchw,sw->ncrs", rows, images, columns, optimize=True)
    return np.ascontiguousarray(out, np.float32)


def _weights(length: int, side: int) -> Samples:
    """``(side, length)``: share of every old pixel in every new one, a triangle around its centre."""
    if length == side:
        return np.eye(side, dtype=np.float32)
    step = length / side
    centres = (np.arange(side) + 0.5) * step
    distance = np.abs(np.arange(length)[None, :] + 0.5 - centres[:, None])
    weights = np.maximum(0.0, 1.0 - distance / max(1.0, step))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _range(name: str, images: Array) -> tuple[Samples, Samples]:
    if images.dtype == np.uint8:
        return np.zeros(1, np.float32), np.full(1, 255.0, np.float32)
    low, high = float(images.min()), float(images.max())
    if high - low > float(np.finfo(np.float32).max):
        raise DataError(
            f"data set '{name}' has values from {low:g} to {high:g}, a range too wide for 32-bit numbers; "
            "scale them"
        )
    return np.array([low], np.float32), np.array([(high - low) or 1.0], np.float32)


def _moments(samples: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each feature or channel; a constant one is only shifted."""
    axes = (0, *range(2, samples.ndim))
    mean = samples.mean(axis=axes, dtype=np.float64, keepdims=True)[0]
    deviation = samples.std(axis=axes, dtype=np.float64, keepdims=True)[0]
    return mean, np.where(deviation > 0, deviation, 1.0)


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
