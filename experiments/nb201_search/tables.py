"""Rows → Markdown and a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

from hardsight.experiments.few_shot.published import HELP_SEARCH, Found
from hardsight.experiments.nb201_search.rows import CANDIDATES, EVERYTHING, Row
from hardsight.experiments.readme_tables import markdown
from hardsight.nas.report import LATENCY, SearchReport

Place = tuple[str, float]
"""A device and a limit in milliseconds."""
Optima = Mapping[Place, tuple[float, float]]
"""By place the accuracy and the latency of the table's best network."""

# Okabe and Ito's colours, told apart by the colour-blind too
_COLOURS = {
    EVERYTHING: "black",
    CANDIDATES: "#009E73",
    "screening": "#D55E00",
    "nsga2": "#E69F00",
    "random": "#9a9a9a",
}


def places() -> dict[Place, Found]:
    """The fifteen of HELP's Table 4, with what HELP found."""
    return {(device, row.constraint_ms): row for device, of in HELP_SEARCH.items() for row in of}


def delivered(rows: Sequence[Row], optima: Optima) -> str:
    """Accuracy and latency of what was delivered at each place, means over draws."""
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    lines = []
    for (device, limit), found in places().items():
        kept = "kept" if found.latency_ms <= limit else "broken"
        accuracy, latency = optima[device, limit]
        lines.append(
            (
                f"`{device}`",
                f"{limit:g}",
                f"{found.accuracy:.1f} at {found.latency_ms:.1f}, {kept}",
                *(_cell(_at(rows, name, (device, limit))) for name in samplers),
                f"{accuracy:.1f} at {latency:.1f}",
            )
        )
    return markdown(("device", "at most, ms", "HELP, published", *samplers, "optimum"), lines)


def summary(rows: Sequence[Row], optima: Optima) -> str:
    """A line per sampler: how often limits were kept, and how far the accuracy is from the optimum and from HELP's."""
    lines = []
    for name, found in summaries(rows, optima).items():
        evaluations, measured = (
            max(row[key] for row in rows if row["sampler"] == name) for key in ("evaluations", "measurements")
        )
        lines.append(
            (
                name,
                f"{evaluations:,}",
                str(measured),
                f"{found['kept']:.0f} of {found['answers']:.0f}",
                f"{found['accuracy']:.2f}",
                f"{found['gap']:.2f}",
                f"{found['worst_gap']:.2f}",
                f"{found['rows_not_below_help']:.0f} of {found['rows_help_kept']:.0f}",
                f"{found['not_below_help']:.0f} of {found['answers_help_kept']:.0f}",
            )
        )
    columns = (
        "",
        "accuracies known",
        "measurements",
        "limit kept",
        "accuracy",
        "below the optimum",
        "at worst",
        "rows not below HELP",
        "single answers not below HELP",
    )
    return markdown(columns, lines)


def summaries(rows: Sequence[Row], optima: Optima) -> dict[str, dict[str, float]]:
    """By sampler the headline numbers. HELP's printed accuracies have one decimal, so ours are rounded to it there."""
    found = {}
    for name in dict.fromkeys(row["sampler"] for row in rows):
        own = [row for row in rows if row["sampler"] == name]
        gaps = [optima[_place(row)][0] - (row["accuracy"] or 0.0) for row in own]
        fair = {place: help_ for place, help_ in places().items() if help_.latency_ms <= place[1]}
        beside = [(row, fair[_place(row)]) for row in own if _place(row) in fair]
        means = {place: _mean(_at(own, name, place), "accuracy") for place in fair}
        found[name] = {
            "answers": len(own),
            "kept": sum(
                row["latency_ms"] is not None and row["latency_ms"] <= row["limit_ms"] for row in own
            ),
            "accuracy": float(np.mean([row["accuracy"] or 0.0 for row in own])),
            "gap": float(np.mean(gaps)),
            "worst_gap": float(np.max(gaps)),
            "rows_help_kept": len(fair),
            "rows_not_below_help": sum(round(means[p], 1) >= h.accuracy for p, h in fair.items()),
            "answers_help_kept": len(beside),
            "not_below_help": sum(round(row["accuracy"] or 0.0, 1) >= h.accuracy for row, h in beside),
        }
    return found


def front(report: SearchReport) -> str:
    """What the worked job delivered, most accurate first."""
    lines = []
    for row in report.rows:
        predicted, looked_up = row.predicted[LATENCY], row.measured[LATENCY][0]
        bounds = " to ".join(
            "–" if b is None else f"{1e3 * b:.1f}" for b in (predicted.lower, predicted.upper)
        )
        kept = "kept" if all(row.kept.values()) else "broken"
        accuracy = f"{row.test_accuracy:.2%}"
        lines.append(
            (row.digest[:8], accuracy, f"{1e3 * predicted.value:.1f}", bounds, f"{1e3 * looked_up:.1f}", kept)
        )
    interval = f"{report.job.level:.0%} interval"
    return markdown(("network", "accuracy", "predicted, ms", interval, "looked up, ms", "limit"), lines)


def figure_png(rows: Sequence[Row], optima: Optima) -> bytes:
    """How far each answer is below the optimum: a column per place, a dot per draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    for i, name in enumerate(samplers):
        for x, place in enumerate(places()):
            own = _at(rows, name, place)
            gaps = [optima[place][0] - (row["accuracy"] or 0.0) for row in own]
            at = [x + 0.15 * (i - (len(samplers) - 1) / 2)] * len(gaps)
            axes.scatter(at, gaps, s=10, color=_COLOURS.get(name), alpha=0.5, linewidths=0)
            axes.scatter(at[:1], [np.mean(gaps)] if gaps else [], s=60, marker="_", color=_COLOURS.get(name))
        axes.scatter([], [], color=_COLOURS.get(name), label=name)
    for x, (place, found) in enumerate(places().items()):
        kept = found.latency_ms <= place[1]
        axes.scatter(
            x,
            optima[place][0] - found.accuracy,
            marker="D" if kept else "x",
            s=36,
            color="#0072B2",
            label="HELP, limit kept" if x == 0 else None,
        )
    axes.scatter([], [], marker="x", color="#0072B2", label="HELP, limit broken")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(
        range(len(places())), [f"{device}\n{limit:g} ms" for device, limit in places()], fontsize=7
    )
    axes.set_ylabel("accuracy below the table's optimum [points]")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": "hardsight"})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _place(row: Row) -> Place:
    return row["device"], row["limit_ms"]


def _at(rows: Sequence[Row], sampler: str, place: Place) -> list[Row]:
    return [row for row in rows if row["sampler"] == sampler and _place(row) == place]


def _mean(rows: Sequence[Row], key: str) -> float:
    return float(np.mean([row[key] or 0.0 for row in rows])) if rows else 0.0


def _cell(rows: Sequence[Row]) -> str:
    taken = [row for row in rows if row["accuracy"] is not None]
    if not taken:
        return "nothing"
    kept = sum(row["latency_ms"] <= row["limit_ms"] for row in taken)
    return f"{_mean(taken, 'accuracy'):.1f} at {_mean(taken, 'latency_ms'):.1f}, kept {kept} of {len(rows)}"
