"""What INT8 gains on a device and runtime: predicted in both modes, never derived from bit-widths."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from hardsight.comparison import Ratio, ratio_of
from hardsight.device import Device
from hardsight.errors import NotCalibratedError, NotSupportedError, UnknownNameError
from hardsight.graph import OperatorGraph
from hardsight.metrics import Metric
from hardsight.prediction import Estimate
from hardsight.units import format_quantity

if TYPE_CHECKING:
    from hardsight.api import Model


class Int8Gain(NamedTuple):
    """The same network in the device's fp32 mode and in its INT8 mode: same hardware, runtime, threads.

    Args:
        sentence: what came out, or why it is not known.
        fp32_device: name of the fp32 mode; None where the gain is not known.
        int8_device: the same of the INT8 mode.
        fp32: predicted latency there.
        int8: predicted latency there.
        speedup: fp32 over INT8; below 1 where INT8 is slower.
    """

    sentence: str
    fp32_device: str | None = None
    int8_device: str | None = None
    fp32: Estimate | None = None
    int8: Estimate | None = None
    speedup: Ratio | None = None


def int8_gain(model: Model, graph: OperatorGraph, device: Device, level: float) -> Int8Gain:
    """Predict a float network in both modes.

    Args:
        model: for messages.
        graph: as read from it.
        device: in any mode of the runtime.
        level: nominal coverage of the intervals.
    """
    from hardsight.api import _answer

    narrow, heavy = quantized_operators(graph)
    if narrow:
        return Int8Gain(
            f"The file is quantized already ({narrow} of {heavy} convolutions and matrix products compute in INT8); "
            "to learn what INT8 gains, explain the float model it was made from."
        )
    threads = re.search(r"-t\d+$", device.mode)
    if threads is None:
        return Int8Gain(
            f"What INT8 gains is not known: '{device.name}' has no fp32 and INT8 modes beside each other."
        )
    float_name, int_name = (f"{device.hardware}/{device.runtime}/{m}{threads[0]}" for m in ("fp32", "int8"))
    if reason := _gap(float_name) or _gap(int_name):
        return Int8Gain(f"What INT8 gains is not known: {reason}.")
    fp32, int8 = (
        _answer([model], [graph], name, level, layers=False)[0][Metric.LATENCY]
        for name in (float_name, int_name)
    )
    speedup = ratio_of(fp32, int8)
    said = _sentence(fp32, int8, speedup)
    if device.name not in (float_name, int_name) and _gap(device.name) is None:
        own = _answer([model], [graph], device.name, level, layers=False)[0][Metric.LATENCY]
        said += (
            f" Against the mode asked about, '{device.mode}' with {format_quantity(own.value, 's')}, INT8 is "
            f"predicted to take {int8.value / own.value:.3g} times as long."
        )
    return Int8Gain(said, float_name, int_name, fp32, int8, speedup)


def quantized_operators(graph: OperatorGraph) -> tuple[int, int]:
    """How many convolutions and matrix products compute in 8 bits or fewer, and how many there are."""
    from hardsight.predictors.features import category_of, is_int8

    heavy = [op for op in graph.operators if category_of(op) in ("conv", "depthwise", "matmul", "recurrent")]
    return sum(map(is_int8, heavy)), len(heavy)


def _gap(name: str) -> str | None:
    """Why there is no predicted latency for a device; None where there is one."""
    from hardsight.predictors import load_predictor

    try:
        if load_predictor(name).supports(name, Metric.LATENCY):
            return None
    except UnknownNameError:
        return f"there is no device '{name}'"
    except NotCalibratedError:
        return f"'{name}' has not been calibrated; run 'hardsight adapt --here --device {name}'"
    except NotSupportedError:
        pass
    return f"no predictor covers the latency of '{name}'"


def _sentence(fp32: Estimate, int8: Estimate, speedup: Ratio | None) -> str:
    times = f"{format_quantity(int8.value, 's')} against {format_quantity(fp32.value, 's')} in fp32"
    if speedup is None:
        return f"INT8 is predicted to take {times}."
    slower = speedup.value < 1
    if speedup.verdict == "too close to call" and speedup.lower is not None and speedup.upper is not None:
        return (
            f"Whether INT8 is faster here is too close to call: predicted to be {speedup.value:.3g} times as fast "
            f"({100 * speedup.level:.6g} % interval {speedup.lower:.3g} to {speedup.upper:.3g}), {times}."
        )
    claim = (
        f"slower here, not faster: it takes {1 / speedup.value:.3g} times as long"
        if slower
        else f"{speedup.value:.3g} times as fast here"
    )
    if speedup.lower is None or speedup.upper is None:
        return f"INT8 is predicted to be {claim}, {times}; without an interval."
    ends = sorted((1 / speedup.lower, 1 / speedup.upper) if slower else (speedup.lower, speedup.upper))
    interval = f"{100 * speedup.level:.6g} % interval {ends[0]:.3g} to {ends[1]:.3g}"
    return f"INT8 is predicted to be {claim} ({interval}), {times}."
