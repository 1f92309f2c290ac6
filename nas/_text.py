"""Sentences for people."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: str, choices: Iterable[str]) -> str:
    """A sentence to append to a refusal: the nearest name, or all of them."""
    known = sorted(choices)
    near = get_close_matches(given.rsplit(".", 1)[-1], known, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(known)}."
