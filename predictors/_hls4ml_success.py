"""Whether synthesis of a layer succeeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from hardsight.prediction import FloatArray
from hardsight.predictors._hls4ml_rules import Layer, within_unroll_limit


class Success(NamedTuple):
    """How often layers on either side of hls4ml's limit on constant weights were synthesized.

    Trees on the features of `Head` were tried instead and did worse on unseen shapes: few shapes lie near the limit,
    and the failures within it follow no pattern (``experiments/hls4ml/README.md``).

    Args:
        beyond: probability of success beyond the limit.
        within: within it.
    """

    beyond: float
    within: float

    @classmethod
    def fit(cls, layers: Sequence[Layer], succeeded: npt.NDArray[np.bool_]) -> Self:
        """Count successes ``(n,)`` of layers."""
        inside = _inside(layers)
        return cls(_rate(succeeded[~inside]), _rate(succeeded[inside]))

    def __call__(self, layers: Sequence[Layer]) -> FloatArray:
        """Probabilities ``(n,)``."""
        return np.where(_inside(layers), self.within, self.beyond)


def _inside(layers: Sequence[Layer]) -> npt.NDArray[np.bool_]:
    return np.array([within_unroll_limit(layer) for layer in layers], dtype=bool)


def _rate(succeeded: npt.NDArray[np.bool_]) -> float:
    """Share of successes by Laplace's rule: never certain."""
    return float((succeeded.sum() + 1) / (len(succeeded) + 2))
