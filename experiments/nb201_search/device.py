"""A device of a table that may be measured so many times, and no more."""

from __future__ import annotations

import numpy as np

from hardsight.errors import InputError
from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot import Space
from hardsight.predictors.few_shot.gaussian import GaussianProcess, Posterior


class TableDevice:
    """Measurements are looked up and counted.

    Args:
        space: architectures, and what they cost on known devices.
        truth: ``(n,)`` costs on this one, above zero; NaN where the table has none.
        budget: look-ups in total, to learn from and to verify with.
    """

    def __init__(self, space: Space, truth: FloatArray, budget: int) -> None:
        self.space = space
        self.budget = budget
        self.measured: dict[int, float] = {}
        self._truth = truth
        self._method = GaussianProcess()

    @property
    def left(self) -> int:
        """Look-ups that may still be made."""
        return self.budget - len(self.measured)

    def measure(self, index: int) -> float:
        """The cost of an architecture; one that was looked up before is free.

        Raises:
            InputError: the budget is spent, or the table has no value.
        """
        if index not in self.measured:
            if not self.left:
                raise InputError(f"all {self.budget} measurements are spent; give a larger budget")
            if np.isnan(self._truth[index]):
                raise InputError(f"the table has no cost of architecture {index} on this device")
            self.measured[index] = float(self._truth[index])
        return self.measured[index]

    def learn(self, count: int, rng: np.random.Generator) -> None:
        """Measure the architectures that together tell most."""
        allowed = np.flatnonzero(~np.isnan(self._truth))
        for index in self._method.choose(self.space, allowed, count, rng):
            self.measure(int(index))

    def posterior(self) -> Posterior:
        """What is believed of all architectures after what was measured."""
        return self._method.posterior(self.space, self.indices, np.array(list(self.measured.values())))

    @property
    def indices(self) -> IntArray:
        """``(k,)`` what was measured, in order."""
        return np.array(list(self.measured), np.int64)
