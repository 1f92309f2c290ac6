"""Pareto fronts and the volume they dominate; every objective is minimised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hardsight.prediction import FloatArray


def non_dominated(points: FloatArray) -> npt.NDArray[np.bool_]:
    """Which of ``(n, m)`` points no other point beats; equal points do not beat each other.

    Example:
        >>> non_dominated(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])).tolist()
        [True, True, False]
    """
    no_worse = (points[:, None] <= points[None]).all(axis=2)
    better = (points[:, None] < points[None]).any(axis=2)
    return np.logical_not((no_worse & better).any(axis=0))


def hypervolume(points: FloatArray, reference: Sequence[float]) -> float:
    """Volume that ``(n, m)`` points dominate, up to the reference point; m is 1, 2 or 3.

    Sweeps the last objective and adds slices (Fonseca, Paquete and López-Ibáñez, CEC 2006, in its plain
    form).
    """
    limit = np.asarray(reference, np.float64)
    inside = points[(points < limit).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    if inside.shape[1] == 1:
        return float(limit[0] - inside.min())
    ordered = inside[np.argsort(inside[:, -1], kind="stable")]
    tops = np.append(ordered[1:, -1], limit[-1])
    return sum(
        float(top - point[-1]) * hypervolume(ordered[: i + 1, :-1], limit[:-1].tolist())
        for i, (point, top) in enumerate(zip(ordered, tops, strict=True))
        if top > point[-1]
    )


def spread(points: FloatArray, count: int) -> list[int]:
    """Indices of at most ``count`` points, the best of each objective, then always the most remote."""
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    chosen = list(dict.fromkeys(int(i) for i in points.argmin(axis=0)))[:count]
    while len(chosen) < min(count, len(points)):
        distance = np.abs(scaled[:, None] - scaled[None, chosen]).max(axis=2).min(axis=1)
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
    return sorted(chosen)
