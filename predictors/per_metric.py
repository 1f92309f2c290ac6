"""One predictor out of several, each answering for its own metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from hardsight.errors import NotSupportedError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor


class PerMetric(Predictor):
    """Sends each metric to the predictor that is best at it.

    Args:
        parts: metric to predictor.
    """

    def __init__(self, parts: Mapping[Metric, Predictor]) -> None:
        self.parts = dict(parts)

    @property
    def name(self) -> str:  # type: ignore[override]
        return "+".join(dict.fromkeys(part.name for part in self.parts.values()))

    @property
    def targets(self) -> list[tuple[str, Metric]]:
        return [(d, m) for metric, part in self.parts.items() for d, m in part.targets if m is metric]

    def fit(self, table: MeasurementTable) -> Self:
        for metric, part in self.parts.items():
            part.fit(table.select(metric=metric))
        return self

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        return self.parts[metric].point(graphs, device, metric)

    def doubt(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        return self.parts[metric].doubt(graphs, device, metric)

    def layer_costs(self, graph: OperatorGraph, device: str) -> FloatArray:
        if Metric.LATENCY not in self.parts:
            raise NotSupportedError(f"predictor '{self.name}' has no latency, so none per layer")
        return self.parts[Metric.LATENCY].layer_costs(graph, device)

    def interval(
        self,
        graphs: Sequence[OperatorGraph],
        device: str,
        metrics: Sequence[Metric],
        value: FloatArray,
        level: float,
    ) -> tuple[FloatArray, FloatArray]:
        ends = [
            self.parts[m].interval(graphs, device, [m], value[:, [j]], level) for j, m in enumerate(metrics)
        ]
        return np.concatenate([low for low, _ in ends], axis=1), np.concatenate(
            [high for _, high in ends], axis=1
        )

    def save_state(self, folder: Path) -> dict[str, Any]:
        from hardsight.predictors.persist import save_part

        parts: dict[str, Any] = {}
        for metric, part in self.parts.items():
            (folder / str(metric)).mkdir()
            parts[str(metric)] = save_part(part, folder / str(metric))
        return {"parts": parts}

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        from hardsight.predictors.persist import load_part

        return cls({Metric(m): load_part(folder / m, part) for m, part in meta["parts"].items()})
