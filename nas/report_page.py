"""A search's report → one HTML file without outside references, and a table for the terminal."""

from __future__ import annotations

import base64
import string
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from hardsight.budgets import SIZE
from hardsight.nas.report import FrontRow, SearchReport
from hardsight.nas.report_drawing import colour, drawing
from hardsight.nas.report_figure import figure_png, panels
from hardsight.nas.report_words import cost_words, excess, show, words_of
from hardsight.units import format_quantity

if TYPE_CHECKING:
    from rich.table import Table


_BITS = "Bits per block"


def front_cells(report: SearchReport) -> tuple[list[str], list[list[str]]]:
    """The table of the front as text: headings and one list of cells per network."""
    headings = ["Network"]
    costs = [name for name in report.shown_costs if name != SIZE]
    for name in costs:
        title = _capital(cost_words(name))
        headings += [f"{title} predicted", f"{report.job.level:.0%} interval", f"{title} measured"]
    runtime = report.rows[0].runtime if report.rows else "ONNX Runtime"
    searched = "Accuracy search (table)" if runtime == "table" else "Accuracy validation"
    headings += [searched, f"Accuracy test ({runtime})", "Size"]
    if any(row.bits for row in report.rows):
        headings.append(_BITS)
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
        left = heading in ("Network", _BITS)
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
        budgets=_budgets(report),
        front=_front(report),
        drawn=escape(_legend(report)),
        networks="\n".join(_network(row) for row in report.rows),
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
        *([" ".join(bits for _, bits in row.bits)] if row.bits else []),
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


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
    for row, (name, *cells) in zip(report.rows, rows, strict=True):
        columns = [f'<th role="rowheader" scope="row"><a href="{escape(row.file)}">{escape(name)}</a></th>']
        columns += [
            f'<td role="cell" data-label="{escape(h)}">{_chips(row) if h == _BITS else escape(c)}</td>'
            for h, c in zip(headings[1:], cells, strict=True)
        ]
        body.append(f'<tr role="row">{"".join(columns)}</tr>')
    caption = "Delivered networks, most accurate first."
    if any(row.bits for row in report.rows):
        caption += f" Bits per block: {_bits_words(report)}."
    return (
        f'<table role="table" class="cards"><caption>{caption}</caption>'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(body)}</tbody></table>'
    )


def _budgets(report: SearchReport) -> str:
    if not report.budgets:
        return "<p>The job has no constraints.</p>"
    if not report.rows:
        return f"<p>No network was delivered. {escape(_closest(report))}</p>"
    body = []
    for budget in report.budgets:
        over = ", ".join(
            f"{digest[:8]} ({show(budget.cost, value)}, {excess(value, budget.limit)})"
            for digest, value in budget.broken.items()
        )
        kept = f"{len(budget.kept)} of {budget.judged}" if budget.judged else "nothing was measured"
        unmeasured = ", ".join(digest[:8] for digest in budget.unmeasured)
        name = f"{_capital(cost_words(budget.cost))} ≤ {show(budget.cost, budget.limit)}"
        body.append([name, kept, over or "none", unmeasured or "none"])
    where = f" on {report.measured_on}" if report.measured_on else ""
    return _cards(
        f"What the delivered networks keep when measured{where}; a size is counted in the file.",
        ["Constraint", "Kept by", "Broken by", "Not measured"],
        body,
    )


def _closest(report: SearchReport) -> str:
    if report.closest is None:
        return ""
    misses = ", ".join(
        f"its {cost_words(name)} limit: {show(name, upper)}, {excess(upper, limit)}"
        for name, (limit, upper) in report.closest.misses.items()
    )
    return f"The closest candidate, trial {report.closest.trial}, misses {misses}."


def _cards(caption: str, headings: list[str], rows: list[list[str]]) -> str:
    """A table that a phone shows as cards."""
    head = "".join(f'<th role="columnheader" scope="col">{escape(h)}</th>' for h in headings)
    body = "".join(
        f'<tr role="row"><th role="rowheader" scope="row">{escape(name)}</th>'
        + "".join(
            f'<td role="cell" data-label="{escape(h)}"><span>{escape(c)}</span></td>'
            for h, c in zip(headings[1:], cells, strict=True)
        )
        + "</tr>"
        for name, *cells in rows
    )
    return (
        f'<table role="table" class="cards"><caption>{escape(caption)}</caption>'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead><tbody role="rowgroup">{body}</tbody></table>'
    )


def _legend(report: SearchReport) -> str:
    if not report.rows:
        return "There is no network to draw."
    if not any(row.blocks for row in report.rows):
        return "What was chosen, as the space names it."
    arcs = any(block.added for row in report.rows for block in row.blocks)
    return (
        "A box per block, as wide as its channels and as high as its resolution within the network. In it are the "
        f"bits: {_bits_words(report)}." + (" An arc ends where an earlier output is added." if arcs else "")
    )


def _bits_words(report: SearchReport) -> str:
    if any(bits.startswith("w") for row in report.rows for _, bits in row.bits):
        return (
            "w4a6 has weights of 4 bits, multiplied by activations of 6; the darker, the more bits of weights"
        )
    return "32 is float (fp32, yellow), 8 is INT8 (blue)"


def _network(row: FrontRow) -> str:
    title = f"Network {row.digest[:8]}"
    caption = f"{title}: {row.macs:,} multiply-accumulates, {show(SIZE, row.size_bytes)}"
    if row.blocks:
        drawn = drawing(title, row.input_shape, row.blocks)
    elif row.choices:
        items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(_choice(v))}</dd>" for k, v in row.choices.items())
        drawn = f"<dl>{items}</dl>"
    else:
        drawn = "<p>An older version verified it and kept no layers to draw.</p>"
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawn}</figure>"


def _choice(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _chips(row: FrontRow) -> str:
    items = (
        f'<li style="background:{colour(bits)}"><span class="block">{escape(block)}</span> {bits}</li>'
        for block, bits in row.bits
    )
    return f'<ul class="bits">{"".join(items)}</ul>'


def _facts(report: SearchReport) -> str:
    data = report.data
    samples = {part: n for part, n in data.get("samples", {}).items() if n}
    work = words_of(report.job.evaluator.name).work
    facts = {
        "Data": f"{data.get('name', '?')}, {len(data.get('classes', []))} classes, "
        + (", ".join(f"{n} {part}" for part, n in samples.items()) or "no samples"),
        "Data SHA-256": str(data.get("sha256", "?")),
        "Device": report.job.device,
        "Measured on": (report.rows and report.measured_on) or "nothing was measured",
        "Trials": ", ".join(f"{n} {fate}" for fate, n in report.counts.items()) or "none",
        "Trial time, all workers": format_quantity(report.search_s, "s"),
        **({f"Of it {work}": format_quantity(report.train_s, "s")} if work and report.train_s else {}),
        "Final hypervolume": f"{report.hypervolumes[-1]:.4f}" if report.hypervolumes else "-",
        "Versions": ", ".join(f"{k} {v}" for k, v in report.versions.items()) or "-",
    }
    rows = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in facts.items())
    return f'<table class="facts"><caption>The search</caption><tbody>{rows}</tbody></table>'
