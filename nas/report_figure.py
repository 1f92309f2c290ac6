"""A search's report → pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

from hardsight.budgets import SIZE, unit_of
from hardsight.nas.report import SearchReport
from hardsight.nas.report_words import cost_words, show, words_of
from hardsight.units import format_quantity, parse_quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Okabe and Ito's colours, told apart by the colour-blind too; shapes differ as well
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#9a9a9a"

_SIZES: dict[Any, float] = {
    "font.size": 12,
    "legend.fontsize": 12,
    "axes.titlesize": 14,
}  # a phone shows the page's at 60 %

Panel = Callable[["Axes", SearchReport], None]


def panels(report: SearchReport) -> list[tuple[str, Panel]]:
    """What there is to draw: alternative text, and what draws it."""
    found: list[tuple[str, Panel]] = []
    if report.judged:
        searched = words_of(report.job.evaluator.name).error
        found += [
            (
                f"Error against {cost_words(cost)}: candidates in grey ({searched}), the delivered front's test "
                f"error {_marks(report, cost)}",
                partial(draw_front, cost=cost),
            )
            for cost in report.cost_objectives
        ]
    found += [
        (
            f"Predicted {cost_words(cost)} with its interval against measured {cost_words(cost)}",
            partial(draw_measured, cost=cost),
        )
        for cost in report.compared
    ]
    if report.closest is not None:
        found.append(
            (
                "How far the candidates miss their limits: upper end of the prediction over the limit",
                draw_missed,
            )
        )
    if report.judged or not found:
        found.append(("Hypervolume and least error of the search over its trials", draw_history))
    return found


def _marks(report: SearchReport, cost: str) -> str:
    if cost == SIZE:
        return "in blue"
    return "in blue over the predicted cost with its interval" + (
        ", in orange over the measured one" if cost in report.compared else ""
    )


def figure_png(report: SearchReport, only: Sequence[Panel] | None = None) -> bytes:
    """Panels side by side as PNG.

    Args:
        report: to draw.
        only: which panels; all there are by default.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = list(only) if only is not None else [draw for _, draw in panels(report)]
    buffer = io.BytesIO()
    with rc_context(_SIZES):
        figure = Figure(figsize=(5.6 * len(chosen), 5.4), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        for axes, draw in zip(figure.subplots(1, len(chosen), squeeze=False)[0], chosen, strict=True):
            draw(axes, report)
            axes.spines[["top", "right"]].set_visible(False)
        canvas.print_png(buffer, metadata={"Software": "hardsight"})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def draw_front(axes: Axes, report: SearchReport, cost: str) -> None:
    """Error over a cost: candidates of the search, the front as predicted and as measured."""
    searched = words_of(report.job.evaluator.name).error
    values = [r.costs[cost].value for r in report.judged]
    scale, unit = _screen(cost, [*values, *(row.predicted[cost].value for row in report.rows)])
    for pruned, marker, label in (
        (False, "o", f"candidates: {searched}"),
        (True, "x", "candidates given up early: error so far"),
    ):
        seen = [r for r in report.judged if r.pruned == pruned]
        if seen:
            axes.scatter(
                [r.costs[cost].value * scale for r in seen],
                [100 * (1 - (r.accuracy or 0.0)) for r in seen],
                s=20,
                marker=marker,
                color=GREY,
                label=label,
            )
    if report.rows:
        _draw_delivered(axes, report, cost, scale)
    seen_errors = [1 - (r.accuracy or 0.0) for r in report.judged]
    top = 106 * max(0.01, *seen_errors, *(1 - row.test_accuracy for row in report.rows))
    axes.set_ylim(-0.03 * top, top)  # a point without error is to be seen whole
    axes.set_xlim(0, _with_limit(axes, report, cost, scale, 1.05 * axes.dataLim.x1))
    _readable(axes.xaxis, cost)
    axes.set_xlabel(f"{cost_words(cost)}{unit}")
    axes.set_ylabel("error [%]")
    axes.set_title(f"Front: error against {cost_words(cost)}")
    _legend(axes)


def _draw_delivered(axes: Axes, report: SearchReport, cost: str, scale: float) -> None:
    rows = sorted(report.rows, key=lambda row: row.predicted[cost].value)
    errors = [100 * (1 - row.test_accuracy) for row in rows]
    exact = cost == SIZE
    axes.errorbar(
        [row.predicted[cost].value * scale for row in rows],
        errors,
        xerr=None if exact else _reach(rows, cost, scale),
        fmt="o",
        color=BLUE,
        capsize=3,
        label="front: test error" if exact else "front, predicted with interval: test error",
    )
    known = [
        (row.measured[cost][0] * scale, e)
        for row, e in zip(rows, errors, strict=True)
        if cost in row.measured
    ]
    if known and not exact:
        xs, ys = zip(*known, strict=True)
        axes.scatter(xs, ys, marker="D", s=36, color=ORANGE, zorder=3, label="front, measured: test error")


def draw_measured(axes: Axes, report: SearchReport, cost: str) -> None:
    """Predicted over measured values of a cost; on the line they agree."""
    rows = [row for row in report.rows if cost in row.measured and cost in row.predicted]
    scale, unit = _screen(cost, [row.measured[cost][0] for row in rows])
    measured = [row.measured[cost][0] * scale for row in rows]
    predicted = [row.predicted[cost].value * scale for row in rows]
    reach = _reach(rows, cost, scale)
    axes.errorbar(measured, predicted, yerr=reach, fmt="o", color=BLUE, capsize=3)
    uppers = [(row.predicted[cost].upper or 0.0) * scale for row in rows]
    top = 1.08 * max(*measured, *predicted, *uppers)
    top = _with_limit(axes, report, cost, scale, top)
    axes.plot([0, top], [0, top], color=GREY, linewidth=1, label="equal")
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.set_aspect("equal")
    _readable(axes.xaxis, cost)
    _readable(axes.yaxis, cost)
    axes.set_xlabel(f"measured {cost_words(cost)}{unit}")
    interval = f", {report.job.level:.0%} interval" if reach else ""
    axes.set_ylabel(f"predicted {cost_words(cost)}{interval}{unit}")
    axes.set_title(f"Predicted against measured {cost_words(cost)}")
    _legend(axes)


def draw_missed(axes: Axes, report: SearchReport) -> None:
    """Per candidate and constraint, how far the upper end of the prediction is above the limit."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    for (cost, limit), marker, colour in zip(
        report.job.constraints.items(), cycle("osD^"), cycle((BLUE, ORANGE, GREEN, GREY)), strict=False
    ):
        points = [(r.number, 1 + r.violations[cost]) for r in report.records if cost in r.violations]
        axes.scatter(
            *zip(*points, strict=True),
            marker=marker,
            color=colour,
            label=f"{cost_words(cost)}, limit {show(cost, limit)}",
        )
    axes.axhline(1, color=RED, linestyle="--", linewidth=1.2, label="limit")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel("upper end of the prediction over the limit")
    axes.set_title("How far the candidates miss")
    _legend(axes)


def draw_history(axes: Axes, report: SearchReport) -> None:
    """Hypervolume and least error after each trial."""
    from matplotlib.ticker import MaxNLocator

    trials = list(range(1, len(report.records) + 1))
    axes.step(trials, report.hypervolumes, where="post", marker=".", color=BLUE, label="hypervolume (left)")
    axes.set_xlabel("finished trials")
    axes.set_ylabel("hypervolume, share of the space")
    axes.set_ylim(0, 1)
    other = axes.twinx()
    other.step(
        trials,
        [100 * e for e in report.best_error],
        where="post",
        marker=".",
        color=ORANGE,
        linestyle="--",
        label="least error (right)",
    )
    other.set_ylabel("least error in the search [%]")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    other.set_ylim(0, max(10.0, *[100 * e for e in report.best_error if e < 1] or [10.0]) * 1.1)
    other.spines[["top"]].set_visible(False)
    handles = [*axes.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
    labels = [*axes.get_legend_handles_labels()[1], *other.get_legend_handles_labels()[1]]
    _legend(axes, handles, labels)
    axes.set_title("Progress of the search")


def _readable(axis: Axis, cost: str) -> None:
    """Large counts with SI prefixes: ``120k``, ``1.2M``."""
    from matplotlib.ticker import EngFormatter

    if unit_of(cost) == "1" and axis.get_view_interval()[1] >= 10_000:
        axis.set_major_formatter(EngFormatter(sep=""))


def _with_limit(axes: Axes, report: SearchReport, cost: str, scale: float, end: float) -> float:
    """Draw the limit, if there is one; returns the axis' end, which a limit far away does not move."""
    limit = report.job.constraints.get(cost)
    if limit is None:
        return end
    label = f"limit, {show(cost, limit)}"
    if limit * scale > 2 * end:
        axes.plot([], [], color=RED, linestyle="--", linewidth=1.2, label=f"{label}: further right")
        return end
    axes.axvline(limit * scale, color=RED, linestyle="--", linewidth=1.2, label=label)
    return max(end, 1.05 * limit * scale)


def _legend(axes: Axes, *handles_and_labels: Any) -> None:
    """Below the picture, where it hides no point."""
    axes.legend(*handles_and_labels, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def _reach(rows: Sequence[Any], cost: str, scale: float) -> list[list[float]] | None:
    estimates = [row.predicted[cost] for row in rows]
    if any(e.lower is None or e.upper is None for e in estimates):
        return None
    return [
        [(e.value - e.lower) * scale for e in estimates],
        [(e.upper - e.value) * scale for e in estimates],
    ]


def _screen(cost: str, values: Sequence[float]) -> tuple[float, str]:
    """Factor and, for an axis, name of the largest unit in which the largest value is 1 or more; counts stay whole."""
    unit = unit_of(cost)
    if unit == "1":
        return 1.0, ""
    _, _, name = format_quantity(max(values, default=0.0), unit).partition(" ")
    return 1 / parse_quantity(f"1{name}", unit), f" [{name}]"
