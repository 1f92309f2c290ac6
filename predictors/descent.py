"""What the trainings of networks share: labels as a matrix, and the schedule of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import torch
from torch import nn

from hardsight.measurement import MeasurementTable
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Target

LEAST_SCALE: Final = 0.02  # of a feature: one that hardly varies must not become a huge input


class Schedule(Protocol):
    """Settings of a training; `hardsight.predictors.graphnet.GraphNetConfig` explains them."""

    @property
    def epochs(self) -> int: ...
    @property
    def least_steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def log_labels(table: MeasurementTable, heads: Sequence[Target]) -> tuple[list[str], FloatArray]:
    """Digests, and the logarithm of their labels ``(n, heads)``; NaN where there is none above zero."""
    labels: dict[str, list[float]] = {}
    for column, (device, metric) in enumerate(heads):
        graphs, values = table.labelled_above_zero(device, metric)
        for graph, value in zip(graphs, values, strict=True):
            labels.setdefault(graph.digest, [float("nan")] * len(heads))[column] = float(np.log(value))
    digests = sorted(labels)
    return digests, np.array([labels[d] for d in digests])


def one_cycle(
    net: nn.Module, graphs: int, config: Schedule
) -> tuple[int, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """How many passes over so many graphs, AdamW, and its learning rate in one cycle over all their batches."""
    per_epoch = -(-graphs // config.batch)
    epochs = max(config.epochs, -(-config.least_steps // per_epoch))
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=epochs * per_epoch, pct_start=0.1
    )
    return epochs, optimizer, schedule
