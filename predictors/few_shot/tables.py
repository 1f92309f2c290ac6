"""Any table of ``SPACE_latency.npz``, ``SPACE_archs.csv`` and ``splits.json`` in one folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from hardsight.errors import DataError, UnknownNameError
from hardsight.prediction import FloatArray
from hardsight.predictors.few_shot import Space

if TYPE_CHECKING:
    import pandas as pd

_MOST_VALUES = 64  # of a column; one with more is a name or a measurement, not a choice
_KEYS = ("source", "meta_train"), ("target", "meta_test")


@dataclass(frozen=True)
class Task:
    """Devices to learn from and devices to be tested on, of one search space.

    Args:
        name: as asked for: ``F1``, or ``HELP/fbnet``.
        space: of the files.
        sources: known devices.
        targets: new ones.
        known: architectures that the known devices are known for; all by default.
        query: architectures to be asked about and not to be measured; all and none by default.
    """

    name: str
    space: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    known: range | None = None
    query: range | None = None


class Tables:
    """The tables in a folder.

    Args:
        folder: as `hardsight.datasets.sources.help` has it.

    Raises:
        DataError: ``splits.json`` is missing or not understood.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.tasks = {
                task.name: task for task in _tasks(json.loads((folder / "splits.json").read_text()))
            }
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"cannot read tasks from {folder / 'splits.json'}: {error}") from error
        self._spaces: dict[str, tuple[pd.DataFrame, list[str], FloatArray]] = {}
        self._last: tuple[Any, Space] | None = None

    def task(self, name: str) -> Task:
        """A task whose devices are all there; those that the table lacks, or has without a cost, are left out.

        Raises:
            UnknownNameError: no task of that name.
            DataError: the table has no source or no target of it, or one device is both.
        """
        if name not in self.tasks:
            raise UnknownNameError("task", name, self.tasks)
        task = self.tasks[name]
        if both := sorted(set(task.sources) & set(task.targets)):
            raise DataError(
                f"'{both[0]}' is a source and a target of task '{name}'; what is known is not to be learned"
            )
        _, devices, costs = self._read(task.space)
        cells = dict(zip(devices, (~np.isnan(costs)).sum(axis=0), strict=True))
        sources, targets = (
            tuple(d for d in of if cells.get(d, 0) > 0) for of in (task.sources, task.targets)
        )
        if not sources or not targets:
            raise DataError(f"the table of '{task.space}' has no source or no target of task '{name}'")
        return Task(name, task.space, sources, targets)

    def space(self, task: Task) -> Space:
        """The architectures, and what the task's sources need for them.

        The same object for the same question asked twice in a row, as methods keep what they learned from it.
        """
        question = task.space, task.sources, task.known
        if self._last is None or self._last[0] != question:
            self._last = question, self._space(task)
        return self._last[1]

    def _space(self, task: Task) -> Space:
        archs, have, costs = self._read(task.space)
        columns = tuple(str(c) for c in archs.columns)
        words = [sorted(archs[c].unique(), key=_natural) for c in columns]
        codes = np.stack(
            [archs[c].map({w: i for i, w in enumerate(of)}) for c, of in zip(columns, words, strict=True)],
            axis=1,
        )
        values = tuple(tuple(map(str, of)) for of in words)
        sources = costs[:, [have.index(d) for d in task.sources]]
        if task.known is not None:
            sources[np.setdiff1d(np.arange(len(sources)), np.array(task.known))] = np.nan
        return Space(codes.astype(np.int64), columns, values, sources)

    def costs(self, task: Task, device: str) -> FloatArray:
        """What each architecture costs on a device ``(n,)``, in the table's unit; NaN where not measured."""
        _, have, costs = self._read(task.space)
        return costs[:, have.index(device)]

    def _read(self, space: str) -> tuple[pd.DataFrame, list[str], FloatArray]:
        if space not in self._spaces:
            self._spaces[space] = _read(self.folder, space)
        return self._spaces[space]


def _read(folder: Path, space: str) -> tuple[pd.DataFrame, list[str], FloatArray]:
    import pandas as pd

    try:
        archs = pd.read_csv(folder / f"{space}_archs.csv", keep_default_na=False)
        with np.load(folder / f"{space}_latency.npz", allow_pickle=False) as file:
            devices, costs = [str(name) for name in file["devices"]], file["latency"].astype(np.float64)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(f"cannot read the table of '{space}' in {folder}: {error}") from error
    if costs.shape != (len(archs), len(devices)):
        raise DataError(
            f"{space}_latency.npz has shape {costs.shape}; expected {(len(archs), len(devices))}: "
            "a row for each architecture, a column for each device"
        )
    if twice := sorted({d for d in devices if devices.count(d) > 1}):
        raise DataError(f"{space}_latency.npz has device '{twice[0]}' twice")
    costs[~((costs > 0) & np.isfinite(costs))] = np.nan  # what was not measured, or cannot be a cost
    archs = _in_order(archs, space)
    choices = [c for c in archs.columns if c != "index" and 1 < archs[c].nunique() <= _MOST_VALUES]
    if not choices:
        raise DataError(f"{space}_archs.csv has no column with 2 to {_MOST_VALUES} different values")
    return _without_unused(archs[choices]), devices, costs


def _in_order(archs: pd.DataFrame, space: str) -> pd.DataFrame:
    """Architectures in the order of the costs, which the column ``index`` states where there is one."""
    if "index" not in archs:
        return archs
    if sorted(archs["index"]) != list(range(len(archs))):
        raise DataError(
            f"column 'index' of {space}_archs.csv must have each row's number in the npz once, from 0"
        )
    return archs.sort_values("index").reset_index(drop=True)


def _without_unused(archs: pd.DataFrame) -> pd.DataFrame:
    """Choices for blocks that an architecture does not have become ``-1``: OFA's tables fill them in all the same.

    ``ks_i`` and ``expand_i`` belong to stage ``i // 4``, which has ``depth_(i // 4)`` blocks.
    """
    if "depth_0" not in archs or "ks_0" not in archs:
        return archs
    archs = archs.copy()
    for column in archs.columns:
        part, _, number = column.rpartition("_")
        if part in ("ks", "expand") and number.isdigit():
            stage, block = divmod(int(number), 4)
            archs.loc[archs[f"depth_{stage}"] <= block, column] = -1
    return archs


def _tasks(splits: Any) -> list[Task]:
    """Every device split of a file: publications, in each spaces, in each named splits or one."""
    found = []
    for publication, spaces in splits.items():
        for space, given in spaces.items():
            if not isinstance(given, dict):
                continue
            if own := _devices(given):
                found.append(Task(f"{publication}/{space}", space, *own))
            for name, split in given.items():
                if isinstance(split, dict) and (devices := _devices(split)):
                    found.append(Task(str(name), space, *devices))
    return found


def _devices(split: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    sides = [next((split[key] for key in keys if key in split), None) for keys in _KEYS]
    if any(not isinstance(side, list) for side in sides):
        return None
    sources, targets = (tuple(map(str, side)) for side in sides if side is not None)
    return sources, targets


def _natural(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, int | float | np.number) else (1, str(value))
