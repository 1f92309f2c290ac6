"""How good a predictor is on families it never saw, and how honest its intervals are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor
from hardsight.predictors.conformal import quantile, split_families

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[str, int, int], None]


def out_of_family(
    make: Callable[[], Predictor],
    table: MeasurementTable,
    folds: Sequence[Sequence[str]],
    progress: Progress | None = None,
    jobs: int = 1,
) -> pd.DataFrame:
    """Predict every label by a model that saw no graph of its family.

    Args:
        make: gives a fresh, unfitted predictor.
        table: labels with families.
        folds: groups of family names, held out together; every family in one of them.
        progress: called after each fold.
        jobs: folds to work on at once, each in a process of its own when above 1.

    Returns:
        One row per label: ``device, metric, digest, family, fold, label, value, doubt``.
    """
    import pandas as pd
    from joblib import Parallel, delayed

    work = (delayed(_predict_fold)(make, table, fold, i) for i, fold in enumerate(folds))
    parts = []
    for part in Parallel(n_jobs=jobs, return_as="generator")(work):
        parts.append(part)
        if progress:
            progress("held-out families", len(parts), len(folds))
    return pd.concat(parts, ignore_index=True)


def _predict_fold(
    make: Callable[[], Predictor], table: MeasurementTable, fold: Sequence[str], number: int
) -> pd.DataFrame:
    import pandas as pd

    train, held = split_families(table, fold)
    predictor = make().fit(train)
    parts = []
    for device, metric in predictor.targets:
        graphs, label = held.labelled(device, metric)
        if graphs:
            parts.append(
                pd.DataFrame(
                    {
                        "device": device,
                        "metric": str(metric),
                        "digest": [g.digest for g in graphs],
                        "family": held.families_of(graphs),
                        "fold": number,
                        "label": label,
                        "value": predictor.point(graphs, device, metric),
                        "doubt": predictor.doubt(graphs, device, metric),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def scores_of(frame: pd.DataFrame) -> dict[tuple[str, Metric], FloatArray]:
    """Sorted conformity scores per (device, metric) of what `out_of_family` returned."""
    score = np.abs(np.log(frame["label"] / frame["value"])) / frame["doubt"]
    return {
        (str(device), Metric(metric)): np.sort(score[rows.index].to_numpy(dtype=np.float64))
        for (device, metric), rows in frame.groupby(["device", "metric"])
    }


def with_intervals(frame: pd.DataFrame, level: float = 0.9) -> pd.DataFrame:
    """Add ``lower`` and ``upper``, each fold's calibrated on the scores of all other folds."""
    out = frame.assign(lower=np.nan, upper=np.nan)
    score = np.abs(np.log(out["label"] / out["value"])) / out["doubt"]
    for (_, _, fold), rows in out.groupby(["device", "metric", "fold"]):
        same = (out["device"] == rows["device"].iloc[0]) & (out["metric"] == rows["metric"].iloc[0])
        others = np.sort(score[same & (out["fold"] != fold)].to_numpy(dtype=np.float64))
        half = quantile(others, level) * rows["doubt"]
        out.loc[rows.index, "lower"] = rows["value"] * np.exp(-half)
        out.loc[rows.index, "upper"] = rows["value"] * np.exp(half)
    return out


def summary(frame: pd.DataFrame, by: Sequence[str] = ("device", "metric")) -> pd.DataFrame:
    """Error, rank correlation, coverage and width of a frame with intervals.

    Returns:
        Per group: ``n``; ``mape`` (mean |value − label| / label); ``within_10``, the share of labels within 10 %;
        ``spearman``; ``coverage``, the share of labels inside their interval; ``width``, the median of
        (upper − lower) / value.
    """
    import pandas as pd

    def one(rows: pd.DataFrame) -> pd.Series[float]:
        error = (rows["value"] - rows["label"]).abs() / rows["label"]
        return pd.Series(
            {
                "n": len(rows),
                "mape": error.mean(),
                "within_10": (error <= 0.1).mean(),
                "spearman": rows["value"].rank().corr(rows["label"].rank()),
                "coverage": ((rows["lower"] <= rows["label"]) & (rows["label"] <= rows["upper"])).mean(),
                "width": ((rows["upper"] - rows["lower"]) / rows["value"]).median(),
            }
        )

    return pd.DataFrame(
        [{**dict(zip(by, key, strict=True)), **one(rows)} for key, rows in frame.groupby(list(by))]
    )
