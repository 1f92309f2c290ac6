"""Targets that are one: the latency of a simulated device is its cycles over its clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric

Target = tuple[str, Metric]
_FEWEST = 20  # fewer graphs may be in proportion by chance
_TOLERANCE = 1e-3


def proportional(table: MeasurementTable, targets: Sequence[Target]) -> dict[Target, tuple[Target, float]]:
    """Targets in constant proportion to an earlier one of the same device.

    Args:
        table: labels.
        targets: to look at, in order.

    Returns:
        Target to the earlier one, and by what to multiply that.
    """
    found: dict[Target, tuple[Target, float]] = {}
    labels = {
        target: table.select(device=target[0], metric=target[1]).rows.groupby("digest")["value"].median()
        for target in targets
    }
    for i, target in enumerate(targets):
        for other in targets[:i]:
            if other[0] != target[0] or other in found:
                continue
            both = labels[target].to_frame("y").join(labels[other].rename("x"), how="inner")
            both = both[(both["x"] > 0) & (both["y"] > 0)]
            if len(both) < max(_FEWEST, len(labels[target])):
                continue
            ratio = np.log(both["y"] / both["x"])
            if float(ratio.max() - ratio.min()) < _TOLERANCE:
                found[target] = (other, float(np.exp(ratio.median())))
                break
    return found
