"""Hardsight: what a neural network costs on a device before it runs there.

>>> import hardsight as hs
>>> hs.predict("model.onnx", device="xeon-amx/onnxruntime/fp32-t1")["latency_s"].upper  # doctest: +SKIP
0.00431

Everything public is imported on first use: ``import hardsight`` alone loads neither torch nor mlflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hardsight.api import adapt, check, devices, measure, predict, predict_many
    from hardsight.candidate import Candidate
    from hardsight.comparison import Comparison, compare
    from hardsight.device import Device, get_device
    from hardsight.errors import HardsightError
    from hardsight.explanation import Explanation, explain
    from hardsight.graph import Operator, OperatorGraph
    from hardsight.ingest import read_onnx
    from hardsight.measurement import Measurement, MeasurementTable
    from hardsight.metrics import Metric
    from hardsight.nas.mixed_precision import QuantizeReport, quantize
    from hardsight.prediction import Estimate, ModelPrediction, Prediction

__all__ = [
    "Candidate",
    "Comparison",
    "Device",
    "Estimate",
    "Explanation",
    "HardsightError",
    "Measurement",
    "MeasurementTable",
    "Metric",
    "ModelPrediction",
    "Operator",
    "OperatorGraph",
    "Prediction",
    "QuantizeReport",
    "adapt",
    "check",
    "compare",
    "devices",
    "explain",
    "get_device",
    "measure",
    "predict",
    "predict_many",
    "quantize",
    "read_onnx",
]

_HOME = {
    "hardsight.api": ("adapt", "check", "devices", "measure", "predict", "predict_many"),
    "hardsight.candidate": ("Candidate",),
    "hardsight.comparison": ("Comparison", "compare"),
    "hardsight.device": ("Device", "get_device"),
    "hardsight.errors": ("HardsightError",),
    "hardsight.explanation": ("Explanation", "explain"),
    "hardsight.graph": ("Operator", "OperatorGraph"),
    "hardsight.ingest": ("read_onnx",),
    "hardsight.measurement": ("Measurement", "MeasurementTable"),
    "hardsight.metrics": ("Metric",),
    "hardsight.nas.mixed_precision": ("QuantizeReport", "quantize"),
    "hardsight.prediction": ("Estimate", "ModelPrediction", "Prediction"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hardsight' has no attribute '{name}'")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
