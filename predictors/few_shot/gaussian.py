"""A Gaussian process whose prior comes from known devices and from what the architectures are made of."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot._base import FewShotMethod, Space, additive_weights


class Part(NamedTuple):
    """One term of the prior.

    Args:
        name: what it says; see `Prior`.
        usual: its variance where that of the whole is about one.
        loose: standard deviation of that variance's logarithm between devices.
    """

    name: str
    usual: float
    loose: float


# From maximum likelihoods on HELP's meta-training and validation devices as pseudo-targets, over its three spaces.
PARTS = (
    Part("mean source", 0.45, 0.7),
    Part("sources", 0.03, 1.8),
    Part("alike", 0.04, 1.4),
    Part("value", 0.1, 2.3),
    Part("value in near layers", 0.01, 1.8),
    Part("cell", 0.01, 1.5),
    Part("sources, additive", 0.05, 1.5),
    Part("function", 0.005, 1.1),
    Part("exchange", 0.01, 1.7),
)
"""What a cost is a sum of."""
_NOISE = Part("noise", 0.02, 1.8)
_USUAL = np.log([part.usual for part in (*PARTS, _NOISE)])
_LOOSE = np.array([part.loose for part in (*PARTS, _NOISE)])

_DRAWN = 500  # variances from each of the two proposals
_KEPT = 48  # of these, after weighing
_NEAR = 0.7  # standard deviation of the proposal around the likeliest
_SLOPE = 0.6  # expected of the cost by the mean of the known devices, both of unit deviation
_POWERS = (0.0, 0.5, 1.0)
_FREE = 100.0  # variance of the constant
_POOL = 500
_SMALLEST_SHARE = 1e-6
_SD_WEIGHT = 3.0  # how many measurements the usual deviation of a known device counts for
_LEAST = 0.2  # of the cheapest measured: below it costs shrink towards zero and do not reach it
_BLOCK = 4096


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

    The mean of the known devices, the known devices themselves, and what of them adds up over choices; choices that
    cost alike on the known devices; the same value in any layer, in near layers, in the same layer; a smooth function
    of the known devices' costs; and how many choices two architectures share, for what does not add up.

    Costs are compared after a power, the one by which choices add up best on the known devices (Box and Cox 1964): one
    where layers follow one another, none (the logarithm) where a choice such as the resolution multiplies all.

    Args:
        space: architectures and known devices.
    """

    def __init__(self, space: Space) -> None:
        centred = space.one_hot - space.one_hot.mean(axis=0)
        costs = space.filled_sources
        self.power = best_power(centred, space.sources)
        raised = raise_to(costs, self.power)
        known = costs.shape[1] > 0
        units = raised.mean(axis=0) if self.power else np.ones(costs.shape[1])
        self.size = float((raised.std(axis=0) / units).mean()) if known else 1.0
        self.sources = (raised - raised.mean(axis=0)) / np.maximum(raised.std(axis=0), 1e-12)
        mean = self.sources.mean(axis=1) if known else np.zeros(len(space))
        mean = mean / max(float(mean.std()), 1e-12)
        self.codes = space.codes
        weights = np.stack(
            [additive_weights(centred, y) for y in self.sources.T] or [np.zeros(centred.shape[1])], axis=1
        )
        alike, value, near, cell = (centred @ _root(kernel) for kernel in _cell_kernels(space, weights))
        self.features = {
            name: _unit(features)
            for name, features in (
                ("mean source", mean[:, None]),
                ("sources", _beyond(mean, self.sources)),
                ("alike", alike),
                ("value", value),
                ("value in near layers", near),
                ("cell", cell),
                ("sources, additive", _beyond(mean, centred @ weights)),
            )
        }

    def between(self, a: IntArray, b: IntArray) -> FloatArray:
        """Each part's covariance ``(parts, a, b)``."""
        apart = ((self.sources[a][:, None, :] - self.sources[b][None, :, :]) ** 2).sum(axis=2)
        differ = (self.codes[a][:, None, :] != self.codes[b][None, :, :]).mean(axis=2)
        found = {name: features[a] @ features[b].T for name, features in self.features.items()}
        found["function"] = np.exp(-2 * apart / max(self.sources.shape[1], 1))
        found["exchange"] = np.exp(-differ / 0.3)
        return np.stack([found[part.name] for part in PARTS])

    def own(self, a: IntArray) -> FloatArray:
        """Each part's variance ``(parts, a)``."""
        found = {name: (features[a] ** 2).sum(axis=1) for name, features in self.features.items()}
        return np.stack([found.get(part.name, np.ones(len(a))) for part in PARTS])


def best_power(centred: FloatArray, costs: FloatArray) -> float:
    """After which of the powers an additive model leaves least of the known costs ``(n, m)`` unexplained.

    Args:
        centred: ``(n, cells)`` choices.
        costs: above zero; NaN where not measured, for what was filled in follows a power of its own.
    """
    if not costs.shape[1]:
        return 0.0
    left = []
    for power in _POWERS:
        raised = raise_to(costs, power)
        raised = raised - np.nanmean(raised, axis=0)
        weights = np.stack([additive_weights(centred, y) for y in raised.T], axis=1)
        rest, whole = (np.nansum(part**2, axis=0) for part in (raised - centred @ weights, raised))
        left.append(float(np.median(np.log(np.maximum(rest / np.maximum(whole, 1e-12), 1e-12)))))
    return _POWERS[int(np.argmin(left))]


def raise_to(costs: FloatArray, power: float) -> FloatArray:
    """Costs to a power; the logarithm for zero."""
    return np.asarray(costs**power if power else np.log(costs), dtype=np.float64)


@lru_cache(maxsize=2)
def prior_of(space: Space) -> Prior:
    """The prior of a space; the same object for the same space."""
    return Prior(space)


class GaussianProcess(FewShotMethod):
    """Gaussian-process regression on the cost, or on a power or the logarithm of it.

    The mean of the known devices is expected to lead, with a slope of 0.6: one measurement then says how large costs
    are, and the known devices in which order. Answers are averaged over what the variance of each part of the prior
    (`PARTS`) and of the noise may be, given the measurements and a prior over variances that is the same for all
    tasks. Noise is relative: a measurement twice as large errs twice as much. The architectures to measure are those
    that together leave the least variance under the usual prior, out of a random pool.
    """

    name = "ours"

    def choose(self, space: Space, allowed: IntArray, k: int, rng: np.random.Generator) -> IntArray:
        """Greedily the ones after which the least variance is left in a random pool."""
        pool = rng.choice(allowed, size=min(max(_POOL, k), len(allowed)), replace=False)
        usual = np.exp(_USUAL)
        left = np.tensordot(usual[:-1], prior_of(space).between(pool, pool), 1) + _FREE
        noise = usual[-1]
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
        power = prior.power
        raised = raise_to(y, power)
        centre = float(raised.mean())
        unit = centre if power else 1.0  # what deviations are relative to; logarithms are so already
        spread = float((((raised - centre) / unit) ** 2).sum())
        scale = float(unit * np.sqrt((_SD_WEIGHT * prior.size**2 + spread) / (_SD_WEIGHT + len(y))))
        lead = _SLOPE * prior.features["mean source"][:, 0]
        target = (raised - centre) / scale - (lead[chosen] - lead[chosen].mean())
        slope = y**power * (power or 1.0) / scale  # of the target by the logarithm of the cost
        relative = slope**2 / float((slope**2).mean())
        covariance = _Covariance(prior.between(chosen, chosen), relative, (rounding_sd(y) * slope) ** 2)
        shares = covariance.plausible(target)
        inverse = np.linalg.inv(covariance.of(shares))
        weights = inverse @ target
        mean, variance = np.empty(len(space)), np.empty(len(space))
        for start in range(0, len(space), _BLOCK):
            some = np.arange(start, min(start + _BLOCK, len(space)))
            parts, own = prior.between(some, chosen), prior.own(some)
            means, variances = np.empty((_KEPT, len(some))), np.empty((_KEPT, len(some)))
            for i, share in enumerate(shares[:, :-1]):
                across = np.tensordot(share, parts, 1) + _FREE
                means[i] = across @ weights[i]
                variances[i] = share @ own + _FREE - ((across @ inverse[i]) * across).sum(axis=1)
            mean[some] = means.mean(axis=0) + lead[some] - lead[chosen].mean()
            variance[some] = variances.mean(axis=0) + means.var(axis=0)
        noise = float(np.sqrt(shares[:, -1].mean() / (slope**2).mean()))
        return _as_logarithm(
            centre + scale * mean, scale * np.sqrt(np.maximum(variance, 0)), noise, power, y.min()
        )


class _Covariance(NamedTuple):
    """Of the measured costs, for any variances of the parts.

    Args:
        parts: ``(parts, k, k)``.
        relative: ``(k,)`` each measurement's noise variance beside their mean.
        rounding: ``(k,)`` variance of what rounding hides.
    """

    parts: FloatArray
    relative: FloatArray
    rounding: FloatArray

    def of(self, shares: FloatArray) -> FloatArray:
        """Covariances ``(…, k, k)`` for variances ``(…, parts + 1)``."""
        whole = np.concatenate([self.parts, np.diag(self.relative)[None]])
        return np.asarray(
            np.tensordot(shares, whole, 1) + _FREE + np.diag(self.rounding + 1e-9), dtype=np.float64
        )

    def likeliest(self, target: FloatArray) -> FloatArray:
        """Logarithms of the variances ``(parts + 1,)`` by marginal likelihood and prior."""
        from scipy.linalg import cho_factor, cho_solve
        from scipy.optimize import minimize

        def surprise(h: FloatArray) -> tuple[float, FloatArray]:
            factor = cho_factor(self.of(np.exp(h)), lower=True)
            weights = cho_solve(factor, target)
            left = cho_solve(factor, np.eye(len(target))) - np.outer(weights, weights)
            off = (h - _USUAL) / _LOOSE
            value = 0.5 * target @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * (off**2).sum()
            by_part = np.append(np.tensordot(self.parts, left, 2), self.relative @ np.diag(left))
            return float(value), 0.5 * np.exp(h) * by_part + off / _LOOSE

        bounds = [(u - 7, u + 7) for u in _USUAL]
        return np.asarray(
            minimize(surprise, _USUAL, jac=True, method="L-BFGS-B", bounds=bounds).x, dtype=np.float64
        )

    def plausible(self, target: FloatArray) -> FloatArray:
        """Variances ``(kept, parts + 1)`` drawn from their posterior, by importance sampling.

        Half are proposed by the prior, half around the likeliest. The same measurements give the same draw.
        """
        rng = np.random.default_rng(0)
        mode = self.likeliest(target)
        size = (_DRAWN, len(mode))
        h = np.concatenate([rng.normal(_USUAL, _LOOSE, size), rng.normal(mode, _NEAR, size)])
        prior = _log_normal(h, _USUAL, _LOOSE)
        proposed = np.logaddexp(prior, _log_normal(h, mode, np.full(len(mode), _NEAR)))
        covariance = self.of(np.exp(h))
        weights = np.linalg.solve(covariance, np.broadcast_to(target[:, None], (len(h), len(target), 1)))[
            ..., 0
        ]
        log_likelihood = -0.5 * (weights @ target + np.linalg.slogdet(covariance)[1])
        log_weight = log_likelihood + prior - proposed
        share = np.cumsum(np.exp(log_weight - log_weight.max()))
        evenly = (np.arange(_KEPT) + 0.5) / _KEPT * share[-1]
        return np.asarray(np.exp(h[np.searchsorted(share, evenly)]), dtype=np.float64)


def _log_normal(h: FloatArray, mean: FloatArray, sd: FloatArray) -> FloatArray:
    """Logarithm of the density of independent normal variables ``(n,)``, but for a constant."""
    return np.asarray(-0.5 * (((h - mean) / sd) ** 2).sum(axis=1) - np.log(sd).sum(), dtype=np.float64)


def rounding_sd(y: FloatArray) -> FloatArray:
    """Relative deviation that rounding to whole units leaves in each ``(k,)``; zero where values have fractions."""
    if len(y) < 5 or (y != np.round(y)).any():
        return np.zeros(len(y))
    return np.asarray(1 / (np.sqrt(12) * y), dtype=np.float64)


def _as_logarithm(mean: FloatArray, sd: FloatArray, noise: float, power: float, cheapest: float) -> Posterior:
    """From the power of the cost to its logarithm, to first order."""
    if not power:
        return Posterior(mean, sd, noise)
    floor = (_LEAST * cheapest) ** power
    mean = np.where(mean < floor, floor / (2 - np.minimum(mean / floor, 1)), mean)
    return Posterior(np.asarray(np.log(mean) / power, dtype=np.float64), sd / (power * mean), noise)


def _cell_kernels(space: Space, weights: FloatArray) -> list[FloatArray]:
    """Which choices are expected to cost alike, each ``(cells, cells)``, from what they cost on known devices."""
    kinds, values, layers = zip(*space.cells, strict=True)
    words = np.array([f"{kind} {value}" for kind, value in zip(kinds, values, strict=True)])
    layer = np.array(layers, dtype=float)
    same = (words[:, None] == words[None, :]).astype(float)
    reach = 0.2 * max(float(layer.max()), 1.0)
    near = np.exp(-(((layer[:, None] - layer[None, :]) / reach) ** 2))
    costs = weights / max(float(weights.std()), 1e-12)
    apart = ((costs[:, None, :] - costs[None, :, :]) ** 2).mean(axis=2)
    return [np.exp(-0.5 * apart), same, same * near, np.eye(len(same))]


def _beyond(mean: FloatArray, features: FloatArray) -> FloatArray:
    """What of the features ``(n, m)`` is not along the mean ``(n,)``."""
    return np.asarray(features - np.outer(mean, mean @ features / len(mean)), dtype=np.float64)


def _unit(features: FloatArray) -> FloatArray:
    """Of unit mean square length."""
    return features / max(float(np.sqrt((features**2).sum(axis=1).mean())), 1e-12)


def _root(kernel: FloatArray) -> FloatArray:
    """A matrix whose product with its transpose is the kernel."""
    values, vectors = np.linalg.eigh(kernel)
    kept = values > _SMALLEST_SHARE * values.max()
    root: FloatArray = vectors[:, kept] * np.sqrt(values[kept])
    return root
