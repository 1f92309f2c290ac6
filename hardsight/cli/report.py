"""``hardsight report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardsight.cli import _flags, _show

if TYPE_CHECKING:
    from hardsight.nas.report import FrontRow, SearchReport


def report(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of a search, finished or not.")],
    as_json: _flags.AsJson = False,
) -> None:
    """Show what a search found.

    Writes its table, plot and page again; nothing is trained or measured.
    """
    from hardsight.nas.report import write_report
    from hardsight.serialize import search_record

    found = write_report(study)
    if as_json:
        _show.line(search_record(found))
    else:
        show_report(found)


def show_report(report: SearchReport) -> None:
    """Print the front, predicted beside measured, and what it cost to find."""
    costs = report.shown_costs
    columns = ["network", "accuracy (ONNX Runtime)"]
    for name in costs:
        columns += (
            [_show.label(name)] if name == "size_bytes" else [f"{_show.label(name)} predicted", "measured"]
        )
    _show.table(columns, (_row(row, costs) for row in report.rows), f"Front of {report.folder}")
    for sentence in report.sentences():
        _show.note(sentence)
    _show.note(f"Page: {report.folder / 'report.html'}")


def _row(row: FrontRow, costs: list[str]) -> list[str]:
    cells = [row.file, _show.percent(row.test_accuracy)]
    for name in costs:
        estimate = row.predicted[name]
        shown = _show.amount(estimate.value, name)
        if name == "size_bytes":
            cells.append(shown)
            continue
        if estimate.lower is not None and estimate.upper is not None:
            shown += f" ({_show.amount(estimate.lower, name)} to {_show.amount(estimate.upper, name)})"
        measured = row.measured.get(name)
        cells += [shown, _show.amount(measured[0], name) if measured else "-"]
    return cells
