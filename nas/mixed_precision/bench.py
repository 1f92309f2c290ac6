"""Networks of a choice, run: how good they are, and how fast on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import onnx

from hardsight.budgets import SIZE
from hardsight.device import HOST, Device
from hardsight.errors import HardsightError
from hardsight.metrics import Metric
from hardsight.nas.mixed_precision.quantizers import Choice, Quantizer
from hardsight.nas.mixed_precision.samples import Quality, Samples, doubts, is_classifier, quality
from hardsight.nas.mixed_precision.sensitivity import Outputs, run
from hardsight.progress import Progress

_ROUNDS = 2

Measured = Mapping[str, tuple[float, float]]
"""Quantity to its mean over rounds, and half the range between them as a share of it."""
Measure = Callable[[onnx.ModelProto], Mapping[str, float]]
"""A model to what it costs here, in SI units."""


class Bench:
    """Quality of any choice on some samples, each taken once.

    Args:
        quantizer: of the network.
        samples: to judge by.
        classes: how many the labels name.
    """

    def __init__(self, quantizer: Quantizer, samples: Samples, classes: int) -> None:
        self._quantizer = quantizer
        self._samples = samples
        self._classes = classes
        self._known: dict[Choice, Quality] = {}

    @cached_property
    def reference(self) -> Outputs:
        """What the network given says."""
        return run(self._quantizer.model, self._samples.feeds)

    @property
    def classifies(self) -> bool:
        return is_classifier(self.reference)

    @property
    def doubts(self) -> list[str]:
        return doubts(self.reference, self._samples, self._classes)

    def __getitem__(self, choice: Choice) -> Quality:
        if choice not in self._known:
            outputs = run(self._quantizer.quantized(choice), self._samples.feeds)
            self._known[choice] = quality(self.reference, outputs, self._samples, self._classes)
        return self._known[choice]


def measurer(device: Device, quantity: str, budget_s: float) -> tuple[Measure | None, str]:
    """What measures on a device of this machine; else None and the reason. Synthesis would take minutes.

    Args:
        device: where.
        quantity: what; of a size, which needs no measurement, the latency.
        budget_s: time for the repeats of one measurement.
    """
    from hardsight.datasets.profilers import get_profiler

    if device.provenance == "synthesised":
        return None, (
            "nothing was measured, since synthesis may take minutes: do it with "
            f"'hardsight measure OUT --device {device.name}', OUT being the file written"
        )
    if device.hardware != HOST:
        return None, f"nothing was measured: '{device.name}' is not this machine"
    metric = Metric.LATENCY if quantity == SIZE else Metric(quantity)
    try:
        profiler = get_profiler(device)
        profiler.check()
    except HardsightError as error:
        return None, f"nothing was measured: {error}"
    if reason := profiler.unavailable().get(metric):
        return None, f"{metric} was not measured: {reason}"

    def measure(model: onnx.ModelProto) -> Mapping[str, float]:
        return {str(m.metric): m.value for m in profiler.measure(model, device, [metric], budget_s=budget_s)}

    return measure, ""


def measure_all(
    measure: Measure, quantizer: Quantizer, choices: Sequence[Choice], progress: Progress | None = None
) -> dict[Choice, Measured]:
    """Measure networks in turn, round by round, so that a machine that changes speed favours none."""
    taken: list[list[Mapping[str, float]]] = [[] for _ in choices]
    total = _ROUNDS * len(choices)
    for again in range(_ROUNDS):
        for k, choice in enumerate(choices):
            if progress:
                progress("measuring", again * len(choices) + k, total)
            taken[k].append(measure(quantizer.deployed(choice)))
    if progress:
        progress("measuring", total, total)
    return {choice: _joined(each) for choice, each in zip(choices, taken, strict=True)}


def _joined(taken: Sequence[Mapping[str, float]]) -> Measured:
    found = {}
    for quantity in taken[0]:
        values = [each[quantity] for each in taken]
        mean = sum(values) / len(values)
        found[quantity] = (mean, (max(values) - min(values)) / 2 / mean)
    return found
