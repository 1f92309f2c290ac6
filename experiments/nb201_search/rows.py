"""A device's limits answered with twenty measurements in total: learn, search under each limit, verify, deliver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from hardsight.experiments.nb201_search.delivery import deliver
from hardsight.experiments.nb201_search.device import TableDevice
from hardsight.experiments.nb201_search.searching import Search
from hardsight.prediction import FloatArray
from hardsight.predictors.few_shot.tables import Tables, Task

EVERYTHING = "table"
"""Instead of a sampler: the accuracies of all architectures are known."""

Row = dict[str, Any]
"""``device``, ``draw``, ``sampler``, ``limit_ms``; ``latency_ms`` and ``accuracy`` of what was delivered, None where
nothing was; ``best`` accuracy among those evaluated that truly keep the limit; ``evaluations``, ``measurements``."""


@dataclass(frozen=True)
class Plan:
    """How a device's measurements and a search's evaluations are spent, chosen on devices that the table lacks.

    Args:
        budget: measurements of the device in total, for all its limits together.
        learned: of these, before the searches begin.
        rounds: of searching and measuring; each has an equal share of what is left of both.
        sure: probability of keeping its limit with which a candidate is evaluated.
        evaluations: of the accuracy, in each search.
    """

    budget: int = 20
    learned: int = 5
    rounds: int = 5
    sure: float = 0.2
    evaluations: int = 100


@dataclass(frozen=True)
class World:
    """The public tables.

    Args:
        tables: latencies, milliseconds.
        accuracy: ``(n,)`` percent.
    """

    tables: Tables
    accuracy: FloatArray


def answer(
    world: World, task: Task, device: str, limits_ms: Sequence[float], sampler: str, draw: int, plan: Plan
) -> list[Row]:
    """One row for each limit of a device.

    Args:
        world: the tables.
        task: says which devices are known.
        device: that is known from its measurements only.
        limits_ms: on its latency.
        sampler: that searches, or `EVERYTHING`.
        draw: seed of measurements and searches.
        plan: of the measurements.
    """
    space, truth = world.tables.space(task), world.tables.costs(task, device)
    target = TableDevice(space, truth, plan.budget)
    target.learn(plan.learned, np.random.default_rng([0, draw]))
    known = np.full((len(limits_ms), len(space)), np.nan)
    delivered: list[int | None] = []
    if sampler == EVERYTHING:
        known[:] = world.accuracy
        delivered = deliver(target, known, np.array(limits_ms))
    else:
        error = 1 - world.accuracy / 100
        searches = [Search(space, error, sampler, plan.evaluations, draw) for _ in limits_ms]
        for done in range(1, plan.rounds + 1):
            believed = target.posterior()
            upper = np.exp(believed.mean + ndtri(plan.sure) * np.hypot(believed.sd, believed.noise))
            for row, limit, search in zip(known, limits_ms, searches, strict=True):
                search.go_on(upper / limit - 1, plan.evaluations * done // plan.rounds)
                row[search.evaluated] = world.accuracy[search.evaluated]
            until = plan.learned + (plan.budget - plan.learned) * done // plan.rounds
            delivered = deliver(target, known, np.array(limits_ms), until)
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
