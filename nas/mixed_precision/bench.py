"""Networks of a choice, run: how good they are, and how fast on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import onnx

from hardsight.device import HOST, Device
from hardsight.errors import BackendError, InputError
from hardsight.nas.mixed_precision.quantizers import Choice, Quantizer
from hardsight.nas.mixed_precision.samples import Quality, Samples, is_classifier, quality
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

    def __getitem__(self, choice: Choice) -> Quality:
        if choice not in self._known:
            outputs = run(self._quantizer.quantized(choice), self._samples.feeds)
            self._known[choice] = quality(self.reference, outputs, self._samples, self._classes)
        return self._known[choice]


def measurer(device: Device, budget_s: float) -> tuple[Measure | None, str]:
    """What measures models on a device of this machine; else None and the reason.

    Args:
        device: where.
        budget_s: time for the repeats of one measurement.
    """
    if device.hardware != HOST:
        return None, f"Nothing was measured: '{device.name}' is not this machine."
    from hardsight.datasets.profilers import get_profiler
    from hardsight.metrics import Metric

    try:
        profiler = get_profiler(device)
        profiler.check()
    except (InputError, BackendError) as error:
        return None, f"Nothing was measured: {error}."
    metrics = [m for m in (Metric.LATENCY, Metric.ENERGY) if m not in profiler.unavailable()]

    def measure(model: onnx.ModelProto) -> Mapping[str, float]:
        return {str(m.metric): m.value for m in profiler.measure(model, device, metrics, budget_s=budget_s)}

    return measure, ""


def measure_all(
    measure: Measure, quantizer: Quantizer, choices: Sequence[Choice], progress: Progress | None = None
) -> dict[Choice, Measured]:
    """Measure networks in turn, twice over, so that a machine that changes speed favours none."""
    rounds: list[list[Mapping[str, float]]] = [[] for _ in choices]
    for again in range(_ROUNDS):
        for k, choice in enumerate(choices):
            if progress:
                progress("measuring", again * len(choices) + k, _ROUNDS * len(choices))
            rounds[k].append(measure(quantizer.quantized(choice)))
    if progress:
        progress("measuring", _ROUNDS * len(choices), _ROUNDS * len(choices))
    return {choice: _joined(taken) for choice, taken in zip(choices, rounds, strict=True)}


def _joined(taken: Sequence[Mapping[str, float]]) -> Measured:
    found = {}
    for quantity in taken[0]:
        values = [each[quantity] for each in taken]
        mean = sum(values) / len(values)
        found[quantity] = (mean, (max(values) - min(values)) / 2 / mean)
    return found
