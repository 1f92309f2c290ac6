from __future__ import annotations

import pytest

from hardsight.budgets import judge, parse_budgets
from hardsight.errors import InputError, NotSupportedError, UnknownNameError
from hardsight.metrics import Metric
from hardsight.prediction import Estimate


def test_short_and_full_names() -> None:
    budgets = parse_budgets(["latency=10ms", "memory=8MiB", "energy=1mJ", "size=1kB", "lut=20k"])
    assert budgets == {
        "latency_s": pytest.approx(0.01),
        "peak_memory_bytes": 8 * 1024**2,
        "energy_j": pytest.approx(1e-3),
        "size_bytes": 1000.0,
        "lut": 20_000.0,
    }
    assert parse_budgets(["latency_s=1s"]) == {"latency_s": 1.0}


@pytest.mark.parametrize("texts", [["latency"], ["latency=10"], ["latency=1s", "latency_s=2s"], ["latency="]])
def test_refuses(texts: list[str]) -> None:
    with pytest.raises(InputError):
        parse_budgets(texts)


def test_accuracy_is_no_cost() -> None:
    with pytest.raises(UnknownNameError, match="latency"):
        parse_budgets(["accuracy=90%"])


def test_the_upper_end_decides() -> None:
    answer = {Metric.LATENCY: Estimate(0.9, 0.8, 1.1, 0.9)}
    kept, broken = (judge({"latency_s": limit}, answer, 10, "d")[0] for limit in (1.1, 1.0))
    assert kept.kept
    assert not broken.kept
    assert broken.excess == pytest.approx(0.1)


def test_size_is_exact() -> None:
    (verdict,) = judge({"size_bytes": 10}, {}, 10, "d")
    assert verdict.kept
    assert verdict.level == 1


@pytest.mark.parametrize("answer", [{}, {Metric.LATENCY: Estimate(0.1, None, None, 0.9)}])
def test_what_cannot_be_judged_is_refused(answer: dict[str, Estimate]) -> None:
    with pytest.raises(NotSupportedError, match="latency_s on 'd'"):
        judge({"latency_s": 1.0}, answer, 10, "d")
