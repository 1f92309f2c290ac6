"""Correcting timing labels for a machine that changed speed between its blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hardsight.datasets.journal import Cell
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

_WINDOW = 5  # blocks: one run of the sentinel is itself known to a few per cent only


def drifts(cells: Iterable[Cell]) -> dict[tuple[str, str], float]:
    """Digest and device of a cell to how much slower than at first the machine was, relatively.

    The sentinel's runs before and after a block of cells, averaged, then the running median over five blocks
    of the same device, so that one disturbed run of the sentinel moves no label.

    Args:
        cells: of a journal, in the order they were made; those without ``drift`` are left out.
    """
    import pandas as pd

    frame = pd.DataFrame(
        [(c["digest"], c["device"], sum(c["drift"]) / 2) for c in cells if c.get("drift")],
        columns=["digest", "device", "drift"],
    )
    found: dict[tuple[str, str], float] = {}
    for device, rows in frame.groupby("device", sort=False):
        block = (rows["drift"] != rows["drift"].shift()).cumsum()
        per_block = rows.groupby(block)["drift"].first()
        smooth = per_block.rolling(_WINDOW, center=True, min_periods=1).median()
        for digest, value in zip(rows["digest"], block.map(smooth), strict=True):
            found[digest, str(device)] = float(value)
    return found


def corrected(label: Measurement, drift: float) -> Measurement:
    """A latency as the machine would have had it at its first speed; other metrics do not depend on it."""
    if label.metric is not Metric.LATENCY or not drift:
        return label
    versions = {**label.versions, "drift": f"{drift:+.1%}"}
    return replace(label, value=label.value / (1 + drift), versions=versions)
