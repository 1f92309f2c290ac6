"""Boosted trees as plain arrays: fitted by scikit-learn, answered by numpy, saved without pickled code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from hardsight.prediction import FloatArray

_TREES = 60
_RATE = 0.15
_DEPTH = 4


class Trees(NamedTuple):
    """A sum of ``t`` binary trees of at most ``k`` nodes; a leaf is its own child.

    Args:
        feature: ``(t, k)`` column compared.
        threshold: ``(t, k)``; a value up to it goes left.
        left, right: ``(t, k)`` children.
        value: ``(t, k)`` what a leaf adds.
    """

    feature: npt.NDArray[np.int32]
    threshold: FloatArray
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    value: FloatArray

    @classmethod
    def regression(cls, x: FloatArray, y: FloatArray, seed: int) -> Self:
        """Gradient boosting of the squared error (Friedman 2001)."""
        from sklearn.ensemble import GradientBoostingRegressor

        model = GradientBoostingRegressor(
            init="zero", n_estimators=_TREES, learning_rate=_RATE, max_depth=_DEPTH, random_state=seed
        )
        return cls._of(model.fit(x, y))

    @classmethod
    def classification(cls, x: FloatArray, y: npt.NDArray[np.bool_], seed: int) -> Self:
        """Gradient boosting of the logistic loss; the sum is the logit of ``y``."""
        from sklearn.ensemble import GradientBoostingClassifier

        model = GradientBoostingClassifier(
            init="zero", n_estimators=_TREES, learning_rate=_RATE, max_depth=_DEPTH, random_state=seed
        )
        return cls._of(model.fit(x, y))

    @classmethod
    def _of(cls, model: Any) -> Self:
        grown = [row[0].tree_ for row in model.estimators_]
        shape = (len(grown), max(tree.node_count for tree in grown))
        feature, left, right = (np.zeros(shape, np.int32) for _ in range(3))
        threshold, value = np.zeros(shape), np.zeros(shape)
        for i, tree in enumerate(grown):
            k = tree.node_count
            own = np.arange(k)
            leaf = tree.children_left < 0
            feature[i, :k] = np.where(leaf, 0, tree.feature)
            threshold[i, :k] = tree.threshold
            left[i, :k] = np.where(leaf, own, tree.children_left)
            right[i, :k] = np.where(leaf, own, tree.children_right)
            value[i, :k] = _RATE * tree.value[:, 0, 0]
        return cls(feature, threshold, left, right, value)

    def __call__(self, x: FloatArray) -> FloatArray:
        """The sum ``(n,)`` at ``x (n, f)``."""
        inputs = x.astype(np.float32)  # what scikit-learn compares
        trees = np.arange(len(self.feature))
        at = np.zeros((len(x), len(trees)), dtype=np.int64)
        rows = np.arange(len(x))[:, None]
        for _ in range(_DEPTH):
            goes_left = inputs[rows, self.feature[trees, at]] <= self.threshold[trees, at]
            at = np.where(goes_left, self.left[trees, at], self.right[trees, at])
        total: FloatArray = self.value[trees, at].sum(axis=1)
        return total

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` needs, under names that begin with a prefix."""
        return {f"{prefix}.{name}": array for name, array in self._asdict().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Self:
        """The inverse of `arrays`."""
        return cls(*(arrays[f"{prefix}.{name}"] for name in cls._fields))
