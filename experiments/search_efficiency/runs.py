"""One search on a table, and what is kept of it: which architectures were evaluated, in order."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.datasets.journal import Journal
from hardsight.experiments.search_efficiency.definitions import Space, Table
from hardsight.nas.pareto import hypervolume, non_dominated
from hardsight.nas.samplers import hopeless_error, make_sampler
from hardsight.nas.screening import Known
from hardsight.nas.storage import quiet_optuna
from hardsight.prediction import FloatArray
from hardsight.progress import Progress

SAMPLERS = ("random", "nsga2", "nsga3", "tpe", "gp", "screening")
EVALUATIONS = 200
SEEDS = 20
MANY = 1000
_ASKED = 20  # proposals that are timed
_LIMIT = 2  # trials for each evaluation at most: a sampler that repeats itself must end
_OWN_START = ("nsga2", "nsga3")  # they go on only from a population that they have made themselves

Curves = dict[str, FloatArray]
"""By sampler ``(seeds, evaluations)``: share of the true front's hypervolume."""


def path_of(folder: Path, table: str, sampler: str) -> Path:
    """Where a sampler's searches are kept."""
    return folder / table / f"{sampler}.jsonl"


def make(
    table: Table, space: Space, samplers: Sequence[str], seeds: int, folder: Path, progress: Progress
) -> None:
    """Whatever searches and timings are missing."""
    for sampler in samplers:
        path = path_of(folder, table.name, sampler)
        path.parent.mkdir(parents=True, exist_ok=True)
        have = {row.get("seed") for row in Journal(path)}
        for seed in range(seeds):
            progress(f"{table.name}, {sampler}", seed, seeds)
            if seed not in have:
                Journal(path).append([search(space, sampler, seed)])
        progress(f"{table.name}, {sampler}", seeds, seeds)
        if not any("overhead_s" in row for row in Journal(path)):
            Journal(path).append([{"overhead_s": overhead(space, sampler), "trials": MANY}])


def search(space: Space, sampler: str, seed: int, evaluations: int = EVALUATIONS) -> dict[str, Any]:
    """Evaluate until there are so many different architectures; a repeated one is free, as in `nas.search`."""
    import optuna

    found: dict[int, None] = {}
    with quiet_optuna():
        study = optuna.create_study(
            directions=["minimize"] * 2, sampler=_sampler(space, sampler, seed, evaluations)
        )
        begin = time.perf_counter()
        trials = 0
        while len(found) < evaluations and trials < _LIMIT * evaluations:
            found[_trial(study, space)] = None
            trials += 1
    per_trial = (time.perf_counter() - begin) / trials
    return {"seed": seed, "found": list(found), "trials": trials, "mean_s": round(per_trial, 6)}


def overhead(space: Space, sampler: str, after: int = MANY, asked: int = _ASKED) -> float:
    """Median seconds that a proposal takes after so many trials."""
    import optuna

    with quiet_optuna():
        study = optuna.create_study(directions=["minimize"] * 2, sampler=_sampler(space, sampler, 0, after))
        if sampler in _OWN_START:
            for _ in range(after):
                _trial(study, space)
        else:
            study.add_trials(_random_trials(space, after))
        times = []
        for _ in range(asked):
            begin = time.perf_counter()
            _trial(study, space)
            times.append(time.perf_counter() - begin)
    return float(np.median(times))


def read(table: Table, space: Space, folder: Path, seeds: int) -> tuple[Curves, dict[str, dict[str, float]]]:
    """Curves of all kept searches, at most so many seeds, and times in seconds by sampler."""
    curves: Curves = {}
    times: dict[str, dict[str, float]] = {}
    for sampler in SAMPLERS:
        rows = list(Journal(path_of(folder, table.name, sampler)))
        searches = [row for row in rows if row.get("seed", seeds) < seeds]
        if searches:
            curves[sampler] = np.stack([curve(space, row["found"]) for row in searches])
            times[sampler] = {"mean_s": float(np.median([row["mean_s"] for row in searches]))}
            if late := [row["overhead_s"] for row in rows if "overhead_s" in row]:
                times[sampler]["overhead_s"] = late[-1]
    return curves, times


def curve(space: Space, found: Sequence[int], evaluations: int = EVALUATIONS) -> FloatArray:
    """Share of the true hypervolume after each evaluation; the last stays where a search ended early."""
    shares = np.zeros(evaluations)
    front = np.zeros((0, 2))
    for i, point in enumerate(space.points[list(found)[:evaluations]]):
        if not (front <= point).all(axis=1).any():
            front = np.concatenate([front, point[None]])
            front = front[non_dominated(front)]
            shares[i:] = hypervolume(front, space.reference) / space.volume
    return shares


def needed(curves: FloatArray, share: float) -> FloatArray:
    """Evaluations until each search has that share; infinite where it never does."""
    reached = curves >= share
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)


def _sampler(space: Space, name: str, seed: int, trials: int) -> Any:
    def costs(params: Mapping[str, Any]) -> Known:
        return Known((None, float(space.points[space.find(dict(params)), 1])))

    return make_sampler(name, seed, trials, costs, hopeless=hopeless_error(space.classes))


def _trial(study: Any, space: Space) -> int:
    trial = study.ask()
    found = space.find({name: trial.suggest_categorical(name, of) for name, of in space.choices.items()})
    study.tell(trial, space.points[found].tolist())
    return found


def _random_trials(space: Space, count: int) -> list[Any]:
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.trial import create_trial

    kinds: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(of) for name, of in space.choices.items()
    }
    drawn = np.random.default_rng(0).integers(0, len(space.rows), count)
    return [
        create_trial(
            params=dict(zip(space.choices, space.rows[i], strict=True)),
            distributions=kinds,
            values=space.points[i].tolist(),
        )
        for i in drawn
    ]
