"""Pictures of what a data set covers: functions from data to plain tuples, and from those to figures."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hardsight.datasets.store import GraphFacts
from hardsight.errors import StorageError
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 130
_COLOURS = (
    "#3b6ea8", "#d9822b", "#4d9a5b", "#a85c9c", "#8c6d4f", "#6f6f6f", "#c23b4a", "#2aa6b3", "#b5a52a", "#7a5bd0",
)  # fmt: skip
_INK, _GRID = "#333333", "#dddddd"


class Sizes(NamedTuple):
    """MACs of the graphs of one family, by precision."""

    family: str
    macs: Mapping[str, tuple[int, ...]]


class Grid(NamedTuple):
    """Labelled graphs per device and family.

    Args:
        devices: names, the rows.
        families: names, the columns.
        labelled: ``(devices, families)``, how many graphs have a label there.
        graphs: ``(families,)``, how many there are.
    """

    devices: tuple[str, ...]
    families: tuple[str, ...]
    labelled: tuple[tuple[int, ...], ...]
    graphs: tuple[int, ...]


class Costs(NamedTuple):
    """Latency against MACs on one device, one point per graph: ``precision, macs, seconds``."""

    device: str
    points: tuple[tuple[str, int, float], ...]


class Spreads(NamedTuple):
    """Relative spreads of one metric on one device; those of zero, of labels exact or taken once, are left out."""

    device: str
    metric: str
    spreads: tuple[float, ...]


def sizes(facts: Mapping[str, GraphFacts]) -> list[Sizes]:
    """Per family, the smallest median first."""
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for f in facts.values():
        found[f.family][f.precision].append(f.macs)
    rows = [Sizes(name, {p: tuple(m) for p, m in sorted(parts.items())}) for name, parts in found.items()]
    return sorted(
        rows, key=lambda s: (float(np.median([m for part in s.macs.values() for m in part])), s.family)
    )


def grid(table: MeasurementTable, facts: Mapping[str, GraphFacts]) -> Grid:
    """Devices and families by name."""
    families = sorted({f.family for f in facts.values()})
    graphs = Counter(f.family for f in facts.values())
    devices, rows = table.devices, []
    for device in devices:
        have = Counter(facts[d].family for d in table.select(device=device).digests)
        rows.append(tuple(have[name] for name in families))
    return Grid(tuple(devices), tuple(families), tuple(rows), tuple(graphs[name] for name in families))


def costs(table: MeasurementTable, facts: Mapping[str, GraphFacts]) -> list[Costs]:
    """Per device with latencies; graphs without a MAC have no place on the logarithmic axis."""
    latency = table.select(metric=Metric.LATENCY).rows
    found = []
    for device, rows in latency.groupby("device"):
        points = zip(rows["digest"], rows["value"], strict=True)
        found.append(
            Costs(
                str(device),
                tuple((facts[d].precision, facts[d].macs, float(s)) for d, s in points if facts[d].macs),
            )
        )
    return found


def spreads(table: MeasurementTable) -> list[Spreads]:
    """Per device and metric."""
    found = []
    for (device, metric), rows in table.rows.groupby(["device", "metric"]):
        found.append(Spreads(str(device), str(metric), tuple(rows.loc[rows["spread"] > 0, "spread"])))
    return found


def draw_sizes(rows: Sequence[Sizes]) -> Figure:
    """A dot per graph, a line per family."""
    figure, (axes,) = _figure(1, 1, width=9, height=1.2 + 0.28 * len(rows))
    precisions = sorted({p for row in rows for p in row.macs})
    rng = np.random.default_rng(0)
    for y, row in enumerate(rows):
        for precision, macs in row.macs.items():
            drawn = [m for m in macs if m]
            axes.scatter(
                drawn,
                y + rng.uniform(-0.3, 0.3, len(drawn)),
                s=5,
                alpha=0.5,
                linewidths=0,
                color=_colour(precision, precisions),
            )
        counted = sum(map(len, row.macs.values()))
        axes.annotate(
            str(counted), (1.01, y), xycoords=("axes fraction", "data"), va="center", color=_INK, size=8
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row.family for row in rows])
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axes.set_xlabel("MACs of one inference")
    axes.set_title("Size of the graphs per family (at the right: how many)", loc="left")
    _legend(figure, precisions)
    return figure


def draw_grid(data: Grid) -> Figure:
    """A heat map: which share of a family's graphs has a label, and in the cell how many."""
    size = (len(data.devices), len(data.families))
    figure, (axes,) = _figure(
        1, 1, width=max(7.0, 3.6 + 0.42 * size[1]), height=max(3.6, 2.2 + 0.27 * size[0])
    )
    labelled = np.array(data.labelled, dtype=float).reshape(size)
    share = labelled / np.maximum(1, np.array(data.graphs))
    extent = (-0.5, max(1, size[1]) - 0.5, max(1, size[0]) - 0.5, -0.5)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=extent)
    for (y, x), count in np.ndenumerate(labelled):
        colour = "white" if share[y, x] > 0.55 else _INK
        text = f"{count:.0f}" if count else "–"
        axes.annotate(text, (x, y), ha="center", va="center", size=7, color=colour)
    names = [f"{name} ({n})" for name, n in zip(data.families, data.graphs, strict=True)]
    axes.set_xticks(range(size[1]), names, rotation=55, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size[0]), data.devices)
    axes.grid(visible=False)
    axes.set_title("Labelled graphs per device and family", loc="left")
    figure.colorbar(image, ax=axes, label="share of the family", fraction=0.03, pad=0.01)
    return figure


def draw_costs(rows: Sequence[Costs]) -> Figure:
    """A panel per device, all to the same scale."""
    columns = min(4, max(1, math.ceil(math.sqrt(len(rows)))))
    lines = max(1, math.ceil(len(rows) / columns))
    figure, panels = _figure(lines, columns, width=0.8 + 3.0 * columns, height=0.9 + 2.5 * lines, shared=True)
    precisions = sorted({p for row in rows for p, _, _ in row.points})
    for axes, row in zip(panels, rows, strict=False):
        for precision in precisions:
            points = [(m, s) for p, m, s in row.points if p == precision]
            if points:
                macs, seconds = zip(*points, strict=True)
                axes.scatter(
                    macs, seconds, s=4, alpha=0.45, linewidths=0, color=_colour(precision, precisions)
                )
        axes.set_title(f"{row.device} ({len(row.points)})", size=8, loc="left")
        axes.set_xscale("log")
        axes.set_yscale("log")
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    figure.supxlabel("MACs of one inference", size=9)
    figure.supylabel("latency, s", size=9)
    _legend(figure, precisions)
    return figure


def draw_spreads(rows: Sequence[Spreads]) -> Figure:
    """A box per device and metric: quartiles, and whiskers from the 5th to the 95th percentile."""
    shown = [row for row in rows if row.spreads]
    hidden = len(rows) - len(shown)
    figure, (axes,) = _figure(1, 1, width=9, height=1.6 + 0.24 * max(1, len(shown)))
    metrics = sorted({row.metric for row in shown})
    for y, row in enumerate(shown):
        low, q1, median, q3, high = np.percentile(row.spreads, [5, 25, 50, 75, 95])
        colour = _colour(row.metric, metrics)
        axes.plot([low, high], [y, y], color=colour, linewidth=1)
        axes.barh(y, q3 - q1, left=q1, height=0.6, color=colour, alpha=0.6)
        axes.plot([median, median], [y - 0.3, y + 0.3], color=_INK, linewidth=1.5)
        axes.annotate(
            f"{100 * median:.2g} %",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            color=_INK,
            size=8,
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [row.device for row in shown])
    axes.set_ylim(max(1, len(shown)) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.3g} %")
    axes.xaxis.set_minor_formatter(lambda x, _: f"{100 * x:.3g} %" if f"{x:e}"[0] in "25" else "")
    axes.set_xlabel(
        "relative half-width of the 95 % interval of the median"
        + (f"\n{hidden} more have no spread: exact, or taken once" if hidden else "")
    )
    axes.set_title("Spread of the labels (at the right: the median)", loc="left")
    _legend(figure, metrics)
    return figure


def save_plots(folder: Path, table: MeasurementTable, facts: Mapping[str, GraphFacts]) -> list[Path]:
    """Write every picture as PNG.

    Args:
        folder: made when it is not there.
        table: labels.
        facts: of all graphs.

    Returns:
        The files.

    Raises:
        StorageError: when they cannot be written.
    """
    figures = {
        "sizes": draw_sizes(sizes(facts)),
        "coverage": draw_grid(grid(table, facts)),
        "latency": draw_costs(costs(table, facts)),
        "spread": draw_spreads(spreads(table)),
    }
    paths = [folder / f"{name}.png" for name in figures]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, figure in zip(paths, figures.values(), strict=True):
            figure.savefig(path, dpi=_DPI, facecolor="white")
    except OSError as error:
        raise StorageError(f"cannot write the pictures to {folder}: {error.strerror or error}") from error
    return paths


def _figure(
    lines: int, columns: int, *, width: float, height: float, shared: bool = False
) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")  # no pyplot: that would be global state
    panels = figure.subplots(lines, columns, squeeze=False, sharex=shared, sharey=shared).ravel().tolist()
    for axes in panels:
        axes.grid(color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8, colors=_INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, panels


def _colour(name: str, names: Sequence[str]) -> str:
    return _COLOURS[names.index(name) % len(_COLOURS)]


def _legend(figure: Figure, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], marker="o", linestyle="", color=_colour(name, names), label=name) for name in names
    ]
    figure.legend(
        handles=marks,
        loc="outside upper right",
        ncols=len(marks),
        fontsize=8,
        frameon=False,
        handletextpad=0.1,
    )
