"""``hardsight evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardsight.cli import _flags, _show
from hardsight.progress import progress_bars

if TYPE_CHECKING:
    import pandas as pd


def evaluate(
    data: _flags.DataFolder = None,
    predictors: _flags.PredictorNames = None,
    folds: _flags.Folds = 7,
    as_json: _flags.AsJson = False,
) -> None:
    """Score predictors on families they never saw.

    Error, rank correlation, coverage and width of the intervals. Families are left out a group at a time;
    every network is predicted once.
    """
    from hardsight import jobs

    with progress_bars() as progress:
        scores = jobs.evaluate(data=data, predictors=predictors, folds=folds, progress=progress)
    if as_json:
        for record in jobs.score_records(scores):
            _show.line(record)
    else:
        show_scores(scores)


def show_scores(scores: pd.DataFrame) -> None:
    """Print one row per predictor, device and metric."""
    from hardsight.jobs import score_records

    shares = ("mape", "within_10", "coverage", "width")
    _show.table(
        ("predictor", "device", "metric", "n", "error", "within 10 %", "coverage", "width", "rank"),
        (
            (
                row["predictor"],
                row["device"],
                _show.label(row["metric"]),
                str(int(row["n"])),
                *("-" if row[key] is None else _show.percent(row[key]) for key in shares),
                "-" if row["spearman"] is None else f"{row['spearman']:.3f}",
            )
            for row in score_records(scores)
        ),
        "families held out whole; 90 % intervals",
    )
