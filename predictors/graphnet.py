"""A graph network whose per-operator costs add up to the latency. Prediction needs numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor
from hardsight.predictors.encoding import encode_graphs
from hardsight.predictors.kernels import Array, kernels

Weights = Mapping[str, Array]
MAX_LOG_RATIO = 5.0
MAX_SIGMA = 4.0
BLOCK = 128


@dataclass(frozen=True)
class GraphNetConfig:
    """Size and training of the network.

    Args:
        hidden: width.
        layers: residual layers after the first.
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

    hidden: int = 128
    layers: int = 3
    members: int = 3
    epochs: int = 40
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    dropout: float = 0.05
    type_dropout: float = 0.1
    seed: int = 0


def normalised(rows: Array, mean: Array, scale: Array) -> Array:
    """Standardised features, cut off where training has seen nothing: beyond, the prior extrapolates alone."""
    cut: Array = np.clip((rows - mean) / scale, -MAX_SIGMA, MAX_SIGMA)
    return cut


def log_ratios(w: Weights, rows: Array, layers: int) -> FloatArray:
    """Logarithm of cost over prior for each kernel and head ``(v, heads)``: the network's forward pass.

    h₀ = relu(W x + b); hₗ₊₁ = hₗ + relu(Wₗ hₗ + bₗ). Neighbours are in x (see `hardsight.predictors.encoding`).
    Rows are computed in blocks of one size: in a product of another size a row's last bit may differ, and an answer
    must not depend on what else was asked.
    """
    ratios = np.empty((len(rows), len(w["leave.bias"])))
    block = np.zeros((BLOCK, rows.shape[1]), np.float32)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        block[: len(part)] = part
        h = np.maximum(normalised(block, w["mean"], w["scale"]) @ w["enter.weight"].T + w["enter.bias"], 0)
        for i in range(layers):
            h = h + np.maximum(h @ w[f"middle.{i}.weight"].T + w[f"middle.{i}.bias"], 0)
        ratios[start : start + BLOCK] = (h @ w["leave.weight"].T + w["leave.bias"])[: len(part)]
    return np.clip(ratios, -MAX_LOG_RATIO, MAX_LOG_RATIO, out=ratios)


class GraphNetPredictor(Predictor):
    """Additive graph network for latency.

    Every kernel costs prior · exp(network), where the prior is a generic roofline; a graph costs
    the sum plus a learned constant per device. So layers sum to the total by construction, costs are
    positive, and a network deeper than any in training extrapolates. What a kernel's neighbours are is averaged
    once, before learning (SIGN, Frasca et al. 2020), so equal kernels in equal surroundings are computed once.
    All devices share the network and differ in its last layer. Trained with PyTorch on the absolute log error.

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
        encoded = encode_graphs(graphs)
        logs = []
        for w in self.members:
            costs = encoded.prior * np.exp(log_ratios(w, encoded.rows, self.config.layers)[:, head])
            total = np.bincount(encoded.owner, weights=costs, minlength=encoded.n)
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
        encoded = encode_graphs([graph])
        costs: FloatArray = np.mean(
            [
                encoded.prior * np.exp(log_ratios(w, encoded.rows, self.config.layers)[:, head])
                for w in self.members
            ],
            axis=0,
        )
        layers = np.zeros(len(graph.operators))
        if not len(costs):
            return layers
        constant = float(np.mean([np.exp(float(w["constant"][head])) for w in self.members])) / len(costs)
        total = float(self.point([graph], device, Metric.LATENCY)[0])
        layers[kernels(graph).kept] = (costs + constant) * (total / float((costs + constant).sum()))
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
