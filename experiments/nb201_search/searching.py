"""One search under a limit: which architectures a sampler had evaluated, in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hardsight.nas.samplers import make_sampler
from hardsight.nas.screening import Known
from hardsight.nas.storage import quiet_optuna
from hardsight.nas.study import record_violations
from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot import Space

_LIMIT = 50  # trials for each evaluation at most: a sampler that finds nothing new must end
_CONSTRAINT = "latency_s"


def search(
    space: Space, error: FloatArray, violation: FloatArray, sampler: str, evaluations: int, seed: int
) -> IntArray:
    """Ask a sampler until so many architectures were evaluated, or it finds no more.

    As in `hardsight.nas.search`: what is predicted to break the limit is not evaluated and has the error of guessing,
    and one that was evaluated before is free.

    Args:
        space: to be searched.
        error: ``(n,)`` true error of each architecture, a share.
        violation: ``(n,)`` part of the limit by which the prediction exceeds it; at most 0 keeps it.
        sampler: a name of `hardsight.nas.samplers`.
        evaluations: of the error.
        seed: of the sampler.
    """
    import optuna

    index = {tuple(row): i for i, row in enumerate(space.codes.tolist())}
    numbers = [{value: i for i, value in enumerate(values)} for values in space.values]

    def find(params: Mapping[str, Any]) -> int:
        return index[tuple(of[params[name]] for of, name in zip(numbers, space.columns, strict=True))]

    def costs(params: Mapping[str, Any]) -> Known:
        found = find(params)
        return Known((None,), (float(violation[found]),), found)

    choices = dict(zip(space.columns, space.values, strict=True))
    guessing = float(error.max())
    evaluated: dict[int, None] = {}
    with quiet_optuna():
        study = optuna.create_study(
            sampler=make_sampler(sampler, seed, evaluations, costs, hopeless=0.98 * guessing)
        )
        for _ in range(_LIMIT * evaluations):
            if len(evaluated) == evaluations:
                break
            trial = study.ask()
            found = find({name: trial.suggest_categorical(name, values) for name, values in choices.items()})
            record_violations(trial, {_CONSTRAINT: float(violation[found])})
            keeps = violation[found] <= 0
            study.tell(trial, float(error[found]) if keeps else guessing)
            if keeps:
                evaluated[found] = None
    return np.array(list(evaluated), np.int64)
