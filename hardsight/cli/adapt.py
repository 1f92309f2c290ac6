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

_MANIFOLD = 0.5  # log; beyond it "± 60 %" would hide that upwards it is 80 %


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
        int, typer.Option("--samples", metavar="K", help="Reference networks to measure at most, 1 to 50.")
    ] = 14,
    measure_all: Annotated[
        bool, typer.Option("--all", help="Measure all K, also when more would not help.")
    ] = False,
    trust_units: Annotated[
        bool,
        typer.Option(
            "--trust-units",
            help="Take measurements that are sixty times or more off those of every known device as they are.",
        ),
    ] = False,
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
            device=device,
            name=name,
            measurements=measurements,
            samples=samples,
            measure_all=measure_all,
            trust_units=trust_units,
            progress=progress,
        )
    if as_json:
        _show.line(adaptation_record(report))
        return
    _show.table(
        ("metric", "known device", "cost against it", "off, each left out", "expected on others"),
        (
            (
                _show.label(metric),
                report.sources[metric],
                f"{scale:.3g} x",
                _error(report.residual[metric]),
                _error(report.expected_error[metric]),
            )
            for metric, scale in report.scale.items()
        ),
        f"{report.device}: adapted with {report.samples} network{'s' * (report.samples != 1)}",
    )
    _show.note(
        "Expected: two of three other networks are off by less; each prediction says its own interval."
    )
    for text in report.notes:
        _show.note(text)
    _show.note(f"Now: hardsight predict MODEL.onnx --device {report.device}")


def _error(log_error: float) -> str:
    if not math.isfinite(log_error):
        return "unknown: one network"
    if log_error > _MANIFOLD:
        return f"a factor of {math.exp(log_error):.1f}"
    return f"± {_show.percent(log_error)}"
