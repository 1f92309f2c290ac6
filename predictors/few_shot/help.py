"""HELP: a device is described by what a few fixed architectures cost on it."""

from __future__ import annotations

import numpy as np

from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot._base import Space
from hardsight.predictors.few_shot.meta import MetaLearned, nearest, reference_order

_MOST_REFERENCES = 10


class Help(MetaLearned):
    """Meta-SGD on a network that sees a description of the device (Lee, Lee, Chong, Hwang, NeurIPS 2021).

    Half of the measurements, at most ten, are those of reference architectures, which are the same for all devices;
    the inner loop gets the others.

    What differs from the paper and its published code: logarithms of costs, standardised by the measurements of the
    device alone, references among them (there: costs, scaled by the fastest and slowest of 900 architectures, on the
    target too, and references by themselves); choices as one-hot vectors in every space (there: a graph network for
    NAS-Bench-201); all architectures that every known device was measured for, outliers too; references drawn once at
    random, not those of the published code; the modulation is the mean, not a draw from a normal distribution, so that
    there is no divergence in the loss; layers of 64, not 100; 50 queries, not 200; an inner rate of 0.01 to start from,
    not 0.001; at most 700 steps of the outer loop at a rate of 0.001 in one cycle (there: 2,000 at 0.0001), gradients
    clipped, and no selection on validation devices. The network is trained for as many references and measurements as
    there are.
    """

    name = "help"
    learned_rates = True

    def choose(self, space: Space, allowed: IntArray, k: int, rng: np.random.Generator) -> IntArray:
        """The references, or what costs most like them where they are not allowed, and others at random."""
        wanted = reference_order(space)[: self.references(k)]
        references = allowed[nearest(space, wanted, allowed)]
        others = rng.choice(np.setdiff1d(allowed, references), size=k - len(references), replace=False)
        return np.concatenate([references, others])

    def references(self, k: int) -> int:
        return min(_MOST_REFERENCES, k // 2)
