"""One set of weights for all candidates of a space: each takes a slice of the largest network's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from optuna.distributions import CategoricalChoiceType
from optuna.trial import FixedTrial
from torch import Tensor, nn

from hardsight.candidate import Candidate
from hardsight.errors import StorageError
from hardsight.nas.evaluators._base import written_whole
from hardsight.nas.evaluators.module import NetworkModule
from hardsight.nas.network import Network
from hardsight.nas.spaces import NetworkSpace


class Largest(FixedTrial):
    """A trial of the largest of all numbers, and of the first of all names."""

    def __init__(self) -> None:
        super().__init__({})

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return low + (high - low) // step * step

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return high if step is None else low + (high - low) // step * step

    def suggest_categorical(self, name: str, choices: Sequence[CategoricalChoiceType]) -> Any:
        numbers = [choice for choice in choices if isinstance(choice, int | float)]
        return max(numbers) if len(numbers) == len(choices) else choices[0]


def largest(space: NetworkSpace) -> Candidate:
    """The candidate of which all others should be parts; `SharedWeights.misfit` tells whether they are."""
    return space.suggest(Largest())


class SharedWeights(nn.Module):
    """Parameters of the largest network, by name.

    A candidate's parameter of the same name takes the first channels and the middle of the window (Cai et al.,
    "Once-for-All", ICLR 2020); layers that it does not have are skipped. What depends on the inputs (statistics of
    batch normalisation, scales of activations) is not shared but taken anew for each candidate: with another width
    before it, a layer sees other numbers (Yu et al., "Slimmable Neural Networks", ICLR 2019).

    Args:
        network: the largest.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        module = NetworkModule(network.floating())
        self._held = {name: nn.Parameter(p.detach().clone()) for name, p in module.named_parameters()}
        for i, parameter in enumerate(self._held.values()):
            self.register_parameter(f"p{i}", parameter)

    def misfit(self, network: Network) -> str:
        """Why a candidate is not a part of the largest network; empty where it is."""
        kinds = {layer.name: layer.kind for layer in self.network.layers if layer.has_weights}
        for layer in network.layers:
            if layer.has_weights and kinds.get(layer.name, layer.kind) != layer.kind:
                return f"layer '{layer.name}' is a {layer.kind}, that of the largest network a {kinds[layer.name]}"
        with torch.random.fork_rng(devices=[]):
            module = NetworkModule(network.floating())
        for name, parameter in module.named_parameters():
            if name not in self._held:
                return f"the largest network has no '{name}'"
            whole = self._held[name].shape
            if len(whole) != parameter.ndim or any(
                a > b for a, b in zip(parameter.shape, whole, strict=True)
            ):
                return (
                    f"'{name}' has shape {tuple(parameter.shape)}, that of the largest network {tuple(whole)}"
                )
        return ""

    @torch.no_grad()
    def lend(self, module: NetworkModule) -> NetworkModule:
        """The module, with its parameters set from the shared ones."""
        for name, parameter in module.named_parameters():
            if name in self._held:
                parameter.copy_(self._slice(self._held[name], parameter))
        return module

    @torch.no_grad()
    def take_gradients(self, module: NetworkModule) -> None:
        """Add the module's gradients to those of the shared parameters."""
        for name, parameter in module.named_parameters():
            shared = self._held.get(name)
            if shared is None or parameter.grad is None:
                continue
            if shared.grad is None:
                shared.grad = torch.zeros_like(shared)
            self._slice(shared.grad, parameter).add_(parameter.grad)

    def save(self, path: Path, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        """Write parameters and the optimizer's state after so many epochs, whole or not at all.

        Raises:
            StorageError: disk full or no permission.
        """
        from safetensors.torch import save_file

        tensors = {}
        for name, parameter in self._held.items():
            tensors[name] = parameter.detach().contiguous()
            for key, value in optimizer.state[parameter].items():
                tensors[f"{name}/{key}"] = torch.as_tensor(value).contiguous()
        with written_whole(path, "the supernet") as temporary:
            save_file(tensors, temporary, metadata={"epochs": str(epochs)})

    def load(self, path: Path, optimizer: torch.optim.Optimizer) -> int:
        """Read what `save` wrote; returns the epochs.

        Raises:
            StorageError: a file that is torn or of another space.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as held, torch.no_grad():
                tensors = {key: held.get_tensor(key) for key in held.keys()}  # noqa: SIM118 - no mapping
                epochs = int(held.metadata()["epochs"])
            for name, parameter in self._held.items():
                with torch.no_grad():
                    parameter.copy_(tensors[name])
                state = {k.split("/")[1]: t for k, t in tensors.items() if k.startswith(f"{name}/")}
                optimizer.state[parameter] = state
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise StorageError(
                f"cannot read the supernet from '{path}': {error}; delete the file, then go on with --resume"
            ) from error
        return epochs

    @staticmethod
    def _slice(whole: Tensor, part: Tensor) -> Tensor:
        for axis, size in enumerate(part.shape):
            first = (whole.shape[axis] - size) // 2 if axis >= 2 else 0
            whole = whole.narrow(axis, first, size)
        return whole
