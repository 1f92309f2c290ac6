"""``hardsight report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardsight.cli import _flags, _show

if TYPE_CHECKING:
    from hardsight.nas.report import SearchReport


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
    from hardsight.nas.report_page import front_table

    if report.rows:
        _show.console().print(front_table(report))
    for sentence in report.sentences():
        _show.note(sentence)
    _show.note(f"Page, plot, trials and ONNX files: {report.folder}")
