"""Where a model's time goes on a device: by layer and by operator type, and what bounds each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hardsight.device import Device, get_device
from hardsight.errors import NotSupportedError
from hardsight.graph import Operator, OperatorGraph
from hardsight.int8_gain import Int8Gain, int8_gain, quantized_operators
from hardsight.metrics import Metric
from hardsight.prediction import LayerCost, ModelPrediction
from hardsight.predictors.memory_peak import MemoryPeak, memory_peak
from hardsight.serialize import prediction_record

if TYPE_CHECKING:
    from hardsight.api import Model, Shapes

Bound = Literal["compute", "memory"]

_MODE_BITS = {"int8": 8, "fp16": 16, "bf16": 16}


class Roofline(NamedTuple):
    """The machine's limits, which say on what side of the ridge a layer lies (Williams et al. 2009).

    Args:
        peak_macs_per_s: by precision, of those that MACs of the model have.
        bandwidth_bytes_per_s: to memory.
        weight_bandwidth_bytes_per_s: to the memory of weights, at the same time, where they have one of their own.
        generic: which of the two are the constants of `hardsight.predictors.features`, one core of a modern
            CPU, because the device's file has none: ``"peak"``, ``"bandwidth"``.
    """

    peak_macs_per_s: Mapping[str, float]
    bandwidth_bytes_per_s: float
    weight_bandwidth_bytes_per_s: float | None
    generic: tuple[str, ...]

    def ridge_macs_per_byte(self, precision: str) -> float:
        """Arithmetic intensity from which arithmetic is the limit."""
        return self.peak_macs_per_s[precision] / self.bandwidth_bytes_per_s

    def memory_s(self, features: float, weights: float) -> float:
        """Time to move so many bytes of activations and of constants."""
        if self.weight_bandwidth_bytes_per_s is None:
            return (features + weights) / self.bandwidth_bytes_per_s
        return max(features / self.bandwidth_bytes_per_s, weights / self.weight_bandwidth_bytes_per_s)


class Layer(NamedTuple):
    """One operator, its repeats included.

    Args:
        name: as in the graph.
        op_type: its type.
        precision: of its MACs: ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"int8"``; None without MACs.
        latency_s: its share of the predicted latency.
        share: the same as a part of 1.
        macs: multiply-accumulate operations.
        bytes: moved, as counted for the device's mode; 0 where it is merged or a view.
        live_bytes: activations alive while it runs.
        intensity_macs_per_byte: None where nothing is moved.
        roofline_s: what the roofline alone would take.
        bound: by what the roofline limits it; None where it does nothing by itself: merged, or a view.
        merged: a runtime usually merges it into a neighbour, so it costs nothing by itself.
        merged_into: name of that neighbour, where it can be told.
        energy_j: its part of the predicted energy; None where the device has no prediction of that.
    """

    name: str
    op_type: str
    precision: str | None
    latency_s: float
    share: float
    macs: int
    bytes: int
    live_bytes: int
    intensity_macs_per_byte: float | None
    roofline_s: float
    bound: Bound | None
    merged: bool
    merged_into: str | None
    energy_j: float | None


class TypeCost(NamedTuple):
    """All operators of one type; ``merged`` of them cost nothing by themselves."""

    op_type: str
    operators: int
    merged: int
    latency_s: float
    share: float
    macs: int
    bytes: int
    energy_j: float | None


@dataclass(frozen=True)
class Explanation:
    """Where the time goes.

    Args:
        answer: the totals with their intervals; the layers' latencies sum to its latency.
        layers: in the order of the graph.
        types: the costliest first.
        roofline: what ``bound`` was judged by.
        memory_peak: of the activations, as counted for the device's mode.
        weight_bytes: constants of the file.
        int8: what INT8 gains.
        assumptions: of this explanation, beside those of the answer.
    """

    answer: ModelPrediction
    layers: tuple[Layer, ...]
    types: tuple[TypeCost, ...]
    roofline: Roofline
    memory_peak: MemoryPeak
    weight_bytes: int
    int8: Int8Gain
    assumptions: tuple[str, ...] = ()

    @property
    def costliest(self) -> list[Layer]:
        """The layers that cost anything, the costliest first."""
        return sorted((layer for layer in self.layers if layer.latency_s > 0), key=lambda x: -x.latency_s)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, in SI units: the prediction's record and what explains it."""
        from hardsight.explanation_text import sentences

        peak = self.memory_peak
        gain = self.int8._asdict()
        for name in ("fp32", "int8", "speedup"):
            gain[name] = gain[name] and gain[name]._asdict()
        return {
            **prediction_record(self.answer),
            "sentences": sentences(self),
            "layers": [layer._asdict() for layer in self.layers],
            "types": [cost._asdict() for cost in self.types],
            "roofline": {
                "peak_macs_per_s": dict(self.roofline.peak_macs_per_s),
                "bandwidth_bytes_per_s": self.roofline.bandwidth_bytes_per_s,
                "weight_bandwidth_bytes_per_s": self.roofline.weight_bandwidth_bytes_per_s,
                "ridge_macs_per_byte": {
                    precision: self.roofline.ridge_macs_per_byte(precision)
                    for precision in self.roofline.peak_macs_per_s
                },
                "generic": list(self.roofline.generic),
            },
            "memory": {
                "weight_bytes": self.weight_bytes,
                "peak_live_bytes": peak.bytes,
                "peak_at": peak.at,
                "tensors": [
                    {**tensor._asdict(), "shapes": [list(shape) for shape in tensor.shapes]}
                    for tensor in peak.tensors
                ],
            },
            "int8_gain": gain,
            "assumptions": [*self.answer.assumptions, *self.assumptions],
        }


def explain(model: Model, device: str, *, shapes: Shapes | None = None, level: float = 0.9) -> Explanation:
    """Share the predicted latency out over layers and operator types, and say what bounds each.

    >>> explain("model.onnx", "xeon-amx/onnxruntime/fp32-t1").int8.sentence  # doctest: +SKIP
    'INT8 is predicted to be 2.1 times as fast ...'

    Args:
        model: as in `hardsight.predict`; float, or quantized in QDQ form.
        device: name, as ``hardsight devices`` lists them.
        shapes: input name to shape, for dynamic inputs.
        level: nominal coverage of the intervals.

    Raises:
        NotSupportedError: no predictor covers the latency of the device.
        HardsightError: as `hardsight.predict`.
    """
    from hardsight.api import _answer, _named
    from hardsight.ingest import read_onnx
    from hardsight.predictors import load_predictor

    graph = read_onnx(model, shapes=shapes)
    predictor = load_predictor(_named(device))
    if not predictor.supports(device, Metric.LATENCY):
        have = ", ".join(metric for name, metric in predictor.targets if name == device)
        raise NotSupportedError(
            f"no predictor covers {Metric.LATENCY} on '{device}', so there is no time to explain; covered: {have}"
        )
    (answer,) = _answer([model], [graph], device, level, layers=True)
    costs, answer = answer.layers or (), replace(answer, layers=None)
    target = get_device(device)
    run, assumptions = _as_run(graph, target)
    roofline = _roofline(run, target)
    peak = memory_peak(run)
    energy: Sequence[float] | None = None
    if predictor.supports(device, Metric.ENERGY):
        energy = predictor.layer_costs(graph, device, Metric.ENERGY).tolist()
    layers = _layers(run, costs, energy, _merged_into(graph), roofline, peak, target.mode)
    gain = int8_gain(model, graph, target, level)
    return Explanation(answer, layers, _types(layers), roofline, peak, graph.weight_bytes, gain, assumptions)


def _as_run(graph: OperatorGraph, device: Device) -> tuple[OperatorGraph, tuple[str, ...]]:
    """The graph with the sizes that the device's mode gives its tensors, and what that assumes."""
    word = next((word for word in device.mode.split("-") if word in _MODE_BITS), None)
    if word is None or (word == "int8" and quantized_operators(graph)[0]):
        return graph, ()  # a quantized file runs as it is
    bits = _MODE_BITS[word]

    def narrow(size: int, held: int) -> int:
        return size * bits // held if bits < held <= 32 else size  # 64 bits are indices, which stay

    operators = tuple(
        replace(
            op,
            bytes_in=narrow(op.bytes_in, op.input_bits),
            bytes_out=narrow(op.bytes_out, op.output_bits),
            bytes_weights=narrow(op.bytes_weights, op.weight_bits),
            input_bits=min(op.input_bits, bits),
            weight_bits=min(op.weight_bits, bits),
            output_bits=min(op.output_bits, bits),
        )
        for op in graph.operators
    )
    said = (
        f"the mode '{device.mode}' converts a float model first: bytes, arithmetic intensity and live activations "
        f"are counted at {bits} bits per element; an operator that the runtime leaves in float moves more"
    )
    return replace(graph, operators=operators), (said,)


def _precision(op: Operator, mode: str) -> str | None:
    from hardsight.predictors.features import is_int8

    if not op.macs:
        return None
    if is_int8(op):
        return "int8"
    if op.input_bits == 16:
        return next((word for word in mode.split("-") if _MODE_BITS.get(word) == 16), "fp16")
    return "fp32"


def _roofline(graph: OperatorGraph, device: Device) -> Roofline:
    from hardsight.predictors.features import BANDWIDTH_BYTES_PER_S, INT8_SPEEDUP, PEAK_MACS_PER_S

    precisions = [p for p in dict.fromkeys(_precision(op, device.mode) for op in graph.operators) if p]
    own = device.peak_macs_per_s
    peaks = {p: own.get(p, PEAK_MACS_PER_S * (INT8_SPEEDUP if p == "int8" else 1)) for p in precisions}
    generic = ["peak"] if any(p not in own for p in precisions) else []
    bandwidth, of_weights = device.bandwidth_bytes_per_s, None
    if device.array and device.clock_hz and device.array.weight_bytes_per_cycle:
        bandwidth = device.array.bytes_per_cycle * device.clock_hz
        of_weights = device.array.weight_bytes_per_cycle * device.clock_hz
    if bandwidth is None:
        generic.append("bandwidth")
    return Roofline(peaks, bandwidth or BANDWIDTH_BYTES_PER_S, of_weights, tuple(generic))


def _merged_into(graph: OperatorGraph) -> dict[int, int]:
    """Merged operator to the kernel that does its work: behind it for a DequantizeLinear, else before it."""
    from hardsight.predictors.features import graph_arrays

    kept = set(map(int, graph_arrays(graph).kept))
    reader: dict[int, int] = {}
    for i, op in enumerate(graph.operators):
        for producer, _ in op.inputs:
            reader.setdefault(producer, i)
    found = {}
    for i, op in enumerate(graph.operators):
        if i in kept:
            continue
        at = i
        while at >= 0 and at not in kept:
            if op.op_type.endswith("DequantizeLinear"):
                at = reader.get(at, -1)
            else:
                at = graph.operators[at].inputs[0][0] if graph.operators[at].inputs else -1
        found[i] = at
    return found


def _layers(
    graph: OperatorGraph,
    costs: tuple[LayerCost, ...],
    energy: Sequence[float] | None,
    merged_into: Mapping[int, int],
    roofline: Roofline,
    peak: MemoryPeak,
    mode: str,
) -> tuple[Layer, ...]:
    from hardsight.predictors.features import category_of

    total = sum(cost.latency_s for cost in costs) or 1.0
    layers = []
    for i, (op, cost, live) in enumerate(zip(graph.operators, costs, peak.live_bytes, strict=True)):
        precision = _precision(op, mode)
        idle = i in merged_into or category_of(op) == "view"
        macs, moved = op.macs * op.repeats, 0 if idle else op.bytes * op.repeats
        compute_s = macs / roofline.peak_macs_per_s[precision] if precision else 0.0
        weights = min(moved, op.bytes_weights * op.repeats)
        memory_s = roofline.memory_s(moved - weights, weights)
        bound: Bound | None = None
        if not idle:
            bound = "compute" if compute_s > memory_s else "memory"
        kernel = merged_into.get(i, -1)
        layers.append(
            Layer(
                op.name,
                op.op_type,
                precision,
                cost.latency_s,
                cost.latency_s / total,
                macs,
                moved,
                live,
                macs / moved if moved else None,
                max(compute_s, memory_s),
                bound,
                i in merged_into,
                graph.operators[kernel].name if kernel >= 0 else None,
                None if energy is None else energy[i],
            )
        )
    return tuple(layers)


def _types(layers: tuple[Layer, ...]) -> tuple[TypeCost, ...]:
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.op_type, []).append(layer)
    found = [
        TypeCost(
            op_type,
            len(group),
            sum(layer.merged for layer in group),
            sum(layer.latency_s for layer in group),
            sum(layer.share for layer in group),
            sum(layer.macs for layer in group),
            sum(layer.bytes for layer in group),
            None if group[0].energy_j is None else sum(layer.energy_j or 0.0 for layer in group),
        )
        for op_type, group in groups.items()
    ]
    return tuple(sorted(found, key=lambda cost: (-cost.latency_s, cost.op_type)))
