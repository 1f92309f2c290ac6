"""The integer program: one precision per layer, the least of one quantity within limits on the others."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from hardsight.prediction import FloatArray

MAX_GAP = 1e-3
TIME_LIMIT_S = 10.0

Row = tuple[FloatArray, float, float]  # coefficients, least and largest value


class Pair(NamedTuple):
    """Two layers that meet.

    Args:
        i: a layer.
        j: another.
        saving: quantity to what is saved when both are quantized, beyond what each saves alone: the conversions
            between them. Negative when they are dearer together.
    """

    i: int
    j: int
    saving: Mapping[str, float]


class Program(NamedTuple):
    """What can be chosen and what it costs; ``l`` layers, ``p`` precisions.

    The quantity ``q`` of a choice is ``base[q] + sum_i table[q][i, choice[i]] - sum over pairs of saving[q]``.

    Args:
        table: quantity to ``(l, p)``; NaN where a layer cannot have that precision.
        base: quantity to what the rest of the network adds; 0 when left out.
        pairs: layers that meet.
        quantized: ``(p,)``, False for the precision in which a layer is not converted: pairs save only among others.
    """

    table: Mapping[str, FloatArray]
    base: Mapping[str, float] = {}
    pairs: Sequence[Pair] = ()
    quantized: npt.NDArray[np.bool_] | None = None

    def total(self, quantity: str, choice: Sequence[int]) -> float:
        """A quantity of a choice, as the program counts it."""
        table = self.table[quantity]
        value = self.base.get(quantity, 0.0) + float(table[np.arange(len(table)), list(choice)].sum())
        for pair in self.pairs:
            if self._is_quantized(choice[pair.i]) and self._is_quantized(choice[pair.j]):
                value -= pair.saving.get(quantity, 0.0)
        return value

    def _is_quantized(self, precision: int) -> bool:
        return self.quantized is None or bool(self.quantized[precision])


class Solution(NamedTuple):
    """A choice and how far from the best it may be.

    Args:
        choice: precision of each layer, an index.
        value: of the quantity that was minimised.
        gap: relative distance between ``value`` and the proven bound, as HiGHS reports it.
    """

    choice: tuple[int, ...]
    value: float
    gap: float


def solve(
    program: Program,
    minimise: str,
    limits: Mapping[str, float] | None = None,
    *,
    max_gap: float = MAX_GAP,
    time_limit_s: float = TIME_LIMIT_S,
) -> Solution | None:
    """The choice with the least of one quantity within limits on others, by branch and cut (HiGHS).

    A binary ``x[i, p]`` per layer and precision, one of each layer's is 1. A pair's ``y`` is 1 exactly when both
    its layers are quantized: ``y <= n_i``, ``y <= n_j``, ``y >= n_i + n_j - 1`` with ``n_i`` the sum of a layer's
    quantized ``x``. So ``y`` is whole whenever ``x`` is, and need not be declared so.

    Args:
        program: what can be chosen.
        minimise: a quantity of the program.
        limits: quantity to its largest value, ``base`` included.
        max_gap: to stop at.
        time_limit_s: to stop after, with the best choice found.

    Returns:
        None when no choice keeps the limits (or none was found in time).
    """
    form = _Form(program)
    rows = [*form.structure(), *(form.limit(q, limit) for q, limit in (limits or {}).items())]
    return form.run(form.coefficients(minimise), rows, minimise, max_gap, time_limit_s)


def closest(program: Program, limits: Mapping[str, float], *, time_limit_s: float = TIME_LIMIT_S) -> Solution:
    """The choice whose largest excess over a limit, relative to that limit, is the least (below 0: all are kept)."""
    form = _Form(program, slack=True)
    rows = [*form.structure(), *(form.limit(q, limit) for q, limit in limits.items())]
    objective = np.zeros(form.n)
    objective[-1] = 1.0
    found = form.run(objective, rows, None, MAX_GAP, time_limit_s)
    assert found is not None, "with a slack there is always a choice"
    return found


class _Form:
    """The program as arrays: columns are ``x`` by layer, then ``y`` by pair, then perhaps one slack."""

    def __init__(self, program: Program, slack: bool = False) -> None:
        self._program = program
        first = next(iter(program.table.values()))
        self._layers, self._precisions = first.shape
        self._allowed = np.isfinite(np.stack(list(program.table.values()))).all(axis=0).ravel()
        self._slack = slack
        self._n_x = first.size
        self.n = self._n_x + len(program.pairs) + slack

    def coefficients(self, quantity: str) -> FloatArray:
        row = np.zeros(self.n)
        row[: self._n_x] = np.nan_to_num(self._program.table[quantity].ravel())
        for k, pair in enumerate(self._program.pairs):
            row[self._n_x + k] = -pair.saving.get(quantity, 0.0)
        return row

    def limit(self, quantity: str, limit: float) -> Row:
        row = self.coefficients(quantity)
        scale = max(float(np.abs(row).max()), 1e-300)  # HiGHS compares with absolute tolerances
        room = limit - self._program.base.get(quantity, 0.0)
        if self._slack:
            row[-1] = -max(abs(limit), 1e-300)
        return row / scale, -np.inf, room / scale

    def structure(self) -> list[Row]:
        rows: list[Row] = []
        for i in range(self._layers):
            rows.append((self._of_layer(i, 1.0), 1.0, 1.0))
        for k, pair in enumerate(self._program.pairs):
            y = np.zeros(self.n)
            y[self._n_x + k] = 1.0
            ends = [self._of_layer(i, 1.0, self._program.quantized) for i in (pair.i, pair.j)]
            rows += [(y - end, -np.inf, 0.0) for end in ends]
            rows.append((y - ends[0] - ends[1], -1.0, np.inf))
        return rows

    def _of_layer(self, i: int, value: float, only: npt.NDArray[np.bool_] | None = None) -> FloatArray:
        row = np.zeros(self.n)
        chosen = np.ones(self._precisions, dtype=bool) if only is None else only
        row[i * self._precisions : (i + 1) * self._precisions][chosen] = value
        return row

    def run(
        self,
        objective: FloatArray,
        rows: Sequence[Row],
        minimise: str | None,
        max_gap: float,
        time_limit_s: float,
    ) -> Solution | None:
        kind = np.zeros(self.n)
        kind[: self._n_x] = 1
        low, high = np.zeros(self.n), np.ones(self.n)
        high[: self._n_x] = self._allowed
        if self._slack:
            low[-1], high[-1] = -np.inf, np.inf
        matrix = csr_array(np.stack([row for row, _, _ in rows]))
        scale = 1e3 / max(float(np.abs(objective).max()), 1e-300)  # so that the relative gap is what stops it
        with _silent_stdout():
            answer = milp(
                objective * scale,
                integrality=kind,
                bounds=Bounds(low, high),
                constraints=LinearConstraint(matrix, [r[1] for r in rows], [r[2] for r in rows]),
                options={"mip_rel_gap": max_gap, "time_limit": time_limit_s},
            )
        if answer.x is None:
            return None
        x = answer.x[: self._n_x].reshape(self._layers, self._precisions)
        choice = tuple(int(p) for p in x.argmax(axis=1))
        gap = 0.0 if answer.mip_gap is None else float(answer.mip_gap)
        value = float(answer.x[-1]) if minimise is None else self._program.total(minimise, choice)
        return Solution(choice, value, gap)


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """HiGHS prints lines of debugging ("transformNewIntegerFeasibleSolution"), which no option of it turns off."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed already
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (a descriptor is wanted)
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        with contextlib.suppress(OSError, TypeError, AttributeError):
            ctypes.CDLL(None).fflush(None)  # what C has not written yet
        os.dup2(kept, 1)
        os.close(kept)
