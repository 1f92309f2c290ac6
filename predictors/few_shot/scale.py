"""Measurements as numbers of mean zero and deviation about one, and predictions back as costs.

A network learns and adapts on standardised logarithms; only the measurements of a device may say where they lie.
"""

from __future__ import annotations

import numpy as np

from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot._base import Space

_WEIGHT = 3.0  # how many measurements the usual deviation, and the usual slope, count for
_FARTHEST = 30.0  # deviations from the mean; only keeps every cost finite, as real tables reach eight
_LEAST = 1e-6  # deviation; one that is smaller is rounding of constant numbers


def usual_sd(space: Space) -> float:
    """Mean deviation of the logarithms of the costs on the known devices."""
    return max(float(space.log_sources.std(axis=0).mean()), _LEAST)


def centre_and_scale(log_y: FloatArray, usual: float) -> tuple[FloatArray, FloatArray]:
    """Mean and deviation of the ``k`` measurements of each device ``(devices, 1)``.

    Args:
        log_y: ``(devices, k)``.
        usual: deviation to believe in while measurements are few.
    """
    centre = log_y.mean(axis=1, keepdims=True)
    spread = ((log_y - centre) ** 2).sum(axis=1, keepdims=True)
    return centre, np.sqrt((_WEIGHT * usual**2 + spread) / (_WEIGHT + log_y.shape[1]))


def standardised(y: FloatArray, usual: float) -> FloatArray:
    """The costs of one device's measurements ``(k,)`` as a network sees them."""
    log_y = np.log(y)[None]
    centre, scale = centre_and_scale(log_y, usual)
    return np.asarray(((log_y - centre) / scale)[0], dtype=np.float64)


def as_costs(predicted: FloatArray, chosen: IntArray, y: FloatArray, usual: float) -> FloatArray:
    """Costs ``(n,)`` in the unit of ``y``, in the order of the predictions.

    A straight line from prediction to logarithm: its slope by least squares, held near that of equal deviations and
    above zero; its height by the median of the residuals, which one odd measurement does not move.

    Args:
        predicted: ``(n,)`` of any unit and scale.
        chosen: ``(k,)`` the measured ones.
        y: ``(k,)`` their costs.
        usual: as for `centre_and_scale`.
    """
    z = (predicted - predicted.mean()) / max(float(predicted.std()), _LEAST)
    z = np.clip(z, -_FARTHEST, _FARTHEST)
    x, target = z[chosen], standardised(y, usual)
    across = x - x.mean()
    slope = float(np.clip((_WEIGHT + across @ target) / (_WEIGHT + across @ across), 0.2, 3.0))
    logs = slope * z + np.median(target - slope * x)
    centre, scale = centre_and_scale(np.log(y)[None], usual)
    return np.asarray(np.exp(centre[0] + scale[0] * logs), dtype=np.float64)
