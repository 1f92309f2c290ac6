"""Several models on several devices: who is cheaper, by how much, and whether the predictions can tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hardsight.errors import InputError, NotCoveredError, UnknownNameError
from hardsight.metrics import Metric
from hardsight.prediction import Estimate, ModelPrediction
from hardsight.wording import metric_words

if TYPE_CHECKING:
    from hardsight.api import Model, Shapes

_EQUAL = 1e-6
Verdict = Literal["less", "more", "same", "too close to call", "no interval"]

_SHORT = {"latency": Metric.LATENCY, "memory": Metric.PEAK_MEMORY, "energy": Metric.ENERGY}

ASSUMPTION = (
    "The interval of a ratio takes the errors of its two predictions for independent. Errors of one predictor "
    "on similar networks mostly go the same way, which would make the interval narrower: 'too close to call' "
    "errs on the side of caution. Each verdict stands for itself; nothing corrects for their number."
)


class Ratio(NamedTuple):
    """How many times another cost a cost is; ``lower`` and ``upper`` are None where a side has no interval."""

    value: float
    lower: float | None
    upper: float | None
    level: float

    @property
    def text(self) -> str:
        """``1.83 × (1.1 to 3.04)``."""
        if self.lower is None or self.upper is None or self.lower == self.upper:
            return f"{self.value:.3g} ×"
        return f"{self.value:.3g} × ({self.lower:.3g} to {self.upper:.3g})"

    @property
    def verdict(self) -> Verdict:
        """What the interval can tell of the first cost: that it is less, more, or neither."""
        if self.lower is None or self.upper is None:
            return "no interval"
        if math.isclose(self.lower, 1, rel_tol=_EQUAL) and math.isclose(self.upper, 1, rel_tol=_EQUAL):
            return "same"  # 1 but for rounding: exact costs have no width
        if self.upper < 1:
            return "less"
        return "more" if self.lower > 1 else "too close to call"


def ratio_of(cost: Estimate, other: Estimate) -> Ratio | None:
    """``cost / other`` with an interval from theirs; None where a value is not above zero.

    In logarithms a ratio is a difference, and with independent errors the distances to the ends join as
    √(a² + b²): MOVER (Zou & Donner 2008, "Construction of confidence limits about effect measures"). That asks
    for less than intervals that do not overlap, which is the rule for errors that are opposed, and for more
    than errors that go the same way need. On held-out families (ridge predictor, latency; the slow test in
    `tests/hardsight/test_compare.py`) its 90 % intervals hold 90 % of the ratios between any two networks, 94 %
    within a family, 99 % between two devices for one network.
    """
    if cost.value <= 0 or other.value <= 0:
        return None
    value, level = cost.value / other.value, cost.level
    down, up = _log_reach(cost)
    other_down, other_up = _log_reach(other)
    below, above = math.hypot(down, other_up), math.hypot(up, other_down)
    if not (math.isfinite(below) and math.isfinite(above)):
        return Ratio(value, None, None, level)
    return Ratio(value, value * math.exp(-below), value * math.exp(above), level)


def _log_reach(estimate: Estimate) -> tuple[float, float]:
    """How far the interval reaches down and up in logarithms; infinite where there is none."""
    value, lower, upper, _ = estimate
    if lower is None or upper is None or lower <= 0:
        return math.inf, math.inf
    return max(0.0, math.log(value / lower)), max(0.0, math.log(upper / value))


class Cell(NamedTuple):
    """One model on one device.

    Args:
        estimate: the prediction.
        ratio: to the first model on the same device; None where that has no prediction.
    """

    estimate: Estimate
    ratio: Ratio | None


class Contest(NamedTuple):
    """Who is best on one device, or on which device one model is.

    Args:
        among: what competes.
        at: the device the models, or the model the devices compete on.
        best: the one with the best prediction.
        others: the rest, best first, each with its cost as a multiple of the best one's.
    """

    among: Literal["models", "devices"]
    at: str
    best: str
    others: tuple[tuple[str, Ratio | None], ...]

    @property
    def tied(self) -> tuple[str, ...]:
        """Those that the intervals cannot tell from the best one."""
        return tuple(
            name for name, ratio in self.others if ratio is None or ratio.verdict not in ("less", "more")
        )


@dataclass(frozen=True)
class MetricTable:
    """One metric of every model on every device.

    Args:
        metric: what is compared.
        rows: a row per model, a cell per device; None where nothing predicts the metric.
        contests: among the models on each device, then among the devices for each model.
    """

    metric: Metric
    rows: tuple[tuple[Cell | None, ...], ...]
    contests: tuple[Contest, ...]

    def sentences(self) -> list[str]:
        """Who wins where, and whether the intervals can tell."""
        return [_sentence(contest, self.metric) for contest in self.contests]


@dataclass(frozen=True)
class Comparison:
    """Models against each other and devices against each other.

    Args:
        answers: a row per model, a prediction per device.
        tables: one per metric.
        level: nominal coverage of all intervals.
    """

    answers: tuple[tuple[ModelPrediction, ...], ...]
    tables: tuple[MetricTable, ...]
    level: float

    @property
    def models(self) -> tuple[str, ...]:
        """The rows; the first is what ratios refer to."""
        return tuple(row[0].model for row in self.answers)

    @property
    def devices(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(answer.device for answer in self.answers[0])

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, in SI units; a missing interval, cell or ratio is null."""
        return {
            "models": [
                {
                    "model": row[0].model,
                    "digest": row[0].digest,
                    "unknown_ops": dict(row[0].unknown_ops),
                    "assumptions": list(row[0].assumptions),
                }
                for row in self.answers
            ],
            "devices": [
                {"device": answer.device, "predictor": answer.predictor} for answer in self.answers[0]
            ],
            "level": self.level,
            "ratio_to": self.models[0],
            "metrics": {str(table.metric): self._table_record(table) for table in self.tables},
            "assumption": ASSUMPTION,
        }

    def _table_record(self, table: MetricTable) -> dict[str, Any]:
        return {
            "unit": table.metric.unit,
            "larger_is_better": table.metric.larger_is_better,
            "cells": [
                {
                    "model": model,
                    "device": device,
                    **({} if cell is None else cell.estimate._asdict()),
                    "ratio": None if cell is None else _ratio_record(cell.ratio),
                }
                for model, cells in zip(self.models, table.rows, strict=True)
                for device, cell in zip(self.devices, cells, strict=True)
            ],
            "contests": [
                {
                    "sentence": _sentence(contest, table.metric),
                    "among": contest.among,
                    "at": contest.at,
                    "best": contest.best,
                    "tied": list(contest.tied),
                    "others": [
                        {"name": name, "ratio": _ratio_record(ratio)} for name, ratio in contest.others
                    ],
                }
                for contest in table.contests
            ],
        }


def _sentence(contest: Contest, metric: Metric) -> str:
    what, top = metric_words(metric), "highest" if metric.larger_is_better else "lowest"
    where = f"{what} on {contest.at}" if contest.among == "models" else f"{what} of {contest.at}"
    by_verdict: dict[str, list[str]] = {}
    for name, ratio in contest.others:
        by_verdict.setdefault(ratio.verdict if ratio else "no interval", []).append(name)
    tied = [
        f"{verdict} against {', '.join(by_verdict[verdict])}"
        for verdict in ("too close to call", "no interval")
        if verdict in by_verdict
    ]
    if "same" in by_verdict:
        tied.append(f"the same network as {', '.join(by_verdict['same'])}")
    behind = [(name, ratio) for name, ratio in contest.others if ratio and ratio.verdict in ("more", "less")]
    said = f"{where}: {contest.best} is {'predicted ' if tied else ''}{top}"
    if tied:
        said += f", {' and '.join(tied)}"
    if behind:
        name, ratio = behind[0]
        said += f"; next is {name} with {ratio.text}"
    return f"{said}."


def _ratio_record(ratio: Ratio | None) -> dict[str, Any] | None:
    return None if ratio is None else {**ratio._asdict(), "verdict": ratio.verdict}


def compare(
    models: Iterable[Model],
    devices: Iterable[str],
    *,
    metrics: Iterable[str] | None = None,
    shapes: Shapes | None = None,
    level: float = 0.9,
) -> Comparison:
    """Predict every model on every device and hold the predictions against each other.

    >>> compare(["a.onnx", "b.onnx"], ["xeon-amx/onnxruntime/fp32-t1"]).tables[0].rows[1][0].ratio  # doctest: +SKIP
    Ratio(value=1.83, lower=1.1, upper=3.04, level=0.9)

    Args:
        models: as in `hardsight.predict`; ratios refer to the first.
        devices: names, as ``hardsight devices`` lists them.
        metrics: which ones, by name (``"latency_s"``) or short (``"latency"``); by default all that are predicted.
        shapes: input name to shape, for dynamic inputs.
        level: nominal coverage of the intervals, those of the ratios too.

    Raises:
        InputError: no model or no device, or one that is not in a list.
        NotCoveredError: a metric that is predicted on none of the devices.
        HardsightError: as `hardsight.predict` for each model and device; the first fault raises.
    """
    if isinstance(models, str | bytes | Path) or isinstance(devices, str):
        raise InputError(
            "models and devices are lists, also of one: compare(['a.onnx'], ['hardware/runtime/mode'])"
        )
    named = tuple(dict.fromkeys(devices))
    wanted = None if metrics is None else [metric_named(name) for name in metrics]
    return compared([predict_on(model, named, shapes=shapes, level=level) for model in models], wanted)


def predict_on(
    model: Model, devices: Sequence[str], *, shapes: Shapes | None = None, level: float = 0.9
) -> tuple[ModelPrediction, ...]:
    """One model, read once, on several devices in their order; raises as `hardsight.predict` does."""
    from hardsight.api import _answer
    from hardsight.ingest import read_onnx

    graph = read_onnx(model, shapes=shapes)
    return tuple(_answer([model], [graph], device, level, layers=False)[0] for device in devices)


def compared(
    answers: Sequence[Sequence[ModelPrediction]], metrics: Sequence[Metric] | None = None
) -> Comparison:
    """A comparison out of predictions.

    Args:
        answers: a row per model, a prediction per device, the same devices in every row.
        metrics: which ones; by default all that are predicted anywhere.

    Raises:
        InputError: no model or no device.
        NotCoveredError: a metric that no prediction holds.
    """
    rows = tuple(tuple(row) for row in answers)
    if not rows or not rows[0]:
        raise InputError("there is nothing to compare; give at least one model and one device")
    covered = [metric for metric in Metric if any(metric in answer for row in rows for answer in row)]
    for metric in metrics or ():
        if metric not in covered:
            named = ", ".join(f"'{answer.device}'" for answer in rows[0])
            raise NotCoveredError(
                f"no predictor covers {metric} on {named}; covered: {', '.join(covered) or 'nothing'}"
            )
    levels = [estimate.level for row in rows for answer in row for estimate in answer.estimates.values()]
    if not levels:
        raise NotCoveredError("there is nothing to compare: no metric is predicted on any of the devices")
    chosen = covered if metrics is None else dict.fromkeys(metrics)
    return Comparison(rows, tuple(_table(rows, metric) for metric in chosen), levels[0])


def metric_named(name: str) -> Metric:
    """``"latency"`` or ``"latency_s"``.

    Raises:
        UnknownNameError: listing the names there are.
    """
    if name in _SHORT:
        return _SHORT[name]
    if name not in list(Metric):
        raise UnknownNameError("metric", name, [*_SHORT, *Metric])
    return Metric(name)


def _table(answers: Sequence[Sequence[ModelPrediction]], metric: Metric) -> MetricTable:
    rows = tuple(
        tuple(
            Cell(answer[metric], _ratio(answer, first, metric)) if metric in answer else None
            for answer, first in zip(row, answers[0], strict=True)
        )
        for row in answers
    )
    columns = list(zip(*answers, strict=True))
    contests = [
        *(_contest("models", column[0].device, [(a.model, a) for a in column], metric) for column in columns),
        *(_contest("devices", row[0].model, [(a.device, a) for a in row], metric) for row in answers),
    ]
    return MetricTable(metric, rows, tuple(c for c in contests if c is not None))


def _ratio(answer: ModelPrediction, other: ModelPrediction, metric: Metric) -> Ratio | None:
    if metric not in answer or metric not in other:
        return None
    if (answer.digest, answer.device) == (other.digest, other.device):
        return Ratio(
            1.0, 1.0, 1.0, answer[metric].level
        )  # one architecture: whatever the error, it is the same
    return ratio_of(answer[metric], other[metric])


def _contest(
    among: Literal["models", "devices"],
    at: str,
    entrants: Sequence[tuple[str, ModelPrediction]],
    metric: Metric,
) -> Contest | None:
    """None with fewer than two that are predicted."""
    have = [(name, answer) for name, answer in entrants if metric in answer]
    if len(have) < 2:
        return None
    have.sort(key=lambda entrant: entrant[1][metric].value, reverse=metric.larger_is_better)
    best, winner = have[0]
    return Contest(
        among, at, best, tuple((name, _ratio(answer, winner, metric)) for name, answer in have[1:])
    )
