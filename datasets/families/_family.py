"""A family of networks: a structure to draw from, and the search for a member of a given size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from hardsight.datasets.families._net import Net, log_uniform

Build = Callable[[Net, np.random.Generator], Net]

MACS_RANGE = (1e6, 3e9)
"""Sizes aimed at, log-uniformly: three and a half orders of magnitude."""
MAX_MACS = 4e9
MAX_WEIGHT_BYTES = 120e6
MAX_TENSOR_ELEMENTS = 2**25

_DRAWS = 8  # structures tried for one target
_STEPS = 5  # widths tried for one structure
_WIDEST = 20.0  # times a family's usual widths
_CLOSE = 0.2  # natural-log distance from the target that is good enough


@dataclass(frozen=True)
class Family:
    """Networks with one idea in common.

    Args:
        name: key in `FAMILIES`.
        citation: of the paper that the idea is from.
        build: fills a `Net` with a structure drawn from the generator; widths come from ``net.ch``.
        macs_range: sizes that the family aims at.
    """

    name: str
    citation: str
    build: Build
    macs_range: tuple[float, float] = MACS_RANGE

    def sample(self, rng: np.random.Generator) -> onnx.ModelProto:
        """A weightless model; its size is log-uniform over ``macs_range``, its structure random.

        Draws a target, then structures, and widens or narrows each until it comes near.
        """
        return self.sample_net(rng).model()

    def sample_net(self, rng: np.random.Generator) -> Net:
        """The builder behind `sample`, which also knows the network's MACs."""
        target = log_uniform(rng, *self.macs_range)
        best: Net | None = None
        best_distance = math.inf
        for _ in range(_DRAWS):
            seed = int(rng.integers(2**62))
            for net in self._approach(seed, target):
                distance = abs(math.log(max(net.macs, 1) / target))
                if distance < best_distance and _within_caps(net):
                    best, best_distance = net, distance
            if best_distance < _CLOSE:
                break
        assert best is not None, f"family '{self.name}' has no member within the caps near {target:.2g} MACs"
        return best

    def _approach(self, seed: int, target: float) -> list[Net]:
        """One structure at several widths, by secant steps on log MACs."""
        size = previous = 1.0
        exponent = 2.0  # MACs grow with the square of widths, until measured
        tried: list[Net] = []
        while len(tried) < _STEPS and size < _WIDEST:
            rng = np.random.default_rng(seed)
            tried.append(self.build(Net(self.name, rng, size), rng))
            gap = math.log(target / max(tried[-1].macs, 1))
            if abs(gap) < _CLOSE:
                break
            if len(tried) > 1:
                moved = math.log(max(tried[-1].macs, 1) / max(tried[-2].macs, 1))
                if abs(moved) < 1e-3:  # widths are at their smallest
                    break
                exponent = min(2.5, max(0.7, moved / math.log(size / previous)))
            previous, size = size, size * math.exp(min(2.0, max(-2.0, gap / exponent)))
        return tried


def _within_caps(net: Net) -> bool:
    return (
        net.macs <= MAX_MACS
        and net.weight_bytes <= MAX_WEIGHT_BYTES
        and net.largest_tensor <= MAX_TENSOR_ELEMENTS
    )
