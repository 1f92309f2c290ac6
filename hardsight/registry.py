"""Looking up by name what is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from hardsight.errors import UnknownNameError


def find(kind: str, name: str, known: Mapping[str, str], hint: str = "") -> Any:
    """What a registry has under a name.

    Args:
        kind: of what is looked up, for the message.
        name: to look up.
        known: names to ``module:attribute``.
        hint: what to do about a wrong name, as a full sentence.

    Raises:
        UnknownNameError: listing the names there are.
    """
    if name not in known:
        raise UnknownNameError(kind, name, known, hint)
    module, attribute = known[name].split(":")
    return getattr(import_module(module), attribute)
