"""Parameters of an Optuna search space as rows of numbers, and as features of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hardsight.errors import InputError
from hardsight.prediction import FloatArray

_LEVELS = 8  # a number's effect is a line with at most so many bends
_STEP = 0.15  # standard deviation of a number's small change, of its range
_DIGITS = 9  # by which equal rows are told: a storage may round


class Encoding:
    """Rows ``(n, p)`` with a column per parameter, in the order of their names.

    Args:
        space: distributions by parameter.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.space = {name: space[name] for name in sorted(space)}
        self._axes = [_axis(d) for d in self.space.values()]
        kinds: list[BaseDistribution] = []
        for distribution in self.space.values():
            if distribution not in kinds:
                kinds.append(distribution)
        alike = [[i for i, d in enumerate(self.space.values()) if d == kind] for kind in kinds]
        self._groups = [group for group in alike if len(group) > 1]

    def __len__(self) -> int:
        return len(self._axes)

    def row(self, params: Mapping[str, Any]) -> FloatArray:
        """The row of parameters, ``(p,)``."""
        numbers = [axis.encode(params[name]) for name, axis in zip(self.space, self._axes, strict=True)]
        return np.asarray(np.round(np.array(numbers, np.float64), _DIGITS), dtype=np.float64)

    def params(self, row: FloatArray) -> dict[str, Any]:
        """What Optuna is given for a row."""
        return {
            name: axis.decode(float(x)) for name, axis, x in zip(self.space, self._axes, row, strict=True)
        }

    def random(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Independent draws."""
        return self._stack([axis.random(count, rng) for axis in self._axes], count)

    def mutated(self, rows: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Each row with one parameter changed, or sometimes more."""
        chosen = rng.random(rows.shape) < 1 / max(len(self), 1)
        chosen[np.arange(len(rows)), rng.integers(0, len(self), len(rows))] = True
        changed = self._stack([axis.changed(rows[:, i], rng) for i, axis in enumerate(self._axes)], len(rows))
        return np.where(chosen, changed, rows)

    def crossed(self, rows: FloatArray, others: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Each parameter from either parent."""
        return np.where(rng.random(rows.shape) < 0.5, rows, others)

    def features(self, rows: FloatArray) -> FloatArray:
        """Choices ``(n, f)``: two rows' squared distance is the number of parameters by which they differ.

        A category has an indicator per choice. A number has a thermometer, whose linear functions are those
        with bends at its marks; how much it differs counts.
        """
        return np.concatenate([axis.features(rows[:, i]) for i, axis in enumerate(self._axes)], axis=1)

    def counts(self, rows: FloatArray) -> FloatArray:
        """How often each value occurs ``(n, s)``, over parameters that have the same values."""
        summed = [
            np.sum([self._axes[i].features(rows[:, i]) for i in group], axis=0) for group in self._groups
        ]
        return np.concatenate([np.zeros((len(rows), 0)), *summed], axis=1)

    def _stack(self, columns: Sequence[FloatArray], count: int) -> FloatArray:
        if not columns:
            return np.zeros((count, 0))
        return np.asarray(np.round(np.stack(columns, axis=1), _DIGITS), dtype=np.float64)


class _Axis(ABC):
    """A parameter as one number."""

    @abstractmethod
    def encode(self, value: Any) -> float: ...

    @abstractmethod
    def decode(self, number: float) -> Any: ...

    @abstractmethod
    def random(self, count: int, rng: np.random.Generator) -> FloatArray: ...

    @abstractmethod
    def changed(self, numbers: FloatArray, rng: np.random.Generator) -> FloatArray: ...

    @abstractmethod
    def features(self, numbers: FloatArray) -> FloatArray: ...


class _Choice(_Axis):
    """A category, as the index of its choice."""

    def __init__(self, distribution: CategoricalDistribution) -> None:
        self._of = distribution
        self._count = len(distribution.choices)

    def encode(self, value: Any) -> float:
        return float(self._of.to_internal_repr(value))

    def decode(self, number: float) -> Any:
        return self._of.choices[int(number)]

    def random(self, count: int, rng: np.random.Generator) -> FloatArray:
        return rng.integers(0, self._count, count).astype(np.float64)

    def changed(self, numbers: FloatArray, rng: np.random.Generator) -> FloatArray:
        others = rng.integers(1, max(self._count, 2), len(numbers))
        return np.asarray((numbers + others) % self._count, dtype=np.float64)

    def features(self, numbers: FloatArray) -> FloatArray:
        same = numbers[:, None] == np.arange(self._count)
        return np.asarray(same * np.sqrt(0.5), dtype=np.float64)


class _Number(_Axis):
    """An int or a float, as its place in its range: 0 to 1, on a logarithmic scale where it has one."""

    def __init__(self, distribution: IntDistribution | FloatDistribution) -> None:
        self._whole = isinstance(distribution, IntDistribution)
        self._low, self._high = float(distribution.low), float(distribution.high)
        self._log = distribution.log
        self._step = None if distribution.step is None else float(distribution.step)
        # the ends of a grid are as likely as the values between them
        half = 0.0 if self._step is None else self._step / 2
        self._ends = self._scale(np.array([self._low - half, self._high + half]))
        steps = np.inf if self._step is None else (self._high - self._low) / self._step
        self._levels = int(max(1, min(_LEVELS, round(min(steps, _LEVELS)))))

    def encode(self, value: Any) -> float:
        return float(self._place(np.array([float(value)]))[0])

    def decode(self, number: float) -> Any:
        value = float(self._value(np.array([number]))[0])
        return round(value) if self._whole else value

    def random(self, count: int, rng: np.random.Generator) -> FloatArray:
        low, high = self._ends
        return self._on_grid(self._unscale(rng.uniform(low, high, count)))

    def changed(self, numbers: FloatArray, rng: np.random.Generator) -> FloatArray:
        near = self._on_grid(self._value(numbers + rng.normal(0, _STEP, len(numbers))))
        return np.where(rng.random(len(numbers)) < 0.5, near, self.random(len(numbers), rng))

    def features(self, numbers: FloatArray) -> FloatArray:
        filled = numbers[:, None] * self._levels - np.arange(self._levels)
        return np.asarray(np.clip(filled, 0, 1) / np.sqrt(self._levels), dtype=np.float64)

    def _scale(self, values: FloatArray) -> FloatArray:
        return np.log(values) if self._log else values

    def _unscale(self, values: FloatArray) -> FloatArray:
        return np.exp(values) if self._log else values

    def _place(self, values: FloatArray) -> FloatArray:
        low, high = self._scale(np.array([self._low, self._high]))
        return np.asarray((self._scale(values) - low) / max(high - low, 1e-300), dtype=np.float64)

    def _value(self, places: FloatArray) -> FloatArray:
        low, high = self._scale(np.array([self._low, self._high]))
        return self._snapped(self._unscale(low + np.clip(places, 0, 1) * (high - low)))

    def _on_grid(self, values: FloatArray) -> FloatArray:
        return self._place(self._snapped(values))

    def _snapped(self, values: FloatArray) -> FloatArray:
        if self._step is not None:
            values = self._low + np.round((values - self._low) / self._step) * self._step
        return np.clip(values, self._low, self._high)


def _axis(distribution: BaseDistribution) -> _Axis:
    if isinstance(distribution, CategoricalDistribution):
        return _Choice(distribution)
    if isinstance(distribution, IntDistribution | FloatDistribution):
        return _Number(distribution)
    raise InputError(f"{distribution} is no distribution of Optuna's that can be screened")
