"""Optuna's samplers and ours by name, set up for searches of tens to thousands of trials."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from hardsight.errors import InputError

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from hardsight.nas.screening import CostFunction

_BARELY = 0.98  # of the error of guessing


def hopeless_error(classes: int) -> float:
    """The error from which on a network has learned nothing: all but that of guessing."""
    return _BARELY * (1 - 1 / classes)


def make_sampler(
    name: str,
    seed: int,
    trials: int,
    costs: CostFunction | None = None,
    screened: int = 2000,
    hopeless: float = math.inf,
    parallel: bool = False,
) -> BaseSampler:
    """The sampler of that name.

    Args:
        name: ``nsga2``, ``nsga3``, ``tpe``, ``gp``, ``random`` or ``screening``.
        seed: of the sampler.
        trials: planned; a population or a start-up phase must leave room for a few generations.
        costs: what is known of a candidate before it is evaluated; only ``screening`` asks.
        screened: how many candidates it compares for each trial.
        hopeless: error from which on an outcome is no better than guessing; only ``screening`` asks.
        parallel: whether other workers propose at the same time, so that ``tpe`` keeps away from what runs (the
            constant liar); ``screening`` always does, and the others draw or breed from finished trials only.

    Raises:
        InputError: ``screening`` without costs.
    """
    from optuna import samplers

    start = max(4, min(12, trials // 4))
    population = max(6, min(50, trials // 5))

    def screening() -> BaseSampler:
        from hardsight.nas.screening import ScreeningSampler

        if costs is None:
            raise InputError("sampler 'screening' needs a cost function; give one, or name another sampler")
        return ScreeningSampler(costs, seed, screened, start=min(start, 6), hopeless=hopeless)

    makers: dict[str, Callable[[], BaseSampler]] = {
        "nsga2": lambda: samplers.NSGAIISampler(population_size=population, seed=seed),
        "nsga3": lambda: samplers.NSGAIIISampler(population_size=population, seed=seed),
        "tpe": lambda: samplers.TPESampler(
            n_startup_trials=start, multivariate=True, seed=seed, constant_liar=parallel
        ),
        "gp": lambda: samplers.GPSampler(n_startup_trials=start, warn_independent_sampling=False, seed=seed),
        "random": lambda: samplers.RandomSampler(seed=seed),
        "screening": screening,
    }
    return makers[name]()
