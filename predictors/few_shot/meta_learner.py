"""The network of MAML, Meta-SGD and HELP, and its inner loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.func import functional_call, grad

Weights = dict[str, torch.Tensor]

_MODULATION = 0.01  # HELP's z_scaling


@dataclass(frozen=True)
class MetaConfig:
    """Size and schedule.

    Args:
        width: of the hidden layers; 100 in HELP.
        most_episodes: steps of the outer loop; 2,000 in HELP.
        costs_per_episode: known costs per step of the outer loop, where that makes fewer steps.
        tasks: devices in a step; 8 in HELP.
        queries: architectures of a device on which its adapted network is judged; 200 in HELP.
        steps: of the inner loop; 2 in HELP.
        inner_rate: learning rate of the inner loop, or where it starts if it is learned.
        meta_rate: highest learning rate of the outer loop.
        seed: of weights and episodes.
    """

    width: int = 64
    most_episodes: int = 700
    costs_per_episode: int = 40
    tasks: int = 8
    queries: int = 50
    steps: int = 2
    inner_rate: float = 1e-2
    meta_rate: float = 1e-3
    seed: int = 0


class Variant(NamedTuple):
    """What sets the three methods apart.

    Args:
        learned_rates: a learning rate for each weight, learned (Meta-SGD), in place of a fixed one (MAML).
        references: architectures whose costs describe a device; 0 without a description.
        modulated: the description changes the first weights of the last layers.
    """

    learned_rates: bool
    references: int = 0
    modulated: bool = False


class Predictor(nn.Module):
    """Two layers on the architecture, two on the device where it is described, three on both, as in HELP's FBNet.

    Args:
        features: of an architecture.
        references: costs that describe a device; 0 without.
        width: of the layers before the two are joined.
    """

    def __init__(self, features: int, references: int, width: int) -> None:
        super().__init__()
        self.architecture = _two_layers(features, width)
        self.device = _two_layers(references, width) if references else None
        joined = 2 * width if references else width
        self.first, self.second = nn.Linear(joined, joined), nn.Linear(joined, joined)
        self.last = nn.Linear(joined, 1)

    def forward(self, x: torch.Tensor, description: torch.Tensor) -> torch.Tensor:
        """Standardised logarithms of the costs ``(n,)``.

        Args:
            x: ``(n, f)`` choices.
            description: ``(references,)`` of the device.
        """
        read: torch.Tensor = self.architecture(x)
        if self.device is not None:
            device = self.device(description).expand(len(x), -1)
            read = torch.cat([read, device], dim=1)
        read = torch.relu(self.second(torch.relu(self.first(read))))
        out: torch.Tensor = self.last(read)
        return out[:, 0]


class MetaLearner(nn.Module):
    """First weights, and how to step from them.

    Args:
        features: of an architecture.
        variant: of the method.
        config: size.
    """

    LAST = ("first", "second", "last")

    def __init__(self, features: int, variant: Variant, config: MetaConfig) -> None:
        super().__init__()
        self.steps = config.steps
        self.net = Predictor(features, variant.references, config.width)
        self.rates = nn.ParameterList(
            nn.Parameter(torch.full_like(weight, config.inner_rate), requires_grad=variant.learned_rates)
            for weight in self.net.parameters()
        )
        self.modulator = _modulator(variant.references, config.width) if variant.modulated else None

    def first_weights(self, description: torch.Tensor) -> Weights:
        """Those of the network; where there is a modulator, the last layers' are scaled and shifted by the device."""
        weights: Weights = dict(self.net.named_parameters())
        if self.modulator is None:
            return weights
        for layer, change in zip(self.LAST, self.modulator(description).view(3, -1), strict=True):
            weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
            weights[f"{layer}.weight"] = weight * (1 + _MODULATION * change[:-1])
            weights[f"{layer}.bias"] = bias + _MODULATION * change[-1]
        return weights

    def adapted(self, x: torch.Tensor, y: torch.Tensor, description: torch.Tensor) -> Weights:
        """Weights after the steps of the inner loop on ``x`` ``(k, f)`` and ``y`` ``(k,)``."""
        weights = self.first_weights(description)
        slope = grad(self.loss)
        for _ in range(self.steps):
            slopes = slope(weights, x, y, description)
            weights = {
                name: weight - rate * slopes[name]
                for (name, weight), rate in zip(weights.items(), self.rates, strict=True)
            }
        return weights

    def loss(
        self, weights: Weights, x: torch.Tensor, y: torch.Tensor, description: torch.Tensor
    ) -> torch.Tensor:
        """Mean squared error."""
        return nn.functional.mse_loss(functional_call(self.net, weights, (x, description)), y)

    def forward(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        description: torch.Tensor,
        x_query: torch.Tensor,
        y_query: torch.Tensor,
    ) -> torch.Tensor:
        """What is lost on the queries of one device after adapting to it."""
        return self.loss(self.adapted(x, y, description), x_query, y_query, description)


def _two_layers(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())


def _modulator(references: int, width: int) -> nn.Sequential:
    """A factor for each input of each of the last three layers, and a shift of its bias."""
    return nn.Sequential(nn.Linear(references, 10), nn.ReLU(), nn.Linear(10, 3 * (2 * width + 1)))
