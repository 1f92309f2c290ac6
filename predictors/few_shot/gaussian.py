"""A Gaussian process whose prior comes from known devices and from what the architectures are made of."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot._base import FewShotMethod, Space, additive_weights

PARTS = ("mean source", "sources", "alike", "value", "value in near layers", "cell", "function", "exchange")
"""What the logarithm of a cost is a sum of; see `Prior`."""
_SHARES = (0.5, 0.1, 0.1, 0.1, 0.05, 0.03, 0.03, 0.03, 0.02)
"""Usual variance of each part, and of the noise, where that of the whole is one."""
_LOOSENESS = 1.4  # standard deviation of their logarithms
_FREE = 100.0  # variance of the constant
_POOL = 1500
_SMALLEST_SHARE = 1e-6
_SD_WEIGHT = 3.0  # how many measurements the usual deviation of a known device counts for


class Posterior(NamedTuple):
    """What is believed of all architectures.

    Args:
        mean: ``(n,)`` of the logarithm of the cost.
        sd: ``(n,)`` standard deviation of it, the noise of a measurement left out.
        noise: standard deviation of a measurement.
    """

    mean: FloatArray
    sd: FloatArray
    noise: float


class Prior:
    """Features whose products are the parts of the covariance, each of unit mean variance.

    The mean of the known devices and the known devices themselves; choices that cost alike on the known devices;
    the same value in any layer, in near layers, in the same layer; a smooth function of the known devices' costs; and
    how many choices two architectures share, for what does not add up.

    Args:
        space: architectures and known devices.
    """

    def __init__(self, space: Space) -> None:
        logs = space.log_sources
        self.size = float(logs.std(axis=0).mean()) if logs.shape[1] else 1.0
        self.sources = (logs - logs.mean(axis=0)) / np.maximum(logs.std(axis=0), 1e-12)
        mean = self.sources.mean(axis=1) if logs.shape[1] else np.zeros(len(space))
        mean = mean / max(float(mean.std()), 1e-12)
        beyond = self.sources - np.outer(mean, mean @ self.sources / len(mean))
        self.codes = space.codes
        centred = space.one_hot - space.one_hot.mean(axis=0)
        self.features = [
            _unit(mean[:, None]),
            _unit(beyond),
            *(_unit(centred @ _root(kernel)) for kernel in self._cell_kernels(space, centred)),
        ]

    def _cell_kernels(self, space: Space, centred: FloatArray) -> list[FloatArray]:
        """Which choices are expected to cost alike, each ``(cells, cells)``."""
        kinds, values, layers = zip(*space.cells, strict=True)
        words = np.array([f"{kind} {value}" for kind, value in zip(kinds, values, strict=True)])
        layer = np.array(layers, dtype=float)
        same = (words[:, None] == words[None, :]).astype(float)
        reach = 0.2 * max(float(layer.max()), 1.0)
        near = np.exp(-(((layer[:, None] - layer[None, :]) / reach) ** 2))
        costs = np.stack([additive_weights(centred, y) for y in self.sources.T] or [0 * layer], axis=1)
        costs /= max(float(costs.std()), 1e-12)
        apart = ((costs[:, None, :] - costs[None, :, :]) ** 2).mean(axis=2)
        return [np.exp(-2 * apart), same, same * near, np.eye(len(same))]

    def between(self, a: IntArray, b: IntArray) -> FloatArray:
        """Each part's covariance ``(parts, a, b)``."""
        apart = ((self.sources[a][:, None, :] - self.sources[b][None, :, :]) ** 2).sum(axis=2)
        differ = (self.codes[a][:, None, :] != self.codes[b][None, :, :]).mean(axis=2)
        smooth = np.exp(-2 * apart / max(self.sources.shape[1], 1))
        return np.stack([*(f[a] @ f[b].T for f in self.features), smooth, np.exp(-differ / 0.3)])


@lru_cache(maxsize=2)
def prior_of(space: Space) -> Prior:
    """The prior of a space; the same object for the same space."""
    return Prior(space)


class GaussianProcess(FewShotMethod):
    """Gaussian-process regression on the logarithm of the cost.

    The variance of each part of the prior (`PARTS`) and of the noise is found by the marginal likelihood of the
    measurements under a prior that is the same for all tasks. The architectures
    to measure are those that together leave the least variance under the usual prior, out of a random pool.
    """

    name = "ours"

    def choose(self, space: Space, allowed: IntArray, k: int, rng: np.random.Generator) -> IntArray:
        """Greedily the ones after which the least variance is left in a random pool."""
        pool = rng.choice(allowed, size=min(_POOL, len(allowed)), replace=False)
        shares = np.array(_SHARES)
        left = np.tensordot(shares[:-1], prior_of(space).between(pool, pool), 1) + _FREE
        noise = shares[-1]
        chosen: list[int] = []
        for i in range(min(k, len(pool))):
            gain = (left**2).sum(axis=0) / (np.diag(left) + noise)
            gain[chosen] = -1
            best = int(rng.integers(len(pool))) if i == 0 else int(gain.argmax())
            chosen.append(best)
            column = left[:, best].copy()
            left -= np.outer(column, column) / (column[best] + noise)
        return pool[chosen]

    def predict(self, space: Space, chosen: IntArray, y: FloatArray, rng: np.random.Generator) -> FloatArray:
        return np.asarray(np.exp(self.posterior(space, chosen, y).mean), dtype=np.float64)

    def posterior(self, space: Space, chosen: IntArray, y: FloatArray) -> Posterior:
        """Mean and deviation of the logarithm of every architecture's cost.

        Args:
            space: the architectures.
            chosen: ``(k,)`` which were measured.
            y: ``(k,)`` their costs.
        """
        prior = prior_of(space)
        log_y = np.log(y)
        centre = float(log_y.mean())
        spread = float(((log_y - centre) ** 2).sum())
        scale = float(np.sqrt((_SD_WEIGHT * prior.size**2 + spread) / (_SD_WEIGHT + len(y))))
        target = (log_y - centre) / scale
        rounding = rounding_sd(y) / scale
        parts = prior.between(chosen, chosen)
        shares = _likeliest(parts, target, rounding)
        covariance = np.tensordot(shares[:-1], parts, 1) + _FREE + np.diag(shares[-1] + rounding**2)
        from scipy.linalg import cho_factor, cho_solve

        factor = cho_factor(covariance, lower=True)
        weights = cho_solve(factor, target)
        mean, variance = np.empty(len(space)), np.empty(len(space))
        for start in range(0, len(space), 4096):
            some = np.arange(start, min(start + 4096, len(space)))
            across = np.tensordot(shares[:-1], prior.between(some, chosen), 1) + _FREE
            own = sum(
                share * (f[some] ** 2).sum(axis=1) for share, f in zip(shares, prior.features, strict=False)
            )
            own = own + shares[len(prior.features) : -1].sum() + _FREE
            mean[some] = across @ weights
            variance[some] = own - (across * cho_solve(factor, across.T).T).sum(axis=1)
        sd = scale * np.sqrt(np.maximum(variance, 0))
        return Posterior(centre + scale * mean, sd, scale * float(np.sqrt(shares[-1])))


def rounding_sd(y: FloatArray) -> FloatArray:
    """Relative deviation that rounding to whole units leaves in each ``(k,)``; zero where values have fractions."""
    if len(y) < 5 or (y != np.round(y)).any():
        return np.zeros(len(y))
    return np.asarray(1 / (np.sqrt(12) * y), dtype=np.float64)


def _likeliest(parts: FloatArray, target: FloatArray, rounding: FloatArray) -> FloatArray:
    """Variance of each part and of the noise ``(parts + 1,)``, by marginal likelihood and prior."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    k = len(target)
    usual = np.log(np.array(_SHARES))
    whole = np.concatenate([parts, np.eye(k)[None]])

    def surprise(h: FloatArray) -> tuple[float, FloatArray]:
        shares = np.exp(h)
        covariance = np.tensordot(shares, whole, 1) + _FREE + np.diag(rounding**2 + 1e-9)
        factor = cho_factor(covariance, lower=True)
        weights = cho_solve(factor, target)
        inverse = cho_solve(factor, np.eye(k))
        off = (h - usual) / _LOOSENESS
        value = 0.5 * target @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * (off**2).sum()
        slope = 0.5 * shares * np.tensordot(whole, inverse - np.outer(weights, weights), 2)
        return float(value), slope + off / _LOOSENESS

    found = minimize(surprise, usual, jac=True, method="L-BFGS-B", bounds=[(u - 7, u + 7) for u in usual])
    return np.asarray(np.exp(found.x), dtype=np.float64)


def _unit(features: FloatArray) -> FloatArray:
    """Of unit mean square length."""
    return features / max(float(np.sqrt((features**2).sum(axis=1).mean())), 1e-12)


def _root(kernel: FloatArray) -> FloatArray:
    """A matrix whose product with its transpose is the kernel."""
    values, vectors = np.linalg.eigh(kernel)
    kept = values > _SMALLEST_SHARE * values.max()
    root: FloatArray = vectors[:, kept] * np.sqrt(values[kept])
    return root
