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
    speeds = [0.0, 0.0, 0.0, 0.5, 0.0, 0.0, -0.2, -0.2, -0.2]
    cells = [c for n, s in enumerate(speeds) for c in block(n, s - 0.01 - n * 1e-6, s + 0.01)]
    found = drifts([*cells, {"digest": "x", "device": "d"}])
    assert ("x", "d", False) not in found
    assert found["3-0", "d", False] == pytest.approx(0.0, abs=1e-4)
    assert found["8-2", "d", False] == pytest.approx(-0.2, abs=1e-4)


def test_the_sentinels_first_runs_need_not_be_right() -> None:
    """They were disturbed: the machine was faster ever after. In the second round it was slower than that."""
    usual = [c for n in range(9) for c in block(n, -0.5, -0.5 - n * 1e-6)]
    lasting = [{**c, "again": True} for n in range(3) for c in block(n, -0.45, -0.45 - n * 1e-6)]
    found = drifts([*usual, *lasting])
    assert found["3-0", "d", False] == pytest.approx(0.0, abs=1e-4)
    assert found["2-1", "d", True] == pytest.approx(0.1, abs=1e-4)


def test_devices_drift_apart() -> None:
    a = [c for n, s in enumerate([0.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.1]) for c in block(n, s, s + n * 1e-6, "a")]
    b = [c for n, s in enumerate([0.0, 0.0, 0.0, 0.0, 0.3, 0.3, 0.3]) for c in block(n, s, s + n * 1e-6, "b")]
    found = drifts([*a, *b])
    assert found["6-0", "a", False] == pytest.approx(0.1, abs=1e-4)
    assert found["6-0", "b", False] == pytest.approx(0.3, abs=1e-4)


def test_only_latency_is_corrected_and_says_so() -> None:
    slow = Measurement("g", "d", Metric.LATENCY, 1.1, 0.01, 20)
    fixed = corrected(slow, 0.1)
    assert fixed.value == pytest.approx(1.0)
    assert fixed.versions["drift"] == "+10.0%"
    memory = Measurement("g", "d", Metric.PEAK_MEMORY, 100, 0.0, 5)
    assert corrected(memory, 0.1) is memory
    assert drifts([]) == {}
