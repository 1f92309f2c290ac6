"""``hardsight dataset build`` and ``hardsight dataset info``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardsight.api import HERE
from hardsight.cli import _flags, _show, sources
from hardsight.progress import progress_bars

if TYPE_CHECKING:
    from hardsight.measurement import MeasurementTable

app = typer.Typer(
    help="Build a measured data set, or describe one.", no_args_is_help=True, rich_markup_mode=None
)

app.command()(sources.fetch)
app.command()(sources.sources)


@app.command()
def build(
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder of the data set; a begun one goes on.")
    ],
    device: _flags.DeviceName = HERE,
    families: Annotated[
        list[str] | None,
        typer.Option("--family", metavar="NAME", help="Generator to use; may be repeated; by default all."),
    ] = None,
    per_family: Annotated[int, typer.Option("--per-family", min=1, help="Networks of each family.")] = 30,
    int8: Annotated[
        bool, typer.Option("--int8/--no-int8", help="Also measure each network quantized.")
    ] = True,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the generators.")] = 0,
    limit: Annotated[
        str | None,
        typer.Option("--time", metavar="T", help="Stop measuring after this long, for example 2h."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="DEVICE", help="Device name to write instead of 'host/...'."),
    ] = None,
) -> None:
    """Generate networks and measure them on this machine.

    Run it on an idle machine. A killed build goes on where it stopped.
    """
    from hardsight.datasets.build import Recipe
    from hardsight.jobs import build_dataset
    from hardsight.units import parse_quantity

    recipe = Recipe(families=tuple(families or ()), per_family=per_family, int8=int8, seed=seed)
    time_limit_s = parse_quantity(limit, "s") if limit else float("inf")
    with progress_bars() as progress:
        built = build_dataset(
            out, recipe, device=device, name=name, time_limit_s=time_limit_s, progress=progress
        )
    _print(built.table, str(out))
    for reason, count in built.failures.items():
        _show.note(f"{count} without a label: {reason}")
    if not built.complete:
        _show.note("The time was up before the last network; run the same command again to go on.")


@app.command()
def info(data: _flags.DataFolder = None, as_json: _flags.AsJson = False) -> None:
    """Print what a data set holds: labels, ranges and spread per device and metric."""
    from hardsight.jobs import describe_dataset, load_dataset

    table = load_dataset(data)
    if as_json:
        for row in describe_dataset(table):
            _show.line(row._asdict())
    else:
        _print(table, str(data or "the data set of the package"))


def _print(table: MeasurementTable, title: str) -> None:
    from hardsight.jobs import describe_dataset

    families = {table.families.get(digest, "?") for digest in table.digests}
    _show.table(
        ("device", "metric", "labels", "smallest", "median", "largest", "spread"),
        (
            (
                row.device,
                _show.label(row.metric),
                str(row.labels),
                *(_show.amount(x, row.metric) for x in (row.smallest, row.median, row.largest)),
                _show.percent(row.spread),
            )
            for row in describe_dataset(table)
        ),
        f"{title}: {_counted(len(table.digests), 'network', 'networks')} of "
        f"{_counted(len(families), 'family', 'families')}",
    )


def _counted(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
