"""``hardsight adapt``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from hardsight.api import HERE
from hardsight.cli import _flags, _show
from hardsight.errors import InputError
from hardsight.progress import progress_bars


def adapt(
    here: Annotated[bool, typer.Option("--here", help="Measure reference networks on this machine.")] = False,
    measurements: Annotated[
        Path | None,
        typer.Option(
            "--measurements",
            metavar="FILE",
            help="Use these: lines that 'hardsight measure --json' printed, or the results of a kit.",
        ),
    ] = None,
    device: _flags.DeviceName = HERE,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NEW",
            help="Name of the new device; needed with --measurements, unless they are a kit's; with --here, "
            "by default the same.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", metavar="K", help="Reference networks to measure.")
    ] = 14,
    as_json: _flags.AsJson = False,
) -> None:
    """Make a predictor from a few measurements.

    Takes about a minute with --here; run it on an idle machine.
    """
    from hardsight import api
    from hardsight.serialize import adaptation_record

    if here == (measurements is not None):
        raise InputError(
            "give either --here, to measure this machine, or --measurements FILE, taken elsewhere"
        )
    with progress_bars() as progress:
        report = api.adapt(
            device=device, name=name, measurements=measurements, samples=samples, progress=progress
        )
    if as_json:
        _show.line(adaptation_record(report))
        return
    _show.table(
        ("metric", "known device", "cost against it", "error left"),
        (
            (
                _show.label(metric),
                report.sources[metric],
                f"{scale:.3g} x",
                _error_left(report.residual[metric]),
            )
            for metric, scale in report.scale.items()
        ),
        f"{report.device}: adapted with {report.samples} network{'s' * (report.samples != 1)}",
    )
    for text in report.notes:
        _show.note(text)
    _show.note(f"Now: hardsight predict MODEL.onnx --device {report.device}")


def _error_left(residual: float) -> str:
    return f"± {_show.percent(residual)}" if math.isfinite(residual) else "unknown: one network"
