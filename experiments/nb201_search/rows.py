"""A device's limits answered with twenty measurements in total: learn, search under each limit, verify, deliver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from hardsight.experiments.few_shot.definitions import HELP_KNOWN
from hardsight.experiments.nb201_search.delivery import deliver
from hardsight.experiments.nb201_search.device import TableDevice
from hardsight.experiments.nb201_search.searching import search
from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot.tables import Tables, Task

EVERYTHING = "table"
"""Instead of a sampler: the accuracies of all architectures are known."""
CANDIDATES = "candidates"
"""Instead of a sampler: those of MetaD2A's 500 candidates are, and known devices are known for 900 architectures."""

Row = dict[str, Any]
"""``device``, ``draw``, ``sampler``, ``limit_ms``; ``latency_ms`` and ``accuracy`` of what was delivered, None where
nothing was; ``best`` accuracy among those evaluated that truly keep the limit; ``evaluations``, ``measurements``."""


@dataclass(frozen=True)
class Plan:
    """How a device's measurements and a search's evaluations are spent, chosen on devices that the table lacks.

    Args:
        budget: measurements of the device in total, for all its limits together.
        learned: of these, before the searches; the others verify what is to be delivered.
        sure: probability of keeping its limit with which a candidate is evaluated.
        evaluations: of the accuracy, in each search.
    """

    budget: int = 20
    learned: int = 5
    sure: float = 0.5
    evaluations: int = 50


@dataclass(frozen=True)
class World:
    """The public tables.

    Args:
        tables: latencies, milliseconds.
        accuracy: ``(n,)`` percent.
        candidates: indices of MetaD2A's.
    """

    tables: Tables
    accuracy: FloatArray
    candidates: IntArray


def answer(
    world: World, task: Task, device: str, limits_ms: Sequence[float], sampler: str, draw: int, plan: Plan
) -> list[Row]:
    """One row for each limit of a device.

    Args:
        world: the tables.
        task: says which devices are known.
        device: that is known from its measurements only.
        limits_ms: on its latency.
        sampler: that searches, or `EVERYTHING`, or `CANDIDATES`.
        draw: seed of measurements and searches.
        plan: of the measurements.
    """
    if sampler == CANDIDATES:
        task = replace(task, known=range(HELP_KNOWN[task.space]))
    space, truth = world.tables.space(task), world.tables.costs(task, device)
    target = TableDevice(space, truth, plan.budget)
    target.learn(plan.learned, np.random.default_rng([0, draw]))
    believed, limits = target.posterior(), np.array(limits_ms, np.float64)
    likely = np.exp(believed.mean + ndtri(plan.sure) * np.hypot(believed.sd, believed.noise))
    known = np.full((len(limits), len(space)), np.nan)
    for row, limit in zip(known, limits, strict=True):
        if sampler in (EVERYTHING, CANDIDATES):
            found = np.arange(len(space)) if sampler == EVERYTHING else world.candidates
        else:
            error = 1 - world.accuracy / 100
            found = search(space, error, likely / limit - 1, sampler, plan.evaluations, draw)
        row[found] = world.accuracy[found]
    delivered = deliver(target, known, limits)
    return [
        {
            "device": device,
            "draw": draw,
            "sampler": sampler,
            "limit_ms": limit,
            "latency_ms": None if i is None else float(truth[i]),
            "accuracy": None if i is None else float(world.accuracy[i]),
            "best": float(np.nanmax(np.where(truth <= limit, row, np.nan), initial=0.0)),
            "evaluations": int((~np.isnan(row)).sum()),
            "measurements": len(target.measured),
        }
        for i, limit, row in zip(delivered, limits_ms, known, strict=True)
    ]
