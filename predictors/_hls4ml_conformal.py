"""Intervals of counts that may be zero, for each kind of code on its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hardsight.errors import NotSupportedError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors.conformal import Conformal, quantile
from hardsight.predictors.hls4ml import Hls4mlPredictor

if TYPE_CHECKING:
    import pandas as pd


class CountConformal(Conformal):
    """Split conformal intervals of ``log(1 + count)``, one calibration per kind of code.

    As `Conformal`, with two differences. A count may be zero, so the score is |log(1 + label) - log(1 + value)| /
    doubt. And where a rule is exact most scores are zero: one quantile for all layers would give an interval without
    width to those that obey no rule. So each stratum has its own scores (Mondrian conformal prediction, Vovk et al.,
    "Algorithmic Learning in a Random World", section 4.5), and one with too few gets no interval.

    Args:
        predictor: what is wrapped.
    """

    def __init__(self, predictor: Hls4mlPredictor) -> None:
        super().__init__(predictor)
        self.inner = predictor
        self.strata_scores: dict[tuple[str, Metric, str], FloatArray] = {}

    def fit(self, table: MeasurementTable) -> Self:
        self.strata_scores = {}
        return super().fit(table)

    def conformalize(self, table: MeasurementTable) -> Self:
        """Calibrate on a table the predictor was not fitted to.

        Raises:
            NotSupportedError: when the predictor has not been fitted.
        """
        if not self.targets:
            raise NotSupportedError(
                f"predictor '{self.name}' has no target yet; call fit before conformalize"
            )
        for device, metric in self.targets:
            graphs, y = table.labelled(device, metric)
            if not graphs:
                continue
            scores = count_error(y, self.point(graphs, device, metric)) / self.doubt(graphs, device, metric)
            strata = np.array(self.inner.strata(graphs, device))
            for stratum in np.unique(strata):
                self.strata_scores[device, metric, str(stratum)] = np.sort(scores[strata == stratum])
        return self

    def log_half_width(
        self, graphs: Sequence[OperatorGraph], device: str, metric: Metric, level: float
    ) -> FloatArray:
        """Half-width of the interval of log(1 + count) ``(n,)``; NaN without enough calibration scores."""
        none = np.zeros(0)
        widths = [
            quantile(self.strata_scores.get((device, metric, stratum), none), level)
            for stratum in self.inner.strata(graphs, device)
        ]
        return np.array(widths) * self.doubt(graphs, device, metric)

    def interval(
        self,
        graphs: Sequence[OperatorGraph],
        device: str,
        metrics: Sequence[Metric],
        value: FloatArray,
        level: float,
    ) -> tuple[FloatArray, FloatArray]:
        half = np.stack([self.log_half_width(graphs, device, m, level) for m in metrics], axis=1)
        return count_ends(value, half.reshape(value.shape))

    def save_state(self, folder: Path) -> dict[str, Any]:
        from hardsight.predictors.persist import save_part

        return {
            "inner": save_part(self.predictor, folder),
            "scores": [
                [d, str(m), s, np.round(x, 6).tolist()] for (d, m, s), x in self.strata_scores.items()
            ],
        }

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        from hardsight.predictors.persist import load_part

        inner = load_part(folder, meta["inner"])
        assert isinstance(inner, Hls4mlPredictor)
        made = cls(inner)
        made.strata_scores = {(d, Metric(m), s): np.array(x) for d, m, s, x in meta["scores"]}
        return made


def count_error(label: FloatArray, value: FloatArray) -> FloatArray:
    """|log(1 + label) - log(1 + value)| ``(n,)``."""
    error: FloatArray = np.abs(np.log1p(label) - np.log1p(value))
    return error


def count_ends(value: FloatArray, half: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ends of ``log(1 + value) ± half``, not below zero."""
    lower: FloatArray = np.maximum((value + 1) * np.exp(-half) - 1, 0)
    upper: FloatArray = (value + 1) * np.exp(half) - 1
    return np.where(np.isnan(half), np.nan, lower), upper


def with_count_intervals(frame: pd.DataFrame, level: float = 0.9) -> pd.DataFrame:
    """Add ``lower`` and ``upper``, each fold's calibrated on the scores of all other folds.

    Args:
        frame: as `evaluation.out_of_family` gives, with a column ``stratum``.
        level: nominal coverage.
    """
    out = frame.assign(lower=np.nan, upper=np.nan)
    error = count_error(out["label"].to_numpy(float), out["value"].to_numpy(float)) / out["doubt"]
    for _, rows in out.groupby(["device", "metric", "stratum"]):
        for fold, own in rows.groupby("fold"):
            others = np.sort(error[rows.index[rows["fold"] != fold]].to_numpy(dtype=np.float64))
            half = np.full(len(own), quantile(others, level)) * own["doubt"].to_numpy()
            out.loc[own.index, "lower"], out.loc[own.index, "upper"] = count_ends(
                own["value"].to_numpy(), half
            )
    return out
