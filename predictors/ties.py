"""Targets that are one: the latency of a simulated device is its cycles over its clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hardsight.measurement import MeasurementTable
from hardsight.predictors._base import Target

_FEWEST = 20  # fewer graphs may be in proportion by chance
_TOLERANCE = 1e-3


class Tie(NamedTuple):
    """A target that is another one times a constant: latency is cycles over the clock.

    Args:
        to: the other.
        factor: what the other is multiplied with.
    """

    to: Target
    factor: float


def proportional(table: MeasurementTable, targets: Sequence[Target]) -> dict[Target, Tie]:
    """Targets in constant proportion to an earlier one of the same device.

    Args:
        table: labels.
        targets: to look at, in order.

    Returns:
        Target to its tie to the earlier one.
    """
    found: dict[Target, Tie] = {}
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
                found[target] = Tie(other, float(np.exp(ratio.median())))
                break
    return found
