"""``hardsight compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hardsight.cli import _flags, _show
from hardsight.cli._each import each_model
from hardsight.cli._text import printable

if TYPE_CHECKING:
    from hardsight.comparison import Cell, Comparison, MetricTable


def compare(
    models: _flags.Models,
    devices: Annotated[
        list[str],
        typer.Option(
            "--device",
            "-d",
            metavar="NAME",
            help="Device, as 'hardsight devices' lists them; may be repeated.",
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="latency, memory, energy or a metric's full name; may be repeated; by default all predicted.",
        ),
    ] = None,
    shape: _flags.ShapeTexts = None,
    level: _flags.Level = 0.9,
    as_json: _flags.AsJson = False,
) -> None:
    """Hold models and devices against each other.

    A table per metric with ratios to the first model, who wins where, and whether the intervals can tell.
    Bad models are reported on stderr and the others still compared.
    """
    from hardsight import api
    from hardsight.comparison import compared, metric_named, predict_on

    shapes = api.parse_shapes(shape or [])
    metrics = [metric_named(name) for name in metric] if metric else None
    named = list(dict.fromkeys(devices))
    answers = []
    failed: typer.Exit | None = None
    try:
        for row in each_model(models, lambda path: predict_on(path, named, shapes=shapes, level=level)):
            answers.append(row)
    except typer.Exit as code:  # after the last model, when one of them was bad
        failed = code
    if answers:
        found = compared(answers, metrics)
        if as_json:
            _show.line(found.to_dict())
        else:
            _print(found)
    if failed is not None:
        raise failed


def _print(found: Comparison) -> None:
    from hardsight.comparison import ASSUMPTION

    for table in found.tables:
        _print_table(found, table)
        for sentence in table.sentences():
            _show.note(f"- {sentence}")
    _show.note("")
    _show.note(ASSUMPTION)
    for row in found.answers:
        _show.caveats(row[0].model, row[0].unknown_ops, row[0].assumptions)


def _print_table(found: Comparison, table: MetricTable) -> None:
    from rich.table import Table
    from rich.text import Text

    ratios = len(found.models) > 1
    level = f"{100 * found.level:.6g} %"
    what = f"{_show.label(table.metric)}: predicted, {level} interval"
    _show.note("")
    _show.note(f"{what}, ratio to {found.models[0]}" if ratios else what)
    shown = Table(header_style="bold", show_lines=True)
    shown.add_column("model", overflow="fold")
    for device in found.devices:
        shown.add_column(Text(printable(device)), justify="right", overflow="fold")
    for y, (model, cells) in enumerate(zip(found.models, table.rows, strict=True)):
        texts = [_cell(cell, table, ratio=ratios and y > 0) for cell in cells]
        shown.add_row(Text(printable(model)), *(Text(text) for text in texts))
    _show.console().print(shown)


def _cell(cell: Cell | None, table: MetricTable, *, ratio: bool) -> str:
    if cell is None:
        return "-"
    value, lower, upper, _ = cell.estimate
    interval = "no interval"
    if lower is not None and upper is not None:
        interval = f"{_show.amount(lower, table.metric)} to {_show.amount(upper, table.metric)}"
    lines = [_show.amount(value, table.metric), interval]
    if ratio and cell.ratio is not None:
        lines.append(f"{cell.ratio.text}: {cell.ratio.verdict}")
    return "\n".join(lines)
