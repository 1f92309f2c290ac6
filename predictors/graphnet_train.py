"""Training of the graph network with PyTorch Geometric."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch_geometric.nn import SAGEConv
from torch_geometric.utils import scatter

from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors.features import NODE_FEATURES, NUMERIC, TYPES
from hardsight.predictors.graphnet import (
    MAX_LOG_RATIO,
    Array,
    Batch,
    GraphNetConfig,
    Weights,
    make_batch,
    normalised,
)

_START_CONSTANT_S = 5e-6


class CostNet(nn.Module):
    """The network of `graphnet.log_ratios`, trainable.

    Shapes: nodes ``(v, f)`` and edges ``(2, e)`` to log ratios ``(v, heads)``.
    """

    def __init__(self, heads: int, config: GraphNetConfig) -> None:
        super().__init__()
        d = config.hidden
        self.enter = nn.Linear(NODE_FEATURES, d)
        self.root = nn.ModuleList(nn.Linear(d, d) for _ in range(config.layers))
        self.producers = nn.ModuleList(
            SAGEConv(d, d, root_weight=False, bias=False) for _ in range(config.layers)
        )
        self.consumers = nn.ModuleList(
            SAGEConv(d, d, root_weight=False, bias=False) for _ in range(config.layers)
        )
        self.leave = nn.Linear(d, heads)
        self.constant = nn.Parameter(torch.full((heads,), float(np.log(_START_CONSTANT_S))))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.enter(x))
        back = edges.flip(0)
        for root, producers, consumers in zip(self.root, self.producers, self.consumers, strict=True):
            update = root(h) + producers(h, edges) + consumers(h, back)
            h = h + self.dropout(torch.relu(update))
        ratios: torch.Tensor = self.leave(h)
        return ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


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
    graphs = [table.graphs[d] for d in digests]
    target = torch.tensor([labels[d] for d in digests])
    nodes = make_batch(graphs).nodes
    mean, scale = nodes.mean(axis=0), nodes.std(axis=0) + 1e-2
    mean[NUMERIC:], scale[NUMERIC:] = (
        0,
        1,
    )  # one-hot columns stay as they are: a rare type must not become a huge input

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = CostNet(len(heads), config)
        rng = np.random.default_rng(seed)
        steps = config.epochs * -(-len(graphs) // config.batch)
        optimizer = torch.optim.AdamW(
            net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, total_steps=steps, pct_start=0.1
        )
        net.train()
        for _ in range(config.epochs):
            order = rng.permutation(len(graphs))
            for start in range(0, len(order), config.batch):
                chosen = order[start : start + config.batch]
                batch = make_batch([graphs[i] for i in chosen])
                x = normalised(batch.nodes, mean, scale)
                x[rng.random(len(x)) < config.type_dropout, -len(TYPES) :] = 0
                loss = _loss(net, x, batch, target[chosen])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    weights = {name: value.detach().numpy().astype(np.float32) for name, value in net.state_dict().items()}
    weights = {name.replace(".lin_l.", "."): value for name, value in weights.items()}
    return {**weights, "mean": mean, "scale": scale}


def _loss(net: CostNet, x: Array, batch: Batch, target: torch.Tensor) -> torch.Tensor:
    ratios = net(torch.from_numpy(x), torch.from_numpy(batch.edges))
    prior = torch.from_numpy(batch.prior).float()
    costs = prior[:, None] * ratios.exp()
    total = (
        scatter(costs, torch.from_numpy(batch.owner), dim=0, dim_size=batch.n, reduce="sum")
        + net.constant.exp()
    )
    error = total.log() - target
    known = ~target.isnan()
    return nn.functional.smooth_l1_loss(error[known], torch.zeros_like(error[known]), beta=0.05)
