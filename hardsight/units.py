"""Quantities as people write and read them: ``10ms``, ``8MiB``. The only place that scales units."""

from __future__ import annotations

import math
import re

from hardsight.errors import InputError

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_BYTES = {
    "B": 1.0,
    "kB": 1e3,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
    "TiB": 2.0**40,
}
_JOULES = {"nJ": 1e-9, "uJ": 1e-6, "µJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3}
_HERTZ = {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9}
_COUNT = {"": 1.0, "%": 1e-2, "k": 1e3, "M": 1e6, "G": 1e9}

_READ = {"s": _SECONDS, "B": _BYTES, "J": _JOULES, "Hz": _HERTZ, "1": _COUNT}
_SHOW = {
    "s": ("ns", "µs", "ms", "s"),
    "B": ("B", "KiB", "MiB", "GiB", "TiB"),
    "J": ("nJ", "µJ", "mJ", "J", "kJ"),
    "Hz": ("Hz", "kHz", "MHz", "GHz"),
    "1": ("", "k", "M", "G"),
}
_EXAMPLE = {"s": "10ms", "B": "8MiB", "J": "5mJ", "Hz": "200MHz", "1": "1000"}
_PATTERN = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s]*)\s*")


def parse_quantity(text: str | float, unit: str) -> float:
    """Read a quantity: ``parse_quantity("10ms", "s")`` is ``0.01``.

    A bare number is refused where there is a unit: nobody can tell whether ``latency=10`` means
    seconds or milliseconds.

    Args:
        text: number and unit; spaces between them do no harm.
        unit: the SI unit wanted: ``"s"``, ``"B"``, ``"J"``, or ``"1"`` for a count or share.

    Raises:
        InputError: no number, a unit of another kind or none, negative or not finite.
    """
    scales, example = _READ[unit], _EXAMPLE[unit]
    match = _PATTERN.fullmatch(str(text))
    if match is None:
        raise InputError(f"'{text}' is not a quantity; write a number and a unit, for example {example}")
    number, suffix = match.groups()
    if suffix not in scales:
        given = f"the unit '{suffix}'" if suffix else "no unit"
        known = ", ".join(s for s in scales if s and s != "KB") or "none"
        raise InputError(f"'{text}' has {given}; expected one of {known}, for example {example}")
    value = float(number) * scales[suffix]
    if not math.isfinite(value) or value < 0:
        raise InputError(
            f"'{text}' is out of range; a quantity is finite and not negative, for example {example}"
        )
    return value


def format_quantity(value: float, unit: str, digits: int = 3) -> str:
    """Write a quantity with the largest unit that keeps it at 1 or above: ``0.00398 s`` is ``3.98 ms``.

    Args:
        value: in the SI unit; NaN gives ``-``.
        unit: ``"s"``, ``"B"``, ``"J"`` or ``"1"``.
        digits: significant digits.
    """
    if math.isnan(value):
        return "-"
    rounded = float(f"{value:.{digits}g}")  # 0.9999 ms is shown as 1 ms, not as 1000 µs
    suffixes = _SHOW[unit]
    suffix = suffixes[0]
    for candidate in suffixes:
        if abs(rounded) >= _READ[unit][candidate]:
            suffix = candidate
    if rounded == 0:
        suffix = unit if unit in suffixes else ""
    return f"{_significant(rounded / _READ[unit][suffix], digits)} {suffix}".rstrip()


def _significant(value: float, digits: int) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    whole = math.floor(math.log10(abs(value))) + 1
    return f"{value:.{max(0, digits - whole)}f}"
