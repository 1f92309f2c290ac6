"""Trains every predictor on a table and keeps the best on families held out whole, for each kind of device."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardsight.device import kind_of
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors import PREDICTORS, Predictor, make_predictor
from hardsight.predictors.conformal import Conformal, family_folds, label_ranges
from hardsight.predictors.evaluation import out_of_family, ranked, scores_of, summary, with_intervals
from hardsight.predictors.joined import Joined
from hardsight.predictors.persist import save_predictor

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[str, int, int], None]
FOLDS = 7


@dataclass(frozen=True)
class TrainResult:
    """What training found.

    Args:
        predictor: the best of each kind of device and metric, fitted on all rows, with intervals.
        chosen: kind of device and metric to name of the predictor that was best.
        table: one row per predictor, device and metric, on held-out families.
        frames: the out-of-family predictions behind it, by predictor.
    """

    predictor: Predictor
    chosen: dict[tuple[str, Metric], str]
    table: pd.DataFrame
    frames: dict[str, pd.DataFrame]


def compare(
    table: MeasurementTable,
    names: Sequence[str] = tuple(PREDICTORS),
    *,
    folds: int = FOLDS,
    progress: Progress | None = None,
    keep: Path | None = None,
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Leave families out, a group at a time, and compare predictors; each kind of device by itself.

    Args:
        table: labels with families.
        names: predictors to compare.
        folds: groups of families.
        progress: called with what is done, how much of it, and how much there is.
        keep: folder for the predictions of each group, ``<kind>/<predictor>/``, so that a run that was cut off goes on.

    Returns:
        The summary table, and per predictor its out-of-family predictions with 90 % intervals.
    """
    import pandas as pd

    kinds = by_kind(table)
    frames: dict[str, pd.DataFrame] = {}
    for name in names:
        parts = []
        for kind, part in kinds.items():
            told = _renamed(progress, f"{name}, {kind}")
            groups = family_folds(part, folds)
            kept = keep / kind / name if keep else None
            parts.append(out_of_family(partial(make_predictor, name), part, groups, told, _jobs(name), kept))
        frames[name] = with_intervals(pd.concat(parts, ignore_index=True))
    rows = [summary(frame).assign(predictor=name) for name, frame in frames.items()]
    return pd.concat(rows, ignore_index=True), frames


def train(
    table: MeasurementTable,
    names: Sequence[str] = tuple(PREDICTORS),
    *,
    folds: int = FOLDS,
    progress: Progress | None = None,
) -> TrainResult:
    """Compare, choose the best (see `evaluation.ranked`) per kind of device and metric, fit the winners on everything.

    Args:
        table: labels with families.
        names: predictors to compare.
        folds: groups of families.
        progress: called with what is done, how much of it, and how much there is.
    """
    compared, frames = compare(table, names, folds=folds, progress=progress)
    return fit_best(table, compared, frames)


def fit_best(table: MeasurementTable, compared: pd.DataFrame, frames: dict[str, pd.DataFrame]) -> TrainResult:
    """Fit what `compare` found best, with intervals from its out-of-family predictions."""
    chosen: dict[tuple[str, Metric], str] = {}
    best: dict[tuple[str, Metric], Predictor] = {}
    for kind, part in by_kind(table).items():
        rows = compared[compared["device"].isin(part.devices)]
        of_name: dict[str, list[tuple[str, Metric]]] = {}
        for metric, scores in rows.groupby("metric"):
            name = ranked(scores)[0]
            chosen[kind, Metric(metric)] = name
            of_name.setdefault(name, []).extend((d, Metric(metric)) for d in sorted(set(scores["device"])))
        for name, targets in of_name.items():
            scores_by_target = scores_of(frames[name])
            fitted = make_predictor(name).fit(part.of(targets))
            ranges = label_ranges(part, targets)
            calibrated = Conformal(fitted, {t: scores_by_target[t] for t in targets}, ranges)
            best.update(dict.fromkeys(targets, calibrated))
    return TrainResult(Joined({t: best[t] for t in sorted(best)}), chosen, compared, frames)


def by_kind(table: MeasurementTable) -> dict[str, MeasurementTable]:
    """The table's rows by kind of device (``cpu``, ``npu``, …); this machine and unknown devices are CPUs."""
    kinds: dict[str, list[str]] = {}
    for device in table.devices:
        kinds.setdefault(kind_of(device), []).append(device)
    return {
        kind: MeasurementTable(table.rows[table.rows["device"].isin(names)], table.graphs, table.families)
        for kind, names in kinds.items()
    }


def save(result: TrainResult, table: MeasurementTable, folder: Path) -> None:
    """Write the predictor with what it was trained on and how well it did."""
    import hashlib

    digests = sorted(table.digests)
    info: dict[str, Any] = {
        "chosen": {f"{kind}/{metric}": name for (kind, metric), name in result.chosen.items()},
        "graphs": len(digests),
        "training_digest": hashlib.sha256("".join(digests).encode()).hexdigest()[:32],
        "held_out_families": [
            {key: None if value != value else value for key, value in row.items()}  # JSON has no NaN
            for row in result.table.round(4).to_dict(orient="records")
        ],
    }
    save_predictor(result.predictor, folder, info)


def _jobs(name: str) -> int:
    """All cores for the one predictor whose folds take minutes; the others are done before a process starts."""
    return min(os.cpu_count() or 1, FOLDS) if name == "graphnet" else 1


def _renamed(progress: Progress | None, name: str) -> Progress | None:
    if progress is None:
        return None
    return lambda what, done, total: progress(f"{name}: {what}", done, total)
