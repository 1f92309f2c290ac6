"""Data as a given network takes it: inputs by name, in the batches its file allows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from hardsight.datasets.quantize import Feeds
from hardsight.errors import DataError, ModelError
from hardsight.nas.data import DataSpec, Part, load_data, resize
from hardsight.nas.mixed_precision.sensitivity import Outputs

_BATCH = 64

Array = npt.NDArray[Any]


class Samples(NamedTuple):
    """Some inputs.

    Args:
        feeds: one mapping from input name to array per run.
        labels: ``(n,)`` class of each sample; None where there are none.
        n: how many samples.
    """

    feeds: tuple[Feeds, ...]
    labels: npt.NDArray[np.int64] | None
    n: int


class Quality(NamedTuple):
    """How good a network is; more is better.

    Args:
        what: ``accuracy`` by the labels; ``agreement`` of the largest output with the float network's; ``fidelity``:
            1 minus the mean squared error over the variance of the float network's outputs.
        value: at most 1.
        n: samples it was taken on.
    """

    what: str
    value: float
    n: int


class ModelData(NamedTuple):
    """Samples for one model.

    Args:
        parts: the data's split.
        classes: how many the labels name; 0 without labels.
        notes: how values were scaled and images resized, for the report.
    """

    parts: dict[Part, Samples]
    classes: int
    notes: tuple[str, ...]


def load_samples(spec: DataSpec, model: onnx.ModelProto, seed: int, folder: Path | None = None) -> ModelData:
    """Data in the shape and the scale that a model takes.

    A network that `hardsight search` made says how its inputs were scaled. For any other, images of 8 bits and the
    embedded digits lie in [0, 1], and floats of a file are fed as they are. Images are resized to a square input.

    Args:
        spec: what to read; an ``.npz`` without labels ``y`` will do.
        model: its only input takes the samples; free dimensions are bound, the first one stays.
        seed: of the split.
        folder: to which a relative path refers.

    Raises:
        DataError: no data of the right shape.
        ModelError: a model of several inputs, or of an input that is no float.
    """
    value = _input(model)
    facts = {p.key: p.value for p in model.metadata_props}
    images, labels, parts, offset, scale, raw_floats = _read(_sized(spec, value), seed, folder)
    if "input_offset" in facts and "input_scale" in facts:
        off, by = (_numbers(facts[key], images.ndim) for key in ("input_offset", "input_scale"))
        images = (images * scale + offset - off) / by
        note = "inputs scaled as the model's file says (input_offset, input_scale)"
    elif raw_floats:
        images = images * scale + offset
        note = "inputs fed as the file holds them"
    else:
        note = "inputs scaled to [0, 1]"
    images, resized = _shaped(np.asarray(images, np.float32), value, spec.source)
    batch = value.type.tensor_type.shape.dim[0].dim_value
    made = {
        name: _batched(value.name, images[chosen], None if labels is None else labels[chosen], batch)
        for name, chosen in parts.items()
    }
    if any(not samples.n for samples in made.values()):
        raise DataError(
            f"data set '{spec.source}' has fewer than {batch} samples in a part, and input '{value.name}' takes "
            f"{batch} at once; give more data or a model with batch size 1"
        )
    return ModelData(made, 0 if labels is None else int(labels.max()) + 1, (note, *resized))


def first(samples: Samples, n: int) -> Samples:
    """At least ``n`` samples from the start, as whole runs; all when there are fewer."""
    taken: list[Feeds] = []
    count = 0
    for feed in samples.feeds:
        if count >= n:
            break
        taken.append(feed)
        count += len(next(iter(feed.values())))
    return Samples(tuple(taken), None if samples.labels is None else samples.labels[:count], count)


def is_classifier(outputs: Outputs) -> bool:
    """Whether the only output is a row of two or more numbers per sample."""
    return len(outputs) == 1 and outputs[0].ndim == 2 and outputs[0].shape[1] > 1


def quality(reference: Outputs, outputs: Outputs, samples: Samples, classes: int) -> Quality:
    """Accuracy where the outputs are of the labels' classes; else agreement or fidelity.

    Args:
        reference: of the float network.
        outputs: of the network in question.
        samples: what both were given.
        classes: how many the labels name.
    """
    from hardsight.nas.mixed_precision.sensitivity import divergence

    if not is_classifier(reference):
        return Quality("fidelity", 1.0 - divergence(reference, outputs, classifies=False), samples.n)
    answers = outputs[0].argmax(axis=1)
    if samples.labels is not None and reference[0].shape[1] == classes:
        return Quality("accuracy", float((answers == samples.labels).mean()), samples.n)
    return Quality("agreement", float((answers == reference[0].argmax(axis=1)).mean()), samples.n)


def doubts(reference: Outputs, samples: Samples, classes: int) -> list[str]:
    """Why the quality may not be what the user expects: labels that were ignored, a network no better than guessing.

    Args:
        reference: of the float network.
        samples: what it was given.
        classes: how many the labels name.
    """
    if samples.labels is None:
        return []
    found = quality(reference, reference, samples, classes)
    if found.what != "accuracy":
        shape = f"{reference[0].shape[1]} outputs" if is_classifier(reference) else "no row of class scores"
        return [f"the labels, of {classes} classes, were ignored, since the network has {shape}"]
    commonest = float(np.bincount(samples.labels).max() / samples.n)
    deviation = math.sqrt(commonest * (1 - commonest) / samples.n)
    if found.value > commonest + 2 * deviation:
        return []
    return [
        f"the network given is about as good as guessing: right on {100 * found.value:.1f} % of {samples.n} samples, "
        f"where the commonest class alone gives {100 * commonest:.1f} %; check the scaling of the inputs and the order "
        "of the classes"
    ]


def _input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [
        value for value in model.graph.input if value.name not in initializers
    ]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ModelError(
            f"'{model.graph.name}' has the inputs {names}; only a model with one input of 32-bit floats can be "
            "given data"
        )
    if len(inputs[0].type.tensor_type.shape.dim) < 2:
        raise ModelError(f"input '{inputs[0].name}' has no dimension for samples; expected (samples, …)")
    return inputs[0]


def _sized(spec: DataSpec, value: onnx.ValueInfoProto) -> DataSpec:
    """What the spec leaves open, as the input has it: the shape of a CSV's rows, the size of pictures."""
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim][1:]
    changes: dict[str, object] = {}
    if spec.shape is None and spec.source.lower().endswith(".csv") and all(dims) and len(dims) in (2, 3):
        changes["shape"] = tuple(dims)
    if len(dims) == 3 and dims[1] == dims[2] and dims[1] >= 8 and "size" not in spec.model_fields_set:
        changes["size"] = dims[1]
    return spec.model_copy(update=changes)


def _read(
    spec: DataSpec, seed: int, folder: Path | None
) -> tuple[Array, npt.NDArray[np.int64] | None, dict[Part, npt.NDArray[np.int64]], Array, Array, bool]:
    """Samples, labels, split, the offset and scale that were taken out, and whether raw values are meant."""
    path = (folder or Path()) / Path(spec.source).expanduser()
    if path.suffix.lower() == ".npz" and path.is_file() and (plain := _unlabelled(path)) is not None:
        order = np.random.default_rng(seed).permutation(len(plain))
        held = [round(len(order) * share) for share in (spec.validation, spec.test)]
        validation, test, train = np.split(order, np.cumsum(held))
        return (
            plain,
            None,
            {"train": train, "validation": validation, "test": test},
            np.zeros(1),
            np.ones(1),
            True,
        )
    data = load_data(spec, seed, folder)
    eight_bits = data.kind == "images" and (data.offset.item(), data.scale.item()) == (0.0, 255.0)
    raw = spec.source != "digits" and not eight_bits
    return data.samples, data.labels, data.parts, data.offset, data.scale, raw


def _numbers(text: str, ndim: int) -> Array:
    """One number, or one per channel or feature, to be broadcast to samples of so many dimensions."""
    return np.array(json.loads(text), np.float64).reshape(-1, *[1] * (ndim - 2))


def _unlabelled(path: Path) -> Array | None:
    """Array ``x`` of a file that has no ``y``; None when `load_data` has to read (or refuse) it."""
    try:
        with np.load(path, allow_pickle=False) as held:
            if "y" in held or "x" not in held:
                return None
            x = held["x"]
    except Exception:  # load_data says what is wrong with the file
        return None
    if x.ndim < 2 or len(x) < 5 or x.dtype.kind not in "uif" or not np.isfinite(x).all():
        raise DataError(
            f"data set '{path}' has samples x of shape {x.shape} and type {x.dtype}; expected at least five "
            "samples of finite numbers, the samples first"
        )
    return np.asarray(x / 255 if x.dtype == np.uint8 else x, np.float32)


def _shaped(images: Array, value: onnx.ValueInfoProto, source: str) -> tuple[Array, list[str]]:
    """Samples in the shape of an input, whose free dimensions but the first are bound to it, and what was resized."""
    resized = []
    dims = value.type.tensor_type.shape.dim
    wanted = [d.dim_value for d in dims][1:]
    if images.ndim == len(wanted) + 1:
        wanted = [w or have for w, have in zip(wanted, images.shape[1:], strict=True)]
    square = len(wanted) == 3 and images.ndim == 4 and wanted[0] == images.shape[1] and wanted[1] == wanted[2]
    if square and list(images.shape[2:]) != wanted[1:]:
        resized = [f"images resized from {images.shape[2]}×{images.shape[3]} to {wanted[1]}×{wanted[2]}"]
        images = resize(images, wanted[1], wanted[2])
    if len(wanted) == 1 and not wanted[0]:
        wanted = [int(np.prod(images.shape[1:]))]
    if int(np.prod(wanted)) != int(np.prod(images.shape[1:])) or 0 in wanted:
        have, need = ("×".join(map(str, s)) for s in (images.shape[1:], [w or "any" for w in wanted]))
        raise DataError(
            f"data set '{source}' has samples of {have}, but input '{value.name}' takes {need}; give data of that "
            "shape (square images are resized, if their channels agree)"
        )
    if list(images.shape[1:]) != wanted and len(wanted) != 1:
        raise DataError(
            f"data set '{source}' has samples of {'×'.join(map(str, images.shape[1:]))}, but input '{value.name}' "
            f"takes {'×'.join(map(str, wanted))}; transpose the data or the model"
        )
    for dim, size in zip(dims[1:], wanted, strict=True):
        dim.dim_value = size
    return np.ascontiguousarray(images.reshape(len(images), *wanted)), resized


def _batched(name: str, images: Array, labels: npt.NDArray[np.int64] | None, fixed: int) -> Samples:
    """Runs of the batch size that the file fixes (what is left over is not used), or of a handy one."""
    batch = fixed or _BATCH
    n = len(images) // fixed * fixed if fixed else len(images)
    feeds: Sequence[Feeds] = [{name: images[start : min(n, start + batch)]} for start in range(0, n, batch)]
    return Samples(tuple(feeds), None if labels is None else labels[:n], n)
