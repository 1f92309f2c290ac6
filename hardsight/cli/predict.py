"""``hardsight predict``."""

from __future__ import annotations

from typing import Annotated

import typer

from hardsight.cli import _flags, _show
from hardsight.cli._each import each_model
from hardsight.prediction import ModelPrediction


def predict(
    models: _flags.Models,
    device: _flags.DeviceName,
    shape: _flags.ShapeTexts = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Share the latency out over the operators.")
    ] = False,
    level: _flags.Level = 0.9,
    as_json: _flags.AsJson = False,
) -> None:
    """Predict what models cost on a device, with intervals.

    Bad models are reported on stderr and the others still answered.
    """
    from hardsight import api
    from hardsight.serialize import prediction_record

    shapes = api.parse_shapes(shape or [])
    answers = each_model(
        models, lambda path: api.predict(path, device=device, shapes=shapes, level=level, layers=layers)
    )
    for answer in answers:
        if as_json:
            _show.line(prediction_record(answer))
        else:
            _print(answer)


def _print(answer: ModelPrediction) -> None:
    rows = []
    for metric, estimate in answer.estimates.items():
        ends = (estimate.lower, estimate.upper)
        interval = "none" if None in ends else " to ".join(_show.amount(end, metric) for end in ends)
        rows.append((_show.label(metric), _show.amount(estimate.value, metric), interval))
    level = next((f"{100 * e.level:.6g} % interval" for e in answer.estimates.values()), "interval")
    title = f"{answer.model} on {answer.device} ({answer.predictor})"
    _show.table(("metric", "predicted", level), rows, title)
    if answer.layers:
        total = sum(layer.latency_s for layer in answer.layers) or 1.0
        _show.table(
            ("operator", "type", "latency", "share", "MACs", "moved"),
            (
                (
                    layer.name,
                    layer.op_type,
                    _show.amount(layer.latency_s, "latency_s"),
                    _show.percent(layer.latency_s / total),
                    f"{layer.macs:,}",
                    _show.amount(layer.bytes, "peak_memory_bytes"),
                )
                for layer in answer.layers
            ),
        )
    _show.caveats(answer.model, answer.unknown_ops, answer.assumptions)
