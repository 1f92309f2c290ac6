"""Budgets on what a model may cost, as ``hardsight check`` and job files write them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hardsight.errors import InputError, NotSupportedError, UnknownNameError
from hardsight.metrics import Metric
from hardsight.units import parse_quantity

SIZE = "size_bytes"
"""Bytes of all constants. Not a `Metric`: it is read from the graph, neither measured nor predicted."""

_SHORT = {
    "latency": str(Metric.LATENCY),
    "memory": str(Metric.PEAK_MEMORY),
    "energy": str(Metric.ENERGY),
    "size": SIZE,
}


def unit_of(quantity: str) -> str:
    """SI unit of a metric's name or of `SIZE`."""
    return "B" if quantity == SIZE else Metric(quantity).unit


def parse_budgets(texts: Iterable[str]) -> dict[str, float]:
    """Read ``["latency=10ms", "memory=8MiB"]`` into ``{"latency_s": 0.01, "peak_memory_bytes": 8388608.0}``.

    Raises:
        InputError: a text without ``=``, a quantity given twice or one that cannot be read.
        UnknownNameError: a quantity nobody can have a budget for.
    """
    budgets: dict[str, float] = {}
    for text in texts:
        name, equals, limit = text.partition("=")
        if not equals:
            raise InputError(
                f"'{text}' is not a budget; write a quantity and its limit, for example latency=10ms"
            )
        quantity, value = parse_budget(name.strip(), limit)
        if quantity in budgets:
            raise InputError(f"there are two budgets for {quantity}; give one")
        budgets[quantity] = value
    return budgets


def parse_budget(name: str, limit: str | float) -> tuple[str, float]:
    """One budget: ``("latency", "10ms")`` gives ``("latency_s", 0.01)``; full metric names work as well."""
    quantity = _SHORT.get(name, name)
    costs = [str(m) for m in Metric if not m.larger_is_better]
    if quantity not in (*costs, SIZE):
        raise UnknownNameError("quantity", name, [*_SHORT, *costs, SIZE])
    return quantity, parse_quantity(limit, unit_of(quantity))


class Verdict(NamedTuple):
    """One budget and how the model stands to it, in SI units.

    Args:
        quantity: a metric's name, or `SIZE`.
        limit: what is allowed.
        value: prediction.
        upper: upper end of its interval, which decides; for an exact quantity the value itself.
        level: nominal coverage of the interval; 1 for an exact quantity.
    """

    quantity: str
    limit: float
    value: float
    upper: float
    level: float

    @property
    def kept(self) -> bool:
        """True when even the upper end is within the limit."""
        return self.upper <= self.limit

    @property
    def excess(self) -> float:
        """How far the upper end is above the limit; negative is what is left."""
        return self.upper - self.limit


def judge(
    budgets: Mapping[str, float], answer: Mapping[str, object], size_bytes: int, device: str
) -> list[Verdict]:
    """Hold a prediction against its budgets.

    Args:
        budgets: quantity to limit, as `parse_budgets` gives.
        answer: metric to `hardsight.prediction.Estimate`.
        size_bytes: of the model's constants.
        device: for messages.

    Raises:
        NotSupportedError: a budget for what is not predicted, or predicted without an interval: a gate that
            cannot be judged must not look open.
    """
    from hardsight.prediction import Estimate

    verdicts = []
    for quantity, limit in budgets.items():
        if quantity == SIZE:
            verdicts.append(Verdict(quantity, limit, size_bytes, size_bytes, 1.0))
            continue
        estimate = answer.get(quantity)
        if not isinstance(estimate, Estimate):
            have = ", ".join(dict.fromkeys([*map(str, answer), SIZE]))
            raise NotSupportedError(
                f"no predictor covers {quantity} on '{device}', so its budget cannot be judged; "
                f"covered: {have}"
            )
        if estimate.upper is None or not math.isfinite(estimate.upper):
            raise NotSupportedError(
                f"{quantity} on '{device}' is predicted without an interval, so its budget cannot be judged; "
                "adapt the device with 5 or more measurements"
            )
        verdicts.append(Verdict(quantity, limit, estimate.value, estimate.upper, estimate.level))
    return verdicts
