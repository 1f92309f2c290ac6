"""One learned count of one kind of code: a hurdle at zero, an anchor that the rules give, boosted corrections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._hls4ml_rules import FEATURES, TERMS, Layer, features, rule, terms
from hardsight.predictors._hls4ml_trees import Trees

Candidate = tuple[str, str]
CANDIDATES: tuple[Candidate, ...] = (
    ("rule", "none"),
    ("linear", "none"),
    ("rule", "ratio"),
    ("rule", "difference"),
    ("linear", "ratio"),
    ("linear", "difference"),
)
"""Anchor and correction, simplest first."""

_RIDGE = 1e-5  # on columns of unit norm; only keeps equal columns from fighting
_FOLDS = 4
_MARGIN = 1.02  # a simpler candidate wins when it is this close to the best
_FEW = 3  # fewer zeros or fewer other labels teach no hurdle


class Inputs(NamedTuple):
    """Numbers of ``n`` layers.

    Args:
        terms: ``(n, t)``.
        features: ``(n, f)``.
        rule: ``(n, 2)``; NaN where there is no rule.
    """

    terms: FloatArray
    features: FloatArray
    rule: FloatArray

    @classmethod
    def of(cls, layers: Sequence[Layer], metric: Metric) -> Self:
        """Read them off the layers."""
        none = (np.nan, np.nan)
        return cls(
            np.array([terms(layer) for layer in layers], np.float64).reshape(-1, len(TERMS)),
            # logarithms, so that trees split in the middle of a ratio: between no DSP block and two comes one
            np.log1p(np.array([features(layer) for layer in layers], np.float64).reshape(-1, len(FEATURES))),
            np.array([rule(layer, metric) or none for layer in layers], np.float64).reshape(-1, 2),
        )

    def at(self, rows: npt.NDArray[Any]) -> Self:
        """These rows."""
        return type(self)(*(array[rows] for array in self))


class Head(NamedTuple):
    """``0`` where the hurdle says so, else ``exp(trees) * (anchor + 1) - 1`` or ``anchor + trees``, not below 0.

    The anchor is a rule with a fitted pipeline depth, or a non-negative combination of `TERMS`.

    Args:
        candidate: anchor and correction.
        weights: of the anchor: the depth ``(1,)``, or one per term ``(t,)``.
        zero: logit of "the count is zero"; None without zeros among the labels.
        correction: None without one.
        integer: whether all labels were whole numbers; then answers are.
    """

    candidate: Candidate
    weights: FloatArray
    zero: Trees | None
    correction: Trees | None
    integer: bool

    @classmethod
    def fit(
        cls,
        x: Inputs,
        y: FloatArray,
        families: Sequence[str],
        seed: int,
        candidates: Sequence[Candidate] = CANDIDATES,
    ) -> Self:
        """Choose a candidate on families left out, then fit it to everything; the first if there is one family."""
        allowed = [c for c in candidates if c[0] != "rule" or not np.isnan(x.rule).any()]
        best = 0
        if len(set(families)) > 1:
            unseen = np.zeros((len(allowed), len(y)))
            names = np.array(families)
            for held in family_masks(names, seed):
                for j, head in enumerate(cls._all(allowed, x.at(~held), y[~held], seed)):
                    unseen[j, held] = head(x.at(held))
            error = np.abs(np.log1p(unseen) - np.log1p(y)).mean(axis=1)
            best = int(np.flatnonzero(error <= _MARGIN * error.min() + 1e-9)[0])
        (head,) = cls._all([allowed[best]], x, y, seed)
        return head

    @classmethod
    def _all(cls, candidates: Sequence[Candidate], x: Inputs, y: FloatArray, seed: int) -> Iterator[Self]:
        """Heads of several candidates, which share hurdle and anchors."""
        is_zero = y == 0
        hurdle = min(is_zero.sum(), (~is_zero).sum()) >= _FEW
        zero = Trees.classification(x.features, is_zero, seed) if hurdle else None
        integer = bool((y == np.rint(y)).all())
        if hurdle:
            x, y = x.at(~is_zero), y[~is_zero]
        weights: dict[str, FloatArray] = {}
        for anchor, correction in candidates:
            if anchor not in weights:
                weights[anchor] = _depth(x, y) if anchor == "rule" else _nonnegative(x, y)
            base = _anchor(anchor, weights[anchor], x)
            target = np.log((y + 1) / (base + 1)) if correction == "ratio" else y - base
            needed = correction != "none" and target.any()
            trees = Trees.regression(x.features, target, seed) if needed else None
            yield cls((anchor, correction), weights[anchor], zero, trees, integer)

    def __call__(self, x: Inputs) -> FloatArray:
        """The count ``(n,)``."""
        anchor, correction = self.candidate
        y = _anchor(anchor, self.weights, x)
        if self.correction is not None:
            off = self.correction(x.features)
            y = (y + 1) * np.exp(off) - 1 if correction == "ratio" else y + off
        if self.zero is not None:
            y = np.where(self.zero(x.features) > 0, 0.0, y)
        y = np.maximum(y, 0.0)
        return np.rint(y) if self.integer else y

    def state(self, prefix: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON and arrays, the arrays under names that begin with a prefix."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, trees in (("zero", self.zero), ("correction", self.correction)):
            if trees is not None:
                arrays.update(trees.arrays(f"{prefix}.{name}"))
        meta = {
            "candidate": list(self.candidate),
            "weights": self.weights.tolist(),
            "zero": self.zero is not None,
            "correction": self.correction is not None,
            "integer": self.integer,
        }
        return meta, arrays

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Self:
        """The inverse of `state`."""
        zero, correction = (
            Trees.from_arrays(arrays, f"{prefix}.{name}") if meta[name] else None
            for name in ("zero", "correction")
        )
        anchor, how = meta["candidate"]
        return cls((anchor, how), np.array(meta["weights"]), zero, correction, meta["integer"])


def family_masks(names: npt.NDArray[np.str_], seed: int) -> Iterator[npt.NDArray[np.bool_]]:
    """Masks of the rows left out together; a family is never divided."""
    families = np.unique(names)
    np.random.default_rng(seed).shuffle(families)
    n = min(_FOLDS, len(families))
    for i in range(n):
        yield np.isin(names, families[i::n])


def _anchor(anchor: str, weights: FloatArray, x: Inputs) -> FloatArray:
    if anchor == "linear":
        return x.terms @ weights
    base: FloatArray = np.maximum(x.rule[:, 0] + weights[0] * x.rule[:, 1], 0.0)
    return base


def pipeline_depth(parts: FloatArray, y: FloatArray) -> float:
    """The depth that half of the labels exceed: the median of ``(y - a) / b`` for the rule's parts ``(n, 2)``."""
    known = parts[:, 1] > 0
    return float(np.median((y - parts[:, 0])[known] / parts[known, 1])) if known.any() else 0.0


def _depth(x: Inputs, y: FloatArray) -> FloatArray:
    return np.array([pipeline_depth(x.rule, y)])


def _nonnegative(inputs: Inputs, y: FloatArray) -> FloatArray:
    """Non-negative least squares (Lawson & Hanson 1974) of the relative error, with a trace of ridge."""
    from scipy.optimize import nnls

    x = inputs.terms
    rows = x / (y + 1)[:, None]
    norms = np.linalg.norm(rows, axis=0)
    norms[norms == 0] = np.inf
    scaled = np.vstack([rows / norms, np.sqrt(_RIDGE) * np.eye(x.shape[1])])
    solution, _ = nnls(scaled, np.concatenate([y / (y + 1), np.zeros(x.shape[1])]))
    weights: FloatArray = solution / norms
    return weights
