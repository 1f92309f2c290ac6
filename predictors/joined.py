"""One predictor out of several, each answering for some targets."""

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

Target = tuple[str, Metric]


class Joined(Predictor):
    """Sends each device and metric to the predictor that is best at it.

    Args:
        parts: device and metric to predictor; one predictor may answer for many.
    """

    def __init__(self, parts: Mapping[Target, Predictor]) -> None:
        self.parts = dict(parts)

    @property
    def name(self) -> str:  # type: ignore[override]
        return "+".join(dict.fromkeys(part.name for part in self._distinct()))

    @property
    def targets(self) -> list[Target]:
        return list(self.parts)

    def _distinct(self) -> list[Predictor]:
        return list({id(part): part for part in self.parts.values()}.values())

    def fit(self, table: MeasurementTable) -> Self:
        """Fit each part to the labels of the targets it answers for."""
        for part in self._distinct():
            own = {target for target, other in self.parts.items() if other is part}
            part.fit(table.of(own))
        return self

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        return self.parts[device, metric].point(graphs, device, metric)

    def doubt(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        return self.parts[device, metric].doubt(graphs, device, metric)

    def novelty(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        return self.parts[device, metric].novelty(graphs, device, metric)

    def layer_costs(self, graph: OperatorGraph, device: str, metric: Metric = Metric.LATENCY) -> FloatArray:
        if (device, metric) not in self.parts:
            raise NotSupportedError(
                f"predictor '{self.name}' has no {metric} of '{device}', so none per layer"
            )
        return self.parts[device, metric].layer_costs(graph, device, metric)

    def interval(
        self,
        graphs: Sequence[OperatorGraph],
        device: str,
        metrics: Sequence[Metric],
        value: FloatArray,
        level: float,
    ) -> tuple[FloatArray, FloatArray]:
        ends = [
            self.parts[device, m].interval(graphs, device, [m], value[:, [j]], level)
            for j, m in enumerate(metrics)
        ]
        lower, upper = zip(*ends, strict=True)
        return np.concatenate(lower, axis=1), np.concatenate(upper, axis=1)

    def save_state(self, folder: Path) -> dict[str, Any]:
        from hardsight.predictors.persist import save_part

        parts: list[dict[str, Any]] = []
        for i, part in enumerate(self._distinct()):
            (folder / str(i)).mkdir()
            own = [[device, str(metric)] for (device, metric), other in self.parts.items() if other is part]
            parts.append({"targets": own, "predictor": save_part(part, folder / str(i))})
        return {"parts": parts}

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        from hardsight.predictors.persist import load_part

        parts: dict[Target, Predictor] = {}
        for i, part in enumerate(meta["parts"]):
            predictor = load_part(folder / str(i), part["predictor"])
            parts.update({(device, Metric(metric)): predictor for device, metric in part["targets"]})
        return cls(parts)
