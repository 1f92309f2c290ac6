"""``hardsight search``: run a job, join it from another machine, look at it, stop it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from hardsight.cli import _flags, _show
from hardsight.progress import progress_bars

if TYPE_CHECKING:
    from hardsight.nas.report import SearchReport
    from hardsight.nas.status import SearchStatus

_RUN = "JOB.yaml"  # stands for any file in the help, so that 'search job.yaml' needs no further word


class _Group(TyperGroup):
    """What is not the name of a command is a job file to run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        others = (*(name for name in self.commands if name != _RUN), "--help")
        if args and args[0] not in others:
            args = [_RUN, *args]
        return super().parse_args(ctx, args)


class _Run(TyperCommand):
    """The command that the job file itself names."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [self.options_metavar or ""]


app = typer.Typer(
    help="Search the best quantized networks for a budget: 'hardsight search JOB.yaml'. A job file that is "
    "called as one of the commands below is given as './stop'.",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a search, finished or not.")]


@app.command(_RUN, cls=_Run)
def run(
    job: Annotated[
        Path, typer.Argument(metavar="JOB.yaml", help="What to search for; docs/job.md explains the keys.")
    ],
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed search stopped.")] = False,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine",
            help="Correct the predictions by the front's measurements, then search and verify again.",
        ),
    ] = False,
    workers: Annotated[
        int,
        typer.Option("--workers", metavar="N", min=1, help="Processes that try candidates at the same time."),
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Folder of the study; by default what the job says."),
    ] = None,
    track: _flags.Track = True,
    as_json: _flags.AsJson = False,
) -> None:
    """Search the best quantized networks for a budget.

    The front is trained, exported to ONNX and measured. The study is a journal file in its folder, or in the storage
    that the job names; every finished trial survives a kill. A worker that dies is replaced and its trial is tried
    again.

    Exit code 1 when no network comes out: none keeps the constraints, or every training failed.
    """
    from hardsight import jobs
    from hardsight.serialize import search_record

    with progress_bars() as progress:
        report = jobs.search(
            job, out, resume=resume, refine=refine, workers=workers, track=track, progress=progress
        )
    if as_json:
        _show.line(search_record(report))
    else:
        show_report(report)
    if not report.rows:
        raise typer.Exit(1)


@app.command()
def worker(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="Folder of the search, where this machine sees it."),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option("--study", metavar="NAME", help="Its study, as 'search status' names it."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage", metavar="URL", help="Where that is: the job's 'storage', or a journal file."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="PATH", help="Where the same data are on this machine."),
    ] = None,
) -> None:
    """Help a running search, from this or any other machine that reaches its storage.

    Give the folder, or --study and --storage: the study itself holds the job. The worker ends with the search; it may
    be killed and started again at any time. Data and predictions must be those of the machine that began.
    """
    from hardsight.nas.join import join_search

    with progress_bars() as progress:
        done = join_search(folder, study=study, storage=storage, data=data, progress=progress)
    _show.note(f"This worker finished {done} {'trial' if done == 1 else 'trials'}.")


@app.command()
def status(folder: Folder, as_json: _flags.AsJson = False) -> None:
    """Say how far a search is: trials by state, best error, speed, time left, workers."""
    from hardsight.nas.status import search_status
    from hardsight.serialize import status_record

    found = search_status(folder)
    if as_json:
        _show.line(status_record(found))
    else:
        _show_status(found)


@app.command()
def stop(folder: Folder) -> None:
    """End a search early: workers finish the trials they are at, and the front so far is verified."""
    from hardsight.nas.status import search_status, stop_search

    found = search_status(folder)
    if found.complete:
        _show.note("Its trials are finished already; there is nothing to stop.")
        return
    stop_search(folder)
    if found.stopped:
        _show.note(f"It was told to stop already. {_state(found)}")
    elif found.working:
        _show.note("The search ends when its running trials have; --resume goes on.")
    else:
        _show.note("Nobody works on it; --resume goes on.")


@app.command()
def report(folder: Folder, as_json: _flags.AsJson = False) -> None:
    """Show what a search found.

    Writes its table, plot and page again; nothing is trained or measured.
    """
    from hardsight.nas.report import write_report
    from hardsight.serialize import search_record

    found = write_report(folder)
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


def _show_status(status: SearchStatus) -> None:
    from hardsight.units import format_quantity

    others = ", ".join(f"{n} {state}" for state, n in status.trials.items() if n and state != "finished")
    _show.note(
        f"{status.trials['finished']} of {status.wanted} trials finished{f' ({others})' if others else ''}."
    )
    best = "none yet" if status.best_error is None else _show.percent(status.best_error)
    _show.note(f"Best error: {best}. Hypervolume: {status.hypervolume:.4f}.")
    if status.per_hour is not None:
        left = "" if not status.left_s else f", {format_quantity(status.left_s, 's')} left"
        _show.note(f"About {status.per_hour:.0f} trials an hour{left}.")
    _show.note(_state(status))
    if status.workers:
        _show.table(
            ("worker", "finished", "at work", "heard of"),
            (
                (w.name, str(w.finished), "yes" if w.running else "no", f"{w.seen_s:.0f} s ago")
                for w in status.workers
            ),
            "Workers",
        )
    _show.note(f"Study: {status.study}.")


def _state(status: SearchStatus) -> str:
    """Whether anybody works on the search, and what of its front is verified."""
    if status.verified and status.complete:
        return "The search is finished. The front is verified."
    if status.verified:
        front = " The front is verified."
    elif status.verified_after is not None:
        front = f" The front was verified after {status.verified_after} trials, not since."
    else:
        front = ""
    if not status.working:
        told = "It was told to stop, and has" if status.stopped else "Nobody works on it"
        return f"{told}; --resume goes on.{front}"
    if status.stopped:
        return f"It was told to stop and ends when its running trials have.{front}"
    return f"Its trials are finished; the front comes next.{front}" if status.complete else front.strip()
