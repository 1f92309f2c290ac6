"""Runs a method on a task: every target device, several draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hardsight.errors import InputError
from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot import make_method
from hardsight.predictors.few_shot.tables import Tables, Task
from hardsight.progress import Progress

DRAWS = 10
_LEAST_ASKED = 3  # architectures that can be ranked
_TRIMMED = 0.1  # HELP leaves out the fastest and the slowest tenth


@dataclass(frozen=True)
class Score:
    """Of one device.

    Args:
        spearman: of each draw ``(draws,)``, over all architectures that the table has and that were not measured; where
            the task asks for some, over these.
        spearman_trimmed: over the middle 80 % of them by their true cost, as HELP has it.
        mape: mean |predicted − true| / true, over all of them.
    """

    spearman: FloatArray
    spearman_trimmed: FloatArray
    mape: FloatArray


def run(
    tables: Tables,
    task: Task,
    method: str,
    samples: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Score]:
    """Scores by target device.

    Args:
        tables: holds the task.
        task: devices, and where it names them the architectures to be asked about, which nobody may measure.
        method: name in `hardsight.predictors.few_shot.METHODS`.
        samples: measurements in total.
        draws: repetitions, each with its own random numbers.
        seed: of the first draw.
        progress: called after each device.

    Raises:
        InputError: a device has too few measured architectures.
    """
    space = tables.space(task)
    found = {}
    for done, device in enumerate(task.targets):
        truth = tables.costs(task, device)
        there = np.flatnonzero(~np.isnan(truth))
        asked = np.intersect1d(there, task.query) if task.query else there
        allowed = np.setdiff1d(there, asked) if task.query else there
        most = min(len(allowed), len(there) - _LEAST_ASKED)
        if len(asked) < _LEAST_ASKED or samples > most:
            raise InputError(
                f"{device} has {len(there)} measured architectures; {samples} samples leave too few to be asked about: "
                f"at most {max(most, 0)}"
            )
        scores = []
        for draw in range(draws):
            rng = np.random.default_rng([seed, draw])
            learner = make_method(method)
            chosen = learner.choose(space, allowed, samples, rng)
            predicted = learner.predict(space, chosen, truth[chosen], rng)
            scores.append(score(predicted, truth, np.setdiff1d(asked, chosen)))
        found[device] = Score(*np.array(scores).T)
        if progress:
            progress(f"{task.name}, {method}", done + 1, len(task.targets))
    return found


def score(predicted: FloatArray, truth: FloatArray, where: IntArray) -> tuple[float, float, float]:
    """Spearman's correlation over some architectures and over their middle 80 %, and mean relative error.

    Args:
        predicted: ``(n,)``.
        truth: ``(n,)``.
        where: indices of those that count.
    """
    p, t = predicted[where], truth[where]
    cut = int(_TRIMMED * len(t))
    middle = np.argsort(t, kind="stable")[cut : len(t) - cut]
    return _rank(p, t), _rank(p[middle], t[middle]), float(np.mean(np.abs(p - t) / t))


def _rank(p: FloatArray, t: FloatArray) -> float:
    """Spearman's correlation; who gives all the same value has ranked nothing."""
    from scipy.stats import spearmanr

    return float(spearmanr(p, t).statistic) if np.ptp(p) > 0 and np.ptp(t) > 0 else 0.0


def record(task: Task, method: str, samples: int, scores: dict[str, Score]) -> dict[str, Any]:
    """One line of JSON: the task's mean over devices and draws, and each device's."""
    means = {device: float(np.mean(score.spearman)) for device, score in scores.items()}
    per_draw = np.mean([score.spearman for score in scores.values()], axis=0)
    return {
        "task": task.name,
        "space": task.space,
        "method": method,
        "samples": samples,
        "draws": len(per_draw),
        "spearman": {d: round(x, 4) for d, x in means.items()},
        "spearman_trimmed": {d: round(float(np.mean(s.spearman_trimmed)), 4) for d, s in scores.items()},
        "mape": {d: round(float(np.mean(s.mape)), 4) for d, s in scores.items()},
        "mean": round(float(np.mean(list(means.values()))), 4),
        "sd": round(float(np.std(per_draw, ddof=1)), 4) if len(per_draw) > 1 else None,
        "mape_median": round(float(np.median([np.mean(s.mape) for s in scores.values()])), 4),
    }
