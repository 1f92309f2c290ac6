"""An explanation → one HTML file without outside references."""

from __future__ import annotations

import base64
import string
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from hardsight import __version__
from hardsight.explanation_figure import figure_png, panels
from hardsight.explanation_text import (
    caveats,
    layer_cells,
    layer_headings,
    peak_rows,
    sentences,
    total_rows,
    type_headings,
    type_rows,
)

if TYPE_CHECKING:
    from hardsight.explanation import Explanation


def page(explanation: Explanation, top: int = 10) -> str:
    """A self-contained page: sentences, totals, pictures, types, layers, memory.

    Args:
        explanation: to show.
        top: rows of the table of the costliest layers; another table has all.
    """
    answer, costliest = explanation.answer, explanation.costliest[:top]
    level = next(f"{100 * estimate.level:.6g} % interval" for estimate in answer.estimates.values())
    types = [cost.share for cost in explanation.types]
    template = string.Template(
        resources.files("hardsight").joinpath("explanation.html").read_text(encoding="utf-8")
    )
    return template.substitute(
        title=escape(f"Where the time of {Path(answer.model).name} goes on {answer.device}"),
        by=escape(
            f"Predicted by {answer.predictor}, hardsight {__version__}; network {answer.digest}. Not measured."
        ),
        sentences=_items(sentences(explanation)),
        totals=_table("Predicted totals", ("Quantity", "Predicted", level), total_rows(explanation)),
        figures="\n".join(_figure(explanation, i, text) for i, (text, _) in enumerate(panels(explanation))),
        types=_table(
            "Merged operators cost nothing by themselves.",
            type_headings(explanation),
            type_rows(explanation),
            types,
        ),
        costliest=_table(
            f"The {len(costliest)} costliest of {len(explanation.layers)} operators.",
            layer_headings(explanation),
            map(layer_cells, costliest),
            [layer.share for layer in costliest],
        ),
        peak=_table(
            "Outputs of operators that are alive at that moment, the largest first; weights and the network's "
            "inputs are not among them.",
            ("Made by", "Type", "Shape", "Size", "Needed until"),
            peak_rows(explanation),
        ),
        count=len(explanation.layers),
        layers=_table(
            "Merged operators and views move nothing by themselves.",
            layer_headings(explanation),
            map(layer_cells, explanation.layers),
            [layer.share for layer in explanation.layers],
        ),
        notes=_items(caveats(explanation)),
    )


def _items(texts: Iterable[str]) -> str:
    return "\n".join(f"<li>{escape(text)}</li>" for text in texts)


def _figure(explanation: Explanation, index: int, text: str) -> str:
    data = base64.b64encode(figure_png(explanation, [panels(explanation)[index][1]])).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(text)}">'
        f"<figcaption>{escape(text)}.</figcaption></figure>"
    )


def _table(
    caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]], shares: Sequence[float] = ()
) -> str:
    """Columns whose cells begin with a digit are set to the right; ``shares`` are drawn behind theirs."""
    cells = [list(row) for row in rows]
    if not cells:
        return "<p>There is nothing to show.</p>"
    numbers = [i > 0 and any(row[i][:1].isdigit() for row in cells) for i in range(len(headings))]
    numeric = [' class="n"' if number else "" for number in numbers]
    head = "".join(f'<th scope="col"{n}>{escape(h)}</th>' for h, n in zip(headings, numeric, strict=True))
    body = []
    for y, (name, *rest) in enumerate(cells):
        columns = [f'<th scope="row">{escape(name)}</th>']
        for heading, attribute, cell in zip(headings[1:], numeric[1:], rest, strict=True):
            if heading == "Share" and shares:
                attribute = f' class="n share" style="--share:{100 * shares[y]:.1f}%"'
            columns.append(f"<td{attribute}>{escape(cell)}</td>")
        body.append(f"<tr>{''.join(columns)}</tr>")
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{chr(10).join(body)}</tbody></table></div>"
    )
