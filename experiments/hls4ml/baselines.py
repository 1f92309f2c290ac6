"""What the predictor has to beat: hls4ml's rules without learning, and learning without the rules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from hardsight.errors import NotSupportedError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors import Predictor
from hardsight.predictors._hls4ml_head import Inputs, pipeline_depth
from hardsight.predictors._hls4ml_rules import KINDS, REUSE_FACTOR, Layer, layers_of, rule, strategy_of
from hardsight.predictors.features import totals_matrix


class _Baseline(Predictor):
    """A predictor of single layers that is compared and thrown away."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._models: dict[tuple[str, Metric], Any] = {}

    @property
    def targets(self) -> list[tuple[str, Metric]]:
        return list(self._models)

    def fit(self, table: MeasurementTable) -> Self:
        for device in table.devices:
            for metric in table.select(device=device).metrics:
                graphs, y = table.labelled(device, metric)
                model = self._fit(graphs, y, device, metric)
                if model is not None:
                    self._models[device, metric] = model
        return self

    @abstractmethod
    def _fit(self, graphs: Sequence[OperatorGraph], y: FloatArray, device: str, metric: Metric) -> Any:
        """Whatever `point` needs; None when there is nothing to say of the metric."""

    def save_state(self, folder: Path) -> dict[str, Any]:
        raise NotSupportedError(f"the baseline '{self.name}' is not saved")

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        raise NotSupportedError(f"the baseline '{cls.name}' is not saved")


class Rules(_Baseline):
    """hls4ml's rules alone, with one pipeline depth per kind of code: the median of what is left."""

    name = "rules"

    def _fit(self, graphs: Sequence[OperatorGraph], y: FloatArray, device: str, metric: Metric) -> Any:
        layers = _layers(graphs, device)
        if any(rule(layer, metric) is None for layer in layers):
            return None
        kinds = np.array([layer.stratum for layer in layers])
        parts = Inputs.of(layers, metric).rule
        return {kind: pipeline_depth(parts[kinds == kind], y[kinds == kind]) for kind in np.unique(kinds)}

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        layers = _layers(graphs, device)
        depths = np.array([self._models[device, metric].get(layer.stratum, 0.0) for layer in layers])
        parts = Inputs.of(layers, metric).rule
        return np.asarray(np.maximum(parts[:, 0] + depths * parts[:, 1], 0), dtype=np.float64)


class TotalsRidge(_Baseline):
    """Ridge from the logarithms of a graph's totals to that of the count; totals know no reuse factor."""

    name = "ridge"

    def _fit(self, graphs: Sequence[OperatorGraph], y: FloatArray, device: str, metric: Metric) -> Any:
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), Ridge()).fit(np.log1p(totals_matrix(graphs)), np.log1p(y))

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        said = self._models[device, metric].predict(np.log1p(totals_matrix(graphs)))
        return np.asarray(np.maximum(np.expm1(said), 0), dtype=np.float64)


class RawForest(_Baseline):
    """Extremely randomized trees on what a user would write down: kind, sizes, bits, reuse factor asked for."""

    name = "forest"

    def _fit(self, graphs: Sequence[OperatorGraph], y: FloatArray, device: str, metric: Metric) -> Any:
        from sklearn.ensemble import ExtraTreesRegressor

        model = ExtraTreesRegressor(100, min_samples_leaf=2, max_features=0.5, random_state=self.seed)
        return model.fit(_raw(graphs, device), np.log1p(y))

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        said = self._models[device, metric].predict(_raw(graphs, device))
        return np.asarray(np.expm1(said), dtype=np.float64)


def _layers(graphs: Sequence[OperatorGraph], device: str) -> list[Layer]:
    strategy = strategy_of(device)
    return [layers_of(graph, strategy)[0] for graph in graphs]


def _raw(graphs: Sequence[OperatorGraph], device: str) -> FloatArray:
    rows = []
    for graph, layer in zip(graphs, _layers(graphs, device), strict=True):
        asked = max(int(str(op.attributes.get(REUSE_FACTOR, 1))) for op in graph.operators)
        first = layer.matrices[0]
        rows.append([KINDS.index(layer.kind), first.n_in, first.n_out, layer.positions, layer.bits, asked])
    return np.array(rows, dtype=np.float64)
