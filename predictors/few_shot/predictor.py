"""A few-shot method's answer as a predictor of graphs, for a search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from hardsight.errors import InputError, NotCoveredError
from hardsight.graph import OperatorGraph
from hardsight.metrics import Metric
from hardsight.prediction import Prediction
from hardsight.predictors.few_shot.gaussian import Posterior


class FewShotPredictor:
    """Costs of the networks of one search space on one device that was measured a few times.

    The interval is that of a measurement: what is not known of the network's cost, and the noise.

    Args:
        device: its name.
        digests: ``(n,)`` of the space's graphs.
        believed: of each; logarithms of the metric in ``unit``.
        metric: that was measured.
        unit: of the measurements, in the metric's SI unit.

    Raises:
        InputError: other numbers of graphs and of answers.
    """

    def __init__(
        self,
        device: str,
        digests: Sequence[str],
        believed: Posterior,
        metric: Metric = Metric.LATENCY,
        unit: float = 1.0,
    ) -> None:
        if len(digests) != len(believed.mean):
            raise InputError(f"{len(digests)} graphs and {len(believed.mean)} answers; give one for each")
        self.device = device
        self.metric = metric
        self._index = {digest: i for i, digest in enumerate(digests)}
        self._mean = believed.mean + np.log(unit)
        self._sd = np.hypot(believed.sd, believed.noise)

    def predict(self, graphs: Sequence[OperatorGraph], device: str, level: float = 0.9) -> Prediction:
        """Point and interval of each graph.

        Raises:
            NotCoveredError: another device, or a graph that is not of the space.
        """
        if device != self.device:
            raise NotCoveredError(f"measured was '{self.device}', not '{device}'")
        foreign = [graph for graph in graphs if graph.digest not in self._index]
        if foreign:
            raise NotCoveredError(
                f"'{foreign[0].name}' is none of the {len(self._index):,} networks that '{device}' is known for; "
                "batch size and classes must be those of the table"
            )
        rows = [self._index[graph.digest] for graph in graphs]
        mean, reach = self._mean[rows], ndtri((1 + level) / 2) * self._sd[rows]
        value, lower, upper = (np.exp(mean + by)[:, None] for by in (0.0, -reach, reach))
        return Prediction(value, lower, upper, (self.metric,), device, level, "few-shot")
