"""Scores as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from hardsight.experiments.new_device.evaluate import scores
from hardsight.experiments.readme_tables import markdown

_SCORES = ("rank correlation", "error, mean", "error, median", "within 10 %")


def device_table(frame: pd.DataFrame, samples: int) -> str:
    """One line for each device, adapted with so many measurements."""
    each = frame[frame["samples"] == samples].groupby(["kin", "device"])
    return markdown(
        ("held out together", "device", "networks", *_SCORES),
        [(group, f"`{device}`", f"{len(rows):,}", *_cells(_of(rows))) for (group, device), rows in each],
    )


def samples_table(frame: pd.DataFrame) -> str:
    """Means over the devices of a kind, for each number of measurements."""
    lines = []
    for (kind, samples), rows in frame.groupby(["kind", "samples"]):
        each = pd.DataFrame([_of(own) for _, own in rows.groupby("device")])
        lines.append((kind, str(samples), str(len(each)), *_cells(each.mean())))
    return markdown(("kind", "measurements", "devices", *_SCORES), lines)


def _of(rows: pd.DataFrame) -> dict[str, float]:
    return scores(rows["label"].to_numpy(), rows["value"].to_numpy())


def _cells(s: Mapping[str, float]) -> tuple[str, ...]:
    return f"{s['spearman']:.3f}", f"{s['mape']:.1%}", f"{s['median']:.1%}", f"{s['within_10']:.0%}"
