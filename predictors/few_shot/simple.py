"""Methods without ambition, which many published ones do not beat."""

from __future__ import annotations

import numpy as np

from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot._base import FewShotMethod, Space


class RidgeOnCounts(FewShotMethod):
    """Ridge on how often each value is chosen; knows nothing of other devices.

    Args:
        alpha: strength, on columns of unit deviation.
    """

    name = "counts"

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def predict(self, space: Space, chosen: IntArray, y: FloatArray, rng: np.random.Generator) -> FloatArray:
        counts = space.counts
        x = (counts - counts.mean(axis=0)) / np.maximum(counts.std(axis=0), 1e-9)
        log_y = np.log(y)
        rows = x[chosen]
        gram = rows.T @ rows + self.alpha * np.eye(x.shape[1])
        centre = rows.mean(axis=0)
        weights = np.linalg.solve(gram - len(y) * np.outer(centre, centre), rows.T @ (log_y - log_y.mean()))
        return np.asarray(np.exp(log_y.mean() + (x - centre) @ weights), dtype=np.float64)


class CopyBestSource(FewShotMethod):
    """The known device whose costs rank the measured architectures most alike, scaled."""

    name = "copy"

    def predict(self, space: Space, chosen: IntArray, y: FloatArray, rng: np.random.Generator) -> FloatArray:
        from scipy.stats import spearmanr

        logs, log_y = space.log_sources, np.log(y)
        rank = [spearmanr(column, log_y).statistic if len(y) > 2 else 0.0 for column in logs[chosen].T]
        best = int(np.argmax(np.nan_to_num(rank)))
        shift = np.median(log_y - logs[chosen, best])
        return np.asarray(np.exp(logs[:, best] + shift), dtype=np.float64)


class BayesianRidgeOnSources(FewShotMethod):
    """Bayesian ridge (scikit-learn's) on the logarithms of the costs on known devices."""

    name = "sources"

    def predict(self, space: Space, chosen: IntArray, y: FloatArray, rng: np.random.Generator) -> FloatArray:
        from sklearn.linear_model import BayesianRidge

        logs = space.log_sources
        x = (logs - logs.mean(axis=0)) / np.maximum(logs.std(axis=0), 1e-9)
        model = BayesianRidge().fit(x[chosen], np.log(y))
        return np.asarray(np.exp(model.predict(x)), dtype=np.float64)
