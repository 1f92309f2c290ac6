"""Scores → Markdown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from hardsight.experiments.readme_tables import markdown
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors.evaluation import ranked

if TYPE_CHECKING:
    import pandas as pd

_SHARES = ("within_10", "smape", "coverage")


def pooled_table(scores: pd.DataFrame, seeds: pd.DataFrame) -> str:
    """One row per metric and predictor: means over the devices; of MAPE also the best and the worst device.

    Args:
        scores: as `hardsight.predictors.evaluation.summary` gives, with a column ``predictor``.
        seeds: as `hardsight.predictors.evaluation.over_seeds` gives, with a column ``predictor``.
    """
    columns = (
        "metric", "predictor", "devices", "labels", "MAPE", "over seeds", "within 10 %", "SMAPE", "R²", "Spearman",
        "coverage", "width",
    )  # fmt: skip
    of_seeds = {
        (r["metric"], r["predictor"]): f"{r['least']:.1%} to {r['most']:.1%}"
        for r in seeds.to_dict(orient="records")
    }
    rows = []
    for (metric, name), of in scores.groupby(["metric", "predictor"]):
        mean = of[["mape", "within_10", "smape", "r2", "spearman", "coverage", "width"]].mean()
        range_ = f" ({of['mape'].min():.1%} to {of['mape'].max():.1%})" if len(of) > 1 else ""
        within, smape, coverage = (f"{mean[key]:.1%}" for key in _SHARES)
        cells = (
            f"`{metric}`", str(name), str(len(of)), f"{int(of['n'].sum()):,}", f"{mean['mape']:.1%}{range_}",
            of_seeds.get((metric, name), "–"), within, smape, _number(mean["r2"]), _number(mean["spearman"]), coverage,
            f"{mean['width']:.2f}",
        )  # fmt: skip
        rows.append((str(metric), float(mean["smape"]), cells))
    return markdown(columns, [cells for *_, cells in sorted(rows)])


def device_table(scores: pd.DataFrame) -> str:
    """One row per device and metric: the predictor that is best over the devices."""
    columns = (
        "device",
        "metric",
        "predictor",
        "labels",
        "MAPE",
        "within 10 %",
        "Spearman",
        "coverage",
        "width",
    )
    rows = []
    for metric, of in scores.groupby("metric"):
        best = ranked(of)[0]
        for r in of[of["predictor"] == best].sort_values("device").to_dict(orient="records"):
            shares = (f"{r[key]:.1%}" for key in ("mape", "within_10"))
            names = (f"`{r['device']}`", f"`{metric}`", best, f"{int(r['n']):,}")
            rows.append(
                (*names, *shares, _number(r["spearman"]), f"{r['coverage']:.1%}", f"{r['width']:.2f}")
            )
    return markdown(columns, rows)


def family_table(frame: pd.DataFrame) -> str:
    """The graph network's error on each family, worst last; all devices and metrics of it together."""
    frame = frame[frame["label"] > 0]
    error = (frame["value"] - frame["label"]) / frame["label"]
    inside = (frame["lower"] <= frame["label"]) & (frame["label"] <= frame["upper"])
    rows = frame.assign(error=error, size=error.abs(), inside=inside).groupby("family")
    table = rows.agg(
        labels=("size", "size"),
        mape=("size", "mean"),
        median=("size", "median"),
        bias=("error", "median"),
        cover=("inside", "mean"),
    )
    return markdown(
        ("family", "labels", "MAPE", "median error", "median bias", "coverage"),
        (
            (str(name), str(int(r["labels"])), *(f"{r[k]:.1%}" for k in ("mape", "median", "bias", "cover")))
            for name, r in table.sort_values("mape").iterrows()
        ),
    )


def own_cost_table(table: MeasurementTable) -> str:
    """What da4ml itself makes of its designs' logic cells, times the one factor that fits them in the middle."""
    from hardsight.predictors.evaluation import r_squared, smape

    rows = table.select(device="xcup/da4ml/lc5", metric=Metric.LOGIC_CELLS).rows
    label = rows["value"].to_numpy(dtype=np.float64)
    cost = np.array([float(json.loads(versions)["da4ml_cost"]) for versions in rows["versions"]])
    value = cost * np.exp(np.median(np.log(label / cost)))
    scores = (f"{smape(label, value):.1%}", _number(r_squared(label, value)))
    return markdown(
        ("metric", "compared", "labels", "SMAPE", "R²"),
        [(f"`{Metric.LOGIC_CELLS}`", "da4ml's own cost", f"{len(rows):,}", *scores)],
    )


def _number(x: float) -> str:
    return "–" if x != x else f"{x:.3f}"
