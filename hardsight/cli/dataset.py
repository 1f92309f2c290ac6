"""``hardsight dataset``: build, describe, draw, compare, import and convert data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardsight.api import HERE
from hardsight.cli import _flags, _show, sources
from hardsight.progress import progress_bars

if TYPE_CHECKING:
    from hardsight.datasets.summary import LabelSummary

_REASONS = 3  # shown per device

app = typer.Typer(
    help="Build, describe and extend measured data sets.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def build(
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder of the data set; a begun one goes on.")
    ],
    devices: Annotated[
        list[str],
        typer.Option(
            "--device",
            "-d",
            metavar="NAME",
            help="Device to label on; may be repeated; see 'hardsight devices'.",
        ),
    ] = [HERE],  # noqa: B006
    families: Annotated[
        list[str] | None,
        typer.Option("--family", metavar="NAME", help="Generator to use; may be repeated; by default all."),
    ] = None,
    per_family: Annotated[int, typer.Option("--per-family", min=1, help="Networks of each family.")] = 30,
    int8: Annotated[
        bool, typer.Option("--int8/--no-int8", help="Also measure each network quantized.")
    ] = True,
    mixed: Annotated[
        bool,
        typer.Option("--mixed/--no-mixed", help="Also measure each network with only some layers quantized."),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the generators.")] = 0,
    limit: Annotated[
        str | None,
        typer.Option("--time", metavar="T", help="Stop measuring after this long, for example 2h."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="HARDWARE", help="Hardware name to write instead of 'host'."),
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(
            "--repeats", metavar="N", min=0, help="Networks timed twice, to state how well labels repeat."
        ),
    ] = 50,
    n_jobs: Annotated[
        int,
        typer.Option("--jobs", metavar="N", help="Processes for simulators and synthesis; -1: one per core."),
    ] = -1,
    backend: Annotated[
        str, typer.Option("--backend", metavar="NAME", help="Where those run: loky (here), dask or ray.")
    ] = "loky",
) -> None:
    """Generate networks and label them: measured on this machine, simulated, or synthesised.

    Measure on an idle machine. A killed build goes on where it stopped; of what is timed, at most the last 20
    networks are measured again.
    """
    from hardsight.datasets.build import Recipe
    from hardsight.jobs import build_dataset, summarise_dataset
    from hardsight.units import parse_quantity

    recipe = Recipe(families=tuple(families or ()), per_family=per_family, int8=int8, mixed=mixed, seed=seed)
    time_limit_s = parse_quantity(limit, "s") if limit else float("inf")
    with progress_bars() as progress:
        built = build_dataset(
            out,
            recipe,
            devices=devices,
            name=name,
            repeats=repeats,
            n_jobs=n_jobs,
            backend=backend,
            time_limit_s=time_limit_s,
            progress=progress,
        )
    summary = summarise_dataset(out)
    _print_labels(summary.labels, _title(str(out), summary.total))
    for reason, count in built.failures.items():
        _show.note(f"{count} without a label: {reason}")
    if not built.complete:
        _show.note("The time was up before the last network; run the same command again to go on.")


@app.command()
def info(data: _flags.DataFolder = None, as_json: _flags.AsJson = False) -> None:
    """Print what a data set holds: labels, missing cells with their reasons, graphs.

    With --json, the lines are of the kinds 'labels', 'device', 'graphs' and 'total'.
    """
    from hardsight.jobs import summarise_dataset

    summary = summarise_dataset(data)
    if as_json:
        for kind, rows in (
            ("labels", summary.labels),
            ("device", summary.devices),
            ("graphs", summary.graphs),
        ):
            for row in rows:
                _show.line({"kind": kind, **row._asdict()})
        _show.line({"kind": "total", **summary.total})
        return
    _print_labels(summary.labels, _title(str(data or "the data set of the package"), summary.total))
    _show.table(
        ("device", "graphs labelled", "failed", "not tried"),
        ((d.device, *map(str, (d.labelled, d.failed, d.untried))) for d in summary.devices),
        f"Missing cells: {summary.total['missing']}",
    )
    for device in summary.devices:
        for reason, count in device.reasons[:_REASONS]:
            _show.note(f"{device.device}: {count} x {reason}")
    precisions = sorted({g.precision for g in summary.graphs})
    counts = {(g.family, g.precision): str(g.graphs) for g in summary.graphs}
    _show.table(
        ("family", *precisions),
        (
            (family, *(counts.get((family, p), "0") for p in precisions))
            for family in sorted({g.family for g in summary.graphs})
        ),
        "Networks per family and precision",
    )


@app.command()
def plot(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder for the pictures.")],
    data: _flags.DataFolder = None,
) -> None:
    """Draw what a data set covers, as PNG: sizes, devices x families, latency against MACs, spread."""
    from hardsight.jobs import plot_dataset

    for path in plot_dataset(out, data):
        _show.note(str(path))


@app.command()
def agreement(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a data set, or file of measurements.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The same graphs, measured again.")],
    as_json: _flags.AsJson = False,
) -> None:
    """Compare two independent measurements of the same graphs: the noise of the labels.

    The difference of two labels is relative to their mean. 'within' is the share of differences that the
    labels' own spreads explain: 95 % if those tell the truth.
    """
    from hardsight.jobs import compare_labels

    found = compare_labels(a, b)
    if as_json:
        for row in found:
            _show.line(row._asdict())
        return
    _show.table(
        ("device", "metric", "graphs", "median difference", "90 %", "shift", "stated spread", "within"),
        (
            (
                row.device,
                _show.label(row.metric),
                str(row.graphs),
                *map(
                    _show.percent,
                    (row.median_difference, row.difference_90, row.shift, row.stated, row.within),
                ),
            )
            for row in found
        ),
        f"{a} against {b}",
    )


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Results of a kit, or what 'hardsight measure --json' printed."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Data set to add to; by default the one that comes with the package.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Folder to write; by default that of --data."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="DEVICE", help="Device name to write instead of the one in the file."),
    ] = None,
) -> None:
    """Add measurements taken elsewhere to a data set."""
    from hardsight.jobs import import_measurements

    done = import_measurements(file, data=data, out=out, name=name)
    _show.note(
        f"{out or data}: {_counted(done.labels, 'new label', 'new labels')} of {done.device}, "
        f"{done.repeated} were there already, {_counted(done.failed, 'network', 'networks')} failed there"
    )


@app.command()
def convert(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Data set of an older version.")],
) -> None:
    """Rewrite a data set of an older schema in the present one, in place."""
    from hardsight.jobs import convert_dataset

    _show.note(f"{folder}: {'converted' if convert_dataset(folder) else 'needs no conversion'}")


def _print_labels(rows: Sequence[LabelSummary], title: str) -> None:
    _show.table(
        ("device", "metric", "labels", "smallest", "median", "largest", "spread", "90 %", "provenance"),
        (
            (
                row.device,
                _show.label(row.metric),
                str(row.labels),
                *(_show.amount(x, row.metric) for x in (row.smallest, row.median, row.largest)),
                _show.percent(row.spread),
                _show.percent(row.spread_90),
                row.provenance,
            )
            for row in rows
        ),
        title,
    )


def _title(name: str, total: Mapping[str, int]) -> str:
    return (
        f"{name}: {_counted(total['labels'], 'label', 'labels')} of "
        f"{_counted(total['graphs'], 'network', 'networks')} of {_counted(total['families'], 'family', 'families')} "
        f"on {_counted(total['devices'], 'device', 'devices')}"
    )


def _counted(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


app.command()(sources.fetch)
app.command()(sources.sources)
