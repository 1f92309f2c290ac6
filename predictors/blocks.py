"""Matrix products whose rows do not depend on what else is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 128


def in_blocks(
    function: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], rows: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """``function`` of rows ``(n, f)``, always called with as many rows.

    In a matrix product of another size a row's last bit may differ; so the last block is filled up with zeros.
    """
    parts = []
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        full = part
        if len(part) < BLOCK:
            full = np.zeros((BLOCK, rows.shape[1]), rows.dtype)
            full[: len(part)] = part
        parts.append(function(full)[: len(part)])
    return np.concatenate(parts) if parts else function(np.zeros((BLOCK, rows.shape[1]), rows.dtype))[:0]
