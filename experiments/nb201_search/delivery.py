"""The last measurements of a budget go to what is to be delivered; what breaks its limit gives way to the next."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from hardsight.experiments.nb201_search.device import TableDevice
from hardsight.prediction import FloatArray


def deliver(device: TableDevice, accuracy: FloatArray, limits: FloatArray) -> list[int | None]:
    """For each limit the most accurate architecture that was measured and keeps it; None where none does.

    Measured next is the architecture that is expected to raise the accuracies of the answers most: the sum over
    limits of how much more accurate it is than the answer so far, times the probability that it keeps the limit
    (constrained expected improvement with a known objective; Schonlau, Welch and Jones 1998). Each measurement
    corrects what is believed of all others. It ends when the device's budget does, or nothing is left to gain.

    Args:
        device: that was learned; its remaining budget is used.
        accuracy: ``(l, n)`` what is known to each limit's search; NaN where it is not known.
        limits: ``(l,)`` in the unit of the device's costs.
    """
    known = np.nan_to_num(accuracy, nan=-np.inf)
    while device.left:
        gain = _gains(device, known, limits)
        gain[device.indices] = 0.0
        if gain.max() <= 0:
            break
        device.measure(int(gain.argmax()))
    return [_best(device, row, limit) for row, limit in zip(known, limits, strict=True)]


def _gains(device: TableDevice, known: FloatArray, limits: FloatArray) -> FloatArray:
    believed = device.posterior()
    sd = np.hypot(believed.sd, believed.noise)
    gain = np.zeros(known.shape[1])
    for row, limit in zip(known, limits, strict=True):
        best = _best(device, row, limit)
        improvement = np.maximum(row - (0.0 if best is None else row[best]), 0.0)
        gain += improvement * ndtr((np.log(limit) - believed.mean) / sd)
    return gain


def _best(device: TableDevice, known: FloatArray, limit: float) -> int | None:
    kept = [i for i, cost in device.measured.items() if cost <= limit and np.isfinite(known[i])]
    return max(kept, key=lambda i: known[i], default=None)
