"""An explanation → sentences and cells, the same in the terminal, in JSON and on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardsight.metrics import Metric
from hardsight.units import format_quantity
from hardsight.wording import interval_text, metric_words, percent, shape_text

if TYPE_CHECKING:
    from hardsight.explanation import Explanation, Layer

LAYER_HEADINGS = (
    "Operator",
    "Type",
    "Latency",
    "Share",
    "Arithmetic",
    "MACs",
    "Moved",
    "MACs/byte",
    "Bound by",
)
_ENERGY = ("Energy",)
TYPE_HEADINGS = ("Type", "Operators", "Merged", "Latency", "Share", "MACs", "Moved")


def sentences(explanation: Explanation) -> list[str]:
    """What there is to say, the most important first."""
    said = [_total(explanation), _costliest(explanation), _bounds(explanation), _merged(explanation)]
    said += [_memory(explanation), _energy(explanation), explanation.int8.sentence]
    return [sentence for sentence in said if sentence]


def layer_headings(explanation: Explanation) -> tuple[str, ...]:
    """Of a table of layers; with a column of energy where that is predicted."""
    return LAYER_HEADINGS + _ENERGY * _has_energy(explanation)


def type_headings(explanation: Explanation) -> tuple[str, ...]:
    """Of a table of types of operators."""
    return TYPE_HEADINGS + _ENERGY * _has_energy(explanation)


def layer_cells(layer: Layer) -> tuple[str, ...]:
    """A row below `layer_headings`."""
    intensity = layer.intensity_macs_per_byte
    return (
        layer.name,
        layer.op_type,
        format_quantity(layer.latency_s, "s"),
        percent(layer.share),
        layer.precision or "-",
        f"{layer.macs:,}",
        format_quantity(layer.bytes, "B"),
        "-" if intensity is None else f"{intensity:.3g}",
        f"merged into {layer.merged_into or 'a neighbour'}" if layer.merged else layer.bound or "nothing",
        *_energy_cell(layer.energy_j),
    )


def type_rows(explanation: Explanation) -> list[tuple[str, ...]]:
    """Rows below `type_headings`."""
    return [
        (
            cost.op_type,
            str(cost.operators),
            str(cost.merged or "-"),
            format_quantity(cost.latency_s, "s"),
            percent(cost.share),
            f"{cost.macs:,}",
            format_quantity(cost.bytes, "B"),
            *_energy_cell(cost.energy_j),
        )
        for cost in explanation.types
    ]


def total_rows(explanation: Explanation) -> list[tuple[str, str, str]]:
    """Quantity, value and interval of each predicted metric."""
    return [
        (
            metric_words(metric),
            format_quantity(estimate.value, metric.unit),
            interval_text(estimate, metric.unit),
        )
        for metric, estimate in explanation.answer.estimates.items()
    ]


def peak_rows(explanation: Explanation) -> list[tuple[str, ...]]:
    """Maker, type, shape, size and last reader of each tensor that is alive at the peak."""
    return [
        (
            tensor.operator,
            tensor.op_type,
            ", ".join(map(shape_text, tensor.shapes)),
            format_quantity(tensor.bytes, "B"),
            tensor.last_reader or "the end: an output of the network",
        )
        for tensor in explanation.memory_peak.tensors
    ]


def caveats(explanation: Explanation) -> list[str]:
    """What the answer and the explanation rest on."""
    answer = explanation.answer
    said = []
    if answer.unknown_ops:
        listed = ", ".join(f"{name} ({count})" for name, count in answer.unknown_ops.items())
        said.append(f"operators without a cost rule, priced by the bytes they move: {listed}")
    return [*said, *answer.assumptions, *explanation.assumptions]


def _total(explanation: Explanation) -> str:
    latency = explanation.answer[Metric.LATENCY]
    value, level = format_quantity(latency.value, "s"), f"{100 * latency.level:.6g} %"
    interval = interval_text(latency, "s")
    if interval == "none":
        return f"Predicted latency: {value}, without an interval. The layers' costs sum to it."
    return (
        f"Predicted latency: {value}; its {level} interval is {interval}. The interval belongs to this total. The "
        "layers' costs sum to the total, but how it is split over them is the predictor's own view, which no "
        "measurement of single layers has checked."
    )


def _costliest(explanation: Explanation) -> str:
    top = explanation.costliest[:3]
    if len(top) < 3:
        return ""
    share = sum(layer.share for layer in top)
    listed = [
        f"{layer.name} ({layer.op_type}, {percent(layer.share)}"
        + (f", {layer.bound}-bound)" if layer.bound else ")")
        for layer in top
    ]
    return (
        f"The three costliest of {len(explanation.layers)} operators take {percent(share)} of the time: "
        f"{listed[0]}, {listed[1]} and {listed[2]}."
    )


def _bounds(explanation: Explanation) -> str:
    layers, roofline = explanation.layers, explanation.roofline
    if not layers:
        return ""
    compute, memory = (sum(x.share for x in layers if x.bound == bound) for bound in ("compute", "memory"))
    peaks = " and ".join(
        f"{format_quantity(peak, '1')}MAC/s in {precision}"
        for precision, peak in roofline.peak_macs_per_s.items()
    )
    rates = f"{format_quantity(roofline.bandwidth_bytes_per_s, '1')}B/s"
    if roofline.weight_bandwidth_bytes_per_s:
        rates += f" for activations and {format_quantity(roofline.weight_bandwidth_bytes_per_s, '1')}B/s for weights"
    limits = ", ".join(x for x in (peaks, rates) if x)
    whose = "the device file's limits"
    if roofline.generic:
        whose = f"limits whose {' and '.join(roofline.generic)} are a generic CPU core's, as the device file has none"
    said = (
        f"Compute-bound layers take {percent(compute)} of the time, memory-bound ones {percent(memory)}, judged "
        f"against {whose} ({limits})."
    )
    above = sum(0 < x.latency_s < x.roofline_s for x in layers)
    if above:
        said += (
            f" {above} {'layer is' if above == 1 else 'layers are'} predicted faster than these limits allow: the "
            "limits are too low for this device, or the prediction is."
        )
    return said


def _merged(explanation: Explanation) -> str:
    merged = [layer for layer in explanation.layers if layer.merged]
    if not merged:
        return ""
    verb = "is" if len(merged) == 1 else "are"
    types = ", ".join(dict.fromkeys(layer.op_type for layer in merged))
    return (
        f"{len(merged)} of {len(explanation.layers)} operators ({types}) {verb} taken to be merged into a neighbour "
        "by the runtime and cost nothing by themselves."
    )


def _memory(explanation: Explanation) -> str:
    peak, weights = explanation.memory_peak, format_quantity(explanation.weight_bytes, "B")
    if not peak.tensors:
        return f"Weights in the file: {weights}."
    largest = [
        f"{t.op_type} {t.operator} ({' and '.join(map(shape_text, t.shapes))}, {format_quantity(t.bytes, 'B')})"
        for t in peak.tensors[:3]
    ]
    more = f" and {len(peak.tensors) - 3} more" if len(peak.tensors) > 3 else ""
    said = (
        f"Activations peak at {format_quantity(peak.bytes, 'B')} while {peak.at} runs; alive then are the outputs of "
        f"{', '.join(largest)}{more}. Weights in the file: {weights}."
    )
    if Metric.PEAK_MEMORY in explanation.answer:
        total = explanation.answer[Metric.PEAK_MEMORY]
        said += (
            f" The predicted peak memory, {format_quantity(total.value, 'B')} (interval "
            f"{interval_text(total, 'B')}), also holds what the runtime itself needs."
        )
    return said


def _energy(explanation: Explanation) -> str:
    if Metric.ENERGY not in explanation.answer:
        return ""
    energy = explanation.answer[Metric.ENERGY]
    said = f"Predicted energy: {format_quantity(energy.value, 'J')} (interval {interval_text(energy, 'J')})."
    most = sorted(explanation.layers, key=lambda layer: -(layer.energy_j or 0.0))[:3]
    total = sum(layer.energy_j or 0.0 for layer in explanation.layers)
    if len(most) < 3 or not total:
        return said
    listed = [f"{x.name} ({x.op_type}, {percent((x.energy_j or 0.0) / total)})" for x in most]
    return f"{said} Most of it goes into {listed[0]}, {listed[1]} and {listed[2]}: again the predictor's own view."


def _has_energy(explanation: Explanation) -> bool:
    return any(layer.energy_j is not None for layer in explanation.layers)


def _energy_cell(energy_j: float | None) -> tuple[str, ...]:
    return () if energy_j is None else (format_quantity(energy_j, "J"),)
