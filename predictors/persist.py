"""A saved predictor is a folder: ``meta.json`` and arrays; nothing in it is ever executed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hardsight.errors import HardsightError, StorageError, UnknownNameError
from hardsight.predictors._base import Predictor
from hardsight.predictors.encoding import SCHEMA

FORMAT = 1
META = "meta.json"

# Class name to module; only these are ever loaded, whatever a folder says.
KINDS = {
    "RooflinePredictor": "hardsight.predictors.linear",
    "RidgePredictor": "hardsight.predictors.linear",
    "ForestPredictor": "hardsight.predictors.forest",
    "GraphNetPredictor": "hardsight.predictors.graphnet",
    "KernelForestPredictor": "hardsight.predictors.kernel_forest",
    "TransformerPredictor": "hardsight.predictors.transformer",
    "Hls4mlPredictor": "hardsight.predictors.hls4ml",
    "Conformal": "hardsight.predictors.conformal",
    "CountConformal": "hardsight.predictors._hls4ml_conformal",
    "Joined": "hardsight.predictors.joined",
    "AdaptedPredictor": "hardsight.predictors.adapted",
}


def save_predictor(predictor: Predictor, folder: Path, info: dict[str, Any] | None = None) -> None:
    """Write a predictor, replacing a folder of the same name only when all of it is written.

    Args:
        predictor: fitted.
        folder: to make.
        info: what else a reader should know: training digests, versions, seed.

    Raises:
        StorageError: when it cannot be written; an older folder is then untouched.
    """
    try:
        with (
            made_folder(folder.parent),
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as scratch,
        ):
            made = Path(scratch) / "new"
            made.mkdir()
            meta = {
                "format": FORMAT,
                "schema": SCHEMA,
                "info": info or {},
                "predictor": save_part(predictor, made),
            }
            (made / META).write_text(json.dumps(meta))
            if folder.exists():
                folder.replace(Path(scratch) / "old")
            made.replace(folder)
    except (OSError, SafetensorError) as error:  # the latter also when the disk is full
        raise StorageError(
            f"cannot write the predictor to {folder}: {error}; check its free space and permissions"
        ) from error


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder; when the block fails, the folders made for it go again unless something is in them."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise


def load_saved(folder: Path) -> Predictor:
    """Read a predictor.

    Raises:
        StorageError: when the folder is no predictor, or of another feature schema.
    """
    meta = read_meta(folder)
    if meta.get("format") != FORMAT or meta.get("schema") != SCHEMA:
        raise StorageError(
            f"the predictor in {folder} has format {meta.get('format')}, features {meta.get('schema')}; this version "
            f"reads format {FORMAT}, features {SCHEMA}. Train it again with 'hardsight train' or 'hardsight adapt'."
        )
    return load_part(folder, meta.get("predictor"))


def read_meta(folder: Path) -> dict[str, Any]:
    """The ``meta.json`` of a predictor folder."""
    try:
        meta = json.loads((folder / META).read_text())
    except (OSError, ValueError) as error:
        raise StorageError(f"{folder} holds no predictor: {error}") from error
    if not isinstance(meta, dict):
        raise StorageError(f"{folder / META} is not a predictor's description")
    return meta


def save_part(predictor: Predictor, folder: Path) -> dict[str, Any]:
    """Write a predictor's arrays and return its description."""
    return {"kind": type(predictor).__name__, "state": predictor.save_state(folder)}


def load_part(folder: Path, meta: Any) -> Predictor:
    """The inverse of `save_part`.

    Raises:
        StorageError: when what is there is no predictor.
        UnknownNameError: of a kind that there is not.
    """
    try:
        kind = meta["kind"]
        if kind not in KINDS:
            raise UnknownNameError("kind of saved predictor", str(kind), KINDS)
        cls = getattr(import_module(KINDS[kind]), kind)
        predictor = cls.load_state(folder, meta["state"])
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        if isinstance(error, HardsightError):
            raise
        raise StorageError(
            f"the predictor in {folder} is damaged: {type(error).__name__}: {error}"
        ) from error
    assert isinstance(predictor, Predictor)
    return predictor
