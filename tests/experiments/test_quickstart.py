"""The parts of the quick start that need no trained predictor; `make quickstart` itself is the whole test."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from hardsight import api
from hardsight.experiments.quickstart import COMPARED, compare_stock
from hardsight.experiments.stock import STOCK
from hardsight.measurement import Measurement
from hardsight.metrics import Metric
from hardsight.nas.job import load_job
from hardsight.prediction import Estimate, ModelPrediction


def test_the_job_file_is_valid_and_short() -> None:
    with resources.as_file(resources.files("hardsight.experiments") / "quickstart.yaml") as path:
        job = load_job(path)
    assert job.device == api.HERE
    assert job.data.source == "digits"
    assert job.timeout is not None
    assert job.timeout <= 300  # the whole quick start has ten minutes


def test_every_stock_network_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimates = {
        Metric.LATENCY: Estimate(1.2e-3, 1e-3, 1.5e-3, 0.9),
        Metric.PEAK_MEMORY: Estimate(2.0**20, None, None, 0.9),
        Metric.ENERGY: Estimate(1.0, 0.5, 2.0, 0.9),  # predicted, but not measured: no row
    }
    labels = (
        Measurement("d", api.HERE, Metric.LATENCY, 1e-3, 0.01, 9),
        Measurement("d", api.HERE, Metric.PEAK_MEMORY, 2.0**21, 0.0, 1),
    )
    monkeypatch.setattr(api, "predict", lambda path, device: ModelPrediction(estimates, device, "p", {}))
    monkeypatch.setattr(
        api,
        "measure",
        lambda path, device, budget_s: api.ModelMeasurement(str(path), "d", device, labels, {}),
    )
    told: list[int] = []
    rows = compare_stock(tmp_path, api.HERE, lambda what, done, total: told.append(done))
    assert told == [0, 1, 2, 3]
    assert rows[:2] == [
        ("resnet18", "latency", "1.20 ms", "1.00 ms to 1.50 ms", "1.00 ms", "20.0 %"),
        ("resnet18", "peak memory", "1.00 MiB", "none", "2.00 MiB", "50.0 %"),
    ]
    assert [row[0] for row in rows[::2]] == list(STOCK)
    assert {len(row) for row in rows} == {len(COMPARED)}
    assert all((tmp_path / f"{name}.onnx").exists() for name in STOCK)
