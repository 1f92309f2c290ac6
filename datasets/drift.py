"""Correcting timing labels for a machine that changed speed between its blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hardsight.datasets.journal import Cell
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

_WINDOW = 5  # blocks: one run of the sentinel is itself known to a few per cent only


def drifts(cells: Iterable[Cell]) -> dict[tuple[str, str, bool], float]:
    """Digest, device and round of a cell to how much slower than usual the machine was, relatively.

    The sentinel's runs before and after a block of cells, averaged, then the running median over five blocks
    of the same device, so that one disturbed run of the sentinel moves no label. Usual is the device's median over
    all its cells: the sentinel's first runs, which ``drift`` refers to, may themselves have been disturbed.

    Args:
        cells: of a journal, in the order they were made; those without ``drift`` are left out.
    """
    import pandas as pd

    frame = pd.DataFrame(
        [
            (c["digest"], c["device"], bool(c.get("again")), sum(c["drift"]) / 2)
            for c in cells
            if c.get("drift")
        ],
        columns=["digest", "device", "again", "drift"],
    )
    if frame.empty:
        return {}
    block = (frame[["device", "again", "drift"]] != frame[["device", "again", "drift"]].shift()).any(axis=1)
    frame["block"] = block.cumsum()
    blocks = frame.groupby(["device", "again", "block"], sort=False)["drift"].first()
    rolling = blocks.groupby(level=["device", "again"], sort=False)
    smooth = rolling.transform(lambda speeds: speeds.rolling(_WINDOW, center=True, min_periods=1).median())
    frame["smooth"] = frame["block"].map(smooth.droplevel(["device", "again"]))
    usual = frame.groupby("device")["smooth"].transform("median")
    slower = (1 + frame["smooth"]) / (1 + usual) - 1
    keys = zip(frame["digest"], frame["device"], frame["again"], strict=True)
    return dict(zip(keys, map(float, slower), strict=True))


def corrected(label: Measurement, drift: float) -> Measurement:
    """A latency as the machine would have had it at its usual speed; other metrics do not depend on it."""
    if label.metric is not Metric.LATENCY or not drift:
        return label
    versions = {**label.versions, "drift": f"{drift:+.1%}"}
    return replace(label, value=label.value / (1 + drift), versions=versions)
