"""Drift: a lasting change of speed is corrected, one disturbed sentinel is not believed."""

from __future__ import annotations

from typing import Any

import pytest

from hardsight.datasets.drift import corrected, drifts
from hardsight.measurement import Measurement
from hardsight.metrics import Metric


def block(number: int, before: float, after: float, device: str = "d") -> list[dict[str, Any]]:
    return [{"digest": f"{number}-{i}", "device": device, "drift": [before, after]} for i in range(3)]


def test_a_lasting_change_is_found_and_a_single_outlier_is_not() -> None:
    speeds = [0.0, 0.0, 0.0, 0.5, 0.0, 0.0, -0.2, -0.2, -0.2, -0.2]
    cells = [c for n, s in enumerate(speeds) for c in block(n, s - 0.01 - n * 1e-6, s + 0.01)]
    found = drifts([*cells, {"digest": "x", "device": "d"}])
    assert ("x", "d") not in found
    assert found["3-0", "d"] == pytest.approx(0.0, abs=1e-4)
    assert found["8-2", "d"] == pytest.approx(-0.2, abs=1e-4)


def test_devices_drift_apart() -> None:
    found = drifts([*block(0, 0.1, 0.1, "a"), *block(0, 0.3, 0.3, "b")])
    assert found["0-0", "a"] == pytest.approx(0.1)
    assert found["0-0", "b"] == pytest.approx(0.3)


def test_only_latency_is_corrected_and_says_so() -> None:
    slow = Measurement("g", "d", Metric.LATENCY, 1.1, 0.01, 20)
    fixed = corrected(slow, 0.1)
    assert fixed.value == pytest.approx(1.0)
    assert fixed.versions["drift"] == "+10.0%"
    memory = Measurement("g", "d", Metric.PEAK_MEMORY, 100, 0.0, 5)
    assert corrected(memory, 0.1) is memory
    assert drifts([]) == {}
