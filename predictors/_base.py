"""The contract of a predictor."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from hardsight.errors import NotSupportedError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray, Prediction

Target = tuple[str, Metric]
"""A device's name and what is predicted of it."""

_UNLIKE = (
    "unlike the networks that {metric} was learned from ({n:.3g} times as far away as all but 1 % of them): "
    "the interval is wider for that, and may still be too narrow"
)


class Predictor(ABC):
    """Learns costs of graphs on devices.

    A subclass gives point predictions; `hardsight.predictors.conformal.Conformal` wraps any of them
    and adds intervals. The state must be arrays and JSON, so that a folder can hold it without
    pickled code.
    """

    name: str = "predictor"

    @abstractmethod
    def fit(self, table: MeasurementTable) -> Self:
        """Learn every (device, metric) the table has; the table is not changed."""

    @abstractmethod
    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        """Point predictions ``(n,)`` in SI units; only called for what `targets` lists."""

    @property
    @abstractmethod
    def targets(self) -> list[tuple[str, Metric]]:
        """The (device, metric) pairs that were fitted."""

    @abstractmethod
    def save_state(self, folder: Path) -> dict[str, Any]:
        """Write arrays into the folder and return what belongs into ``meta.json``."""

    @classmethod
    @abstractmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        """The inverse of `save_state`."""

    def adapt(self, table: MeasurementTable, *, trust_units: bool = False) -> Predictor:
        """A predictor for the one device of a table, which this one need not know; this one stays as it is.

        A known device of the same kind, runtime and precision, as the name says them, is corrected. With fewer than
        5 networks there is no interval. What there is to say of the labels is said as a warning.

        Args:
            table: labels of one device.
            trust_units: values that are sixty times or more off those of every known device are meant.

        Raises:
            DataError: when the labels are of no device or of several, contradictory, constant, or of a wrong unit.
            NotSupportedError: when no known device resembles it.
        """
        from hardsight.predictors.adapt import adapted

        made = adapted(self, table, trust_units=trust_units)
        for note in made.notes:
            warnings.warn(note, stacklevel=2)
        return made.predictor

    def doubt(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        """Relative difficulty ``(n,)``, above zero; intervals widen in proportion. Without an opinion: ones."""
        return np.ones(len(graphs))

    def member_points(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        """What each member of an ensemble, trained from a seed of its own, says alone ``(members, n)``; else none."""
        return np.zeros((0, len(graphs)))

    def name_on(self, device: str) -> str:
        """The name of what answers for the device."""
        return self.name

    def only(self, device: str) -> Predictor:
        """As little of it as answers for the device."""
        return self

    def novelty(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        """How unlike its training a graph is ``(n,)``; above 1 it is flagged. Without an opinion: zeros."""
        return np.zeros(len(graphs))

    def limit(self, device: str, metric: Metric) -> float:
        """What no value can exceed, as far as known."""
        return np.inf

    def layer_costs(self, graph: OperatorGraph, device: str, metric: Metric = Metric.LATENCY) -> FloatArray:
        """Each operator's part of a metric that adds up ``(v,)``; they sum to the graph's prediction.

        A predictor that does not decompose shares its total out in proportion to the roofline.
        """
        from hardsight.predictors.features import roofline_costs

        shares = roofline_costs(graph)
        total = float(self.point([graph], device, metric)[0])
        return shares * (total / shares.sum()) if len(shares) else shares

    def supports(self, device: str, metric: Metric) -> bool:
        """Whether `predict` has an answer."""
        return (device, metric) in self.targets

    def predict(self, graphs: Sequence[OperatorGraph], device: str, level: float = 0.9) -> Prediction:
        """Every metric known for the device, without intervals (NaN) unless a wrapper adds them.

        Args:
            graphs: ``n`` graphs.
            device: name of a fitted device.
            level: nominal coverage of the intervals, above 0 and below 1.

        Raises:
            NotSupportedError: when nothing was fitted for the device.
        """
        metrics = tuple(m for d, m in self.targets if d == device)
        if not metrics:
            have = ", ".join(sorted({d for d, _ in self.targets})) or "none"
            raise NotSupportedError(
                f"predictor '{self.name}' has not seen device '{device}'; it knows: {have}"
            )
        if not 0 < level < 1:
            raise NotSupportedError(f"level {level} is not between 0 and 1")
        value = np.stack([self.point(graphs, device, m) for m in metrics], axis=1).reshape(
            len(graphs), len(metrics)
        )
        lower, upper = self.interval(graphs, device, metrics, value, level)
        missing = [m for j, m in enumerate(metrics) if np.isnan(lower[:, j]).any()]
        doubts = [
            f"no {100 * level:.6g} % interval for {m}: the calibration cannot support that level"
            for m in missing
        ]
        novel = {m: self.novelty(graphs, device, m) for m in metrics}
        return Prediction(
            value,
            lower,
            upper,
            metrics,
            device,
            level,
            self.name_on(device),
            tuple(g.unknown_ops for g in graphs),
            tuple(
                (
                    *g.assumptions,
                    *doubts,
                    *(_UNLIKE.format(metric=m, n=n[i]) for m, n in novel.items() if n[i] > 1),
                )
                for i, g in enumerate(graphs)
            ),
        )

    def interval(
        self,
        graphs: Sequence[OperatorGraph],
        device: str,
        metrics: Sequence[Metric],
        value: FloatArray,
        level: float,
    ) -> tuple[FloatArray, FloatArray]:
        """Lower and upper ends ``(n, m)`` around ``value``; NaN says that there is no interval."""
        nothing = np.full_like(value, np.nan)
        return nothing, nothing.copy()
