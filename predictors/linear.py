"""Predictors that are linear in the graph's totals: the roofline and non-negative ridge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor
from hardsight.predictors.features import TOTALS, graph_arrays, operator_totals, totals_matrix

_TIMES = frozenset({Metric.LATENCY, Metric.CYCLES, Metric.ENERGY})


class _Weighted(Predictor):
    """State shared by the linear predictors: one weight vector per target."""

    def __init__(self) -> None:
        self.weights: dict[tuple[str, Metric], FloatArray] = {}

    @property
    def targets(self) -> list[tuple[str, Metric]]:
        return list(self.weights)

    def save_state(self, folder: Path) -> dict[str, Any]:
        return {"weights": [[d, str(m), w.tolist()] for (d, m), w in self.weights.items()]}

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        made = cls()
        made.weights = {(d, Metric(m)): np.array(w) for d, m, w in meta["weights"]}
        return made


class RidgePredictor(_Weighted):
    """Non-negative ridge on graph totals: cost = Σ w·(count, MACs, bytes per operator category).

    Weights are non-negative, as each operator costs something, and errors count relative to the
    label. Solved as non-negative least squares (Lawson & Hanson 1974) with the ridge term as extra rows.

    Args:
        alpha: ridge strength on columns scaled to unit norm.
    """

    name = "ridge"

    def __init__(self, alpha: float = 1e-3) -> None:
        super().__init__()
        self.alpha = alpha

    def fit(self, table: MeasurementTable) -> Self:
        for device in table.devices:
            for metric in table.select(device=device).metrics:
                graphs, y = table.labelled_above_zero(device, metric)
                if graphs:
                    self.weights[device, metric] = self._solve(totals_matrix(graphs), y)
        return self

    def _solve(self, totals: FloatArray, y: FloatArray) -> FloatArray:
        from scipy.optimize import nnls

        scaled = totals / y[:, None]
        norms = np.linalg.norm(scaled, axis=0)
        unseen = norms == 0
        norms[unseen] = 1
        rows = np.vstack([scaled / norms, np.sqrt(self.alpha) * np.eye(totals.shape[1])])
        solution, _ = nnls(rows, np.concatenate([np.ones(len(y)), np.zeros(totals.shape[1])]))
        weights: FloatArray = solution / norms
        for quantity in ("count", "bytes"):  # a category never trained on costs what the average one does
            columns = np.array([name.endswith(f".{quantity}") for name in TOTALS])
            if (columns & ~unseen).any():
                weights[columns & unseen] = weights[columns & ~unseen].mean()
        return weights

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        weights = self.weights[device, metric]
        return np.maximum(totals_matrix(graphs) @ weights, 1e-12)

    def layer_costs(self, graph: OperatorGraph, device: str, metric: Metric = Metric.LATENCY) -> FloatArray:
        """Each operator's own terms; what belongs to the graph as a whole is shared out evenly."""
        weights = self.weights[device, metric]
        own: FloatArray = operator_totals(graph) @ weights
        kept = graph_arrays(graph).kept
        total = float(self.point([graph], device, metric)[0])
        own[kept] += (total - own.sum()) / max(len(kept), 1)
        return own


class RooflinePredictor(_Weighted):
    """The roofline of Williams et al. (2009), operator by operator.

    latency, cycles, energy = Σ max(macs / peak(bits), bytes / bandwidth) + dispatch · operators; anything else =
    weights + peak live activations + constant. The machine's figures (peak at fp32 and INT8, bandwidth, dispatch;
    the constant) are fitted to its labels.
    """

    name = "roofline"

    def fit(self, table: MeasurementTable) -> Self:
        from scipy.optimize import least_squares

        for device in table.devices:
            for metric in table.select(device=device).metrics:
                graphs, y = table.labelled_above_zero(device, metric)
                if not graphs:
                    continue
                start = np.log([2e-11, 7e-12, 1e-10, 2e-6] if metric in _TIMES else [1.0, 1.0, 1e6])
                data = [self._data(g, metric) for g in graphs]
                # cycles and joules are roofline seconds times something
                start += np.median(np.log(y) - np.log([self._value(d, np.exp(start), metric) for d in data]))

                def residual(
                    p: FloatArray, data: Any = data, y: FloatArray = y, metric: Metric = metric
                ) -> FloatArray:
                    values = np.array([self._value(d, np.exp(p), metric) for d in data])
                    return np.log(values / y)

                reach = (start - 8, start + 8)  # a factor of 3000 around plausible hardware
                fitted = least_squares(residual, start, bounds=reach, loss="soft_l1", max_nfev=40)
                self.weights[device, metric] = np.exp(fitted.x)
        return self

    @staticmethod
    def _data(graph: OperatorGraph, metric: Metric) -> FloatArray:
        if metric not in _TIMES:
            totals = totals_matrix([graph])[0]
            return np.array(
                [totals[TOTALS.index("weight_bytes")], totals[TOTALS.index("peak_live_bytes")], 1.0]
            )
        arrays = graph_arrays(graph)
        int8 = arrays.int8
        # a merged operator neither moves bytes nor is dispatched
        repeats = np.zeros(len(graph.operators))
        repeats[arrays.kept] = [graph.operators[i].repeats for i in arrays.kept]
        macs = np.array([op.macs for op in graph.operators], dtype=float) * repeats
        moved = np.array([op.bytes for op in graph.operators], dtype=float) * repeats
        return np.stack([macs * ~int8, macs * int8, moved, repeats])

    @staticmethod
    def _costs(data: FloatArray, p: FloatArray) -> FloatArray:
        costs: FloatArray = np.maximum(data[0] * p[0] + data[1] * p[1], data[2] * p[2]) + data[3] * p[3]
        return costs

    def _value(self, data: FloatArray, p: FloatArray, metric: Metric) -> float:
        if metric in _TIMES:
            return float(self._costs(data, p).sum()) + 1e-12
        return float(data @ p)

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        p = self.weights[device, metric]
        return np.array([self._value(self._data(g, metric), p, metric) for g in graphs])

    def layer_costs(self, graph: OperatorGraph, device: str, metric: Metric = Metric.LATENCY) -> FloatArray:
        if metric not in _TIMES:
            return super().layer_costs(graph, device, metric)
        costs = self._costs(self._data(graph, metric), self.weights[device, metric])
        return costs * (1 + 1e-12 / max(float(costs.sum()), 1e-12)) if len(costs) else costs
