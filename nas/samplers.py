"""Optuna's samplers by name, set up for searches of tens to thousands of trials."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


def make_sampler(name: str, seed: int, trials: int) -> BaseSampler:
    """The sampler of that name.

    Args:
        name: ``nsga2``, ``tpe``, ``gp`` or ``random``.
        seed: of the sampler.
        trials: planned; a population or a start-up phase must leave room for a few generations.
    """
    from optuna import samplers

    start = max(4, min(12, trials // 4))
    population = max(6, min(50, trials // 5))
    makers: dict[str, Callable[[], BaseSampler]] = {
        "nsga2": lambda: samplers.NSGAIISampler(population_size=population, seed=seed),
        "tpe": lambda: samplers.TPESampler(n_startup_trials=start, multivariate=True, seed=seed),
        "gp": lambda: samplers.GPSampler(n_startup_trials=start, warn_independent_sampling=False, seed=seed),
        "random": lambda: samplers.RandomSampler(seed=seed),
    }
    return makers[name]()
