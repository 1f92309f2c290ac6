"""A label's spread says how far another process would have been off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hardsight.datasets.repeats import repeatability, with_repeatability
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

DEVICE = "host/onnxruntime/fp32-t1"


def _label(i: int, value: float, metric: Metric = Metric.LATENCY) -> Measurement:
    return Measurement(f"{i:032x}", DEVICE, metric, value, 0.01, 20)


def _noisy(rng: np.random.Generator, n: int, sigma: float) -> tuple[list[Measurement], list[Measurement]]:
    truth = np.exp(rng.uniform(-9, -2, n))
    first, again = truth * np.exp(rng.normal(0, sigma, (2, n)))
    return [_label(i, v) for i, v in enumerate(first)], [_label(i, v) for i, v in enumerate(again)]


def test_the_stated_spread_holds_for_another_pair_of_processes() -> None:
    rng = np.random.default_rng(0)
    first, again = _noisy(rng, 400, 0.03)
    half_widths = repeatability(first, again)
    assert abs(half_widths[DEVICE, Metric.LATENCY] - 1.96 * 0.03) < 0.01
    one, two = _noisy(rng, 1000, 0.03)
    inside = [
        abs(np.log(b.value / a.value))
        <= np.hypot(with_repeatability(a, half_widths).spread, with_repeatability(b, half_widths).spread)
        for a, b in zip(one, two, strict=True)
    ]
    assert 0.93 < np.mean(inside) < 0.985


def test_a_shift_between_the_rounds_counts() -> None:
    first = [_label(i, 1e-3) for i in range(30)]
    again = [replace(m, value=1.1e-3) for m in first]
    assert repeatability(first, again)[DEVICE, Metric.LATENCY] > 0.06


def test_too_few_repeats_and_other_metrics_change_nothing() -> None:
    few = [_label(i, 1e-3) for i in range(19)]
    assert repeatability(few, few) == {}
    memory = [_label(i, 1e6, Metric.PEAK_MEMORY) for i in range(30)]
    assert repeatability(memory, memory) == {}
    label = _label(0, 1e-3)
    assert with_repeatability(label, {}) is label


def test_the_way_is_kept_in_the_label() -> None:
    widened = with_repeatability(_label(0, 1e-3), {(DEVICE, Metric.LATENCY): 0.03})
    assert widened.versions["repeatability"] == "3.0%"
    assert abs(widened.spread - np.hypot(0.01, 0.03)) < 1e-12
