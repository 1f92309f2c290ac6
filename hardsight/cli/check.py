"""``hardsight check``."""

from __future__ import annotations

from typing import Annotated

import typer

from hardsight.budgets import Verdict
from hardsight.cli import _flags, _show
from hardsight.cli._each import each_model


def check(
    models: _flags.Models,
    device: _flags.DeviceName,
    limits: Annotated[
        list[str],
        typer.Option(
            "--max",
            metavar="QUANTITY=LIMIT",
            help="latency=10ms, memory=8MiB, energy=5mJ, size=1MB; may be repeated.",
        ),
    ],
    shape: _flags.ShapeTexts = None,
    level: _flags.Level = 0.9,
    as_json: _flags.AsJson = False,
) -> None:
    """Hold models against budgets, for CI.

    Exit code 0 when all budgets are kept, 1 when one is broken; the upper end of each interval decides.
    """
    from hardsight import api
    from hardsight.budgets import parse_budgets
    from hardsight.serialize import check_record

    budgets, shapes = parse_budgets(limits), api.parse_shapes(shape or [])
    kept = True
    for checked in each_model(
        models, lambda path: api.check(path, device=device, budgets=budgets, shapes=shapes, level=level)
    ):
        kept = kept and checked.kept
        if as_json:
            _show.line(check_record(checked))
            continue
        _show.table(
            ("quantity", "predicted", "upper end", "limit", "verdict"),
            (
                (
                    _show.label(v.quantity),
                    *(_show.amount(x, v.quantity) for x in (v.value, v.upper, v.limit)),
                    _verdict(v),
                )
                for v in checked.verdicts
            ),
            f"{checked.answer.model} on {checked.answer.device}",
        )
        _show.caveats(checked.answer.model, checked.answer.unknown_ops, checked.answer.assumptions)
    if not kept:
        raise typer.Exit(1)


def _verdict(verdict: Verdict) -> str:
    by = _show.amount(abs(verdict.excess), verdict.quantity)
    return f"kept, {by} left" if verdict.kept else f"BROKEN by {by}"
