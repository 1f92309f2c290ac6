"""``hardsight measure``."""

from __future__ import annotations

from typing import Annotated

import typer

from hardsight.api import HERE, ModelMeasurement
from hardsight.cli import _flags, _show
from hardsight.cli._each import each_model


def measure(
    models: _flags.Models,
    device: _flags.DeviceName = HERE,
    shape: _flags.ShapeTexts = None,
    budget: Annotated[
        str, typer.Option("--time", metavar="T", help="Time for the repeats of one model.")
    ] = "10s",
    as_json: _flags.AsJson = False,
) -> None:
    """Run models on this machine and take what they cost.

    Repeats until the median is known to 2 % or the time is up; close other programs first.
    """
    from hardsight import api
    from hardsight.serialize import measurement_record
    from hardsight.units import parse_quantity

    shapes = api.parse_shapes(shape or [])
    budget_s = parse_quantity(budget, "s")
    answers = each_model(
        models, lambda path: api.measure(path, device=device, shapes=shapes, budget_s=budget_s)
    )
    for answer in answers:
        if as_json:
            _show.line(measurement_record(answer))
        else:
            _print(answer)


def _print(answer: ModelMeasurement) -> None:
    _show.table(
        ("metric", *{m.provenance for m in answer.measurements}, "spread", "repeats"),
        (
            (
                _show.label(m.metric),
                _show.amount(m.value, m.metric),
                f"± {_show.percent(m.spread)}" if m.repeats > 1 else "-",
                str(m.repeats),
            )
            for m in answer.measurements
        ),
        f"{answer.model} on {answer.device}",
    )
    for metric, reason in answer.unavailable.items():
        _show.note(f"{_show.label(metric)} was not measured: {reason}")
    _show.caveats(answer.model, {}, answer.assumptions)
