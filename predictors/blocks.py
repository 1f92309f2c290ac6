"""Matrix products whose rows do not depend on what else is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 16
_BLOCKS = 16  # at once: what is made of them stays in the cache

Rows = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


def in_blocks(function: Callable[[Rows], Rows], rows: Rows) -> Rows:
    """``function`` of rows ``(n, f)``, always called with blocks of as many rows ``(b, BLOCK, f)``.

    In a matrix product of another size a row's last bit may differ, and NumPy multiplies block by block; so the last
    block is filled up with zeros.
    """
    step = BLOCK * _BLOCKS
    parts = []
    for start in range(0, max(len(rows), 1), step):
        part = rows[start : start + step]
        full = part
        if len(part) % BLOCK or not len(part):
            missing = BLOCK - len(part) % BLOCK
            full = np.concatenate([part, np.zeros((missing, rows.shape[1]), rows.dtype)])
        made = function(full.reshape(-1, BLOCK, rows.shape[1]))
        parts.append(made.reshape(len(full), -1)[: len(part)])
    return np.concatenate(parts)


def distinct(rows: Rows) -> tuple[IntArray, IntArray]:
    """Where distinct rows stand first ``(u,)``, and which of these each row is ``(n,)``."""
    opaque = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
    number: dict[Any, int] = {}
    which = np.array([number.setdefault(row, len(number)) for row in opaque.ravel().tolist()], np.int64)
    return np.unique(which, return_index=True)[1], which
