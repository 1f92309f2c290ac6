from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardsight.errors import InputError
from hardsight.units import format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("10ms", "s", 0.01),
        ("3 µs", "s", 3e-6),
        ("1.5min", "s", 90.0),
        ("8MiB", "B", 8 * 1024**2),
        ("8MB", "B", 8e6),
        ("1e3 kB", "B", 1e6),
        ("5mJ", "J", 5e-3),
        ("20k", "1", 20_000.0),
        ("5%", "1", 0.05),
        (1000, "1", 1000.0),
        ("0s", "s", 0.0),
    ],
)
def test_parse(text: str, unit: str, value: float) -> None:
    assert parse_quantity(text, unit) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["10", 10, "10MiB", "ms", "", "-1ms", "1e999s", "nan s", "1 2 ms", "10 mss"])
def test_refuses_and_shows_how(text: str) -> None:
    with pytest.raises(InputError, match="10ms"):
        parse_quantity(text, "s")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00398, "s", "3.98 ms"),
        (0.9999e-3, "s", "1.00 ms"),  # not 1000 µs
        (8 * 1024**2, "B", "8.00 MiB"),
        (0.0, "s", "0 s"),
        (0.0, "1", "0"),
        (123_456.0, "1", "123 k"),
        (math.nan, "J", "-"),
        (312.5e6, "Hz", "312 MHz"),
    ],
)
def test_format(value: float, unit: str, text: str) -> None:
    assert format_quantity(value, unit) == text


@given(st.floats(1e-9, 1e9), st.sampled_from(["s", "B", "J", "Hz"]))
def test_what_is_shown_reads_back(value: float, unit: str) -> None:
    assert parse_quantity(format_quantity(value, unit, digits=6), unit) == pytest.approx(value, rel=1e-5)
