"""A transformer over a graph's kernels, as a baseline: it does not know that costs add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor, Target
from hardsight.predictors.encoding import encode
from hardsight.predictors.kernels import Array, Kernels, kernels

if TYPE_CHECKING:
    from hardsight.predictors.transformer_train import CostTransformer


@dataclass(frozen=True)
class TransformerConfig:
    """Size and training of the network.

    Args:
        width: of a token.
        layers: of the encoder.
        attention_heads: in each layer.
        longest: kernels that are looked at; of a longer graph, as many at even distances.
        epochs: passes over the training graphs.
        least_steps: more passes, until so many batches were seen.
        batch: graphs per step.
        learning_rate: of AdamW at its peak.
        weight_decay: of AdamW.
        dropout: while training.
        seed: of initial weights, order and dropout.
    """

    width: int = 64
    layers: int = 2
    attention_heads: int = 4
    longest: int = 256
    epochs: int = 30
    least_steps: int = 1500
    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1
    seed: int = 0


class TransformerPredictor(Predictor):
    """Transformer encoder that reads a graph's kernels and says what the whole costs.

    The kind of model that wa-hls4ml (Hawks et al., "wa-hls4ml: a benchmark and surrogate models for hls4ml resource and
    latency estimation", 2025) proposes beside a graph network. What differs: a token is a kernel's row of
    `hardsight.predictors.encoding`, not a layer of an hls4ml design with its options of synthesis, and size and
    training are our own, for one CPU core. A learned first token reads the others; of it, one linear layer makes the
    standardised logarithm for every device and metric. Nothing adds up, so a network larger than any in training is
    extrapolated by the network alone, and an operator's part is its share of the roofline.

    The order is that of depth (the longest way from an input), ties by the kernels' numbers, for a file may list
    branches in any order. Graphs are computed one at a time: without padding an answer cannot depend on the batch.

    Args:
        config: size and training.
    """

    name = "transformer"

    def __init__(self, config: TransformerConfig | None = None) -> None:
        self.config = config or TransformerConfig()
        self.heads: list[Target] = []
        self._weights: Mapping[str, Array] = {}
        self._net: CostTransformer | None = None
        self._last: tuple[list[OperatorGraph], FloatArray] | None = None

    @property
    def targets(self) -> list[Target]:
        return self.heads

    def fit(self, table: MeasurementTable) -> Self:
        """Learn every metric the table has; labels of zero are left out."""
        from hardsight.predictors.transformer_train import train

        self.heads = [
            (device, metric)
            for device in table.devices
            for metric in table.select(device=device).metrics
            if len(table.labelled_above_zero(device, metric)[0])
        ]
        self._weights = train(table, self.heads, self.config)
        self._net = self._last = None
        return self

    def _logs(self, graphs: Sequence[OperatorGraph]) -> FloatArray:
        """Logarithms of all costs ``(n, heads)``; kept, for targets are asked in a row."""
        from hardsight.predictors.transformer_train import CostTransformer, run

        kept = self._last
        if kept is not None and kept[0] == list(graphs):  # graphs are equal where they are the same
            return kept[1]
        if self._net is None:
            self._net = CostTransformer.of(self._weights, self.config)
        logs = run(self._net, sequences(graphs, self.config.longest))
        self._last = list(graphs), logs
        return logs

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        value: FloatArray = np.exp(self._logs(graphs)[:, self.heads.index((device, metric))])
        return np.rint(value) if metric.integer else value

    def save_state(self, folder: Path) -> dict[str, Any]:
        from safetensors.numpy import save_file

        save_file(dict(self._weights), folder / "transformer.safetensors")
        return {
            "heads": [[device, str(metric)] for device, metric in self.heads],
            "config": asdict(self.config),
        }

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        from safetensors.numpy import load_file

        made = cls(TransformerConfig(**meta["config"]))
        made.heads = [(device, Metric(metric)) for device, metric in meta["heads"]]
        made._weights = load_file(folder / "transformer.safetensors")
        return made


def sequences(graphs: Sequence[OperatorGraph], longest: int) -> list[Array]:
    """Rows of each graph's kernels in order of depth ``(t, f)``; of more than ``longest``, evenly spaced ones."""
    gathered = [kernels(graph) for graph in graphs]
    encoded = encode(gathered)
    ends = np.searchsorted(encoded.owner, np.arange(encoded.n + 1))
    found = []
    for of, (start, end) in zip(gathered, pairwise(ends), strict=True):
        rows, depth = encoded.rows[start:end], _depth(of)
        order = sorted(range(len(rows)), key=lambda i: (depth[i], rows[i].tobytes()))
        if len(order) > longest:
            order = [order[i] for i in np.linspace(0, len(order) - 1, longest).astype(int)]
        found.append(rows[order])
    return found


def _depth(of: Kernels) -> list[int]:
    """How many kernels come before each on the longest way to it ``(k,)``."""
    depth = [0] * len(of.kept)
    for producer, consumer in of.edges.T.tolist():  # sorted by producer, and producers come first
        depth[consumer] = max(depth[consumer], depth[producer] + 1)
    return depth
