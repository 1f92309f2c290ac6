"""``hardsight train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardsight.cli import _flags, _show
from hardsight.cli.evaluate import show_scores
from hardsight.progress import progress_bars


def train(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder to write the predictor to.")],
    data: _flags.DataFolder = None,
    predictors: _flags.PredictorNames = None,
    folds: _flags.Folds = 7,
    track: _flags.Track = True,
) -> None:
    """Train predictors and keep the best.

    Per kind of device and metric, the one that is best on families held out whole is kept. The run and the
    predictor itself, as a pyfunc model, are logged to MLflow.
    """
    from hardsight import jobs

    with progress_bars() as progress:
        trained = jobs.train(
            out, data=data, predictors=predictors, folds=folds, track=track, progress=progress
        )
    show_scores(trained.result.table)
    for (kind, metric), name in trained.result.chosen.items():
        _show.note(f"{kind}, {_show.label(metric)}: kept {name}")
    _show.note(f"Written to {out}")
    if trained.model_uri:
        _show.note(f"Model: {trained.model_uri}")
