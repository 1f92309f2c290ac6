"""Scores of an untrained network: what it costs nothing to know. Higher promises more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

Proxy = Callable[[nn.Module, Tensor, Tensor], float]
"""Of a module with its initial weights, a batch of samples ``(b, *input_shape)`` and its labels ``(b,)``."""

_JITTER = 1e-5


def parameters(module: nn.Module, samples: Tensor, labels: Tensor) -> float:
    """Number of trainable weights: the baseline that a proxy has to beat."""
    return float(sum(p.numel() for p in module.parameters()))


def macs(module: nn.Module, samples: Tensor, labels: Tensor) -> float:
    """Multiply-accumulates of one inference: the other baseline."""
    with FlopCounterMode(display=False) as counter, _evaluating(module), torch.no_grad():
        module(samples[:1])
    return float(counter.get_total_flops()) / 2


def grad_norm(module: nn.Module, samples: Tensor, labels: Tensor) -> float:
    """Sum over tensors of the Euclidean norm of the loss's gradient (Abdelfattah et al., ICLR 2021)."""
    return float(sum(g.norm() for _, g in _gradients(module, samples, labels)))


def snip(module: nn.Module, samples: Tensor, labels: Tensor) -> float:
    """Sum of ``|weight · gradient|`` (Lee et al., "SNIP", ICLR 2019)."""
    return float(sum((p * g).abs().sum() for p, g in _gradients(module, samples, labels)))


def synflow(module: nn.Module, samples: Tensor, labels: Tensor) -> float:
    """Logarithm of the sum of ``weight · gradient`` of the summed output, all weights made positive and the input one.

    Tanaka et al., "SynFlow", NeurIPS 2020. Needs no data. In double precision, with the batch normalisation of an
    untrained network, which is the identity.
    """
    held = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    try:
        module.double()
        weights = list(module.parameters())
        with _evaluating(module), torch.enable_grad():
            with torch.no_grad():
                for weight in weights:
                    weight.abs_()
            out = module(torch.ones_like(samples[:1], dtype=torch.double)).sum()
            gradients = torch.autograd.grad(out, weights, allow_unused=True)
        total = sum(
            float((w * g).detach().abs().sum())
            for w, g in zip(weights, gradients, strict=True)
            if g is not None
        )
    finally:
        module.float()
        module.load_state_dict(held)
    return float(torch.tensor(total, dtype=torch.double).clamp_min(1e-300).log())


def naswot(module: nn.Module, samples: Tensor, labels: Tensor) -> float:
    """Log-determinant of how alike the samples' patterns of active ReLUs are.

    Mellor et al., "Neural Architecture Search without Training", ICML 2021. Samples with different patterns lie in
    different linear regions and are told apart more easily.
    """
    with _Patterns() as seen, torch.no_grad(), _training(module):
        module(samples)
    n = len(samples)
    kernel = torch.zeros(n, n, dtype=torch.double)
    for active in seen.found:
        code = active.reshape(n, -1).double()
        kernel += code @ code.T + (1 - code) @ (1 - code).T
    return float(torch.linalg.slogdet(kernel + _JITTER * torch.eye(n, dtype=torch.double)).logabsdet)


def jacob_cov(module: nn.Module, samples: Tensor, labels: Tensor) -> float:
    """How little the outputs' gradients by the samples correlate (Mellor et al., 2020, the first version).

    With eigenvalues ``v`` of their correlation matrix: ``-Σ(log(v + k) + 1 / (v + k))``.
    """
    x = samples.detach().clone().requires_grad_()
    with _training(module), torch.enable_grad():
        # a network without a path from its input has no gradient, and the lowest score
        (gradient,) = torch.autograd.grad(module(x).sum(), x, allow_unused=True, materialize_grads=True)
    values = torch.linalg.eigvalsh(torch.corrcoef(gradient.reshape(len(x), -1).double()).nan_to_num())
    return float(-(torch.log(values + _JITTER) + 1 / (values + _JITTER)).sum())


PROXIES: dict[str, Proxy] = {
    f.__name__: f for f in (parameters, macs, grad_norm, snip, synflow, naswot, jacob_cov)
}


def _gradients(module: nn.Module, samples: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Weights that are multiplied, with the loss's gradient; biases and normalisation are left out."""
    weights = [p for p in module.parameters() if p.ndim > 1]
    with _training(module), torch.enable_grad():
        loss = functional.cross_entropy(module(samples), labels)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return [(w.detach(), g) for w, g in zip(weights, gradients, strict=True) if g is not None]


class _Patterns(TorchFunctionMode):
    """Keeps where each ReLU was active."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (functional.relu, torch.relu, Tensor.relu):
            self.found.append(out > 0)
        return out


@contextmanager
def _training(module: nn.Module) -> Iterator[None]:
    """Batch normalisation by the batch: an untrained one has seen nothing. Its statistics are put back."""
    buffers = {name: tensor.clone() for name, tensor in module.named_buffers()}
    before = module.training
    module.train()
    try:
        yield
    finally:
        module.train(before)
        with torch.no_grad():
            for name, tensor in module.named_buffers():
                tensor.copy_(buffers[name])


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)
