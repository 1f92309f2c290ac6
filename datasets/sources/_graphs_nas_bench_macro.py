"""NAS-Bench-Macro's networks (Su et al., CVPR 2021): eight MobileNetV2 blocks on CIFAR-10."""

from __future__ import annotations

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.sources._graphs_blocks import Network, to_graph
from hardsight.errors import DataError
from hardsight.graph import OperatorGraph

_CHOICES = {"0": None, "1": (3, 3), "2": (6, 5)}
"""Identity, or expansion and kernel."""
_STAGES = (2, 3, 3)


def graph(encoding: str) -> OperatorGraph:
    """The graph of eight digits: 0 identity, 1 MBConv e3 k3, 2 MBConv e6 k5.

    Raises:
        DataError: it is something else.
    """
    return to_graph(describe, encoding)


def describe(net: Network, encoding: str) -> None:
    if len(encoding) != sum(_STAGES) or not set(encoding) <= _CHOICES.keys():
        raise DataError(f"'{encoding}' is no NAS-Bench-Macro network; expected eight digits from 0 to 2")
    x = net.block(_stem, net.input("image", (1, 3, 32, 32)))
    digits = iter(encoding)
    channels = 32
    for layers in _STAGES:
        channels *= 2
        for layer in range(layers):
            x = _layer(net, x, channels, 2 if layer == 0 else 1, next(digits))
    net.output(net.block(_head, x))


def _layer(net: Network, x: str, channels: int, stride: int, digit: str) -> str:
    choice = _CHOICES[digit]
    if choice is not None:
        expansion, kernel = choice
        return net.block(_inverted, x, channels=channels, expansion=expansion, kernel=kernel, stride=stride)
    return x if stride == 1 else net.block(_shrink, x, channels=channels)


def _stem(net: OnnxBuilder, x: str) -> str:
    return net.relu(net.conv(x, 32, 3))


def _shrink(net: OnnxBuilder, x: str, *, channels: int) -> str:
    return net.conv(x, channels, 1, stride=2)


def _inverted(net: OnnxBuilder, x: str, *, channels: int, expansion: int, kernel: int, stride: int) -> str:
    hidden = net.channels(x) * expansion
    y = net.relu(net.conv(x, hidden, 1))
    y = net.relu(net.conv(y, hidden, kernel, stride=stride, groups=hidden))
    y = net.conv(y, channels, 1)
    return net.add(y, x) if stride == 1 and net.channels(x) == channels else y


def _head(net: OnnxBuilder, x: str) -> str:
    x = net.global_average_pool(net.relu(net.conv(x, 1280, 1)))
    return net.linear(net.flatten(x), 10)
