"""``hardsight quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardsight.cli import _flags, _show
from hardsight.progress import progress_bars

if TYPE_CHECKING:
    from hardsight.nas.mixed_precision import QuantizeReport
    from hardsight.nas.mixed_precision.report import Tried


def quantize(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="Float network, with its weights.")],
    device: _flags.DeviceName,
    out: Annotated[Path, typer.Option("--out", metavar="OUT.onnx", help="File to write.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="SOURCE",
            help="digits, an .npz (x, and y unless there are no labels), a .csv or a folder of images.",
        ),
    ] = "digits",
    label: Annotated[
        str | None,
        typer.Option("--label", metavar="COLUMN", help="Class column of a CSV; by default the last."),
    ] = None,
    limits: Annotated[
        list[str] | None,
        typer.Option(
            "--max",
            metavar="QUANTITY=LIMIT",
            help="latency=2ms, size=1MB, logic_cells=2000; may be repeated.",
        ),
    ] = None,
    max_loss: Annotated[
        float,
        typer.Option("--max-loss", metavar="P", help="Share of accuracy that may be lost, without --max."),
    ] = 0.005,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", help="Samples for calibration and sensitivity.")
    ] = 128,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the data's split.")] = 0,
    level: _flags.Level = 0.9,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Write the best quantized network though it gains nothing or breaks a budget."
        ),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option("--measure/--no-measure", help="Measure before and after, on this machine's devices."),
    ] = True,
    as_json: _flags.AsJson = False,
) -> None:
    """Choose a precision for each layer of a given network.

    With --max: the least sensitive choice that is predicted to keep the budgets. Without: the cheapest one that keeps
    the accuracy. OUT.onnx is always the network to deploy: where INT8 is not faster here, the one given.

    Exit code 1 when the budgets cannot be kept: then the closest choice is shown, and nothing written without --force.
    """
    from hardsight.budgets import parse_budgets
    from hardsight.nas.data import DataSpec
    from hardsight.nas.mixed_precision import quantize as choose

    budgets = parse_budgets(limits or [])
    with progress_bars() as progress:
        report = choose(
            model,
            device=device,
            data=DataSpec(source=data, label=label),
            budgets=budgets,
            out=out,
            max_loss=max_loss,
            samples=samples,
            seed=seed,
            level=level,
            force=force,
            measure=measure,
            progress=progress,
        )
    if as_json:
        _show.line(report.to_dict())
    else:
        _print(report)
    if not report.kept:
        raise typer.Exit(1)


def _print(report: QuantizeReport) -> None:
    aim = report.aim
    (_two_precisions if len(report.layers[0].sensitivity) == 2 else _many_precisions)(report)
    what = report.before.what
    _show.table(
        (
            "network",
            f"{_show.label(aim)} predicted",
            "upper end",
            "measured",
            "size",
            f"{what} (validation)",
            "",
        ),
        (_tried(tried, aim) for tried in report.tried),
        "networks compared",
    )
    for sentence in report.sentences():
        _show.note(sentence)
    _show.note(f"Written: {report.out}" if report.out else "Nothing was written.")


def _two_precisions(report: QuantizeReport) -> None:
    aim = report.aim
    first, last = report.layers[0].sensitivity
    _show.table(
        (
            "layer",
            "type",
            "precision",
            f"sensitivity {last}",
            f"{_show.label(aim)} {last} alone",
            *([f"{last} among {last}"] if first == "fp32" else []),
        ),
        (
            (
                layer.name,
                layer.op_type,
                layer.precision,
                f"{layer.sensitivity[last]:.2e}",
                _change(layer.cost[last][aim], aim),
                *([_change(layer.cost_among_quantized[aim], aim)] if first == "fp32" else []),
            )
            for layer in report.layers
        ),
        f"{report.model} on {report.device}: what each layer's precision is predicted to change",
    )


def _many_precisions(report: QuantizeReport) -> None:
    """The chosen precision alone beside the widest: a table of all would not fit; ``--json`` has it."""
    aim = report.aim
    widest = next(iter(report.layers[0].sensitivity))
    whole = report.tried[0].predicted[aim].value
    _show.table(
        (
            "layer",
            "precision",
            "sensitivity",
            f"{_show.label(aim)} of the network, this layer alone so",
            f"all layers {widest}",
        ),
        (
            (
                layer.name,
                layer.precision,
                f"{layer.sensitivity[layer.precision]:.2e}",
                _show.amount(whole + layer.cost[layer.precision][aim], aim),
                _show.amount(whole, aim),
            )
            for layer in report.layers
        ),
        f"{report.model} on {report.device}: what the chosen precision of each layer is predicted to change "
        "(--json has the other precisions)",
    )


def _tried(tried: Tried, aim: str) -> tuple[str, ...]:
    estimate = tried.predicted[aim]
    value, _ = tried.measured.get(aim, (None, 0.0))
    return (
        ", ".join(f"{n} {precision}" for precision, n in tried.precisions.items()),
        _show.amount(estimate.value, aim),
        _show.amount(estimate.upper, aim),
        _show.amount(value, aim),
        _show.amount(tried.predicted["size_bytes"].value, "size_bytes"),
        _show.percent(tried.quality.value),
        "chosen" if tried.chosen else "",
    )


def _change(value: float, quantity: str) -> str:
    return f"{'+' if value >= 0 else '-'}{_show.amount(abs(value), quantity)}"
