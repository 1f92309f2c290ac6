"""The searches that are compared: bits per layer, one width for all, and 8 bits only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from hardsight.nas.job import Job, parse_job

DEVICE = "xcup/da4ml/lc5"
LIMIT = 3000
"""Logic cells that a network may take, at the upper end of the predicted interval."""

TRIALS = 120

MIXED, UNIFORM, EIGHT = "bits per layer", "one width", "8 bits"

_SPACES: dict[str, dict[str, Any]] = {
    MIXED: {"name": "quant_mlp"},
    UNIFORM: {"name": "quant_mlp", "uniform": True, "bits": [2, 3, 4, 6, 8]},
    EIGHT: {"name": "quant_mlp", "uniform": True, "bits": [8]},
}
SEARCHES = tuple(_SPACES)


def job(search: str, data: Path, trials: int, seed: int = 1) -> Job:
    """One of the searches.

    Args:
        search: in `SEARCHES`.
        data: CSV without duplicate rows, as `without_duplicates` writes it.
        trials: for each of the first two; 8 bits, with a fifth of the second's choices of bits, get two fifths as
            many and twice the budget, so that the network to beat is not made small by the budget.
        seed: of everything random.
    """
    few = search == EIGHT
    return parse_job(
        {
            "data": {"source": str(data.resolve()), "label": "Class"},
            "space": _SPACES[search],
            "evaluator": {"name": "qat", "batch": 256},
            "device": DEVICE,
            "objectives": ["error", "logic_cells"],
            "constraints": {"logic_cells": 2 * LIMIT if few else LIMIT},
            "sampler": "screening",
            "trials": -(-2 * trials // 5) if few else trials,
            "epochs": 15,
            "final_epochs": 40,
            "front_size": 10,
            "seed": seed,
        }
    )


def without_duplicates(source: Path, target: Path) -> Path:
    """The data set with each row once: a bean in two parts would be known beforehand."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        pd.read_csv(source).drop_duplicates().to_csv(target, index=False)
    return target
