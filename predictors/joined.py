"""One predictor out of several, each answering for some targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from hardsight.errors import NotSupportedError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor, Target


class _Part:
    """A predictor and the targets it answers for; a saved one is read when it is first asked."""

    def __init__(self, name: str, targets: Sequence[Target], load: Callable[[], Predictor]) -> None:
        self.name = name
        self.targets = list(targets)
        self._load = load

    @cached_property
    def predictor(self) -> Predictor:
        return self._load()


class Joined(Predictor):
    """Sends each device and metric to the predictor that is best at it.

    A saved one is read part by part, each when it is first asked: who asks for milliseconds need not wait for what
    knows FPGAs.

    Args:
        parts: device and metric to predictor; one predictor may answer for many.
    """

    def __init__(self, parts: Mapping[Target, Predictor]) -> None:
        distinct = {id(part): part for part in parts.values()}
        own = {key: [target for target, part in parts.items() if id(part) == key] for key in distinct}
        self._parts = [
            _Part(part.name, own[key], lambda part=part: part)  # type: ignore[misc]
            for key, part in distinct.items()
        ]
        self._order = list(parts)

    @property
    def name(self) -> str:  # type: ignore[override]
        return "+".join(dict.fromkeys(part.name for part in self._parts))

    @property
    def targets(self) -> list[Target]:
        return list(self._order)

    @property
    def parts(self) -> dict[Target, Predictor]:
        """Every target's predictor, all of them read."""
        found = {target: part.predictor for part in self._parts for target in part.targets}
        return {target: found[target] for target in self._order}

    def _part(self, device: str, metric: Metric) -> Predictor:
        for part in self._parts:
            if (device, metric) in part.targets:
                return part.predictor
        raise NotSupportedError(f"predictor '{self.name}' has no {metric} of '{device}'")

    def name_on(self, device: str) -> str:
        own = (part.name for part in self._parts if any(d == device for d, _ in part.targets))
        return "+".join(dict.fromkeys(own))

    def only(self, device: str) -> Predictor:
        return Joined({(d, m): self._part(d, m) for d, m in self._order if d == device})

    def fit(self, table: MeasurementTable) -> Self:
        """Fit each part to the labels of the targets it answers for."""
        for part in self._parts:
            part.predictor.fit(table.of(part.targets))
        return self

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        return self._part(device, metric).point(graphs, device, metric)

    def doubt(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        return self._part(device, metric).doubt(graphs, device, metric)

    def novelty(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        return self._part(device, metric).novelty(graphs, device, metric)

    def layer_costs(self, graph: OperatorGraph, device: str, metric: Metric = Metric.LATENCY) -> FloatArray:
        return self._part(device, metric).layer_costs(graph, device, metric)

    def interval(
        self,
        graphs: Sequence[OperatorGraph],
        device: str,
        metrics: Sequence[Metric],
        value: FloatArray,
        level: float,
    ) -> tuple[FloatArray, FloatArray]:
        ends = [
            self._part(device, m).interval(graphs, device, [m], value[:, [j]], level)
            for j, m in enumerate(metrics)
        ]
        lower, upper = zip(*ends, strict=True)
        return np.concatenate(lower, axis=1), np.concatenate(upper, axis=1)

    def save_state(self, folder: Path) -> dict[str, Any]:
        from hardsight.predictors.persist import save_part

        parts: list[dict[str, Any]] = []
        for i, part in enumerate(self._parts):
            (folder / str(i)).mkdir()
            saved = save_part(part.predictor, folder / str(i))
            parts.append({"name": part.name, "targets": _texts(part.targets), "predictor": saved})
        return {"targets": _texts(self._order), "parts": parts}

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        from hardsight.predictors.persist import load_part

        made = cls({})
        made._parts = [
            _Part(
                part["name"],
                _targets(part["targets"]),
                partial(load_part, folder / str(i), part["predictor"]),
            )
            for i, part in enumerate(meta["parts"])
        ]
        made._order = _targets(meta["targets"])
        return made


def _texts(targets: Sequence[Target]) -> list[list[str]]:
    return [[device, str(metric)] for device, metric in targets]


def _targets(texts: Sequence[Sequence[str]]) -> list[Target]:
    return [(device, Metric(metric)) for device, metric in texts]
