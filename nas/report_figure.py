"""A search's report → pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hardsight.budgets import SIZE, unit_of
from hardsight.nas.job import ERROR
from hardsight.nas.report import SearchReport, without_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by the colour-blind too; shapes differ as well
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#9a9a9a"

_SCREEN = {
    "s": ((1e6, "µs"), (1e3, "ms"), (1.0, "s")),
    "B": ((1 / 2**10, "KiB"), (1 / 2**20, "MiB")),
    "J": ((1e3, "mJ"), (1.0, "J")),
    "1": ((1.0, ""),),
}

_SIZES: dict[Any, float] = {
    "font.size": 12,
    "legend.fontsize": 12,
    "axes.titlesize": 14,
}  # a phone shows the page's at 60 %

Panel = Callable[["Axes", SearchReport], None]


def panels(report: SearchReport) -> list[tuple[str, Panel]]:
    """What there is to draw: alternative text, and what draws it."""
    found: list[tuple[str, Panel]] = []
    if report.cost_objectives:
        found.append(
            (
                "Classification error against cost: validation error of all trained candidates (grey), test "
                "error of the delivered front (blue and orange)",
                draw_front,
            )
        )
    if report.compared:
        cost = _words(report.compared[0])
        found.append((f"Predicted {cost} with its interval against measured {cost}", draw_measured))
    found.append(("Hypervolume and best validation error over the trials", draw_history))
    return found


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


def draw_front(axes: Axes, report: SearchReport) -> None:
    """Error over the first cost: candidates of the search, the front as predicted and as measured."""
    cost = report.cost_objectives[0]
    seen = report.trained
    scale, unit = _screen(cost, [r.costs[cost].value for r in seen])
    axes.scatter(
        [r.costs[cost].value * scale for r in seen],
        [100 * (1 - (r.accuracy or 0.0)) for r in seen],
        s=18,
        color=GREY,
        label="candidates: predicted (validation error)",
    )
    if report.rows:
        rows = sorted(report.rows, key=lambda row: row.predicted[cost].value)
        errors = [100 * (1 - row.test_accuracy) for row in rows]
        axes.errorbar(
            [row.predicted[cost].value * scale for row in rows],
            errors,
            xerr=_reach(rows, cost, scale),
            fmt="o",
            color=BLUE,
            capsize=3,
            label="front: predicted (test error)",
        )
        known = [
            (row.measured[cost][0] * scale, e)
            for row, e in zip(rows, errors, strict=True)
            if cost in row.measured
        ]
        if known and cost != SIZE:
            xs, ys = zip(*known, strict=True)
            axes.scatter(
                xs, ys, marker="D", s=36, color=ORANGE, zorder=3, label="front: measured (test error)"
            )
    limit = report.job.constraints.get(cost)
    if limit is not None:
        axes.axvline(limit * scale, color=RED, linestyle="--", linewidth=1.2, label="limit")
    axes.set_xlabel(f"{_words(cost)} [{unit}]" if unit else _words(cost))
    axes.set_ylabel("error [%]")
    top = axes.get_ylim()[1]
    axes.set_ylim(-0.03 * top, top)  # a point without error is to be seen whole
    axes.set_xlim(left=0)
    axes.set_title("Front")
    if axes.get_legend_handles_labels()[0]:
        _legend(axes)


def draw_measured(axes: Axes, report: SearchReport) -> None:
    """Predicted over measured values of the first cost that has both; on the line they agree."""
    metric = report.compared[0]
    rows = [row for row in report.rows if metric in row.measured and metric in row.predicted]
    scale, unit = _screen(metric, [row.measured[metric][0] for row in rows])
    measured = [row.measured[metric][0] * scale for row in rows]
    predicted = [row.predicted[metric].value * scale for row in rows]
    axes.errorbar(measured, predicted, yerr=_reach(rows, metric, scale), fmt="o", color=BLUE, capsize=3)
    uppers = [(row.predicted[metric].upper or 0.0) * scale for row in rows]
    top = 1.08 * max(*measured, *predicted, *uppers)
    axes.plot([0, top], [0, top], color=GREY, linewidth=1, label="equal")
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.set_aspect("equal")
    shown = f" [{unit}]" if unit else ""
    axes.set_xlabel(f"measured {_words(metric)}{shown}")
    axes.set_ylabel(f"predicted {_words(metric)}, {report.job.level:.0%} interval{shown}")
    axes.set_title("Predicted against measured")
    _legend(axes)


def draw_history(axes: Axes, report: SearchReport) -> None:
    """Hypervolume and best error after each trial."""
    trials = list(range(1, len(report.records) + 1))
    axes.step(trials, report.hypervolumes, where="post", color=BLUE, label="hypervolume (left)")
    axes.set_xlabel("finished trials")
    axes.set_ylabel("hypervolume, share of the space")
    axes.set_ylim(0, 1)
    other = axes.twinx()
    other.step(
        trials,
        [100 * e for e in report.best_error],
        where="post",
        color=ORANGE,
        linestyle="--",
        label="best error (right)",
    )
    other.set_ylabel(f"best validation {ERROR} [%]")
    other.set_ylim(0, max(10.0, *[100 * e for e in report.best_error if e < 1] or [10.0]) * 1.1)
    other.spines[["top"]].set_visible(False)
    handles = [*axes.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
    labels = [*axes.get_legend_handles_labels()[1], *other.get_legend_handles_labels()[1]]
    _legend(axes, handles, labels)
    axes.set_title("Progress of the search")


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
    """Factor and name of the finest unit that keeps all values below 5,000."""
    units = _SCREEN[unit_of(cost)]
    top = max(values, default=0.0)
    return next(((scale, name) for scale, name in units if top * scale < 5000), units[-1])


def _words(cost: str) -> str:
    return without_unit(cost).replace("_", " ")
