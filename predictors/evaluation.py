"""How good a predictor is on families it never saw, and how honest its intervals are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardsight.errors import DataError
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor
from hardsight.predictors.arrays import arrays_of
from hardsight.predictors.conformal import quantile, split_families
from hardsight.predictors.encoding import SCHEMA
from hardsight.predictors.scale import conformity, widened

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[str, int, int], None]
SEED = "seed "
"""How the columns of an ensemble's members begin."""


def out_of_family(
    make: Callable[[], Predictor],
    table: MeasurementTable,
    folds: Sequence[Sequence[str]],
    progress: Progress | None = None,
    jobs: int = 1,
    keep: Path | None = None,
) -> pd.DataFrame:
    """Predict every label by a model that saw no graph of its family.

    Args:
        make: gives a fresh, unfitted predictor.
        table: labels with families.
        folds: groups of family names, held out together; every family in one of them.
        progress: called after each fold.
        jobs: folds to work on at once, each in a process of its own when above 1.
        keep: folder of this predictor, where the predictions of each fold are kept as they land. A fold that is there
            is not fitted again, unless its labels, its networks or what predictors see of a graph have changed.

    Raises:
        DataError: fewer than two folds.

    Returns:
        One row per label: ``device, metric, digest, family, fold, label, value, doubt``; and ``seed 0``, ``seed 1``, …,
        what each member says where the predictor is an ensemble.
    """
    import pandas as pd
    from joblib import Parallel, delayed

    if len(folds) < 2:
        raise DataError("holding families out needs labels of networks of at least two families")
    paths = _fold_files(table, folds, keep) if keep else [None] * len(folds)
    work = (
        delayed(_fold)(make, table, fold, i, path)
        for i, (fold, path) in enumerate(zip(folds, paths, strict=True))
    )
    parts = []
    for part in Parallel(n_jobs=jobs, return_as="generator_unordered")(work):
        parts.append(part)
        if progress:
            progress("held-out families", len(parts), len(folds))
    return pd.concat(sorted(parts, key=lambda part: part["fold"].iloc[0]), ignore_index=True)


def _fold_files(table: MeasurementTable, folds: Sequence[Sequence[str]], folder: Path) -> list[Path]:
    """A file for each fold, whose name says what the predictions in it depend on."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i, fold in enumerate(folds):
        held = sorted(d for d in table.digests if table.families.get(d) in set(fold))
        seen = (SCHEMA, arrays_of(table.devices), table.labels_digest, held)
        tag = hashlib.sha256(repr(seen).encode()).hexdigest()[:12]
        files.append(folder / f"{i}-{tag}.parquet")
    return files


def _fold(
    make: Callable[[], Predictor],
    table: MeasurementTable,
    fold: Sequence[str],
    number: int,
    path: Path | None,
) -> pd.DataFrame:
    """What is kept in the file, or else made and kept there."""
    import pandas as pd

    if path is None:
        return _predict_fold(make, table, fold, number)
    if not path.exists():
        part = path.with_suffix(".part")
        _predict_fold(make, table, fold, number).to_parquet(part)
        part.replace(path)
    return pd.read_parquet(path)


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
            members = predictor.member_points(graphs, device, metric)
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
                        **{f"{SEED}{i}": values for i, values in enumerate(members)},
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Errors of the members of an ensemble, each alone: they differ in their seed.

    Args:
        frame: as `out_of_family` gives.

    Returns:
        One row per metric of an ensemble: ``metric``, and ``least`` and ``most``, the mean absolute percentage error of
        the best and of the worst member, each the mean over devices.
    """
    import pandas as pd

    seeds = [name for name in frame.columns if name.startswith(SEED)]
    known = frame[frame["label"] > 0].dropna(subset=seeds)
    errors = known[seeds].sub(known["label"], axis=0).abs().div(known["label"], axis=0)
    means = errors.groupby([known["device"], known["metric"]]).mean().groupby("metric").mean()
    return pd.DataFrame({"least": means.min(axis=1), "most": means.max(axis=1)}).dropna().reset_index()


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
