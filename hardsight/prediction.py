"""What a predictor answers: values with intervals, never bare numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hardsight.errors import NotCoveredError
from hardsight.metrics import Metric

FloatArray = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """One metric of one model, in SI units; ``lower`` and ``upper`` are None where no interval can be given."""

    value: float
    lower: float | None
    upper: float | None
    level: float


@dataclass(frozen=True)
class Prediction:
    """``n`` graphs by ``m`` metrics on one device.

    Args:
        value: ``(n, m)`` point predictions.
        lower: ``(n, m)`` lower ends; NaN where there is no interval.
        upper: ``(n, m)`` upper ends; NaN where there is no interval.
        metrics: the ``m`` columns.
        device: name of the device.
        level: nominal coverage, for example 0.9.
        predictor: name of what answered.
        unknown_ops: per graph, operator types priced by bytes alone.
        assumptions: per graph, what had to be assumed.
    """

    value: FloatArray
    lower: FloatArray
    upper: FloatArray
    metrics: tuple[Metric, ...]
    device: str
    level: float
    predictor: str
    unknown_ops: tuple[Mapping[str, int], ...] = ()
    assumptions: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, metric: str) -> Prediction:
        """The column of one metric, still a Prediction (``n x 1``)."""
        column = [self.metrics.index(covered(metric, self.metrics))]
        return Prediction(
            self.value[:, column],
            self.lower[:, column],
            self.upper[:, column],
            (self.metrics[column[0]],),
            self.device,
            self.level,
            self.predictor,
            self.unknown_ops,
            self.assumptions,
        )

    def row(self, i: int) -> ModelPrediction:
        """Graph ``i`` with plain floats."""
        estimates = {
            metric: Estimate(
                float(self.value[i, j]),
                _finite(self.lower[i, j]),
                _finite(self.upper[i, j]),
                self.level,
            )
            for j, metric in enumerate(self.metrics)
        }
        return ModelPrediction(
            estimates,
            self.device,
            self.predictor,
            dict(self.unknown_ops[i]) if self.unknown_ops else {},
            self.assumptions[i] if self.assumptions else (),
        )


@dataclass(frozen=True)
class ModelPrediction(Mapping[str, Estimate]):
    """One model on one device: ``answer["latency_s"].upper``.

    Args:
        estimates: by metric.
        device: name of the device.
        predictor: name of what answered.
        unknown_ops: operator types priced by bytes alone, with counts.
        assumptions: what had to be assumed, one sentence each.
        model: what was asked about, for messages.
        digest: the graph's identity.
        layers: cost of each operator in order, ``latency_s`` summing to the total; None unless asked for.
    """

    estimates: Mapping[Metric, Estimate]
    device: str
    predictor: str
    unknown_ops: Mapping[str, int]
    assumptions: Sequence[str] = ()
    model: str = ""
    digest: str = ""
    layers: tuple[LayerCost, ...] | None = None

    def __getitem__(self, metric: str) -> Estimate:
        return self.estimates[covered(metric, self.estimates)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)


class LayerCost(NamedTuple):
    """One operator's share of the predicted latency."""

    name: str
    op_type: str
    latency_s: float
    macs: int
    bytes: int


def covered(metric: str, among: Iterable[Metric]) -> Metric:
    """The metric of that name among those an answer holds.

    Raises:
        NotCoveredError: listing them.
    """
    known = list(among)
    if metric not in known:
        listed = ", ".join(known) or "nothing"
        raise NotCoveredError(f"there is no '{metric}' in this answer; covered: {listed}")
    return Metric(metric)


def _finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None
