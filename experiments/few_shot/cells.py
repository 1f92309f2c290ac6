"""Scores that are kept: one line of JSON per task, device and number of measurements, a file per method.

What is there is not made again, so an interrupted run goes on, and several may run at once, each with its own methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.datasets.journal import Journal
from hardsight.experiments.few_shot.ceiling import ceiling
from hardsight.experiments.few_shot.definitions import Case, Table
from hardsight.predictors.few_shot.scoring import Score, run
from hardsight.progress import Progress

CEILING = "ceiling"
_NUMBERS = ("spearman", "spearman_trimmed", "mape")

Key = tuple[str, str, int]
"""Task, device, measurements."""
Scores = dict[str, dict[tuple[str, int], dict[str, Score]]]
"""By method, then by task and measurements, then by device."""


def path_of(folder: Path, table: Table, method: str) -> Path:
    """Where the scores of a method are kept."""
    return folder / table.name / f"{method}.jsonl"


def kept(path: Path, draws: int) -> dict[Key, Score]:
    """What a file has at least so many draws of; of more the first."""
    found = {}
    for row in Journal(path):
        if len(row["spearman"]) >= draws:
            numbers = [np.array(row[name][:draws]) for name in _NUMBERS]
            found[row["task"], row["device"], row["samples"]] = Score(*numbers)
    return found


def make(
    table: Table, cases: Sequence[Case], method: str, draws: int, folder: Path, progress: Progress
) -> None:
    """Whatever scores are missing."""
    path = path_of(folder, table, method)
    path.parent.mkdir(parents=True, exist_ok=True)
    have = kept(path, draws)
    cells = [
        (case, samples, device) for case in cases for samples in table.samples for device in case.task.targets
    ]
    for done, (case, samples, device) in enumerate(cells):
        progress(f"{table.name}, {method}", done, len(cells))
        if (case.task.name, device, samples) not in have:
            task = replace(case.task, targets=(device,))
            score = run(case.tables, task, method, samples, draws=draws)[device]
            Journal(path).append([_row(case.task.name, device, samples, score)])
    progress(f"{table.name}, {method}", len(cells), len(cells))


def read(table: Table, cases: Sequence[Case], methods: Sequence[str], draws: int, folder: Path) -> Scores:
    """What is kept of these methods; only tasks of which every device is there."""
    scores: Scores = {}
    for method in methods:
        have = kept(path_of(folder, table, method), draws)
        for case in cases:
            for samples in table.samples:
                keys = {device: (case.task.name, device, samples) for device in case.task.targets}
                if all(key in have for key in keys.values()):
                    found = {device: have[key] for device, key in keys.items()}
                    scores.setdefault(method, {})[case.task.name, samples] = found
    return scores


def ceilings(table: Table, cases: Sequence[Case], folder: Path, progress: Progress) -> Scores:
    """The best that can be expected, under its own name and no measurements; predictions are kept."""
    found: dict[tuple[str, int], dict[str, Score]] = {}
    cells = [(case, device) for case in cases for device in case.task.targets]
    for done, (case, device) in enumerate(cells):
        progress(f"{table.name}, ceiling", done, len(cells))
        score = ceiling(case.tables, case.task, device, folder)
        found.setdefault((case.task.name, 0), {})[device] = score
    progress(f"{table.name}, ceiling", len(cells), len(cells))
    return {CEILING: found}


def _row(task: str, device: str, samples: int, score: Score) -> dict[str, Any]:
    numbers = {name: [round(float(x), 6) for x in getattr(score, name)] for name in _NUMBERS}
    return {"task": task, "device": device, "samples": samples, **numbers}
