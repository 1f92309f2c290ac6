"""Metrics, shares and intervals as sentences and tables say them."""

from __future__ import annotations

from hardsight.metrics import Metric
from hardsight.prediction import Estimate
from hardsight.units import format_quantity


def metric_words(metric: Metric) -> str:
    """A metric's name as people say it: ``peak memory``."""
    words = str(metric)
    for suffix in ("_s", "_bytes", "_j", "_hz"):
        words = words.removesuffix(suffix)
    return words.replace("_", " ")


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def shape_text(shape: tuple[int, ...]) -> str:
    """``1×64×56×56``."""
    return "×".join(map(str, shape)) or "scalar"


def interval_text(estimate: Estimate, unit: str) -> str:
    """``17.6 ms to 28.1 ms``, or ``none``."""
    if estimate.lower is None or estimate.upper is None:
        return "none"
    return f"{format_quantity(estimate.lower, unit)} to {format_quantity(estimate.upper, unit)}"
