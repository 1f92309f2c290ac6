"""``hardsight search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardsight.cli import _flags, _show
from hardsight.cli.report import show_report
from hardsight.progress import progress_bars


def search(
    job: Annotated[
        Path, typer.Argument(metavar="JOB.yaml", help="What to search for; docs/job.md explains the keys.")
    ],
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed search stopped.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Folder of the study; by default what the job says."),
    ] = None,
    track: _flags.Track = True,
    as_json: _flags.AsJson = False,
) -> None:
    """Search the best quantized networks for a budget.

    The front is trained, exported to ONNX and measured. The study is a database in its folder; every finished
    trial survives a kill.

    Exit code 1 when no network comes out: none keeps the constraints, or every training failed.
    """
    from hardsight import jobs
    from hardsight.serialize import search_record

    with progress_bars() as progress:
        report = jobs.search(job, out, resume=resume, track=track, progress=progress)
    if as_json:
        _show.line(search_record(report))
    else:
        show_report(report)
    if not report.rows:
        raise typer.Exit(1)
