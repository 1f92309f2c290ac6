"""What commands print: tables with scaled units for people, JSON lines for scripts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hardsight.budgets import unit_of
from hardsight.cli._text import printable
from hardsight.units import format_quantity

_LABELS = {
    "latency_s": "latency",
    "peak_memory_bytes": "peak memory",
    "energy_j": "energy",
    "size_bytes": "size",
    "interval_cycles": "interval cycles",
    "bram_18k": "BRAM 18k",
    "ff": "flip-flops",
    "flash_bytes": "flash",
    "logic_cells": "logic cells",
    "sram_bytes": "SRAM",
    "traffic_bytes": "memory traffic",
}
_PIPE_WIDTH = 160


def line(record: Mapping[str, Any]) -> None:
    """One JSON object on one line; NaN is refused, for JSON has none."""
    print(json.dumps(record, allow_nan=False), flush=True)


def console() -> Console:
    """A console on stdout; wide enough not to cut names when the output goes into a file."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table; columns after the first whose cells begin with a digit are set to the right."""
    cells = [list(row) for row in rows]
    if title:  # above, not in the table: that would wrap it to the width of the columns
        print()
        note(title)
    shown = Table(header_style="bold")
    for i, name in enumerate(columns):
        numbers = i > 0 and any(row[i][:1].isdigit() for row in cells)
        shown.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    console().print(shown)


def note(text: str) -> None:
    """A plain line below a table."""
    console().print(Text(printable(text)), soft_wrap=True)


def label(quantity: str) -> str:
    """A metric's name as people say it."""
    return _LABELS.get(quantity, quantity)


def amount(value: float | None, quantity: str) -> str:
    """A value with its unit scaled; a dash where there is none."""
    return "-" if value is None else format_quantity(value, unit_of(quantity))


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def caveats(model: str, unknown_ops: Mapping[str, int], assumptions: Sequence[str]) -> None:
    """What the answer rests on: operators priced by bytes alone, and assumptions."""
    if unknown_ops:
        listed = ", ".join(f"{name} ({count})" for name, count in unknown_ops.items())
        note(f"{model}: operators without a cost rule, priced by the bytes they move: {listed}")
    for assumption in assumptions:
        note(f"{model}: {assumption}")
