"""A point of a search space."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True)
class Candidate:
    """The name of a space and the parameters chosen in it.

    Args:
        space: registered name of the search space.
        params: JSON-able parameters, nothing else.
    """

    space: str
    params: Mapping[str, Json]

    @cached_property
    def digest(self) -> str:
        """Identity of the architecture: space and parameters, no weights (32 hex digits)."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """Canonical JSON text; `from_json` gives the same candidate back."""
        return json.dumps({"space": self.space, "params": dict(self.params)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Candidate:
        """Read what `to_json` wrote."""
        raw = json.loads(text)
        return cls(raw["space"], raw["params"])
