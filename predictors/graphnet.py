"""A graph network whose per-operator costs add up. Prediction needs numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from hardsight.device import MacArray
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor, Target
from hardsight.predictors.arrays import arrays_of
from hardsight.predictors.blocks import distinct, in_blocks
from hardsight.predictors.encoding import Encoded, encode_graphs
from hardsight.predictors.in_float import in_float
from hardsight.predictors.kernels import Array, kernels
from hardsight.predictors.support import novelty
from hardsight.predictors.ties import Tie, proportional

Weights = Mapping[str, Array]
MAX_LOG_RATIO = 5.0
MAX_SIGMA = 4.0

ADDITIVE: Final = (
    Metric.LATENCY, Metric.CYCLES, Metric.ENERGY, Metric.TRAFFIC, Metric.FLASH, Metric.LOGIC_CELLS, Metric.LUT,
    Metric.FF, Metric.DSP,
)  # fmt: skip
"""Metrics that add up over kernels."""
PEAKS: Final = (Metric.PEAK_MEMORY, Metric.SRAM)
"""Metrics that are as large as they are while the worst kernel runs."""


@dataclass(frozen=True)
class GraphNetConfig:
    """Size and training of the network.

    Args:
        hidden: width.
        layers: residual layers after the first.
        members: networks in the ensemble; their disagreement is the doubt.
        epochs: passes over the training graphs.
        least_steps: more passes, until so many batches were seen.
        batch: graphs per step.
        learning_rate: of AdamW at its peak.
        weight_decay: of AdamW.
        dropout: on hidden units while training.
        type_dropout: share of kernels whose operator type is hidden while training, so that a type never
            seen is priced by its category, shapes and neighbours.
        surroundings_dropout: share of kernels whose neighbours are hidden while training, and of those whose graph's
            totals are: what surrounds a kernel in a family seen must not explain too much of its cost.
        seed: of the first member.
    """

    hidden: int = 128
    layers: int = 3
    members: int = 3
    epochs: int = 40
    least_steps: int = 1000
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    dropout: float = 0.05
    type_dropout: float = 0.1
    surroundings_dropout: float = 0.15
    seed: int = 0


def normalised(rows: Array, mean: Array, scale: Array) -> Array:
    """Standardised features, cut off where training has seen nothing: beyond, the prior extrapolates alone."""
    cut: Array = rows - mean
    cut /= scale
    np.maximum(cut, -MAX_SIGMA, out=cut)
    return np.minimum(cut, MAX_SIGMA, out=cut)


def forward(w: Weights, rows: Array, layers: int) -> tuple[FloatArray, Array]:
    """`forward_all` of one network: ``(v, heads)`` and ``(v, hidden)``."""
    ratios, hidden = forward_all([w], rows, layers)
    return ratios[0], hidden


def forward_all(members: Sequence[Weights], rows: Array, layers: int) -> tuple[list[FloatArray], Array]:
    """Logarithm of cost over prior for each kernel and head, of each member ``(v, heads)``.

    h₀ = relu(W x + b); hₗ₊₁ = hₗ + relu(Wₗ hₗ + bₗ). Neighbours are in x (see `hardsight.predictors.encoding`).

    Args:
        members: networks that learned from the same rows, so that these are standardised once.
        rows: ``(v, f)``.
        layers: residual layers.

    Returns:
        That, and the last hidden layer of the first member ``(v, hidden)``.
    """
    first = members[0]

    def all_of(x: Array) -> Array:
        x = normalised(x, first["mean"], first["scale"])
        hidden = [_hidden(w, x, layers) for w in members]
        leaves = [h @ w["leave.weight"].T + w["leave.bias"] for w, h in zip(members, hidden, strict=True)]
        return np.concatenate([*leaves, hidden[0]], axis=-1)

    heads = len(first["leave.bias"])
    found = in_blocks(all_of, rows)
    ratios = np.clip(found[:, : heads * len(members)], -MAX_LOG_RATIO, MAX_LOG_RATIO).astype(np.float64)
    return np.split(ratios, len(members), axis=1), found[:, heads * len(members) :]


def _hidden(w: Weights, x: Array, layers: int) -> Array:
    h = _relu(x @ w["enter.weight"].T, w["enter.bias"])
    for i in range(layers):
        h += _relu(h @ w[f"middle.{i}.weight"].T, w[f"middle.{i}.bias"])
    return h


def _laid_out(w: Weights) -> Weights:
    """In Fortran's order, so that transposed weights, by which rows are multiplied, lie as the product wants them.

    Of fresh weights as of saved ones: the last bit of a product may depend on it.
    """
    return {name: np.asfortranarray(array) for name, array in w.items()}


def _relu(x: Array, bias: Array) -> Array:
    """relu(x + bias), in the place of ``x``."""
    x += bias
    return np.maximum(x, 0, out=x)


def seen_by(graphs: Sequence[OperatorGraph], arrays: Mapping[str, MacArray]) -> Sequence[OperatorGraph]:
    """The graphs as devices take them: those with an array bring every network to numbers of their own."""
    return [in_float(graph).graph for graph in graphs] if arrays else graphs


def log_limit(target: Target, arrays: Mapping[str, MacArray]) -> float:
    """Logarithm of what the target cannot exceed: the size of a cache, for what is used of it."""
    device, metric = target
    cache = arrays[device].cache_bytes if device in arrays and metric is Metric.SRAM else None
    return float(np.log(cache)) if cache else np.inf


@dataclass
class _Ran:
    """What the members make of some graphs; kept, for value, doubt and novelty are asked in a row.

    Args:
        graphs: ``n`` of them.
        encoded: their kernels.
        ratios: of each member, see `forward`.
        novelty: ``(n,)``, see `hardsight.predictors.support`.
        log_totals: ``(members, n)`` of the targets asked so far.
    """

    graphs: list[OperatorGraph]
    encoded: Encoded
    ratios: list[FloatArray]
    novelty: FloatArray
    log_totals: dict[Target, FloatArray] = field(default_factory=dict)


class GraphNetPredictor(Predictor):
    """Additive graph network for latency, cycles, energy, traffic, flash and logic.

    Every kernel costs prior · exp(network), where the prior is a non-negative mixture of generic costs (`PRIORS`: a
    roofline, MACs, bytes, …), fitted per device and metric, and of a device with an array of multipliers what its
    array needs for the kernel; a graph costs the sum plus a learned constant. So layers
    sum to the total by construction, costs are positive, and a network deeper than any in training extrapolates.
    What a kernel's neighbours are is averaged once, before learning (SIGN, Frasca et al. 2020), so equal kernels in
    equal surroundings are computed once. All devices of the table share the network and differ in its last layer.
    Trained with PyTorch on the absolute log error; labels of zero are left out.

    Args:
        config: size and training.
    """

    name = "graphnet"

    def __init__(self, config: GraphNetConfig | None = None) -> None:
        self.config = config or GraphNetConfig()
        self.heads: list[Target] = []
        self.ties: dict[Target, Tie] = {}
        self.arrays: dict[str, MacArray] = {}
        self.members: list[Weights] = []
        self._last: _Ran | None = None

    @property
    def targets(self) -> list[Target]:
        return [*self.heads, *self.ties]

    def fit(self, table: MeasurementTable) -> Self:
        """Learn every metric in `ADDITIVE` and `PEAKS` that the table has."""
        from hardsight.predictors.graphnet_train import train

        targets = [
            (device, metric)
            for device in table.devices
            for metric in table.select(device=device).metrics
            if metric in (*ADDITIVE, *PEAKS)
        ]
        self.ties = proportional(table, targets)
        self.heads = [target for target in targets if target not in self.ties]
        self.arrays = arrays_of(dict.fromkeys(device for device, _ in self.heads))
        self.members, self._last = [], None
        if self.heads:
            seeds = range(self.config.seed, self.config.seed + self.config.members)
            self.members = [
                _laid_out(train(table, self.heads, self.config, seed, self.arrays)) for seed in seeds
            ]
        return self

    def _run(self, graphs: Sequence[OperatorGraph]) -> _Ran:
        if self._last is not None and self._last.graphs == list(
            graphs
        ):  # graphs are equal where they are the same
            return self._last
        encoded = encode_graphs(seen_by(graphs, self.arrays), list(self.arrays.values()))
        first, which = distinct(encoded.rows)
        ratios, hidden = forward_all(self.members, encoded.rows[first], self.config.layers)
        away = novelty(self.members[0], encoded, hidden, which)
        self._last = _Ran(list(graphs), encoded, [of[which] for of in ratios], away)
        return self._last

    def _costs(self, ran: _Ran, target: Target) -> tuple[FloatArray, FloatArray]:
        """Of each kernel ``(members, v)``, and the constant of each member ``(members,)``."""
        to, factor = self.ties.get(target, Tie(target, 1.0))
        column = self.heads.index(to)
        costs, constants = [], []
        for w, ratios in zip(self.members, ran.ratios, strict=True):
            prior = ran.encoded.priors @ w["prior"][:, column].astype(np.float64)
            costs.append(factor * prior * np.exp(ratios[:, column]))
            constants.append(factor * float(np.exp(w["constant"][column])))
        return np.stack(costs), np.array(constants)

    def _log_totals(self, graphs: Sequence[OperatorGraph], target: Target) -> FloatArray:
        """``(members, n)``."""
        ran = self._run(graphs)
        if target not in ran.log_totals:
            costs, constants = self._costs(ran, target)
            n, owner = ran.encoded.n, ran.encoded.owner
            if target[1] in PEAKS:
                totals = np.zeros((len(costs), n))
                for total, cost in zip(totals, costs, strict=True):
                    np.maximum.at(total, owner, cost)
            else:
                totals = np.stack([np.bincount(owner, weights=cost, minlength=n) for cost in costs])
            limit = log_limit(target, self.arrays)
            ran.log_totals[target] = np.minimum(np.log(totals + constants[:, None]), limit)
        return ran.log_totals[target]

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        value: FloatArray = np.exp(self._log_totals(graphs, (device, metric)).mean(axis=0))
        return np.rint(value) if metric.integer else value

    def member_points(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        value: FloatArray = np.exp(self._log_totals(graphs, (device, metric)))
        return np.rint(value) if metric.integer else value

    def doubt(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        """Disagreement of the members in log space, with a floor."""
        spread: FloatArray = 0.03 + self._log_totals(graphs, (device, metric)).std(axis=0)
        return spread

    def limit(self, device: str, metric: Metric) -> float:
        """See `log_limit`."""
        return float(np.exp(log_limit((device, metric), self.arrays)))

    def novelty(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        """Distance of a graph's kernels from those of training; see `hardsight.predictors.support`."""
        return self._run(graphs).novelty

    def layer_costs(self, graph: OperatorGraph, device: str, metric: Metric = Metric.LATENCY) -> FloatArray:
        """Mean cost over members; the graph's constant is shared out evenly, merged operators cost nothing."""
        if metric in PEAKS:
            return super().layer_costs(graph, device, metric)
        costs, constants = self._costs(self._run([graph]), (device, metric))
        layers = np.zeros(len(graph.operators))
        if costs.shape[1]:
            shares = costs.mean(axis=0) + constants.mean() / costs.shape[1]
            total = float(self.point([graph], device, metric)[0])
            seen, kept = in_float(graph) if self.arrays else (graph, range(len(layers)))
            layers[np.array(kept)[kernels(seen).kept]] = shares * (total / float(shares.sum()))
        return layers

    def save_state(self, folder: Path) -> dict[str, Any]:
        from safetensors.numpy import save_file

        for i, w in enumerate(self.members):
            save_file({k: np.ascontiguousarray(v) for k, v in w.items()}, folder / f"member-{i}.safetensors")
        ties = [[*map(str, target), *map(str, tie.to), tie.factor] for target, tie in self.ties.items()]
        heads = [[device, str(metric)] for device, metric in self.heads]
        arrays = {device: array.model_dump() for device, array in self.arrays.items()}
        return {"heads": heads, "ties": ties, "arrays": arrays, "config": asdict(self.config)}

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        from safetensors.numpy import load_file

        made = cls(GraphNetConfig(**meta["config"]))
        made.heads = [(device, Metric(metric)) for device, metric in meta["heads"]]
        made.ties = {
            (device, Metric(metric)): Tie((of, Metric(other)), factor)
            for device, metric, of, other, factor in meta["ties"]
        }
        made.arrays = {
            device: MacArray.model_validate(array) for device, array in meta.get("arrays", {}).items()
        }
        files = [folder / f"member-{i}.safetensors" for i in range(made.config.members)]
        made.members = [_laid_out(load_file(file)) for file in files]
        return made
