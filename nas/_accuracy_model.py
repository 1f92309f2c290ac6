"""A Gaussian process for what only training tells, from tens to hundreds of trained candidates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular

from hardsight.prediction import FloatArray

_DRAWN = (64, 32)  # hyper-parameters tried: from the prior, then near the best of them
_NEAR = 0.4  # of the second round, as a share of the prior's standard deviation
_PARTS = 5
_JITTER = 1e-6
_ROUGH = 1 / 3


class Inputs(NamedTuple):
    """What the model knows of ``n`` candidates.

    Args:
        choices: ``(n, f)``, see `Encoding.features`.
        summary: ``(n, s)`` numbers about the whole: how often each value occurs, the known costs.
        costs: ``(n, c)`` the latter once more.
        parameters: by how many two candidates can differ.
    """

    choices: FloatArray
    summary: FloatArray
    costs: FloatArray
    parameters: int

    def single(self) -> Inputs:
        """In single precision."""
        arrays: dict[str, Any] = {
            name: getattr(self, name).astype(np.float32) for name in ("choices", "summary", "costs")
        }
        return self._replace(**arrays)

    def first(self, count: int) -> Inputs:
        """The first rows."""
        return self._replace(
            choices=self.choices[:count], summary=self.summary[:count], costs=self.costs[:count]
        )


@dataclass(frozen=True)
class Kernel:
    """Covariance: a sum of four parts and a constant.

    Effects of single choices that add up; a function of how many choices differ, for what does not add up; linear
    and smooth functions of the summary; a rougher one of the costs, since below some cost nothing works.

    Args:
        variances: ``(5,)`` of the parts.
        width: of the second part, as a share of all parameters.
        length: of the fourth, in deviations of each number; of the fifth a third of it.
        noise: variance of a training's outcome.
    """

    variances: tuple[float, ...] = (0.3, 0.5, 0.3, 0.3, 1.0)
    width: float = 0.3
    length: float = 1.0
    noise: float = 0.02

    def between(self, a: Inputs, b: Inputs) -> FloatArray:
        """``(a, b)`` without the noise."""
        parameters, numbers = a.parameters, max(1, a.summary.shape[1])
        additive, apart = _products(a.choices, b.choices)
        linear, far = _products(a.summary, b.summary)
        v = self.variances
        total = additive * (v[0] * 2 / parameters) + linear * (v[2] / numbers) + 1.0
        total += _falling(apart, -1 / (parameters * self.width), v[1])
        total += _falling(far, -0.5 / (numbers * self.length**2), v[3])
        if a.costs.shape[1]:
            far = _products(a.costs, b.costs)[1]
            total += _falling(far, -0.5 / (_ROUGH * self.length) ** 2, v[4])
        return np.asarray(total)

    def own(self, a: Inputs) -> FloatArray:
        """``(a,)`` variances."""
        parameters, numbers = a.parameters, max(1, a.summary.shape[1])
        v = self.variances
        additive = (a.choices**2).sum(axis=1) * (v[0] * 2 / parameters)
        return np.asarray(
            additive
            + (a.summary**2).sum(axis=1) * (v[2] / numbers)
            + 1.0
            + v[1]
            + v[3]
            + (v[4] if a.costs.shape[1] else 0.0)
        )


class GaussianProcess:
    """Fitted to rows; predicts others.

    Args:
        kernel: its hyper-parameters, see `likely_kernel`.
        inputs: of the rows.
        y: ``(n, t)`` values of ``t`` targets, which share the covariance; each is standardised inside.
    """

    def __init__(self, kernel: Kernel, inputs: Inputs, y: FloatArray) -> None:
        self._kernel, self._inputs = kernel, inputs
        self._mean, self._scale = np.array([_standard(target) for target in y.T]).T
        covariance = kernel.between(inputs, inputs)
        covariance[np.diag_indices_from(covariance)] += kernel.noise + _JITTER
        self._factor = cholesky(covariance, lower=True, check_finite=False)
        self._weights = cho_solve((self._factor, True), (y - self._mean) / self._scale, check_finite=False)

    def predict(self, inputs: Inputs) -> tuple[FloatArray, FloatArray]:
        """Means and standard deviations ``(n, t)``, without the noise of a training.

        In single precision, which is enough to compare candidates and takes half the time.
        """
        between = self._kernel.between(self._inputs.single(), inputs.single())
        factor = self._factor.astype(np.float32)
        explained = solve_triangular(factor, between, lower=True, check_finite=False)
        variance = self._kernel.own(inputs) - np.einsum("ij,ij->j", explained, explained)
        mean = between.T @ self._weights
        sd = np.sqrt(np.maximum(variance, 1e-8))
        return mean * self._scale + self._mean, sd[:, None] * self._scale


def likely_kernel(inputs: Inputs, y: FloatArray, rng: np.random.Generator) -> Kernel:
    """The likeliest of hyper-parameters drawn from a prior, then of some near it.

    A search by draws needs no gradient, cannot diverge, and the prior keeps it sensible with ten rows.

    Args:
        inputs: of the rows.
        y: ``(n,)`` values.
        rng: of the draws.
    """
    mean, scale = _standard(y)
    z = (y - mean) / scale
    best, centre, spread = Kernel(), np.zeros(_PARTS + 3), 1.0
    top = _log_likelihood(best, inputs, z)
    for count in _DRAWN:
        found = centre
        for draw in centre + spread * rng.normal(size=(count, _PARTS + 3)):
            kernel = _kernel(draw)
            likelihood = _log_likelihood(kernel, inputs, z)
            if likelihood > top:
                best, top, found = kernel, likelihood, draw
        centre, spread = found, _NEAR
    return best


def _kernel(draw: FloatArray) -> Kernel:
    """The usual one with each number changed by a factor; variances by more than lengths."""
    usual = Kernel()
    factors = np.exp(draw * np.array([1.2] * _PARTS + [0.5, 0.5, 1.5]))
    variances = tuple(float(v * f) for v, f in zip(usual.variances, factors, strict=False))
    return replace(
        usual,
        variances=variances,
        width=usual.width * float(factors[-3]),
        length=usual.length * float(factors[-2]),
        noise=usual.noise * float(factors[-1]),
    )


def _log_likelihood(kernel: Kernel, inputs: Inputs, z: FloatArray) -> float:
    covariance = kernel.between(inputs, inputs)
    covariance[np.diag_indices_from(covariance)] += kernel.noise + _JITTER
    try:
        factor = cholesky(covariance, lower=True, check_finite=False)
    except LinAlgError:
        return -np.inf
    whitened = solve_triangular(factor, z, lower=True, check_finite=False)
    return float(-0.5 * whitened @ whitened - np.log(np.diag(factor)).sum())


def _falling(apart: FloatArray, rate: float, top: float) -> FloatArray:
    """``top * exp(rate * apart)``, written over what it is given: these matrices are the model's main work."""
    apart *= rate
    np.exp(apart, out=apart)
    apart *= top
    return apart


def _products(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Inner products and squared distances ``(a, b)``."""
    inner = a @ b.T
    return inner, (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * inner


def _standard(y: FloatArray) -> tuple[float, float]:
    return float(y.mean()), max(float(y.std()), 1e-12)
