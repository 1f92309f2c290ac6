"""``hardsight experiments run``: experiments that take a table from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardsight.cli import _flags, _show
from hardsight.progress import progress_bars

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
run = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def experiments() -> None:
    """Rerun experiments."""


@run.callback()
def running() -> None:
    """Run one experiment."""


@run.command("few-shot")
def few_shot(
    tables: Annotated[
        Path,
        typer.Option(
            "--tables",
            metavar="DIR",
            help="Folder with splits.json and, for each space, SPACE_latency.npz and SPACE_archs.csv.",
        ),
    ],
    task: Annotated[
        str, typer.Option("--task", metavar="TASK", help="Name in splits.json: F1, ND, HELP/fbnet.")
    ],
    samples: Annotated[int, typer.Option("--samples", min=1, max=1000, help="Measurements in total.")] = 20,
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", metavar="NAME", help="Method; may be repeated; by default all."),
    ] = None,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Repetitions.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random numbers.")] = 0,
    as_json: _flags.AsJson = False,
) -> None:
    """Learn devices from a few measurements, and say how well.

    Rank correlation over all architectures that were not measured, and mean relative error; means over draws. A missing
    cell of a table is NaN or zero.
    """
    from hardsight.predictors.few_shot import METHODS, make_method
    from hardsight.predictors.few_shot.scoring import record, run
    from hardsight.predictors.few_shot.tables import Tables

    names = methods or list(METHODS)
    for name in names:
        make_method(name)  # refuses a misspelt one before any work
    read = Tables(tables)
    wanted = read.task(task)
    named = read.tasks[task]
    if lost := sorted({*named.sources, *named.targets} - {*wanted.sources, *wanted.targets}):
        _show.note(f"left out, for the table has no cost of them: {', '.join(lost)}")
    records = []
    for name in names:
        with progress_bars() as progress:
            scores = run(read, wanted, name, samples, draws=draws, seed=seed, progress=progress)
        records.append(record(wanted, name, samples, scores))
        if as_json:
            _show.line(records[-1])
    if not as_json:
        _show.table(
            ("method", "device", "rank correlation", "middle 80 %", "error"),
            (
                (
                    r["method"],
                    device,
                    f"{rank:.3f}",
                    f"{r['spearman_trimmed'][device]:.3f}",
                    _show.percent(r["mape"][device]),
                )
                for r in records
                for device, rank in r["spearman"].items()
            ),
            f"{wanted.name}: {samples} measurements, {draws} draws",
        )
        for r in records:
            spread = "" if r["sd"] is None else f" ± {r['sd']:.3f}"
            _show.note(f"{r['method']}: rank correlation {r['mean']:.3f}{spread}, mean over devices")


app.add_typer(run, name="run")
