"""A predictor for a new device: a known device's predictor, corrected by a handful of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple, Self

import numpy as np

from hardsight.errors import NotSupportedError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor
from hardsight.predictors.features import CATEGORIES, DISPATCH_S, IntArray, graph_arrays

MIN_FOR_INTERVAL = 5
_PRIOR_SCALE = 3.0  # log; the new device may be 20 x faster or slower
_PRIOR_GROUP = 0.35  # log; kinds of work rarely differ by more than 2 x beyond the common scale
_GROUP_OF = {"conv": 0, "depthwise": 1, "matmul": 2, "recurrent": 2}
_INT8, _MEMORY, _OVERHEAD = 3, 4, 5
_OF_WORK = (Metric.LATENCY, Metric.CYCLES, Metric.ENERGY)
GROUPS = ("conv", "depthwise", "matmul", "int8", "memory-bound", "overhead")


class Fitted(NamedTuple):
    """Posterior of one metric's correction.

    Args:
        theta: ``(1 + groups,)`` common log scale, then one log factor per group of operators.
        covariance: of ``theta`` (Laplace approximation).
        inflation: factor on the source's interval, from leave-one-out errors.
        residual: root mean square of the leave-one-out log errors.
        k: number of graphs measured.
    """

    theta: FloatArray
    covariance: FloatArray
    inflation: float
    residual: float
    k: int


class AdaptedPredictor(Predictor):
    """Corrects each kind of work by its own factor, learned with a Gaussian prior.

    log y = log Σ_g ŷ_g · exp(a + δ_g) + noise, where ŷ_g is the source's predicted cost of the operators of
    group g; a is nearly free, δ_g ~ N(0, 0.35²). So one measurement sets the scale, and ten tell convolutions
    from memory traffic, fp32 from INT8, and work from calls. The posterior is Gaussian around the maximum
    (Laplace); the noise is the source's own error on unseen families. Intervals join posterior and source
    interval, widened where leave-one-out errors are larger than those promise; below 5 graphs there is none.

    Args:
        source: predictor of the known devices, with intervals.
        device: name of the new device.
        source_device: known device to start from.
    """

    def __init__(self, source: Predictor, device: str, source_device: str) -> None:
        self.source = source
        self.device = device
        self.source_device = source_device
        self.fitted: dict[Metric, Fitted] = {}

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.source.name}, adapted"

    @property
    def targets(self) -> list[tuple[str, Metric]]:
        return [(self.device, metric) for metric in self.fitted]

    def fit(self, table: MeasurementTable) -> Self:
        """Fit the correction to the new device's labels.

        Raises:
            NotSupportedError: when the source knows none of the metrics.
        """
        rows = table.select(device=self.device)
        for metric in rows.metrics:
            graphs, y = rows.labelled_above_zero(self.device, metric)
            if graphs and self.source.supports(self.source_device, metric):
                self.fitted[metric] = self._fit(graphs, y, metric)
        if not self.fitted:
            have = ", ".join(m for d, m in self.source.targets if d == self.source_device)
            raise NotSupportedError(
                f"no measurement of {self.device} has a metric known for {self.source_device}; expected {have}"
            )
        return self

    def _fit(self, graphs: Sequence[OperatorGraph], y: FloatArray, metric: Metric) -> Fitted:
        parts = self._parts(graphs, metric)
        noise = self._noise(graphs, metric)
        theta, covariance = _maximum_a_posteriori(parts, np.log(y), noise)
        errors = []
        for i in range(len(y)):
            rest = np.arange(len(y)) != i
            if rest.any():
                other, _ = _maximum_a_posteriori(parts[rest], np.log(y[rest]), noise[rest])
                errors.append(np.log(y[i]) - np.log(_corrected(parts[i : i + 1], other)[0]))
        off = np.array(errors) if errors else np.array([np.nan])
        residual = float(np.sqrt(np.mean(off**2)))
        promised = float(np.sqrt(np.mean(noise**2)))
        return Fitted(theta, covariance, max(1.0, residual / promised), residual, len(y))

    def _parts(self, graphs: Sequence[OperatorGraph], metric: Metric) -> FloatArray:
        """Source prediction split into groups ``(n, g)``; metrics that do not follow from work have one group."""
        value = self.source.point(graphs, self.source_device, metric)
        parts = np.zeros((len(graphs), len(GROUPS)))
        if metric not in _OF_WORK:
            parts[:, 0] = value
            return parts
        for i, graph in enumerate(graphs):
            costs = self.source.layer_costs(graph, self.source_device, metric)
            if not len(costs):
                parts[i, _MEMORY] = value[i]
                continue
            parts[i] = np.bincount(work_groups(graph), weights=costs, minlength=len(GROUPS))
        return parts

    def _noise(self, graphs: Sequence[OperatorGraph], metric: Metric) -> FloatArray:
        """The source's standard error in log space ``(n,)``, from its 68 % interval; 20 % where it has none."""
        half = self._source_half_width(graphs, metric, 0.68)
        return np.where(np.isfinite(half), np.maximum(half, 0.01), 0.2)

    def _source_half_width(self, graphs: Sequence[OperatorGraph], metric: Metric, level: float) -> FloatArray:
        """Half the source's interval in log space ``(n,)``; NaN where it has none."""
        value = self.source.point(graphs, self.source_device, metric)[:, None]
        lower, upper = self.source.interval(graphs, self.source_device, [metric], value, level)
        return np.asarray(np.log(upper / lower)[:, 0] / 2, dtype=np.float64)

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        return _corrected(self._parts(graphs, metric), self.fitted[metric].theta)

    def novelty(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        return self.source.novelty(graphs, self.source_device, metric)

    def layer_costs(self, graph: OperatorGraph, device: str, metric: Metric = Metric.LATENCY) -> FloatArray:
        costs = self.source.layer_costs(graph, self.source_device, metric)
        theta = self.fitted[metric].theta
        factors = theta[1:][work_groups(graph)] if metric in _OF_WORK else theta[1]
        return np.asarray(costs * np.exp(theta[0] + factors), dtype=np.float64)

    def interval(
        self,
        graphs: Sequence[OperatorGraph],
        device: str,
        metrics: Sequence[Metric],
        value: FloatArray,
        level: float,
    ) -> tuple[FloatArray, FloatArray]:
        z = NormalDist().inv_cdf(0.5 + level / 2)
        halves = []
        for metric in metrics:
            fitted = self.fitted[metric]
            if fitted.k < MIN_FOR_INTERVAL:
                halves.append(np.full(len(graphs), np.nan))
                continue
            source_half = self._source_half_width(graphs, metric, level) * fitted.inflation
            jacobian = _jacobian(self._parts(graphs, metric), fitted.theta)
            variance = _variance(jacobian, _covariance(fitted))
            halves.append(np.sqrt(source_half**2 + z**2 * variance))
        half = np.stack(halves, axis=1).reshape(value.shape)
        return value * np.exp(-half), value * np.exp(half)

    def expected_error(
        self, graphs: Sequence[OperatorGraph], metric: Metric, also: Sequence[OperatorGraph] = ()
    ) -> float:
        """Root mean square error (in log space, so relative where it is small) to expect on graphs like these.

        The source's own error on families that it does not know, times the inflation, joined with what the posterior
        leaves open; where the labels scatter more than the source promised, they tell that much less.

        Args:
            graphs: at least one.
            metric: a fitted one.
            also: graphs to take for measured too; their labels do not matter for this.
        """
        fitted = self.fitted[metric]
        more = None
        if also:
            more = _jacobian(self._parts(also, metric), fitted.theta) / self._noise(also, metric)[:, None]
        covariance = _covariance(fitted, more)
        own = self._noise(graphs, metric) * fitted.inflation
        open_ = _variance(_jacobian(self._parts(graphs, metric), fitted.theta), covariance)
        return float(np.sqrt(np.mean(own**2 + open_)))

    def save_state(self, folder: Path) -> dict[str, Any]:
        from hardsight.predictors.persist import save_part

        fitted = {
            str(metric): {
                "theta": f.theta.tolist(),
                "covariance": f.covariance.tolist(),
                "inflation": f.inflation,
                "residual": f.residual,
                "k": f.k,
            }
            for metric, f in self.fitted.items()
        }
        return {
            "source": save_part(self.source, folder),
            "device": self.device,
            "source_device": self.source_device,
            "fitted": fitted,
        }

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        from hardsight.predictors.persist import load_part

        made = cls(load_part(folder, meta["source"]), meta["device"], meta["source_device"])
        for metric, f in meta["fitted"].items():
            made.fitted[Metric(metric)] = Fitted(
                np.array(f["theta"]),
                np.array(f["covariance"]),
                f["inflation"],
                f["residual"],
                f["k"],
            )
        return made


def work_groups(graph: OperatorGraph) -> IntArray:
    """Index into `GROUPS` of each operator: 8-bit arithmetic, else its kind, else memory-bound.

    One whose work takes less time than its dispatch is overhead, whatever it does: that a device multiplies slower
    does not say that it calls slower.
    """
    arrays = graph_arrays(graph)
    of_category = np.array([_GROUP_OF.get(name, _MEMORY) for name in CATEGORIES])
    groups = of_category[arrays.category]
    groups = np.where(arrays.int8 & (groups != _MEMORY), _INT8, groups)
    repeats = np.array([graph.operators[i].repeats for i in arrays.kept], dtype=np.float64)
    groups[arrays.kept[arrays.prior < 2 * DISPATCH_S * repeats]] = _OVERHEAD
    return groups


def _corrected(parts: FloatArray, theta: FloatArray) -> FloatArray:
    value: FloatArray = parts @ np.exp(theta[0] + theta[1:])
    return value


def _jacobian(parts: FloatArray, theta: FloatArray) -> FloatArray:
    """Derivatives of log y by theta ``(n, 1 + g)``: one for the scale, each group's share for its factor."""
    scaled = parts * np.exp(theta[1:])
    shares = scaled / scaled.sum(axis=1, keepdims=True)
    return np.concatenate([np.ones((len(parts), 1)), shares], axis=1)


def _prior_precision(groups: int) -> FloatArray:
    spread: FloatArray = np.array([_PRIOR_SCALE] + [_PRIOR_GROUP] * groups)
    return np.diag(spread**-2)


def _covariance(fitted: Fitted, more: FloatArray | None = None) -> FloatArray:
    """Of ``theta``, where labels that scatter more than the source promised tell that much less.

    Args:
        fitted: what was measured.
        more: ``(k, 1 + g)`` derivatives over noise of further networks, to take for measured too.
    """
    prior = _prior_precision(len(GROUPS))
    told = np.linalg.inv(fitted.covariance) - prior
    if more is not None:
        told = told + more.T @ more
    return np.asarray(np.linalg.inv(prior + told / fitted.inflation**2), dtype=np.float64)


def _variance(jacobian: FloatArray, covariance: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("ni,ij,nj->n", jacobian, covariance, jacobian), dtype=np.float64)


def _maximum_a_posteriori(
    parts: FloatArray, log_y: FloatArray, noise: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Gauss-Newton with step damping; the problem is smooth and nearly linear in theta."""
    precision = _prior_precision(parts.shape[1])
    theta = np.zeros(len(precision))
    theta[0] = np.median(log_y - np.log(parts.sum(axis=1)))
    for _ in range(50):
        jacobian = _jacobian(parts, theta)
        error = log_y - np.log(_corrected(parts, theta))
        # Huber weights: one disturbed measurement must not bend the rest.
        weight = np.minimum(1.0, 1.5 * noise / np.maximum(np.abs(error), 1e-12)) / noise**2
        hessian = jacobian.T @ (jacobian * weight[:, None]) + precision
        step = np.linalg.solve(hessian, jacobian.T @ (weight * error) - precision @ theta)
        theta = theta + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-8:
            break
    covariance = np.asarray(np.linalg.inv(hessian), dtype=np.float64)
    return theta, covariance
