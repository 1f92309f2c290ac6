"""Intervals of counts that may be zero, for each kind of code on its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors.conformal import Conformal, quantile
from hardsight.predictors.hls4ml import Hls4mlPredictor


class CountConformal(Conformal):
    """Split conformal intervals of ``log(1 + count)``, one calibration per kind of code.

    As `Conformal`, with one difference: where a rule is exact most scores are zero, and one quantile for all layers
    would give an interval without width to those that obey no rule. So each stratum has its own scores (Mondrian
    conformal prediction, Vovk et al., "Algorithmic Learning in a Random World", section 4.5), and one with too few
    gets no interval.

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

    def _keep(self, scores: FloatArray, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> None:
        strata = np.array(self.inner.strata(graphs, device))
        for stratum in np.unique(strata):
            self.strata_scores[device, metric, str(stratum)] = np.sort(scores[strata == stratum])

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
