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
from hardsight.predictors.scale import conformity, widened

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
    return {
        (str(device), Metric(metric)): np.sort(_scores(rows))
        for (device, metric), rows in frame.groupby(["device", "metric"])
    }


def _scores(rows: pd.DataFrame) -> FloatArray:
    """Conformity scores ``(n,)`` of rows of one metric."""
    metric = Metric(rows["metric"].iloc[0])
    label, value, doubt = (rows[name].to_numpy(dtype=np.float64) for name in ("label", "value", "doubt"))
    return conformity(metric, label, value, doubt)


def with_intervals(
    frame: pd.DataFrame, level: float = 0.9, by: Sequence[str] = ("device", "metric")
) -> pd.DataFrame:
    """Add ``lower`` and ``upper``, each fold's calibrated on the scores of all other folds.

    Args:
        frame: as `out_of_family` gives.
        level: nominal coverage.
        by: columns, the metric among them, whose groups are calibrated each by itself.
    """
    import pandas as pd

    out = frame.assign(lower=np.nan, upper=np.nan)
    for _, rows in out.groupby(list(by)):
        metric = Metric(rows["metric"].iloc[0])
        score = pd.Series(_scores(rows), rows.index)
        for fold, part in rows.groupby("fold"):
            others = np.sort(score[rows["fold"] != fold].to_numpy())
            half = quantile(others, level) * part["doubt"].to_numpy()
            out.loc[part.index, ["lower", "upper"]] = np.stack(
                widened(metric, part["value"].to_numpy(), half), axis=1
            )
    return out


def summary(frame: pd.DataFrame, by: Sequence[str] = ("device", "metric")) -> pd.DataFrame:
    """Error, rank correlation, coverage and width of a frame with intervals.

    Returns:
        Per group: ``n``; ``mape`` (mean |value − label| / label, over labels above zero); ``within_10``, the share of
        labels within 10 %; ``smape`` (mean 2 |value − label| / (value + label)); ``r2``, the coefficient of
        determination; ``spearman``; ``coverage``, the share of labels inside their interval; ``width``, the median
        of (upper − lower) / value.
    """
    import pandas as pd

    def one(rows: pd.DataFrame) -> pd.Series[float]:
        label, value = rows["label"].to_numpy(float), rows["value"].to_numpy(float)
        off = np.abs(value - label)
        return pd.Series(
            {
                "n": len(rows),
                "mape": (off / label)[label > 0].mean() if (label > 0).any() else float("nan"),
                "within_10": (off <= 0.1 * label).mean(),
                "smape": smape(label, value),
                "r2": r_squared(label, value),
                "spearman": rows["value"].rank().corr(rows["label"].rank()),
                "coverage": ((rows["lower"] <= rows["label"]) & (rows["label"] <= rows["upper"])).mean(),
                "width": ((rows["upper"] - rows["lower"]) / rows["value"]).median(),
            }
        )

    return pd.DataFrame(
        [{**dict(zip(by, key, strict=True)), **one(rows)} for key, rows in frame.groupby(list(by))]
    )


def ranked(scores: pd.DataFrame) -> list[str]:
    """Predictors from best to worst by mean SMAPE over the devices.

    A guess of half counts there as much as a guess of twice the label; with MAPE, who guesses low wins.

    Args:
        scores: of one metric, as `summary` gives, with a column ``predictor``.
    """
    return list(scores.groupby("predictor")["smape"].mean().sort_values(kind="stable").index)


def smape(label: FloatArray, value: FloatArray) -> float:
    """Mean of 2 |value − label| / (value + label); right is right where both are zero."""
    return float(np.mean(2 * np.abs(value - label) / np.maximum(label + value, np.finfo(float).tiny)))


def r_squared(label: FloatArray, value: FloatArray) -> float:
    """1 − residual / total sum of squares; NaN where all labels are equal."""
    total = float(((label - label.mean()) ** 2).sum())
    return 1 - float(((label - value) ** 2).sum()) / total if total > 0 else float("nan")
