"""Training of one graph network: the devices of one kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch_geometric.utils import scatter

from hardsight.device import MacArray
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Target
from hardsight.predictors.descent import LEAST_SCALE, log_labels, one_cycle
from hardsight.predictors.encoding import ADDED, OF_ARRAY, PRIORS, columns_of, encode_graphs
from hardsight.predictors.features import IntArray
from hardsight.predictors.graphnet import (
    MAX_LOG_RATIO,
    PEAKS,
    GraphNetConfig,
    Weights,
    forward,
    log_limit,
    normalised,
    seen_by,
)
from hardsight.predictors.kernels import Array
from hardsight.predictors.support import learned_support

_START_CONSTANT = 0.3  # of the smallest label
_RIDGE = 0.03
_LEAST_SHARE = 0.01
_ABOVE_LIMIT = 0.9
_HELD = slice(len(ADDED), len(PRIORS))


class CostNet(nn.Module):
    """The network of `graphnet.forward`, trainable.

    Shapes: rows ``(v, f)`` to log ratios ``(v, heads)``; ``smallest`` label of each head ``(heads,)``.
    """

    def __init__(self, features: int, smallest: Array, config: GraphNetConfig) -> None:
        super().__init__()
        d, heads = config.hidden, len(smallest)
        self.enter = nn.Linear(features, d)
        self.middle = nn.ModuleList(nn.Linear(d, d) for _ in range(config.layers))
        self.leave = nn.Linear(d, heads)
        self.constant = nn.Parameter(torch.from_numpy(np.log(_START_CONSTANT * smallest)))
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
        priors: ``(t, len(PRIORS))`` generic costs.
        owner: ``(t,)`` which graph a term belongs to.
        n: number of graphs.
    """

    rows: IntArray
    at: IntArray
    priors: FloatArray
    owner: IntArray
    n: int


class Corpus:
    """Training graphs as distinct rows and sums over them.

    Args:
        graphs: in the order of their numbers.
        arrays: of the devices, see `hardsight.predictors.arrays`.
    """

    def __init__(self, graphs: Sequence[OperatorGraph], arrays: Sequence[MacArray] = ()) -> None:
        encoded = encode_graphs(graphs, arrays)
        table = np.ascontiguousarray(encoded.rows)
        opaque = table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1]))).ravel()
        _, first, inverse = np.unique(opaque, return_index=True, return_inverse=True)
        self.rows: Array = table[first]
        ends = np.searchsorted(encoded.owner, np.arange(encoded.n + 1))
        self.sums: list[tuple[IntArray, FloatArray]] = []
        for start, end in pairwise(ends):
            rows, at = np.unique(inverse.ravel()[start:end], return_inverse=True)
            priors = np.zeros((len(rows), encoded.priors.shape[1]))
            own = encoded.priors[start:end]
            np.add.at(priors, at.ravel(), own)
            priors[:, _HELD] = 0
            np.maximum.at(priors[:, _HELD], at.ravel(), own[:, _HELD])
            self.sums.append((rows, priors))
        self.totals = np.stack([priors.sum(axis=0) for _, priors in self.sums])
        self.totals[:, _HELD] = [priors[:, _HELD].max(axis=0) for _, priors in self.sums]

    def batch(self, chosen: IntArray) -> Minibatch:
        """The graphs of these numbers."""
        sums = [self.sums[g] for g in chosen]
        rows, at = np.unique(np.concatenate([r for r, _ in sums]), return_inverse=True)
        owner = np.repeat(np.arange(len(chosen)), [len(r) for r, _ in sums])
        return Minibatch(rows, at.ravel(), np.concatenate([p for _, p in sums]), owner, len(chosen))


def train(
    table: MeasurementTable,
    heads: list[Target],
    config: GraphNetConfig,
    seed: int,
    arrays: Mapping[str, MacArray],
) -> Weights:
    """Train one member.

    Args:
        table: labels.
        heads: one output each; a graph without a label above zero there is left out of that head's loss.
        config: size and schedule.
        seed: of initial weights, order and dropout.
        arrays: of those devices that have one.

    Returns:
        Arrays by name, with the input normalisation as ``mean`` and ``scale``, the mixture of generic costs as
        ``prior`` ``(len(PRIORS) + len(OF_ARRAY) * len(arrays), heads)``, and what `hardsight.predictors.support`
        learned.
    """
    digests, target = log_labels(table, heads)
    corpus = Corpus(seen_by([table.graphs[d] for d in digests], arrays), list(arrays.values()))
    prior = np.stack(
        [_prior(corpus.totals, target[:, i], head, list(arrays)) for i, head in enumerate(heads)], axis=1
    )
    peaks = np.array([metric in PEAKS for _, metric in heads])
    log_limits = torch.tensor([log_limit(head, arrays) for head in heads], dtype=torch.float32)
    smallest = np.exp(np.nanmin(target, axis=0)).astype(np.float32)
    mean, scale = corpus.rows.mean(axis=0), np.maximum(corpus.rows.std(axis=0), LEAST_SCALE)
    x = torch.from_numpy(normalised(corpus.rows, mean, scale))
    y = torch.from_numpy(target.astype(np.float32))

    hiding = [
        (columns_of("neighbours"), config.surroundings_dropout),
        (columns_of("graph"), config.surroundings_dropout),
        (columns_of("type"), config.type_dropout),
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = CostNet(x.shape[1], smallest, config)
        rng = np.random.default_rng(seed)
        epochs, optimizer, schedule = one_cycle(net, len(digests), config)
        net.train()
        for _ in range(epochs):
            order = rng.permutation(len(digests))
            for start in range(0, len(order), config.batch):
                chosen = order[start : start + config.batch]
                batch = corpus.batch(chosen)
                rows = x[torch.from_numpy(batch.rows)]
                for columns, share in hiding:
                    hidden = torch.from_numpy(rng.random(len(rows)) < share)
                    rows[hidden, columns] = 0
                priors = torch.from_numpy((batch.priors @ prior).astype(np.float32))
                loss = _loss(net, rows, priors, batch, y[chosen], peaks, log_limits)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    weights = {name: value.detach().numpy().astype(np.float32) for name, value in net.state_dict().items()}
    weights |= {"mean": mean, "scale": scale.astype(np.float32), "prior": prior.astype(np.float32)}
    return {**weights, **learned_support(forward(weights, corpus.rows, config.layers)[1], corpus.sums)}


def _prior(totals: FloatArray, log_y: FloatArray, head: Target, on_arrays: Sequence[str]) -> FloatArray:
    """Factors of the generic costs for one head: of those that are of its kind, and of its own device's array.

    Where that array's cycles are asked for, they are the prior by themselves, with a little of the rest.
    """
    device, metric = head
    of = np.arange(len(PRIORS))
    of = of[_HELD] if metric in PEAKS else of[: len(ADDED)]
    if device in on_arrays and metric not in PEAKS:
        end = len(PRIORS) + len(OF_ARRAY) * (on_arrays.index(device) + 1)
        of = np.append(of, np.arange(end - len(OF_ARRAY), end))
    factors = np.zeros(totals.shape[1])
    factors[of] = _mixture(totals[:, of], log_y)
    if device in on_arrays and metric is Metric.CYCLES:
        factors[of] = _inverse(_relative(totals[:, of], log_y).mean(axis=0) / _LEAST_SHARE)
        factors[of[OF_ARRAY.index("reached") - len(OF_ARRAY)]] = 1.0
    return factors


def _inverse(x: FloatArray) -> FloatArray:
    """1 / x; zero for a cost that no graph has."""
    return np.divide(1.0, x, out=np.zeros_like(x), where=x > 0)


def _relative(totals: FloatArray, log_y: FloatArray) -> FloatArray:
    """Generic costs in units of the label, for graphs that have one ``(n, p)``."""
    known = ~np.isnan(log_y)
    scaled: FloatArray = totals[known] / np.exp(log_y[known])[:, None]
    return scaled


def _mixture(totals: FloatArray, log_y: FloatArray) -> FloatArray:
    """Non-negative factors of the generic costs ``(p,)`` whose mixture is nearest to the labels, relatively.

    A little of each cost stays in the mixture, so that no kernel is free.
    """
    from scipy.optimize import nnls

    scaled = _relative(totals, log_y)
    inverse = _inverse(scaled.mean(axis=0))
    rows = np.vstack([scaled * inverse, _RIDGE * len(scaled) ** 0.5 * np.eye(len(inverse))])
    shares, _ = nnls(rows, np.concatenate([np.ones(len(scaled)), np.zeros(len(inverse))]))
    factors: FloatArray = np.maximum(shares, _LEAST_SHARE * shares.sum()) * inverse
    return factors


def _loss(
    net: CostNet,
    rows: torch.Tensor,
    priors: torch.Tensor,
    batch: Minibatch,
    target: torch.Tensor,
    peaks: npt.NDArray[np.bool_],
    log_limits: torch.Tensor,
) -> torch.Tensor:
    costs = priors * net(rows)[torch.from_numpy(batch.at)].exp()
    owner = torch.from_numpy(batch.owner)
    total = scatter(costs, owner, dim=0, dim_size=batch.n, reduce="sum")
    if peaks.any():
        at = torch.from_numpy(np.flatnonzero(peaks))
        total[:, at] = scatter(costs[:, at], owner, dim=0, dim_size=batch.n, reduce="max")
    found = (total + net.constant.exp()).log()
    found = found - _ABOVE_LIMIT * torch.relu(found - log_limits)  # never flat, or nothing would pull it back
    error = found - target
    known = ~target.isnan()
    return nn.functional.smooth_l1_loss(error[known], torch.zeros_like(error[known]), beta=0.05)
