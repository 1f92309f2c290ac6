"""Worked job (a): twins and tables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import optuna

from hardsight.experiments.digits_search import __main__ as experiment
from hardsight.experiments.digits_search.twins import in_float
from hardsight.nas.job import load_job
from hardsight.nas.spaces import Task, get_space
from hardsight.prediction import Estimate


def test_the_float_twin_has_the_same_layers() -> None:
    space: Any = get_space("quant_cnn").for_task(Task((1, 8, 8), 10))
    candidate = space.suggest(optuna.trial.FixedTrial(dict(space.anchors()[-1])))
    mine, twin = (space.network(c).layers for c in (candidate, in_float(candidate)))
    assert {layer.weight_bits for layer in mine if layer.has_weights} == {8}
    assert {layer.weight_bits for layer in twin} == {32}
    assert [(a.name, a.channels, a.kernel, a.stride) for a in mine] == [
        (b.name, b.channels, b.kernel, b.stride) for b in twin
    ]


def row(
    digest: str, bits: list[str], searched: tuple[float, float], twin: tuple[float, float]
) -> dict[str, Any]:
    values = {"searched": searched, "float": twin, "static": (0.9, 2e-4)}
    return {"digest": digest, "bits": bits, "kept": True, "inside": digest == "a" * 16} | {
        name: {"accuracy": accuracy, "latency_s": latency} for name, (accuracy, latency) in values.items()
    }


def test_gains_count_only_where_the_accuracy_is_kept() -> None:
    rows = [
        row("a" * 16, ["8", "8"], (0.98, 1e-4), (0.984, 2e-4)),
        row("b" * 16, ["8", "32"], (0.90, 1e-4), (0.95, 5e-4)),
        row("c" * 16, ["32", "32"], (0.97, 3e-4), (0.97, 3e-4)),
    ]
    front = SimpleNamespace(predicted={"latency_s": Estimate(1e-4, 5e-5, 2e-4, 0.9)})
    report: Any = SimpleNamespace(rows=[front] * 3)
    text = experiment.summary_table(report, rows)
    assert "| delivered networks | 3 |" in text
    assert "| 1 of 2 | all |" in text
    assert "2.00 (2.00 to 2.00) | 1.5" in text
    assert "1 of 3" in text
    assert "| 100 µs |" in experiment.network_table(report, rows)


def test_the_job_is_one() -> None:
    from importlib import resources

    job = load_job(resources.files("hardsight.experiments.digits_search") / "job.yaml")  # type: ignore[arg-type]
    assert job.constraints == {"latency_s": 3e-4}
