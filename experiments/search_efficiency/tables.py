"""Searches → Markdown and a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

from hardsight.experiments.readme_tables import markdown
from hardsight.experiments.search_efficiency.definitions import Space, Table
from hardsight.experiments.search_efficiency.runs import Curves, needed
from hardsight.prediction import FloatArray

_AT = (10, 20, 40, 100, 200)
WANTED = 0.99
"""Share of the true front's hypervolume."""
# Okabe and Ito's colours, told apart by the colour-blind too
_COLOURS = {
    "random": "#9a9a9a",
    "nsga2": "#E69F00",
    "nsga3": "#F0E442",
    "tpe": "#009E73",
    "gp": "#0072B2",
    "screening": "#D55E00",
}


def section(table: Table, space: Space, curves: Curves, times: Mapping[str, Mapping[str, float]]) -> str:
    """Shares of the true hypervolume, evaluations needed, and what a proposal takes."""
    error, cost = space.reference
    return "\n\n".join(
        [
            f"{table.title}: {len(space.rows):,} architectures, {len(space.front)} on the true front; "
            f"reference point: error {error:.4f}, {table.cost} {cost:.6g}.",
            "Percent of the true front's hypervolume after so many evaluations, median (quartiles) over seeds:",
            shares(curves),
            "Evaluations needed, median (quartiles), for the median hypervolume that another has after 200, and for "
            f"{WANTED:.0%} of the true front's:",
            efforts(curves),
            "Time for a proposal:",
            overheads(times),
        ]
    )


def shares(curves: Curves) -> str:
    """A row per sampler."""
    rows = [
        (name, str(len(of)), *(_spread(100 * of[:, at - 1], ".2f") for at in _AT))
        for name, of in curves.items()
    ]
    return markdown(("", "seeds", *map(str, _AT)), rows)


def efforts(curves: Curves) -> str:
    """A row per sampler, a column per goal."""
    goals = {
        f"{name}'s": float(np.median(curves[name][:, -1])) for name in ("random", "nsga2") if name in curves
    }
    goals[f"{WANTED:.0%}"] = WANTED
    rows = [
        (name, *(_spread(needed(of, goal), ".0f") for goal in goals.values())) for name, of in curves.items()
    ]
    return markdown(("", *goals), rows)


def overheads(times: Mapping[str, Mapping[str, float]]) -> str:
    """A row per sampler, in milliseconds."""
    rows = [
        (name, *(f"{1e3 * of[key]:.1f}" if key in of else "–" for key in ("mean_s", "overhead_s")))
        for name, of in times.items()
    ]
    return markdown(("", "mean of the first 200, ms", "after 1,000 trials, ms"), rows)


def figure_png(tables: Sequence[Table], curves: Sequence[Curves]) -> bytes:
    """What is missing of the true hypervolume over evaluations, on a logarithmic scale: a panel per table."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 * len(tables), 4.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, table, of in zip(
        figure.subplots(1, len(tables), squeeze=False)[0], tables, curves, strict=True
    ):
        for name, found in of.items():
            low, middle, high = 100 * (1 - np.quantile(found, [0.75, 0.5, 0.25], axis=0))
            steps = np.arange(1, found.shape[1] + 1)
            axes.plot(steps, middle, color=_COLOURS[name], label=name)
            axes.fill_between(steps, low, high, color=_COLOURS[name], alpha=0.15, linewidth=0)
        axes.axhline(100 * (1 - WANTED), color="black", linestyle=":", linewidth=1)
        axes.set(yscale="log", xlabel="evaluations", ylabel="hypervolume missing [%]", title=table.name)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": "hardsight"})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _spread(values: FloatArray, form: str) -> str:
    """Median and quartiles, by a method that can deal with infinity."""
    quantiles = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
    low, middle, high = (f"{x:{form}}" if np.isfinite(x) else "> 200" for x in quantiles)
    return f"{middle} ({low}–{high})" if np.isfinite(quantiles[0]) and len(values) > 1 else middle
