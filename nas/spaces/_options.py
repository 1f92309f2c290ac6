"""What the options of several spaces have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from hardsight.errors import JobError
from hardsight.nas.network import PRECISION_BITS, Precision
from hardsight.nas.spaces._base import Task

Width = Annotated[int, Field(strict=True, ge=1, le=4096)]
Resolution = Annotated[int, Field(strict=True, ge=4, le=1024)]


class Strict(BaseModel):
    """Refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def executed(space: str, task: Task, wanted: Sequence[Precision] | None) -> tuple[str, ...]:
    """Precisions to choose from, float first: those wanted, by default all that the device executes.

    Raises:
        JobError: one that the device lacks.
    """
    have = [p for p in PRECISION_BITS if p in task.precisions]
    chosen = tuple(p for p in have if p in (wanted or have))
    if not chosen or len(chosen) < len(set(wanted or chosen)):
        raise JobError(
            f"precisions {', '.join(wanted or ()) or 'none'} were asked of space '{space}', which has fp32 and int8; "
            f"the device executes {', '.join(task.precisions)}; name only what both have"
        )
    return chosen


def resolutions(side: int) -> tuple[int, ...]:
    """Small images may be enlarged, large ones made smaller; multiples of 4 from 8 to 224 pixels."""
    factors = (
        (1.0, 2.0, 3.0, 4.0) if side <= 12 else (0.5, 1.0, 1.5, 2.0) if side <= 28 else (0.25, 0.5, 0.75, 1.0)
    )
    return tuple(sorted({min(224, max(8, round(side * factor / 4) * 4)) for factor in factors}))
