"""Expected hypervolume improvement where one objective is uncertain and the others are known; all minimised.

For a candidate with known costs, improvement is a function of its uncertain value alone: the integral, from that value
up to the reference, of the area that the front leaves free above the candidate's costs. That area is constant between
the front's values, so the expectation is a sum of closed forms. Emmerich, Deutz and Klinkenberg (CEC 2011) and Yang et
al. (2019) give the general one, where all objectives are uncertain; this is its special case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from hardsight.prediction import FloatArray


@dataclass(frozen=True)
class Bend:
    """A scale on which values above ``knee`` are pressed together ``slope`` times, for a model of them.

    Args:
        knee: where it begins.
        slope: at least 1.
    """

    knee: float
    slope: float

    @classmethod
    def of(cls, values: FloatArray) -> Bend:
        """What is worse than the median takes at most twice the room of what is better: it is all bad."""
        best, knee, worst = np.quantile(values, [0, 0.5, 1])
        room = 2 * (knee - best)
        return cls(float(knee), max(1.0, float((worst - knee) / room)) if room > 0 else 1.0)

    def pressed(self, values: FloatArray) -> FloatArray:
        """Values on the scale."""
        above = self.knee + (values - self.knee) / self.slope
        return np.where(values > self.knee, above, values)

    def released(self, pressed: FloatArray) -> FloatArray:
        """Values from the scale."""
        above = self.knee + (pressed - self.knee) * self.slope
        return np.where(pressed > self.knee, above, pressed)


def expected_improvement(
    mean: FloatArray,
    sd: FloatArray,
    costs: FloatArray,
    front: FloatArray,
    reference: Sequence[float],
    bend: Bend,
) -> FloatArray:
    """By how much each candidate is expected to enlarge the hypervolume, ``(n,)``.

    Args:
        mean: ``(n,)`` of the uncertain objective, on the bent scale.
        sd: ``(n,)`` its standard deviation there.
        costs: ``(n, c)`` known objectives; c is 0, 1 or 2.
        front: ``(k, 1 + c)`` non-dominated points, the uncertain objective first.
        reference: ``(1 + c,)`` point up to which volume counts.
        bend: the scale.
    """
    limit = np.asarray(reference, np.float64)
    front = front[(front < limit).all(axis=1)]
    front = front[np.argsort(front[:, 0], kind="stable")]
    ends = [*front[:, 0], limit[0]]
    total = np.zeros(len(mean))
    below = np.zeros(len(mean))
    for i, end in enumerate(ends):
        until = expected_shortfall(float(end), mean, sd, bend)
        total += (until - below) * free_area(costs, front[:i, 1:], limit[1:])
        below = until
    return total


def expected_shortfall(level: float, mean: FloatArray, sd: FloatArray, bend: Bend) -> FloatArray:
    """How far a value is expected to lie below a level, 0 where it is above: ``E[max(0, level - y)]``."""
    if level <= bend.knee:
        return _normal_shortfall(level, mean, sd)
    # the function of the bent value is a sum of two hinges
    outer = _normal_shortfall(float(bend.pressed(np.array(level))), mean, sd)
    return bend.slope * outer + (1 - bend.slope) * _normal_shortfall(bend.knee, mean, sd)


def _normal_shortfall(level: float, mean: FloatArray, sd: FloatArray) -> FloatArray:
    z = (level - mean) / sd
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return np.asarray(sd * (z * ndtr(z) + density), dtype=np.float64)


def free_area(costs: FloatArray, front: FloatArray, limit: FloatArray) -> FloatArray:
    """Length or area ``(n,)`` between each row of costs and the limit that no point of the front dominates."""
    if costs.shape[1] == 0:
        return np.full(len(costs), 0.0 if len(front) else 1.0)
    if costs.shape[1] == 1:
        top = min(float(limit[0]), *front[:, 0]) if len(front) else float(limit[0])
        return np.maximum(0.0, top - costs[:, 0])
    ordered = front[np.argsort(front[:, 0], kind="stable")]
    heights = np.minimum.accumulate(np.append(limit[1], ordered[:, 1]))
    edges = np.clip(np.array([-np.inf, *ordered[:, 0], limit[0]]), costs[:, :1], limit[0])
    widths = np.maximum(0.0, np.diff(edges, axis=1))
    return np.asarray((widths * np.maximum(0.0, heights - costs[:, 1:])).sum(axis=1), dtype=np.float64)
