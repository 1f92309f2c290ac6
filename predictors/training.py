"""Trains every predictor on a table and ships the best on families held out whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors import PREDICTORS, Predictor, make_predictor
from hardsight.predictors.conformal import Conformal, family_folds
from hardsight.predictors.evaluation import out_of_family, scores_of, summary, with_intervals
from hardsight.predictors.per_metric import PerMetric
from hardsight.predictors.persist import save_predictor

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[str, int, int], None]
FOLDS = 7


@dataclass(frozen=True)
class TrainResult:
    """What training found.

    Args:
        predictor: best per metric, fitted on all rows, with intervals.
        chosen: metric to name of the predictor that was best.
        table: one row per predictor, device and metric, on held-out families.
        frames: the out-of-family predictions behind it, by predictor.
    """

    predictor: Predictor
    chosen: dict[Metric, str]
    table: pd.DataFrame
    frames: dict[str, pd.DataFrame]


def compare(
    table: MeasurementTable,
    names: Sequence[str] = tuple(PREDICTORS),
    *,
    folds: int = FOLDS,
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Leave families out, a group at a time, and compare predictors.

    Returns:
        The summary table, and per predictor its out-of-family predictions with 90 % intervals.
    """
    import pandas as pd

    frames: dict[str, pd.DataFrame] = {}
    groups = family_folds(table, folds)
    for name in names:
        told = _renamed(progress, name)
        frames[name] = with_intervals(
            out_of_family(partial(make_predictor, name), table, groups, told, _jobs(name))
        )
    rows = [summary(frame).assign(predictor=name) for name, frame in frames.items()]
    return pd.concat(rows, ignore_index=True), frames


def train(
    table: MeasurementTable,
    names: Sequence[str] = tuple(PREDICTORS),
    *,
    folds: int = FOLDS,
    progress: Progress | None = None,
) -> TrainResult:
    """Compare, choose the lowest mean error per metric, fit the winners on everything.

    Args:
        table: labels with families.
        names: predictors to compare.
        folds: groups of families.
        progress: called with what is done, how much of it, and how much there is.
    """
    compared, frames = compare(table, names, folds=folds, progress=progress)
    chosen: dict[Metric, str] = {}
    parts: dict[Metric, Predictor] = {}
    for metric in table.metrics:
        rows = compared[compared["metric"] == str(metric)]
        name = str(rows.groupby("predictor")["mape"].mean().idxmin())
        chosen[metric] = name
        fitted = make_predictor(name).fit(table.select(metric=metric))
        scores = {t: s for t, s in scores_of(frames[name]).items() if t[1] is metric}
        parts[metric] = Conformal(fitted, scores)
    return TrainResult(PerMetric(parts), chosen, compared, frames)


def save(result: TrainResult, table: MeasurementTable, folder: Path) -> None:
    """Write the predictor with what it was trained on and how well it did."""
    import hashlib

    digests = sorted(table.digests)
    info: dict[str, Any] = {
        "chosen": {str(m): n for m, n in result.chosen.items()},
        "graphs": len(digests),
        "training_digest": hashlib.sha256("".join(digests).encode()).hexdigest()[:32],
        "held_out_families": result.table.round(4).to_dict(orient="records"),
    }
    save_predictor(result.predictor, folder, info)


def _jobs(name: str) -> int:
    """All cores for the one predictor whose folds take minutes; the others are done before a process starts."""
    return min(os.cpu_count() or 1, FOLDS) if name == "graphnet" else 1


def _renamed(progress: Progress | None, name: str) -> Progress | None:
    if progress is None:
        return None
    return lambda what, done, total: progress(f"{name}: {what}", done, total)
