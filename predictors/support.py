"""How far a graph is from what a network was trained on.

The distance is Mahalanobis' in the network's last hidden layer, where kernels that cost alike for the same reasons lie
together (Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial attacks",
NeurIPS 2018; there per class, here over all kernels). A graph's distance is the mean over its kernels, each counting by
its share of the roofline time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from hardsight.prediction import FloatArray
from hardsight.predictors.blocks import in_blocks
from hardsight.predictors.encoding import PRIORS, Encoded
from hardsight.predictors.features import IntArray
from hardsight.predictors.kernels import Array

_USUAL = 0.99  # share of the training graphs whose novelty is below 1
_SHRINKAGE = 1e-2  # towards a round covariance: hardly used units must not decide
_TIME = PRIORS.index("time")


def learned_support(hidden: Array, graphs: Iterable[tuple[IntArray, FloatArray]]) -> dict[str, Array]:
    """Arrays for `novelty`.

    Args:
        hidden: last hidden layer of the distinct training kernels ``(u, hidden)``.
        graphs: of each training graph, which of these it has, and their generic costs ``(k, len(PRIORS))``.
    """
    covariance = np.cov(hidden.astype(np.float64), rowvar=False)
    round_one = np.eye(len(covariance)) * float(np.trace(covariance)) / len(covariance)
    whiten = np.linalg.inv(np.linalg.cholesky((1 - _SHRINKAGE) * covariance + _SHRINKAGE * round_one))
    support = {
        "support.mean": hidden.mean(axis=0, dtype=np.float64).astype(np.float32),
        "support.whiten": whiten.astype(np.float32),
    }
    distance = _distances(support, hidden)
    own = [np.average(distance[rows], weights=priors[:, _TIME]) for rows, priors in graphs]
    return {**support, "support.limit": np.array([np.quantile(own, _USUAL)], np.float32)}


def novelty(w: Mapping[str, Array], encoded: Encoded, hidden: Array, which: IntArray) -> FloatArray:
    """Distance of each graph from training ``(n,)``, in units of what 99 % of the training graphs stay below.

    Args:
        w: with the arrays of `learned_support`.
        encoded: kernels of the graphs.
        hidden: last hidden layer of the distinct ones ``(u, hidden)``.
        which: of these each kernel is ``(v,)``.
    """
    time = encoded.priors[:, _TIME]
    total = np.bincount(encoded.owner, weights=time, minlength=encoded.n)
    away = np.bincount(encoded.owner, weights=time * _distances(w, hidden)[which], minlength=encoded.n)
    return np.asarray(away / np.maximum(total, 1e-12) / float(w["support.limit"][0]), dtype=np.float64)


def _distances(w: Mapping[str, Array], hidden: Array) -> FloatArray:
    """Of each kernel ``(v,)``; 1 is usual."""
    away = in_blocks(lambda h: (h - w["support.mean"]) @ w["support.whiten"].T, hidden)
    return np.asarray(np.sqrt((away.astype(np.float64) ** 2).mean(axis=1)), dtype=np.float64)
