"""A search's report → one HTML file without outside references, and a table for the terminal."""

from __future__ import annotations

import base64
import string
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from hardsight.budgets import SIZE
from hardsight.metrics import Metric
from hardsight.nas.report import FrontRow, SearchReport, show
from hardsight.nas.report_figure import figure_png, panels
from hardsight.units import format_quantity

if TYPE_CHECKING:
    from rich.table import Table

_TITLES = {
    str(Metric.LATENCY): "Latency",
    str(Metric.PEAK_MEMORY): "Peak memory",
    str(Metric.ENERGY): "Energy",
    str(Metric.LOGIC_CELLS): "Logic cells",
}


def front_cells(report: SearchReport) -> tuple[list[str], list[list[str]]]:
    """The table of the front as text: headings and one list of cells per network."""
    headings = ["Network"]
    costs = [name for name in report.shown_costs if name != SIZE]
    for name in costs:
        title = _TITLES.get(name, name)
        headings += [f"{title} predicted", f"{report.job.level:.0%} interval", f"{title} measured"]
    runtime = report.rows[0].runtime if report.rows else "ONNX Runtime"
    headings += ["Accuracy validation", f"Accuracy test ({runtime})", "Size", "Bits per block"]
    return headings, [_cells(report, row, costs) for row in report.rows]


def front_table(report: SearchReport) -> Table:
    """The front for a terminal of 100 columns: the page's columns, their cells folded between words."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="Front, most accurate first", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1)
    )
    headings, rows = front_cells(report)
    for i, heading in enumerate(headings):
        left = heading in ("Network", "Bits per block")
        longest = max((len(word) for cells in rows for word in cells[i].split()), default=0)
        table.add_column(heading, overflow="fold", justify="left" if left else "right", min_width=longest)
    for cells in rows:
        table.add_row(*cells)
    return table


def page(report: SearchReport) -> str:
    """A self-contained page: outcome, pictures, front, search cost, job and versions."""
    template = string.Template(resources.files("hardsight.nas").joinpath("report.html").read_text())
    return template.substitute(
        title=escape(f"Hardsight search: {report.data.get('name', '?')} on {report.job.device}"),
        outcome="\n".join(f"<p>{escape(line)}</p>" for line in report.sentences()),
        figures="\n".join(_figure(report, text, i) for i, (text, _) in enumerate(panels(report))),
        front=_front(report),
        facts=_facts(report),
        job=escape(report.job.public().to_yaml()),
    )


def _cells(report: SearchReport, row: FrontRow, costs: list[str]) -> list[str]:
    cells = [row.digest[:8] + (" (dominated)" if row.dominated else "")]
    for name in costs:
        estimate, measured = row.predicted.get(name), row.measured.get(name)
        if estimate is None:
            cells += ["-", "-"]
        else:
            bounds = (
                None if estimate.lower is None or estimate.upper is None else (estimate.lower, estimate.upper)
            )
            cells += [
                show(name, estimate.value),
                " to ".join(show(name, b) for b in bounds) if bounds else "none",
            ]
        text = "-" if measured is None else show(name, measured[0])
        if measured is not None and name in row.kept and not row.kept[name]:
            text += " (over the limit)"
        cells.append(text)
    return [
        *cells,
        f"{row.validation_accuracy:.2%}",
        f"{row.test_accuracy:.2%}",
        show(SIZE, row.size_bytes),
        _bits_text(row),
    ]


def _bits_text(row: FrontRow) -> str:
    return " ".join(bits for _, bits in row.bits)


def _figure(report: SearchReport, text: str, index: int) -> str:
    png = figure_png(report, [panels(report)[index][1]])
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(text)}">'
        f"<figcaption>{escape(text)}.</figcaption></figure>"
    )


def _front(report: SearchReport) -> str:
    headings, rows = front_cells(report)
    if not rows:
        return "<p>There is no network to show.</p>"
    head = "".join(f'<th role="columnheader" scope="col">{escape(h)}</th>' for h in headings)
    body = []
    for row, cells in zip(report.rows, rows, strict=True):
        name, *middle = cells[:-1]
        columns = [f'<th role="rowheader" scope="row"><a href="{escape(row.file)}">{escape(name)}</a></th>']
        columns += [
            f'<td role="cell" data-label="{escape(h)}">{escape(c)}</td>'
            for h, c in zip(headings[1:], middle, strict=False)
        ]
        blocks = "".join(
            f'<li class="b{bits}"><span class="block">{escape(block)}</span> {bits}</li>'
            for block, bits in row.bits
        )
        columns.append(
            f'<td role="cell" data-label="{escape(headings[-1])}"><ul class="bits">{blocks}</ul></td>'
        )
        body.append(f'<tr role="row">{"".join(columns)}</tr>')
    caption = "Delivered networks, most accurate first. Bits per block: 32 is fp32, 8 is INT8, w4a6 weights of 4 bits "
    caption += "that are multiplied by activations of 6."
    return (
        f'<table role="table" class="cards"><caption>{caption}</caption>'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(body)}</tbody></table>'
    )


def _facts(report: SearchReport) -> str:
    data = report.data
    samples = data.get("samples", {})
    facts = {
        "Data": f"{data.get('name', '?')}, {len(data.get('classes', []))} classes, "
        + ", ".join(f"{n} {part}" for part, n in samples.items()),
        "Data SHA-256": str(data.get("sha256", "?")),
        "Device": report.job.device,
        "Measured on": report.measured_on or "nothing was measured",
        "Trials": ", ".join(f"{n} {fate}" for fate, n in report.counts.items()) or "none",
        "Search time": format_quantity(report.search_s, "s"),
        "Training in it": format_quantity(report.train_s, "s"),
        "Final hypervolume": f"{report.hypervolumes[-1]:.4f}" if report.hypervolumes else "-",
        "Versions": ", ".join(f"{k} {v}" for k, v in report.versions.items()) or "-",
    }
    rows = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in facts.items())
    return f"<table><caption>The search</caption><tbody>{rows}</tbody></table>"
