"""A forest for each kind of kernel, as a baseline: what a network costs is the sum over its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np

from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor, Target
from hardsight.predictors.encoding import PRIORS, encode
from hardsight.predictors.features import CATEGORIES, IntArray
from hardsight.predictors.forest import load_trees, save_trees
from hardsight.predictors.graphnet import ADDITIVE
from hardsight.predictors.kernels import RAW, Array, kernels

_FEWEST = 30  # kernels of a category that are worth a forest of their own
_POOLED = "any"

_LOGIC: Final = (Metric.LOGIC_CELLS, Metric.LUT, Metric.FF, Metric.DSP)
_PRIOR_OF = {Metric.FLASH: "weights", **dict.fromkeys(_LOGIC, "logic")}
"""What a metric is shared out by where that is not roofline time: weights take flash, adders take logic."""

# What a kernel has by its place in a graph only; one that is measured alone has none of it.
_PLACE = frozenset({"consumers", "from_input", "to_output", "live_bytes"})
_OWN = [i for i, name in enumerate(RAW) if name not in _PLACE]


class _Corpus(NamedTuple):
    """Kernels of several graphs.

    Args:
        features: ``(v, f)`` of each kernel by itself.
        priors: ``(v, len(PRIORS))``.
        category: ``(v,)`` index into `CATEGORIES`.
        sizes: ``(n,)`` kernels of each graph.
    """

    features: Array
    priors: FloatArray
    category: IntArray
    sizes: IntArray

    @property
    def owner(self) -> IntArray:
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def of(self, chosen: IntArray) -> _Corpus:
        """The graphs of these numbers, in this order."""
        ends = [0, *np.cumsum(self.sizes)]
        spans = [np.arange(a, b) for a, b in pairwise(ends)]
        at = np.concatenate([spans[g] for g in chosen])
        return _Corpus(self.features[at], self.priors[at], self.category[at], self.sizes[chosen])

    def prior(self, metric: Metric) -> FloatArray:
        """What each kernel would cost by generic constants ``(v,)``, above zero."""
        prior: FloatArray = self.priors[:, PRIORS.index(_PRIOR_OF.get(metric, "time"))]
        return prior + 1 if metric in _PRIOR_OF else prior  # a kernel without weights or adders is not free

    def sums(self, costs: FloatArray) -> FloatArray:
        """Of each graph ``(n,)``."""
        return np.bincount(self.owner, weights=costs, minlength=len(self.sizes)).astype(np.float64)


class KernelForestPredictor(Predictor):
    """One forest per kind of kernel (nn-Meter; Zhang et al., "nn-Meter: towards accurate latency prediction of
    deep-learning model inference on diverse edge devices", MobiSys 2021).

    What differs: nn-Meter finds out what a device fuses, measures those kernels alone and samples more of them where
    it errs most. Here operators are merged by one rule for all devices, and small graphs (`TEACHING`) of one to a few
    kernels take the place of kernels: a graph's label is shared out among its kernels in proportion to a generic prior,
    and a kernel counts the less the more others it was shared with. Forests learn the log ratio of a kernel's share to
    its prior, as trees cannot extrapolate a cost, from the kernel's own numbers; they are extremely randomized ones
    (Geurts et al. 2006), which are a little better here. Where a table has no small graphs, all graphs teach.

    After summing, one factor for each device and metric removes the bias that kernels cost less inside a network than
    alone: the median of label over sum, over the training graphs that are networks. nn-Meter adds up without one, which
    would be clearly worse here.

    Args:
        trees: in each forest.
        seed: of the forests.
    """

    name = "kernel-forest"

    def __init__(self, trees: int = 50, seed: int = 0) -> None:
        self.trees = trees
        self.seed = seed
        self._forests: dict[Target, dict[str, Any]] = {}
        self._factors: dict[Target, float] = {}

    @property
    def targets(self) -> list[Target]:
        return list(self._forests)

    def fit(self, table: MeasurementTable) -> Self:
        """Learn every metric in `ADDITIVE` that the table has; labels of zero are left out."""
        from hardsight.datasets.families import TEACHING

        self._forests, self._factors = {}, {}
        number = {digest: i for i, digest in enumerate(table.digests)}
        corpus = _gather([table.graphs[digest] for digest in number])
        for device in table.devices:
            for metric in table.select(device=device).metrics:
                graphs, y = table.labelled_above_zero(device, metric)
                if metric not in ADDITIVE or not graphs:
                    continue
                at = np.array([number[g.digest] for g in graphs])
                small = np.array([family in TEACHING for family in table.families_of(graphs)])
                taught = small if small.any() else ~small
                self._forests[device, metric] = self._grow(corpus.of(at[taught]), y[taught], metric)
                self._factors[device, metric] = 1.0
                if not small.all():
                    networks = corpus.of(at[~small])
                    sums = networks.sums(self._costs(networks, (device, metric)))
                    self._factors[device, metric] = float(np.exp(np.median(np.log(y[~small] / sums))))
        return self

    def _grow(self, taught: _Corpus, y: FloatArray, metric: Metric) -> dict[str, Any]:
        """Forests by category, and one of all kernels; ``y`` ``(n,)`` are the graphs' labels."""
        from sklearn.ensemble import ExtraTreesRegressor

        # A share over its prior is the graph's label over the sum of its priors.
        ratio = np.log(y / taught.sums(taught.prior(metric)))[taught.owner]
        weight = 1 / taught.sizes[taught.owner]
        grown = {}
        for name in (_POOLED, *CATEGORIES):
            own = np.full(len(ratio), True) if name == _POOLED else taught.category == CATEGORIES.index(name)
            if name == _POOLED or own.sum() >= _FEWEST:
                forest = ExtraTreesRegressor(self.trees, min_samples_leaf=2, random_state=self.seed)
                grown[name] = forest.fit(taught.features[own], ratio[own], weight[own])
        return grown

    def _costs(self, corpus: _Corpus, target: Target) -> FloatArray:
        """Of each kernel ``(v,)``; without the factor while it is not known."""
        forests = self._forests[target]
        ratio = np.zeros(len(corpus.category))
        for category in np.unique(corpus.category):
            own = corpus.category == category
            forest = forests.get(CATEGORIES[category], forests[_POOLED])
            ratio[own] = forest.predict(corpus.features[own])
        costs: FloatArray = self._factors[target] * corpus.prior(target[1]) * np.exp(ratio)
        return costs

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        corpus = _gather(graphs)
        value = np.maximum(corpus.sums(self._costs(corpus, (device, metric))), 1e-12)
        return np.rint(value) if metric.integer else value

    def layer_costs(self, graph: OperatorGraph, device: str, metric: Metric = Metric.LATENCY) -> FloatArray:
        """What the forests say of each kernel; merged operators cost nothing."""
        layers = np.zeros(len(graph.operators))
        costs = self._costs(_gather([graph]), (device, metric))
        if len(costs):
            total = float(self.point([graph], device, metric)[0])  # a count is rounded
            layers[kernels(graph).kept] = costs * (total / float(costs.sum()))
        return layers

    def save_state(self, folder: Path) -> dict[str, Any]:
        for i, forests in enumerate(self._forests.values()):
            save_trees(forests, folder / f"kernel-forest-{i}.skops")
        return {
            "factors": [[device, str(metric), factor] for (device, metric), factor in self._factors.items()]
        }

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        made = cls()
        for i, (device, metric, factor) in enumerate(meta["factors"]):
            target = device, Metric(metric)
            made._forests[target] = load_trees(folder / f"kernel-forest-{i}.skops")
            made._factors[target] = float(factor)
        return made


def _gather(graphs: Sequence[OperatorGraph]) -> _Corpus:
    """Kernels of the graphs: logarithms of their own numbers and ratios, how full tiles are, and the type's number."""
    gathered = [kernels(graph) for graph in graphs]
    encoded = encode(gathered)
    raw = np.concatenate([g.raw for g in gathered])
    c = dict(zip(RAW, raw.T, strict=True))
    moved = c["bytes_in"] + c["bytes_out"] + c["bytes_weights"]
    positions = c["elements"] / np.maximum(c["c_out"], 1)
    numbers = [
        *raw[:, _OWN].T, moved, positions, 1e9 * encoded.priors[:, PRIORS.index("time")],
        c["macs"] / np.maximum(c["elements"], 1), c["macs"] / np.maximum(moved, 1),
    ]  # fmt: skip
    tiled = [c["c_out"] / c["groups"], c["c_in"] / c["groups"], positions, c["width"]]
    features = np.stack(
        [
            *(np.log1p(np.maximum(x, 0)) for x in numbers),
            *(x / (np.ceil(np.maximum(x, 1) / 16) * 16) for x in tiled),
            np.concatenate([g.type for g in gathered]),
        ],
        axis=1,
        dtype=np.float32,
        casting="same_kind",
    )
    sizes = np.array([len(g.kept) for g in gathered], dtype=np.int64)
    return _Corpus(features, encoded.priors, np.concatenate([g.category for g in gathered]), sizes)
