"""An explanation → pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardsight.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hardsight.explanation import Explanation, Layer

# Okabe and Ito's colours, told apart by the colour-blind too; the roofline's marks differ in shape as well
COLOURS = {"compute": "#0072B2", "memory": "#E69F00", None: "#9a9a9a"}
_MARKS = {"compute": "o", "memory": "s", None: "x"}
_NAMES = {"compute": "compute-bound", "memory": "memory-bound", None: "moves nothing"}
_INK, _GRID = "#333333", "#dddddd"
_DPI = 120
_BARS = 12

Panel = Callable[["Axes", "Explanation"], None]


def panels(explanation: Explanation) -> list[tuple[str, Panel]]:
    """What there is to draw: alternative text, and what draws it."""
    found: list[tuple[str, Panel]] = []
    if explanation.costliest:
        found += [
            ("Predicted latency by operator type, stacked by what bounds the layers", draw_types),
            ("The costliest layers by predicted latency", draw_layers),
        ]
    if _placed(explanation):
        found.append(
            (
                "Roofline: arithmetic rate that each layer reaches as predicted, over its intensity",
                draw_roofline,
            )
        )
    if explanation.memory_peak.tensors:
        found.append(("Activations alive while each operator runs, and their peak", draw_memory))
    return found


def figure_png(explanation: Explanation, only: Sequence[Panel] | None = None) -> bytes:
    """Panels, two in a row, as PNG.

    Args:
        explanation: to draw.
        only: which panels; all there are by default.
    """
    from matplotlib.figure import Figure  # no pyplot: that would be global state
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    chosen = [draw for _, draw in panels(explanation)] if only is None else list(only)
    columns = min(2, len(chosen)) or 1
    lines = -(-len(chosen) // columns) or 1
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(6.6 * columns, 4.5 * lines), layout=layout)
    axes = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for panel, draw in zip(axes, chosen, strict=False):
        panel.grid(color=_GRID, linewidth=0.6)
        panel.set_axisbelow(True)
        panel.tick_params(labelsize=8.5, colors=_INK)
        panel.spines[["top", "right"]].set_visible(False)
        draw(panel, explanation)
    for panel in axes[len(chosen) :]:
        panel.set_visible(False)
    if only is None:
        figure.suptitle(
            _shown(f"{Path(explanation.answer.model).name} on {explanation.answer.device}", 90), size=11
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": "hardsight"})
    return buffer.getvalue()


def draw_types(axes: Axes, explanation: Explanation) -> None:
    """A bar per operator type, the costliest on top, what the rest takes in one."""
    types = [cost for cost in explanation.types if cost.latency_s > 0]
    shown, rest = types[: _BARS - 1], types[_BARS - 1 :]
    rows = [(f"{cost.op_type} ({cost.operators - cost.merged})", {cost.op_type}) for cost in shown]
    if rest:
        rows.append((f"{len(rest)} other types", {cost.op_type for cost in rest}))
    longest = 0.0
    for y, (_, names) in enumerate(rows):
        left = 0.0
        for bound, colour in COLOURS.items():
            took = sum(x.latency_s for x in explanation.layers if x.op_type in names and x.bound == bound)
            axes.barh(y, took, left=left, color=colour, height=0.7)
            left += took
        share = sum(layer.share for layer in explanation.layers if layer.op_type in names)
        _label(axes, left, y, percent(share))
        longest = max(longest, left)
    _finish_bars(axes, [name for name, _ in rows], longest)
    axes.set_title("Predicted latency by operator type (kernels)", loc="left", size=10.5)
    _legend(axes, {layer.bound for layer in explanation.costliest})


def draw_layers(axes: Axes, explanation: Explanation) -> None:
    """A bar per layer, the costliest on top."""
    top = explanation.costliest[:_BARS]
    for y, layer in enumerate(top):
        axes.barh(y, layer.latency_s, color=COLOURS[layer.bound], height=0.7)
        _label(axes, layer.latency_s, y, percent(layer.share))
    _finish_bars(axes, [_shown(f"{layer.op_type}  {layer.name}", 38) for layer in top], top[0].latency_s)
    kernels = len(explanation.costliest)
    title = f"The {len(top)} costliest of {kernels} kernels" if kernels > len(top) else "All kernels by cost"
    axes.set_title(f"{title} ({percent(sum(x.share for x in top))} of the time)", loc="left", size=10.5)


def draw_roofline(axes: Axes, explanation: Explanation) -> None:
    """Layers with MACs: rate over intensity on logarithmic axes, the size of a mark its share of the time."""
    from matplotlib.ticker import EngFormatter

    placed = _placed(explanation)
    intensities = [layer.intensity_macs_per_byte or 0.0 for layer in placed]
    roofline = explanation.roofline
    ridges = [roofline.ridge_macs_per_byte(precision) for precision in roofline.peak_macs_per_s]
    low, high = min(*intensities, *ridges) / 3, max(*intensities, *ridges) * 4
    for precision, peak in roofline.peak_macs_per_s.items():
        ridge = roofline.ridge_macs_per_byte(precision)
        axes.plot(
            [low, ridge, high],
            [low * roofline.bandwidth_bytes_per_s, peak, peak],
            color=_INK,
            linewidth=1.2,
            linestyle="-" if precision != "int8" else "--",
        )
        axes.annotate(
            f"peak, {precision}", (high, peak), xytext=(-2, 3), textcoords="offset points", ha="right", size=8
        )
    for bound in ("compute", "memory"):
        layers = [layer for layer in placed if layer.bound == bound]
        axes.scatter(
            [layer.intensity_macs_per_byte or 0.0 for layer in layers],
            [layer.macs / layer.latency_s for layer in layers],
            s=[18 + 500 * layer.share for layer in layers],
            marker=_MARKS[bound],
            color=COLOURS[bound],
            alpha=0.65,
            linewidths=0,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.yaxis.set_major_formatter(EngFormatter("MAC/s"))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    limits = "generic limits of a CPU core" if roofline.generic else "limits of the device file"
    axes.set_xlabel(
        f"arithmetic intensity, MACs per byte ({len(placed)} layers with MACs; size: share of time)", size=9
    )
    axes.set_ylabel("predicted rate", size=9)
    axes.set_title(f"Roofline ({limits})", loc="left", size=10.5)


def draw_memory(axes: Axes, explanation: Explanation) -> None:
    """Bytes of activations alive, operator by operator."""
    peak = explanation.memory_peak
    scale, unit = next(
        ((2.0**power, name) for power, name in ((20, "MiB"), (10, "KiB")) if peak.bytes >= 2**power),
        (1.0, "B"),
    )
    live = [size / scale for size in peak.live_bytes]
    at = peak.live_bytes.index(peak.bytes)
    axes.fill_between(
        range(len(live) + 1), [*live, live[-1]], step="post", color=COLOURS["compute"], alpha=0.3
    )
    axes.step(range(len(live) + 1), [*live, live[-1]], where="post", color=COLOURS["compute"], linewidth=1)
    axes.annotate(
        f"{peak.bytes / scale:.3g} {unit} while {_shown(peak.at, 34)} runs",
        (at + 0.5, peak.bytes / scale),
        xytext=(6 if at < len(live) / 2 else -6, 6),
        textcoords="offset points",
        ha="left" if at < len(live) / 2 else "right",
        size=8.5,
    )
    axes.plot([at + 0.5], [peak.bytes / scale], marker="v", color="#D55E00")
    axes.set_ylim(0, 1.15 * peak.bytes / scale)
    axes.set_xlim(0, len(live))
    axes.set_xlabel("operators in order", size=9)
    axes.set_ylabel(f"activations alive, {unit}", size=9)
    axes.set_title("Activations alive", loc="left", size=10.5)


def _placed(explanation: Explanation) -> list[Layer]:
    """Layers that have a place on logarithmic axes."""
    return [x for x in explanation.costliest if x.macs and x.intensity_macs_per_byte]


def _label(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", size=8, color=_INK)


def _finish_bars(axes: Axes, names: Sequence[str], longest: float) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(EngFormatter("s"))
    axes.set_xlim(0, 1.13 * longest)  # room for the labels


def _legend(axes: Axes, bounds: set[Any]) -> None:
    from matplotlib.patches import Patch

    marks = [Patch(color=colour, label=_NAMES[b]) for b, colour in COLOURS.items() if b in bounds]
    axes.legend(handles=marks, loc="lower right", fontsize=8.5, frameon=False)


def _shown(text: str, length: int) -> str:
    """Shortened in front, where names of layers are alike, and safe to draw: ``$`` would start a formula."""
    text = "".join(c if c.isprintable() else "?" for c in text).replace("$", r"\$")
    return text if len(text) <= length else "…" + text[1 - length :]
