"""A search under a limit, whose beliefs about costs may be corrected on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hardsight.nas.samplers import make_sampler
from hardsight.nas.screening import Known
from hardsight.nas.study import quiet_optuna, record_violations
from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot import Space

_LIMIT = 50  # trials for each evaluation at most: a sampler that finds nothing new must end
_CONSTRAINT = "latency_s"


class Search:
    """An Optuna study on a table; the error is minimised.

    As in `hardsight.nas.search`: what is predicted to break the limit is not evaluated and has the error of guessing,
    and one that was evaluated before is free.

    Args:
        space: to be searched.
        error: ``(n,)`` true error of each architecture, a share.
        sampler: a name of `hardsight.nas.samplers`.
        evaluations: of the error, planned in total.
        seed: of the sampler.
    """

    def __init__(self, space: Space, error: FloatArray, sampler: str, evaluations: int, seed: int) -> None:
        import optuna

        self._space, self._error = space, error
        self._guessing = float(error.max())
        self._made = sampler, seed, evaluations
        self._index = {tuple(row): i for i, row in enumerate(space.codes.tolist())}
        self._numbers = [{value: i for i, value in enumerate(values)} for values in space.values]
        self._evaluated: dict[int, None] = {}
        with quiet_optuna():
            self._study = optuna.create_study()

    @property
    def evaluated(self) -> IntArray:
        """Architectures in order."""
        return np.array(list(self._evaluated), np.int64)

    def go_on(self, violation: FloatArray, until: int) -> None:
        """Ask the sampler until so many architectures were evaluated in total, or it finds no more.

        Args:
            violation: ``(n,)`` part of the limit by which the prediction exceeds it; at most 0 keeps it.
            until: evaluations, those before included.
        """

        def costs(params: Mapping[str, Any]) -> Known:
            found = self._find(params)
            return Known((None,), (float(violation[found]),), found)

        name, seed, planned = self._made
        trials = len(self._study.get_trials(deepcopy=False))
        # as a resumed search: no number is drawn twice; screening draws by trial number
        seed = seed if name == "screening" else (seed + 1_000_003 * trials) % 2**31
        with quiet_optuna():
            self._study.sampler = make_sampler(name, seed, planned, costs)
            for _ in range(_LIMIT * until):
                if len(self._evaluated) >= until:
                    break
                self._trial(violation)

    def _trial(self, violation: FloatArray) -> None:
        trial, space = self._study.ask(), self._space
        choices = zip(space.columns, space.values, strict=True)
        found = self._find({name: trial.suggest_categorical(name, values) for name, values in choices})
        record_violations(trial, {_CONSTRAINT: float(violation[found])})
        keeps = violation[found] <= 0
        self._study.tell(trial, float(self._error[found]) if keeps else self._guessing)
        if keeps:
            self._evaluated[found] = None

    def _find(self, params: Mapping[str, Any]) -> int:
        values = (params[name] for name in self._space.columns)
        return self._index[tuple(of[value] for of, value in zip(self._numbers, values, strict=True))]
