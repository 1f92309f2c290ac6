"""Rows of predictions and measurements → scores and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hardsight.experiments.readme_tables import markdown
from hardsight.units import format_quantity

Row = Mapping[str, Any]


def scores(rows: Sequence[Row]) -> dict[str, float]:
    """Of one device's measured rows: ``n``, ``mape``, ``within_10``, ``spearman``, ``coverage`` of the intervals."""
    from scipy.stats import spearmanr

    if not rows:
        return {"n": 0.0}
    value = np.array([row["predicted"] for row in rows])
    label = np.array([row["value"] for row in rows])
    error = np.abs(value - label) / label
    inside = [row["lower"] is not None and row["lower"] <= row["value"] <= row["upper"] for row in rows]
    return {
        "n": float(len(rows)),
        "mape": float(error.mean()),
        "within_10": float((error <= 0.1).mean()),
        "spearman": float(spearmanr(value, label).statistic) if len(rows) > 2 else float("nan"),
        "coverage": float(np.mean(inside)),
    }


def winners(rows: Sequence[Row]) -> tuple[int, int]:
    """Networks of which it is predicted rightly whether INT8 or fp32 is faster, of how many measured in both."""
    by_model: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: str(row["device"])):
        if "failed" not in row:
            by_model.setdefault(row["model"], []).append(row)
    pairs = [found for found in by_model.values() if len(found) == 2]
    right = [(a["predicted"] < b["predicted"]) == (a["value"] < b["value"]) for a, b in pairs]
    return sum(right), len(pairs)


def summary_table(rows: Sequence[Row]) -> str:
    """A row per device, and how often the faster precision was named."""
    columns = ("device", "networks", "failed", "MAPE", "within 10 %", "Spearman", "90 % interval covers")
    table = []
    for device in sorted({row["device"] for row in rows}):
        own = [row for row in rows if row["device"] == device]
        measured = [row for row in own if "failed" not in row]
        found = scores(measured)
        shares = [f"{found[key]:.1%}" if measured else "–" for key in ("mape", "within_10", "coverage")]
        rank = f"{found['spearman']:.3f}" if measured else "–"
        counts = (f"`{device}`", str(len(measured)), str(len(own) - len(measured)))
        table.append((*counts, shares[0], shares[1], rank, shares[2]))
    right, pairs = winners(rows)
    return markdown(columns, table) + f"\n\nINT8 or fp32, the faster one named rightly: {right} of {pairs}."


def model_table(rows: Sequence[Row]) -> str:
    """A row per network and device."""
    columns = ("network", "device", "predicted", "90 % interval", "measured", "off by")
    return markdown(columns, [_cells(row) for row in rows])


def _cells(row: Row) -> tuple[str, ...]:
    names = (str(row["model"]), f"`{row['device']}`")
    if "failed" in row:
        return (*names, "–", "–", str(row["failed"])[:100], "–")
    value, lower, upper, label = (row[key] for key in ("predicted", "lower", "upper", "value"))
    ends = "none" if lower is None else f"{format_quantity(lower, 's')} to {format_quantity(upper, 's')}"
    off = f"{abs(value - label) / label:.1%}"
    return (*names, format_quantity(value, "s"), ends, format_quantity(label, "s"), off)
