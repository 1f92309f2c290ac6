"""Sentences for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel


def did_you_mean(given: str, choices: Iterable[str]) -> str:
    """A sentence to append to a refusal: the nearest name, or all of them."""
    known = sorted(choices)
    near = get_close_matches(given.rsplit(".", 1)[-1], known, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(known)}."


def key_names(model: type[BaseModel]) -> list[str]:
    """Keys of a model and of those in it."""
    schema = model.model_json_schema()
    return [key for part in (schema, *schema.get("$defs", {}).values()) for key in part.get("properties", {})]


def faults(errors: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Pydantic's errors without those that only follow: a list is "too short" where its items are refused."""
    found = list(errors)
    places = [e["loc"] for e in found]
    return [
        e
        for e in found
        if e["type"] != "too_short" or not any(p[: len(e["loc"])] == e["loc"] != p for p in places)
    ]


def fault(error: Mapping[str, Any], known: Iterable[str], above: str = "") -> str:
    """What pydantic found wrong with a key of the job file, and what was given.

    Args:
        error: one of `faults`.
        known: keys there are where an unknown one stands.
        above: the key under which the checked mapping stands.
    """
    where = ".".join(str(part) for part in ([above] if above else []) + list(error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"unknown key '{where}'.{did_you_mean(where, known)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error["input"]
    if error["type"] != "value_error" and (given is None or isinstance(given, str | int | float)):
        message += f", not {given!r}"
    return f"{where}: {message}" if where else message
