"""A graph network whose per-operator costs add up to the latency. Prediction needs numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor
from hardsight.predictors.features import IntArray, graph_arrays

Array = npt.NDArray[np.float32]
Weights = Mapping[str, Array]
MAX_LOG_RATIO = 4.0
MAX_SIGMA = 4.0


@dataclass(frozen=True)
class GraphNetConfig:
    """Size and training of the network.

    Args:
        hidden: width.
        layers: rounds of message passing.
        members: networks in the ensemble; their disagreement is the doubt.
        epochs: passes over the training graphs.
        batch: graphs per step.
        learning_rate: of AdamW at its peak.
        weight_decay: of AdamW.
        dropout: on hidden units while training.
        type_dropout: share of kernels whose operator type is hidden while training, so that a type never
            seen is priced by its category, shapes and neighbours.
        seed: of the first member.
    """

    hidden: int = 64
    layers: int = 2
    members: int = 3
    epochs: int = 45
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    dropout: float = 0.05
    type_dropout: float = 0.1
    seed: int = 0


class Batch(NamedTuple):
    """Several graphs as one disconnected graph.

    Args:
        nodes: ``(v, f)``.
        edges: ``(2, e)``.
        prior: ``(v,)`` seconds.
        owner: ``(v,)`` which graph a kernel belongs to.
        n: number of graphs.
    """

    nodes: Array
    edges: IntArray
    prior: FloatArray
    owner: IntArray
    n: int


def make_batch(graphs: Sequence[OperatorGraph]) -> Batch:
    """Join graphs for one pass."""
    arrays = [graph_arrays(g) for g in graphs]
    sizes = [len(a.prior) for a in arrays]
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    return Batch(
        np.concatenate([a.nodes for a in arrays]),
        np.concatenate([a.edges + o for a, o in zip(arrays, offsets, strict=True)], axis=1),
        np.concatenate([a.prior for a in arrays]),
        np.repeat(np.arange(len(graphs)), sizes),
        len(graphs),
    )


def normalised(nodes: Array, mean: Array, scale: Array) -> Array:
    """Standardised features, cut off where training has seen nothing: beyond, the prior extrapolates alone."""
    cut: Array = np.clip((nodes - mean) / scale, -MAX_SIGMA, MAX_SIGMA)
    return cut


def neighbour_mean(h: Array, source: IntArray, target: IntArray) -> Array:
    """Mean of ``h[source]`` over the edges into each target ``(v, d)``; zero where there is none."""
    out = np.zeros_like(h)
    if not len(source):
        return out
    order = np.argsort(target, kind="stable")
    ends, starts, counts = np.unique(target[order], return_index=True, return_counts=True)
    out[ends] = np.add.reduceat(h[source[order]], starts, axis=0) / counts[:, None]
    return out


def log_ratios(w: Weights, batch: Batch, layers: int) -> FloatArray:
    """Logarithm of cost over prior for each operator and head ``(v, heads)``: the network's forward pass.

    h₀ = relu(W x + b); hₗ₊₁ = hₗ + relu(R hₗ + P·mean(producers) + C·mean(consumers) + b)
    (GraphSAGE's mean aggregation, Hamilton et al. 2017, once along and once against the edges).
    """
    x = normalised(batch.nodes, w["mean"], w["scale"])
    h = np.maximum(x @ w["enter.weight"].T + w["enter.bias"], 0)
    producer, consumer = batch.edges
    for i in range(layers):
        update = h @ w[f"root.{i}.weight"].T + w[f"root.{i}.bias"]
        update += neighbour_mean(h, producer, consumer) @ w[f"producers.{i}.weight"].T
        update += neighbour_mean(h, consumer, producer) @ w[f"consumers.{i}.weight"].T
        h = h + np.maximum(update, 0)
    ratios = h @ w["leave.weight"].T + w["leave.bias"]
    cut: FloatArray = np.clip(ratios, -MAX_LOG_RATIO, MAX_LOG_RATIO).astype(np.float64)
    return cut


class GraphNetPredictor(Predictor):
    """Additive graph network for latency.

    Every operator costs prior · exp(network), where the prior is a generic roofline; a graph costs
    the sum plus a learned constant per device. So layers sum to the total by construction, costs are
    positive, and a network deeper than any in training extrapolates. All devices share the network
    and differ in its last layer. Trained with PyTorch Geometric on the absolute log error.

    Args:
        config: size and training.
    """

    name = "graphnet"

    def __init__(self, config: GraphNetConfig | None = None) -> None:
        self.config = config or GraphNetConfig()
        self.heads: list[str] = []
        self.members: list[Weights] = []

    @property
    def targets(self) -> list[tuple[str, Metric]]:
        return [(device, Metric.LATENCY) for device in self.heads]

    def fit(self, table: MeasurementTable) -> Self:
        from hardsight.predictors.graphnet_train import train

        latency = table.select(metric=Metric.LATENCY)
        self.heads = latency.devices
        self.members = [
            train(latency, self.heads, self.config, self.config.seed + i) for i in range(self.config.members)
        ]
        return self

    def _log_latency(self, graphs: Sequence[OperatorGraph], device: str) -> FloatArray:
        """``(members, n)``."""
        head = self.heads.index(device)
        batch = make_batch(graphs)
        logs = []
        for w in self.members:
            costs = batch.prior * np.exp(log_ratios(w, batch, self.config.layers)[:, head])
            total = np.bincount(batch.owner, weights=costs, minlength=batch.n)
            logs.append(np.log(total + np.exp(float(w["constant"][head]))))
        return np.stack(logs)

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        value: FloatArray = np.exp(self._log_latency(graphs, device).mean(axis=0))
        return value

    def doubt(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        """Disagreement of the members in log space, with a floor."""
        spread: FloatArray = 0.03 + self._log_latency(graphs, device).std(axis=0)
        return spread

    def layer_costs(self, graph: OperatorGraph, device: str) -> FloatArray:
        """Mean cost over members; the graph's constant is shared out evenly, merged operators cost nothing."""
        head = self.heads.index(device)
        batch = make_batch([graph])
        costs: FloatArray = np.mean(
            [batch.prior * np.exp(log_ratios(w, batch, self.config.layers)[:, head]) for w in self.members],
            axis=0,
        )
        layers = np.zeros(len(graph.operators))
        if not len(costs):
            return layers
        constant = float(np.mean([np.exp(float(w["constant"][head])) for w in self.members])) / len(costs)
        total = float(self.point([graph], device, Metric.LATENCY)[0])
        layers[graph_arrays(graph).kept] = (costs + constant) * (total / float((costs + constant).sum()))
        return layers

    def save_state(self, folder: Path) -> dict[str, Any]:
        from safetensors.numpy import save_file

        for i, w in enumerate(self.members):
            save_file({k: np.ascontiguousarray(v) for k, v in w.items()}, folder / f"member-{i}.safetensors")
        return {"heads": self.heads, "config": asdict(self.config)}

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        from safetensors.numpy import load_file

        made = cls(GraphNetConfig(**meta["config"]))
        made.heads = list(meta["heads"])
        made.members = [load_file(folder / f"member-{i}.safetensors") for i in range(made.config.members)]
        return made
