"""How well a device can be predicted at all: by a model that learned from all its measurements."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot import Space
from hardsight.predictors.few_shot.scoring import Score, score
from hardsight.predictors.few_shot.tables import Tables, Task

FOLDS = 5
_TREES = 500  # at most; they stop when a tenth of the rows that no tree saw says so


def ceiling(tables: Tables, task: Task, device: str, folder: Path) -> Score:
    """The better of ridge and gradient-boosted trees, cross-validated on everything measured.

    Both know an architecture's choices and its costs on the known devices, on all of them whatever the task says, and
    predict the logarithm of the cost. It is no bound: a better model could go beyond it.

    Args:
        tables: holds the task.
        task: devices, and the architectures to be scored.
        device: target.
        folder: where predictions are kept.
    """
    truth = tables.costs(task, device)
    there = np.flatnonzero(~np.isnan(truth))
    asked = np.intersect1d(there, task.query) if task.query else there
    scores = [score(predicted, truth, asked) for predicted in _predictions(tables, task, device, folder)]
    return Score(*(np.array([number]) for number in max(scores)))


def path_of(task: Task, device: str, folder: Path) -> Path:
    """Where the predictions of a device from these known devices are kept."""
    sources = hashlib.sha256("\n".join(task.sources).encode()).hexdigest()[:8]
    return folder / "ceiling" / f"{task.space}-{device}-from-{sources}.npy"


def _predictions(tables: Tables, task: Task, device: str, folder: Path) -> FloatArray:
    """Costs ``(models, n)``, NaN where not measured; each by a model that did not see it."""
    path = path_of(task, device, folder)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        truth = tables.costs(task, device)
        there = np.flatnonzero(~np.isnan(truth))
        found = np.full((2, len(truth)), np.nan)
        found[:, there] = np.exp(
            out_of_fold(tables.space(replace(task, known=None)), there, np.log(truth[there]))
        )
        part = path.with_suffix(f".{os.getpid()}.part")  # several may be at it
        with part.open("wb") as file:
            np.save(file, found)
        part.replace(path)
    return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)


def out_of_fold(space: Space, rows: IntArray, y: FloatArray, seed: int = 0) -> FloatArray:
    """Predictions ``(2, k)`` of ridge and of trees for rows that they did not see.

    Args:
        space: architectures.
        rows: ``(k,)`` indices of those measured.
        y: ``(k,)`` targets.
        seed: of the folds and the trees.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    logs = space.log_sources[rows]
    logs = (logs - logs.mean(axis=0)) / np.maximum(logs.std(axis=0), 1e-9)
    codes = space.codes[rows]
    ridge = RidgeCV(alphas=np.logspace(-3, 3, 7))
    trees = HistGradientBoostingRegressor(
        learning_rate=0.05,
        max_iter=_TREES,
        max_leaf_nodes=15,
        early_stopping=True,
        categorical_features=[True] * codes.shape[1] + [False] * logs.shape[1],
        random_state=seed,
    )
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    inputs = ((ridge, space.one_hot[rows]), (trees, codes))
    return np.stack(
        [cross_val_predict(model, np.concatenate([x, logs], axis=1), y, cv=folds) for model, x in inputs]
    )
