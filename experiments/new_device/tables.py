"""Scores as Markdown."""

from __future__ import annotations

import pandas as pd

from hardsight.experiments.new_device.evaluate import scores


def device_table(frame: pd.DataFrame, samples: int) -> str:
    """One line for each device, adapted with so many measurements."""
    lines = [
        "| held out together | device | networks | rank correlation | error, mean | error, median | within 10 % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (group, device), rows in frame[frame["samples"] == samples].groupby(["kin", "device"]):
        lines.append(f"| {group} | `{device}` | {len(rows):,} | {_cells(rows)} |")
    return "\n".join(lines)


def samples_table(frame: pd.DataFrame) -> str:
    """Means over the devices of a kind, for each number of measurements."""
    lines = [
        "| kind | measurements | devices | rank correlation | error, mean | error, median | within 10 % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (kind, samples), rows in frame.groupby(["kind", "samples"]):
        each = [scores(r["label"].to_numpy(), r["value"].to_numpy()) for _, r in rows.groupby("device")]
        mean = pd.DataFrame(each).mean()
        cells = (
            f"{mean['spearman']:.3f} | {mean['mape']:.1%} | {mean['median']:.1%} | {mean['within_10']:.0%}"
        )
        lines.append(f"| {kind} | {samples} | {len(each)} | {cells} |")
    return "\n".join(lines)


def _cells(rows: pd.DataFrame) -> str:
    s = scores(rows["label"].to_numpy(), rows["value"].to_numpy())
    return f"{s['spearman']:.3f} | {s['mape']:.1%} | {s['median']:.1%} | {s['within_10']:.0%}"
