"""Scores of predictions of counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hardsight.predictors.evaluation import r_squared, smape

if TYPE_CHECKING:
    import pandas as pd


def scores(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean over the seeds of what `score` says of each group, and the standard deviation of R² as ``r2_sd``."""
    import pandas as pd

    each = pd.DataFrame(
        [
            {**dict(zip([*by, "seed"], key, strict=True)), **score(rows)}
            for key, rows in frame.groupby([*by, "seed"])
        ]
    )
    grouped = each.drop(columns="seed").groupby(list(by))
    return grouped.mean().assign(r2_sd=grouped["r2"].std(ddof=0)).reset_index()


def score(rows: pd.DataFrame) -> dict[str, float]:
    """Scores of the rows of one seed.

    Returns:
        ``n``; ``r2`` and ``r2_log``, of counts and of log(1 + count); ``smape``, the mean of 2 |value − label| /
        (value + label); ``exact`` and ``within_2``, the shares of labels that are off by at most half and two;
        ``coverage`` of the intervals; ``width`` and ``wide``, the median and the 90 % quantile of (upper − lower) /
        max(value, 1).
    """
    label, value = rows["label"].to_numpy(float), rows["value"].to_numpy(float)
    off = np.abs(value - label)
    lower, upper = rows["lower"].to_numpy(float), rows["upper"].to_numpy(float)
    known = ~np.isnan(lower)
    width = ((upper - lower) / np.maximum(value, 1))[known]
    return {
        "n": len(rows),
        "r2": r_squared(label, value),
        "r2_log": r_squared(np.log1p(label), np.log1p(value)),
        "smape": smape(label, value),
        "exact": float(np.mean(off <= 0.5)),
        "within_2": float(np.mean(off <= 2)),
        "coverage": float(np.mean((lower <= label) & (label <= upper))) if known.all() else float("nan"),
        "width": float(np.median(width)) if len(width) else float("nan"),
        "wide": float(np.quantile(width, 0.9)) if len(width) else float("nan"),
    }
