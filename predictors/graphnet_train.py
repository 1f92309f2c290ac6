"""Training of the graph network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch_geometric.utils import scatter

from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors.encoding import encode_graphs
from hardsight.predictors.features import TYPES, IntArray
from hardsight.predictors.graphnet import MAX_LOG_RATIO, GraphNetConfig, Weights, normalised
from hardsight.predictors.kernels import Array

_START_CONSTANT_S = 5e-6
_LEAST_SCALE = 0.02  # of a feature: one that hardly varies must not become a huge input


class CostNet(nn.Module):
    """The network of `graphnet.log_ratios`, trainable.

    Shapes: rows ``(v, f)`` to log ratios ``(v, heads)``.
    """

    def __init__(self, features: int, heads: int, config: GraphNetConfig) -> None:
        super().__init__()
        d = config.hidden
        self.enter = nn.Linear(features, d)
        self.middle = nn.ModuleList(nn.Linear(d, d) for _ in range(config.layers))
        self.leave = nn.Linear(d, heads)
        self.constant = nn.Parameter(torch.full((heads,), float(np.log(_START_CONSTANT_S))))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.enter(x))
        for layer in self.middle:
            h = h + self.dropout(torch.relu(layer(h)))
        ratios: torch.Tensor = self.leave(h)
        return ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


class Minibatch(NamedTuple):
    """Several graphs.

    Args:
        rows: ``(u,)`` distinct rows of the corpus.
        at: ``(t,)`` which of them each term of the sums has.
        prior: ``(t,)`` seconds.
        owner: ``(t,)`` which graph a term belongs to.
        n: number of graphs.
    """

    rows: IntArray
    at: IntArray
    prior: Array
    owner: IntArray
    n: int


class Corpus:
    """Training graphs as distinct rows and sums over them.

    Args:
        graphs: in the order of their numbers.
    """

    def __init__(self, graphs: Sequence[OperatorGraph]) -> None:
        encoded = encode_graphs(graphs)
        table = np.ascontiguousarray(encoded.rows)
        opaque = table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1]))).ravel()
        _, first, inverse = np.unique(opaque, return_index=True, return_inverse=True)
        self.rows: Array = table[first]
        ends = np.searchsorted(encoded.owner, np.arange(encoded.n + 1))
        self._sums: list[tuple[IntArray, Array]] = []
        for start, end in pairwise(ends):
            rows, at = np.unique(inverse.ravel()[start:end], return_inverse=True)
            priors = np.bincount(at.ravel(), weights=encoded.prior[start:end], minlength=len(rows))
            self._sums.append((rows, priors.astype(np.float32)))

    def batch(self, chosen: IntArray) -> Minibatch:
        """The graphs of these numbers."""
        sums = [self._sums[g] for g in chosen]
        rows, at = np.unique(np.concatenate([r for r, _ in sums]), return_inverse=True)
        owner = np.repeat(np.arange(len(chosen)), [len(r) for r, _ in sums])
        return Minibatch(rows, at.ravel(), np.concatenate([p for _, p in sums]), owner, len(chosen))


def train(table: MeasurementTable, heads: list[str], config: GraphNetConfig, seed: int) -> Weights:
    """Train one member.

    Args:
        table: latencies.
        heads: devices, one output each; a graph without a label there is left out of that head's loss.
        config: size and schedule.
        seed: of initial weights, order and dropout.

    Returns:
        Arrays by name, with the input normalisation as ``mean`` and ``scale``.
    """
    labels: dict[str, list[float]] = {}
    for column, device in enumerate(heads):
        graphs, y = table.labelled(device, Metric.LATENCY)
        for graph, value in zip(graphs, y, strict=True):
            labels.setdefault(graph.digest, [float("nan")] * len(heads))[column] = float(np.log(value))
    digests = sorted(labels)
    corpus = Corpus([table.graphs[d] for d in digests])
    target = torch.tensor([labels[d] for d in digests])
    mean, scale = corpus.rows.mean(axis=0), np.maximum(corpus.rows.std(axis=0), _LEAST_SCALE)
    x = torch.from_numpy(normalised(corpus.rows, mean, scale))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = CostNet(x.shape[1], len(heads), config)
        rng = np.random.default_rng(seed)
        steps = config.epochs * -(-len(digests) // config.batch)
        optimizer = torch.optim.AdamW(
            net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, total_steps=steps, pct_start=0.1
        )
        net.train()
        for _ in range(config.epochs):
            order = rng.permutation(len(digests))
            for start in range(0, len(order), config.batch):
                chosen = order[start : start + config.batch]
                batch = corpus.batch(chosen)
                rows = x[torch.from_numpy(batch.rows)]
                hidden = torch.from_numpy(rng.random(len(rows)) < config.type_dropout)
                rows[hidden, -len(TYPES) :] = 0
                loss = _loss(net, rows, batch, target[chosen])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    weights = {name: value.detach().numpy().astype(np.float32) for name, value in net.state_dict().items()}
    return {**weights, "mean": mean, "scale": scale.astype(np.float32)}


def _loss(net: CostNet, rows: torch.Tensor, batch: Minibatch, target: torch.Tensor) -> torch.Tensor:
    ratios = net(rows)[torch.from_numpy(batch.at)]
    costs = torch.from_numpy(batch.prior)[:, None] * ratios.exp()
    owner = torch.from_numpy(batch.owner)
    total = scatter(costs, owner, dim=0, dim_size=batch.n, reduce="sum") + net.constant.exp()
    error = total.log() - target
    known = ~target.isnan()
    return nn.functional.smooth_l1_loss(error[known], torch.zeros_like(error[known]), beta=0.05)
