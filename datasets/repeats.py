"""How well timing labels repeat, and what that does to the spread they state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from hardsight.measurement import Measurement
from hardsight.metrics import Metric

_FEWEST = 20  # graphs measured twice; fewer say nothing about the tail
_LEVEL = 0.95

Target = tuple[str, Metric]


def repeatability(first: Iterable[Measurement], again: Iterable[Measurement]) -> dict[Target, float]:
    """Device and metric to the relative half-width of the 95 % interval of one process's value.

    Two processes' values of a graph differ by more than either process could see: memory lies elsewhere, the
    neighbours on the machine do something else. The 95 % quantile of ``|log(again / first)|``, over √2 because both
    values err.

    Args:
        first: labels.
        again: labels of some of the same graphs from other processes; fewer than twenty are not used.
    """
    values = {(m.digest, m.device, m.metric): m.value for m in first}
    differences: dict[Target, list[float]] = {}
    for m in again:
        value = values.get((m.digest, m.device, m.metric))
        if value is not None and m.metric is Metric.LATENCY:
            differences.setdefault((m.device, m.metric), []).append(abs(float(np.log(m.value / value))))
    return {
        target: float(np.quantile(found, _LEVEL)) / 2**0.5
        for target, found in differences.items()
        if len(found) >= _FEWEST
    }


def with_repeatability(label: Measurement, half_widths: Mapping[Target, float]) -> Measurement:
    """The label with a spread that covers what another process would have measured."""
    half = half_widths.get((label.device, label.metric))
    if half is None:
        return label
    versions = {**label.versions, "repeatability": f"{half:.1%}"}
    return replace(label, spread=float(np.hypot(label.spread, half)), versions=versions)
