"""What a few-shot method knows, and what it must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray

_ENOUGH = 200  # measured architectures to learn from


@dataclass(frozen=True, eq=False)
class Space:
    """Architectures by their choices, and what they cost on known devices.

    Args:
        codes: ``(n, c)`` which value each architecture has in each column, counted from 0.
        columns: names of the columns; those that choose among the same values for several layers share the part
            before the last underscore: ``op_0``, ``op_1``.
        values: of each column.
        sources: ``(n, m)`` costs on the known devices, above zero; NaN where not measured.
    """

    codes: IntArray
    columns: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    sources: FloatArray

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """What each column chooses: its name without a number behind it."""
        return tuple(name.rstrip("0123456789_") for name in self.columns)

    @cached_property
    def cells(self) -> list[tuple[str, str, int]]:
        """Kind, value and column of every choice there is."""
        return [
            (kind, value, column)
            for column, (kind, values) in enumerate(zip(self.kinds, self.values, strict=True))
            for value in values
        ]

    @cached_property
    def one_hot(self) -> FloatArray:
        """``(n, cells)``: which choices each architecture makes."""
        return np.concatenate(
            [np.eye(len(values))[self.codes[:, i]] for i, values in enumerate(self.values)], axis=1
        )

    @cached_property
    def counts(self) -> FloatArray:
        """``(n, words)``: how often each architecture chooses each value of a kind."""
        words = sorted({(kind, value) for kind, value, _ in self.cells})
        owner = np.array([words.index((kind, value)) for kind, value, _ in self.cells])
        return np.asarray(self.one_hot @ np.eye(len(words))[owner], dtype=np.float64)

    @cached_property
    def filled_sources(self) -> FloatArray:
        """``(n, m)`` costs on the known devices; what was not measured is what the measured of that device tell."""
        filled = self.sources.copy()
        for column in filled.T:
            missing = np.isnan(column)
            if missing.any():
                column[missing] = _expected(self, column)[missing]
        return filled

    @cached_property
    def measured(self) -> IntArray:
        """Architectures that were measured on every known device; all where they are too few to learn from."""
        everywhere = np.flatnonzero(~np.isnan(self.sources).any(axis=1))
        return everywhere if len(everywhere) >= _ENOUGH else np.arange(len(self))

    @cached_property
    def log_sources(self) -> FloatArray:
        """``(n, m)`` logarithms of `filled_sources`."""
        return np.asarray(np.log(self.filled_sources), dtype=np.float64)


def _expected(space: Space, y: FloatArray) -> FloatArray:
    """What each architecture would cost ``(n,)``: choices add up, and trees learn what that leaves.

    Square roots of costs are learned, a compromise between adding up and multiplying.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    root, known = np.sqrt(y), ~np.isnan(y)
    expected = additive(space.one_hot, root)
    if known.sum() >= _ENOUGH:
        trees = HistGradientBoostingRegressor(
            max_iter=100, learning_rate=0.05, early_stopping=True, random_state=0
        )
        trees.fit(space.codes[known], (root - expected)[known])
        expected = expected + trees.predict(space.codes)
    return np.asarray(np.maximum(expected, 0.5 * float(root[known].min())) ** 2, dtype=np.float64)


def additive(one_hot: FloatArray, y: FloatArray, ridge: float = 2.0) -> FloatArray:
    """What each architecture would have if choices added up ``(n,)``, fitted where ``y`` is known.

    Args:
        one_hot: ``(n, cells)``.
        y: ``(n,)``, NaN where unknown.
        ridge: strength.
    """
    centred = one_hot - one_hot.mean(axis=0)
    return np.asarray(y_mean(y) + centred @ additive_weights(centred, y, ridge), dtype=np.float64)


def y_mean(y: FloatArray) -> float:
    """Of what is known."""
    return float(np.nanmean(y))


def additive_weights(centred: FloatArray, y: FloatArray, ridge: float = 2.0) -> FloatArray:
    """Ridge weights ``(cells,)`` of centred choices, fitted where ``y`` is known."""
    known = ~np.isnan(y)
    x = centred[known]
    gram = x.T @ x + ridge * np.eye(x.shape[1])
    return np.asarray(np.linalg.solve(gram, x.T @ (y[known] - y_mean(y))), dtype=np.float64)


class FewShotMethod(ABC):
    """Learns a device from a few measurements."""

    name: str

    def choose(self, space: Space, allowed: IntArray, k: int, rng: np.random.Generator) -> IntArray:
        """Which ``k`` of the ``allowed`` architectures to measure; at random unless a method knows better."""
        return rng.choice(allowed, size=k, replace=False)

    @abstractmethod
    def predict(self, space: Space, chosen: IntArray, y: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Costs of all architectures ``(n,)``.

        Args:
            space: the architectures.
            chosen: ``(k,)`` which were measured.
            y: ``(k,)`` their costs, above zero.
            rng: for methods that draw.
        """
