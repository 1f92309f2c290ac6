"""The network of `hardsight.predictors.transformer` and its training, in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import nn

from hardsight.measurement import MeasurementTable
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Target
from hardsight.predictors.descent import LEAST_SCALE, log_labels, one_cycle
from hardsight.predictors.features import IntArray
from hardsight.predictors.graphnet import normalised
from hardsight.predictors.kernels import Array
from hardsight.predictors.transformer import TransformerConfig, sequences

_CHUNK = 16  # batches that are filled with graphs of similar lengths, so that little is padding


class CostTransformer(nn.Module):
    """Kernels of graphs to logarithms of their costs.

    Args:
        mean: of the features ``(f,)``.
        scale: of the features ``(f,)``.
        target_mean: of the logarithms of the labels ``(heads,)``.
        target_scale: of the same.
        config: size.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    position: torch.Tensor
    target_mean: torch.Tensor
    target_scale: torch.Tensor

    def __init__(
        self, mean: Array, scale: Array, target_mean: Array, target_scale: Array, config: TransformerConfig
    ) -> None:
        super().__init__()
        d = config.width
        named = {"mean": mean, "scale": scale, "target_mean": target_mean, "target_scale": target_scale}
        for name, values in named.items():
            self.register_buffer(name, torch.tensor(values))
        self.register_buffer("position", torch.from_numpy(_positions(config.longest, d)), persistent=False)
        self.enter = nn.Linear(len(mean), d)
        self.first = nn.Parameter(torch.zeros(d))
        layer = nn.TransformerEncoderLayer(
            d, config.attention_heads, 4 * d, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, config.layers, nn.LayerNorm(d), enable_nested_tensor=False
        )
        self.leave = nn.Linear(d, len(target_mean))

    @classmethod
    def of(cls, weights: Mapping[str, Array], config: TransformerConfig) -> Self:
        """The network with weights as `train` gives them."""
        net = cls(weights["mean"], weights["scale"], weights["target_mean"], weights["target_scale"], config)
        net.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
        return net.eval()

    def forward(self, x: torch.Tensor, padded: torch.Tensor | None = None) -> torch.Tensor:
        """Logarithms of the costs ``(n, heads)``.

        Args:
            x: standardised features ``(n, t, f)``.
            padded: ``(n, t)`` True where there is no kernel.
        """
        tokens = self.enter(x) + self.position[: x.shape[1]]
        tokens = torch.cat([self.first.expand(len(x), 1, -1), tokens], dim=1)
        if padded is not None:
            padded = nn.functional.pad(padded, (1, 0), value=False)
        read = self.encoder(tokens, src_key_padding_mask=padded)[:, 0]
        logs: torch.Tensor = self.leave(read) * self.target_scale + self.target_mean
        return logs


def run(net: CostTransformer, rows: Sequence[Array]) -> FloatArray:
    """Logarithms of the costs ``(n, heads)`` of graphs with these kernels ``(t, f)``, one graph at a time."""
    found = np.zeros((len(rows), len(net.target_mean)))
    mean, scale = net.mean.numpy(), net.scale.numpy()
    with torch.inference_mode():
        for i, own in enumerate(rows):
            found[i] = net(torch.from_numpy(normalised(own, mean, scale))[None])[0].double().numpy()
    return found


def train(table: MeasurementTable, heads: Sequence[Target], config: TransformerConfig) -> dict[str, Array]:
    """Train the network with AdamW and one cycle of learning rates on the smooth absolute log error.

    Args:
        table: labels.
        heads: one output each; a graph without a label above zero there is left out of that head's loss.
        config: size and schedule.

    Returns:
        Arrays by name, normalisations among them.
    """
    graphs, y = log_labels(table, heads)
    rows = sequences([table.graphs[digest] for digest in graphs], config.longest)
    every = np.concatenate(rows)
    mean, scale = every.mean(axis=0), np.maximum(every.std(axis=0), LEAST_SCALE)
    tokens = [torch.from_numpy(normalised(own, mean, scale)) for own in rows]
    lengths = np.array([len(own) for own in rows])
    label_scale = np.maximum(np.nanstd(y, axis=0), LEAST_SCALE)
    known, label = torch.from_numpy(~np.isnan(y)), torch.from_numpy(np.nan_to_num(y).astype(np.float32))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        rng = np.random.default_rng(config.seed)
        net = CostTransformer(
            mean, scale, np.nanmean(y, axis=0).astype(np.float32), label_scale.astype(np.float32), config
        )
        epochs, optimizer, schedule = one_cycle(net, len(rows), config)
        net.train()
        for _ in range(epochs):
            for chosen in _batches(lengths, config.batch, rng):
                x = nn.utils.rnn.pad_sequence([tokens[g] for g in chosen], batch_first=True)
                padded = torch.arange(x.shape[1]) >= torch.from_numpy(lengths[chosen])[:, None]
                error = (net(x, padded) - label[chosen])[known[chosen]]
                loss = nn.functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.05)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    return {name: value.detach().numpy().copy() for name, value in net.state_dict().items()}


def _batches(lengths: IntArray, size: int, rng: np.random.Generator) -> list[IntArray]:
    """All graphs once, at random, but with similar lengths in a batch."""
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), _CHUNK * size):
        chunk = order[start : start + _CHUNK * size]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _positions(n: int, width: int) -> Array:
    """Sines and cosines of the position ``(n, width)`` (Vaswani et al. 2017)."""
    angle = np.arange(n)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
