"""On what scale errors count: the logarithm; of a count, of one more than it, since a count may be zero."""

from __future__ import annotations

import numpy as np

from hardsight.measurement import MAY_BE_ZERO
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray


def logarithm(metric: Metric, value: FloatArray) -> FloatArray:
    """Of values ``(n,)``: finite for every label that a data set may hold."""
    scaled: FloatArray = np.log1p(value) if metric in MAY_BE_ZERO else np.log(value)
    return scaled


def conformity(metric: Metric, label: FloatArray, value: FloatArray, doubt: FloatArray) -> FloatArray:
    """How far labels lie from values on that scale ``(n,)``, in units of the doubt."""
    return np.asarray(np.abs(logarithm(metric, label) - logarithm(metric, value)) / doubt, dtype=np.float64)


def widened(metric: Metric, value: FloatArray, half: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both ends of the interval of ``half`` around ``value`` on that scale; a count's is never below zero."""
    one = 1.0 if metric in MAY_BE_ZERO else 0.0
    return np.maximum((value + one) * np.exp(-half) - one, 0), (value + one) * np.exp(half) - one
