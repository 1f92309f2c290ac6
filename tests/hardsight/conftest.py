"""A small model on disk, and a predictor whose answers can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import pytest
from onnx import parser

from hardsight import predictors
from hardsight.errors import NotCalibratedError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors import Predictor

HERE = "host/onnxruntime/fp32-t1"

# 4 x 8 by 8 x 2: 64 MACs; the weights take 8 * 2 * 4 = 64 bytes.
MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[N, 8] x) => (float[N, 2] y)
<float[8, 2] w = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}>
{
    z = MatMul(x, w)
    y = Relu(z)
}
"""


class FakePredictor(Predictor):
    """A microsecond for each MAC, ± 10 %; 1000 bytes of memory without an interval."""

    name = "fake"

    def fit(self, table: MeasurementTable) -> Self:
        return self

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        return np.array([1e-6 * g.macs if metric is Metric.LATENCY else 1000.0 for g in graphs])

    @property
    def targets(self) -> list[tuple[str, Metric]]:
        return [(HERE, Metric.LATENCY), (HERE, Metric.PEAK_MEMORY)]

    def interval(
        self,
        graphs: Sequence[OperatorGraph],
        device: str,
        metrics: Sequence[Metric],
        value: FloatArray,
        level: float,
    ) -> tuple[FloatArray, FloatArray]:
        known = np.where([m is Metric.LATENCY for m in metrics], 1.0, np.nan)
        return 0.9 * value * known, 1.1 * value * known

    def save_state(self, folder: Path) -> dict[str, Any]:
        return {}

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        return cls()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for adapted devices, and an empty current folder."""
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(home: Path) -> Path:
    path = home / "tiny.onnx"
    onnx.save(parser.parse_model(MODEL), path)
    return path


@pytest.fixture
def fake_predictor(monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    """Answers for this machine's default mode; other modes are not calibrated."""
    fake = FakePredictor()

    def load(device: str) -> Predictor:
        if device != HERE:
            raise NotCalibratedError(f"'{device}' has not been calibrated")
        return fake

    monkeypatch.setattr(predictors, "load_predictor", load)
    return fake
