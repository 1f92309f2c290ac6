"""Intervals around any predictor, calibrated on families it did not see."""

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
from hardsight.predictors._base import Predictor, Target
from hardsight.predictors.scale import conformity, widened

_FAR = 2.0  # times beyond the labels: what is near them is no guess


class Conformal(Predictor):
    """Split conformal intervals in log space.

    The score of a calibration graph is |log(label / prediction)| / doubt (of counts, see
    `hardsight.predictors.scale`); the interval is prediction · exp(± q · doubt), with q the ⌈(n+1)·level⌉-th smallest
    score (Lei et al. 2018, locally weighted). The shipped scores come from `evaluation.out_of_family`: models that
    did not see the graph's family, so the coverage is meant for networks of a new family; inside known families it
    is conservative.

    The interval of a novel graph is wider in proportion: of one unlike the training graphs, as the predictor says, or
    of one that is predicted to cost far more or less than any that was labelled.

    Args:
        predictor: what is wrapped.
        scores: sorted calibration scores per (device, metric).
        ranges: smallest and largest label above zero per (device, metric).
    """

    def __init__(
        self,
        predictor: Predictor,
        scores: Mapping[Target, FloatArray] | None = None,
        ranges: Mapping[Target, tuple[float, float]] | None = None,
    ) -> None:
        self.predictor = predictor
        self.scores = dict(scores or {})
        self.ranges = dict(ranges or {})

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.predictor.name

    @property
    def targets(self) -> list[Target]:
        return self.predictor.targets

    def fit(self, table: MeasurementTable) -> Self:
        """Fit the wrapped predictor; its old calibration is void."""
        self.predictor.fit(table)
        self.scores = {}
        self.ranges = label_ranges(table, self.targets)
        return self

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
            if graphs:
                self._keep(score(self.predictor, graphs, y, device, metric), graphs, device, metric)
        return self

    def _keep(self, scores: FloatArray, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> None:
        """Take the calibration scores of graphs ``(n,)`` of one target."""
        self.scores[device, metric] = np.sort(scores)

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        return self.predictor.point(graphs, device, metric)

    def doubt(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        return self.predictor.doubt(graphs, device, metric)

    def novelty(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        """The predictor's own opinion, or how many e-folds beyond the labels the prediction lies, plus one."""
        own = self.predictor.novelty(graphs, device, metric)
        if (device, metric) not in self.ranges:
            return own
        low, high = self.ranges[device, metric]
        value = np.maximum(self.predictor.point(graphs, device, metric), np.finfo(float).tiny)
        beyond = np.maximum(np.log(value / (_FAR * high)), np.log(low / (_FAR * value)))
        return np.maximum(own, np.where(beyond > 0, 1 + beyond, 0))

    def limit(self, device: str, metric: Metric) -> float:
        return self.predictor.limit(device, metric)

    def layer_costs(self, graph: OperatorGraph, device: str, metric: Metric = Metric.LATENCY) -> FloatArray:
        return self.predictor.layer_costs(graph, device, metric)

    def log_half_width(
        self, graphs: Sequence[OperatorGraph], device: str, metric: Metric, level: float
    ) -> FloatArray:
        """Half-width of the interval in log space ``(n,)``; NaN without enough calibration scores."""
        q = quantile(self.scores.get((device, metric), np.zeros(0)), level)
        novel = np.maximum(self.novelty(graphs, device, metric), 1)
        return q * self.predictor.doubt(graphs, device, metric) * novel

    def interval(
        self,
        graphs: Sequence[OperatorGraph],
        device: str,
        metrics: Sequence[Metric],
        value: FloatArray,
        level: float,
    ) -> tuple[FloatArray, FloatArray]:
        ends = [
            widened(m, value[:, j], self.log_half_width(graphs, device, m, level))
            for j, m in enumerate(metrics)
        ]
        lower, upper = zip(*ends, strict=True)
        most = [self.predictor.limit(device, m) for m in metrics]
        return np.minimum(np.stack(lower, axis=1), most), np.minimum(np.stack(upper, axis=1), most)

    def save_state(self, folder: Path) -> dict[str, Any]:
        from hardsight.predictors.persist import save_part

        return {
            "inner": save_part(self.predictor, folder),
            "scores": [[d, str(m), np.round(s, 6).tolist()] for (d, m), s in self.scores.items()],
            "ranges": [[d, str(m), *ends] for (d, m), ends in self.ranges.items()],
        }

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        from hardsight.predictors.persist import load_part

        scores = {(d, Metric(m)): np.array(s) for d, m, s in meta["scores"]}
        ranges = {(d, Metric(m)): (low, high) for d, m, low, high in meta["ranges"]}
        return cls(load_part(folder, meta["inner"]), scores, ranges)


def label_ranges(table: MeasurementTable, targets: Sequence[Target]) -> dict[Target, tuple[float, float]]:
    """Smallest and largest label above zero of each target that has one."""
    rows = table.rows[table.rows["value"] > 0]
    ends = rows.groupby(["device", "metric"])["value"].agg(["min", "max"])
    found = {(d, m): ends.loc[(d, str(m))] for d, m in targets if (d, str(m)) in ends.index}
    return {target: (float(x["min"]), float(x["max"])) for target, x in found.items()}


def score(
    predictor: Predictor, graphs: Sequence[OperatorGraph], y: FloatArray, device: str, metric: Metric
) -> FloatArray:
    """Conformity scores ``(n,)`` of labels ``y``."""
    value, doubt = (ask(graphs, device, metric) for ask in (predictor.point, predictor.doubt))
    return conformity(metric, y, value, doubt)


def quantile(scores: FloatArray, level: float) -> float:
    """The ⌈(n+1)·level⌉-th smallest of sorted scores; NaN when n is too small for the level."""
    rank = int(np.ceil((len(scores) + 1) * level - 1e-9))
    return float(scores[rank - 1]) if 1 <= rank <= len(scores) else float("nan")


def split_families(
    table: MeasurementTable, held_out: Sequence[str]
) -> tuple[MeasurementTable, MeasurementTable]:
    """Rows of all other families, and rows of these; a digest is never on both sides."""
    held = {d for d in table.digests if table.families.get(d) in set(held_out)}
    rest = [d for d in table.digests if d not in held]
    return table.select(digests=rest), table.select(digests=held)


def family_folds(table: MeasurementTable, n: int) -> list[list[str]]:
    """Families of networks in ``n`` groups, dealt out in alphabetical order; no group is empty.

    Single operators and small blocks are in no group: nobody asks what they cost, and models always learn from them.
    """
    from hardsight.datasets.families import TEACHING

    names = sorted({table.families[d] for d in table.digests if d in table.families} - set(TEACHING))
    return [names[i::n] for i in range(min(n, len(names)))]
