"""``hardsight explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardsight.cli import _flags, _show
from hardsight.errors import InputError

if TYPE_CHECKING:
    from hardsight.explanation import Explanation


def explain(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx", help="ONNX file; its weights may be missing.")
    ],
    device: _flags.DeviceName,
    shape: _flags.ShapeTexts = None,
    level: _flags.Level = 0.9,
    top: Annotated[
        int, typer.Option("--top", metavar="N", min=1, help="Layers to list, the costliest first.")
    ] = 10,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="REPORT.html", help="Also write a page that needs no network."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="PLOT.png", help="Also write the pictures.")
    ] = None,
    as_json: _flags.AsJson = False,
) -> None:
    """Say where a model's time goes, and what INT8 would gain.

    By layer and operator type: cost, roofline position, what is merged; and when memory peaks.
    """
    from hardsight import api
    from hardsight.explanation import explain as explained

    for path, suffixes in ((out, (".html", ".htm")), (plot, (".png",))):
        if path is not None and path.suffix.lower() not in suffixes:
            raise InputError(f"'{path}' does not end in {suffixes[0]}, and that is what would be written")
    found = explained(model, device, shapes=api.parse_shapes(shape or []), level=level)
    if out is not None:
        from hardsight.explanation_page import page

        out.write_text(page(found, top), encoding="utf-8")
    if plot is not None:
        from hardsight.explanation_figure import figure_png

        plot.write_bytes(figure_png(found))
    if as_json:
        _show.line(found.to_dict())
        return
    _print(found, top)
    for path in (out, plot):
        if path is not None:
            _show.note(f"Written: {path}")


def _print(found: Explanation, top: int) -> None:
    from hardsight.explanation_text import (
        caveats,
        layer_cells,
        layer_headings,
        sentences,
        total_rows,
        type_headings,
        type_rows,
    )

    answer = found.answer
    level = next(f"{100 * e.level:.6g} % interval" for e in answer.estimates.values())
    title = f"{answer.model} on {answer.device} ({answer.predictor})"
    _show.table(("metric", "predicted", level), total_rows(found), title)
    _show.table(_lower(type_headings(found)), type_rows(found))
    costliest = found.costliest
    _show.table(_lower(layer_headings(found)), map(layer_cells, costliest[:top]))
    if len(costliest) > top:
        rest = sum(layer.share for layer in costliest[top:])
        _show.note(
            f"{len(costliest) - top} more kernels take {_show.percent(rest)}; --top {len(costliest)} lists all."
        )
    for sentence in sentences(found):
        _show.note(f"- {sentence}")
    for caveat in caveats(found):
        _show.note(f"{answer.model}: {caveat}")


def _lower(headings: tuple[str, ...]) -> list[str]:
    return [text if text.startswith("MAC") else text.lower() for text in headings]
