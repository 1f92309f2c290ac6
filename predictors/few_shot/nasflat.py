"""NASFLAT: what an operation costs depends on the device, and a new device starts as its likest known one."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot._base import FewShotMethod, Space
from hardsight.predictors.few_shot.scale import as_costs, standardised, usual_sd


@dataclass(frozen=True)
class NasflatConfig:
    """Size and schedule.

    Args:
        embedding: numbers that stand for an operation, its layer or a device.
        width: of the layers.
        epochs: of pre-training.
        most_steps: of it, where that makes fewer epochs; at least one epoch is done.
        batch: architectures in a step, on all known devices.
        rate: highest learning rate of pre-training.
        tuning_steps: on the measurements of a new device.
        tuning_rate: learning rate of them; 0.001 in the paper.
        decay: of weights.
        ranking: share of the pairwise hinge loss; the rest is squared error.
        margin: of the hinge, in deviations.
        seed: of weights and batches.
    """

    embedding: int = 32
    width: int = 96
    epochs: int = 30
    most_steps: int = 600
    batch: int = 256
    rate: float = 3e-3
    tuning_steps: int = 60
    tuning_rate: float = 1e-3
    decay: float = 1e-4
    ranking: float = 0.5
    margin: float = 0.1
    seed: int = 0


CONFIG = NasflatConfig()
_LEAST_STEPS = 20  # a cycle of learning rates needs some


class OperationNet(nn.Module):
    """Operations joined with the device, added up over an architecture, then read.

    Args:
        space: names the choices.
        devices: known ones; one more is kept for the new one.
        config: size.
    """

    word: torch.Tensor
    layer: torch.Tensor

    def __init__(self, space: Space, devices: int, config: NasflatConfig) -> None:
        super().__init__()
        d, w = config.embedding, config.width
        words = sorted({(kind, value) for kind, value, _ in space.cells})
        self.register_buffer("word", torch.tensor([words.index((k, v)) for k, v, _ in space.cells]))
        self.register_buffer("layer", torch.tensor([layer for *_, layer in space.cells]))
        self.operations = nn.Embedding(len(words), d)
        self.layers = nn.Embedding(len(space.columns), d)
        self.devices = nn.Embedding(devices + 1, d)
        self.join = nn.Sequential(nn.Linear(3 * d, w), nn.SiLU(), nn.Linear(w, w))
        self.read = nn.Sequential(nn.LayerNorm(w), nn.Linear(w, w), nn.SiLU(), nn.Linear(w, w), nn.SiLU())
        self.out = nn.Linear(w, 1)

    def forward(self, x: torch.Tensor, devices: torch.Tensor) -> torch.Tensor:
        """Standardised logarithms of the costs ``(m, n)``.

        Args:
            x: ``(n, cells)`` choices.
            devices: ``(m,)`` numbers of devices.
        """
        cells = torch.cat([self.operations(self.word), self.layers(self.layer)], dim=1)
        device = self.devices(devices)[:, None].expand(-1, len(cells), -1)
        joined = self.join(torch.cat([cells.expand(len(devices), -1, -1), device], dim=2))
        added = x @ joined / len(self.layers.weight) ** 0.5
        return self.out(added + self.read(added))[..., 0]  # type: ignore[no-any-return]


def loss(predicted: torch.Tensor, label: torch.Tensor, config: NasflatConfig) -> torch.Tensor:
    """Hinge on all pairs, and squared error, of ``(m, n)``."""
    error = ((predicted - label) ** 2).mean()
    if config.ranking == 0:
        return error
    sign = torch.sign(label[:, :, None] - label[:, None, :])
    hinge = torch.relu(config.margin - sign * (predicted[:, :, None] - predicted[:, None, :]))
    return (1 - config.ranking) * error + config.ranking * (hinge * sign.abs()).mean()


class Trained(NamedTuple):
    """What pre-training leaves: weights by name, the architectures, and the usual deviation."""

    net: OperationNet
    x: torch.Tensor
    usual: float


@lru_cache(maxsize=2)
def pre_trained(space: Space, config: NasflatConfig) -> Trained:
    """The network of a space, trained on its known devices; the same object for the same space."""
    logs = space.log_sources[space.measured]
    n, m = logs.shape
    x = torch.from_numpy(space.one_hot.astype(np.float32))
    label = (logs - logs.mean(axis=0)) / np.maximum(logs.std(axis=0), 1e-6)
    labels = torch.from_numpy(label.T.astype(np.float32))
    rng = np.random.default_rng(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = OperationNet(space, m, config)
        optimizer = torch.optim.AdamW(net.parameters(), lr=config.rate, weight_decay=config.decay)
        per_epoch = -(-n // config.batch)
        epochs = max(min(config.epochs, config.most_steps // per_epoch), -(-_LEAST_STEPS // per_epoch))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.rate, total_steps=epochs * per_epoch, pct_start=0.1
        )
        for _ in range(epochs):
            for rows in torch.split(torch.from_numpy(rng.permutation(n)), config.batch):
                _step(net, optimizer, x[space.measured[rows]], torch.arange(m), labels[:, rows], config)
                schedule.step()
    return Trained(net, x, usual_sd(space))


def _step(
    net: OperationNet,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    devices: torch.Tensor,
    label: torch.Tensor,
    config: NasflatConfig,
) -> None:
    value = loss(net(x, devices), label, config)
    optimizer.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()


class Nasflat(FewShotMethod):
    """A network for all devices with an embedding of each (Akhauri, Abdelfattah, MLSys 2024).

    What an operation adds is computed from it, its layer and the device together. A new device starts with the
    embedding of the known one whose costs have the best rank correlation with the measurements, and the whole network
    is tuned on these.

    What differs from the paper: operations are added up and read by a residual layer (there: a graph network and graph
    attention on the cell); no zero-cost proxies or learned encodings of architectures, and no choice of the
    architectures to measure; all architectures that every known device was measured for (there: several hundred of
    each); half the loss is the paper's hinge on pairs, half squared error (there: the hinge alone, on a sample of
    pairs); with fewer than three measurements, the mean of all embeddings.
    """

    name = "nasflat"

    def predict(self, space: Space, chosen: IntArray, y: FloatArray, rng: np.random.Generator) -> FloatArray:
        trained = pre_trained(space, CONFIG)
        net = deepcopy(trained.net)
        new = torch.tensor([space.log_sources.shape[1]])
        with torch.no_grad():
            net.devices.weight[new] = net.devices.weight[likest(space, chosen, y)].mean(dim=0)
        target = torch.from_numpy(standardised(y, trained.usual).astype(np.float32))[None]
        optimizer = torch.optim.AdamW(net.parameters(), lr=CONFIG.tuning_rate, weight_decay=CONFIG.decay)
        for _ in range(CONFIG.tuning_steps):
            _step(net, optimizer, trained.x[chosen], new, target, CONFIG)
        with torch.inference_mode():
            predicted = net(trained.x, new)[0].double().numpy()
        return as_costs(predicted, chosen, y, trained.usual)


def likest(space: Space, chosen: IntArray, y: FloatArray) -> list[int]:
    """The known device whose costs rank the measured architectures most alike; all of them where ranks say nothing."""
    from scipy.stats import spearmanr

    if len(y) < 3 or np.ptp(y) == 0:
        return list(range(space.log_sources.shape[1]))
    ranks = [
        spearmanr(column, y).statistic if np.ptp(column) else 0.0 for column in space.log_sources[chosen].T
    ]
    return [int(np.argmax(ranks))]
