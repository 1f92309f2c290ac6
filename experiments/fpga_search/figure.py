"""The fronts as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from hardsight.experiments.fpga_search.results import Network
from hardsight.nas.report_figure import BLUE, GREEN, ORANGE, RED

_COLOURS = (BLUE, ORANGE, GREEN)
_MARKERS = ("o", "D", "s")


def picture(found: Mapping[str, Sequence[Network]], limit: float) -> bytes:
    """Test error over synthesised logic cells, and predicted over synthesised, as PNG.

    Args:
        found: delivered networks by search.
        limit: of the logic cells.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.2, 4.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for (search, networks), colour, marker in zip(found.items(), _COLOURS, _MARKERS, strict=False):
        cells = [n.measured for n in networks]
        left.plot(cells, [100 * (1 - n.test) for n in networks], marker, color=colour, label=search)
        spread = [[n.predicted - n.lower for n in networks], [n.upper - n.predicted for n in networks]]
        predicted = [n.predicted for n in networks]
        right.errorbar(cells, predicted, yerr=spread, fmt=marker, color=colour, capsize=3, label=search)
    left.axvline(limit, color=RED, linestyle="--", linewidth=1.2, label="budget")
    left.set_xscale("log")
    left.set_xlabel("logic cells, synthesised")
    left.set_ylabel("test error [%]")
    top = max(n.upper for networks in found.values() for n in networks)
    right.plot([50, top], [50, top], color="#9a9a9a", linewidth=1)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("logic cells, synthesised")
    right.set_ylabel("logic cells predicted, 90 % interval")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": "hardsight"})  # type: ignore[no-untyped-call]
    return buffer.getvalue()
