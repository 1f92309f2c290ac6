"""How far two independent measurements of the same graphs agree: the noise of a label."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hardsight.errors import DataError
from hardsight.measurement import MeasurementTable


class Agreement(NamedTuple):
    """Two sets of labels of one metric on one device, compared on the graphs that both have.

    The difference of a graph's two values a, b is ``|a - b| / mean(a, b)``. Each value states a spread, the relative
    half-width of its 95 % interval; that of the difference of two independent ones is ``hypot(spread_a, spread_b)``.

    Args:
        device: name.
        metric: name.
        graphs: how many both have.
        median_difference: relative.
        difference_90: a tenth of the differences are larger.
        shift: median of ``(b - a) / mean(a, b)``: not noise, but a machine that has changed.
        stated: median of the spread of the differences.
        within: share of the differences that are at most their spread; 0.95 if the spreads tell the truth.
    """

    device: str
    metric: str
    graphs: int
    median_difference: float
    difference_90: float
    shift: float
    stated: float
    within: float


def compare_labels(a: MeasurementTable, b: MeasurementTable) -> list[Agreement]:
    """One comparison per device and metric that both have; a graph's repeated rows count as their median.

    Args:
        a: labels taken once.
        b: labels taken again, in another process or on another day.

    Raises:
        DataError: when no graph has a label of the same metric on the same device in both.
    """
    key = ["device", "metric", "digest"]
    sides = [t.rows.groupby(key)[["value", "spread"]].median() for t in (a, b)]
    both = sides[0].merge(sides[1], on=key, suffixes=("_a", "_b")).reset_index()
    if both.empty:
        raise DataError(
            f"there is nothing to compare: no graph has the same label in both; one has {_labels(a)}, "
            f"the other {_labels(b)}. Measure the same graphs on the same device twice"
        )
    found = []
    for (device, metric), rows in both.groupby(["device", "metric"]):
        one, two = rows["value_a"].to_numpy(), rows["value_b"].to_numpy()
        signed = (two - one) / np.maximum((one + two) / 2, np.finfo(float).tiny)
        difference = np.abs(signed)
        stated = np.hypot(rows["spread_a"], rows["spread_b"])
        found.append(
            Agreement(
                str(device),
                str(metric),
                len(rows),
                float(np.median(difference)),
                float(np.quantile(difference, 0.9)),
                float(np.median(signed)),
                float(np.median(stated)),
                float(np.mean(difference <= stated)),
            )
        )
    return found


def _labels(table: MeasurementTable) -> str:
    return f"{len(table.digests)} graphs on {', '.join(table.devices) or 'no device'}"
