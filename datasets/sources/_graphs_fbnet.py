"""FBNet's networks (Wu et al., CVPR 2019) as HW-NAS-Bench builds them (Li et al., ICLR 2021; `FBNet_Infer`).

Twenty-two layers choose among eight blocks and a skip. HELP measured the CIFAR-100 form: 32 x 32 pixels, and no
stride in the stem and the second stage. The ImageNet form is here because published totals are of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.sources._graphs_blocks import Network, to_graph
from hardsight.errors import DataError
from hardsight.graph import OperatorGraph

OPERATIONS: Final = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
LAYERS: Final = 22

_BLOCKS = ((3, 1, 1), (3, 1, 2), (3, 3, 1), (3, 6, 1), (5, 1, 1), (5, 1, 2), (5, 3, 1), (5, 6, 1))
"""Kernel, expansion and groups of each operation but the skip."""
_STAGES = ((16, 1), (24, 4), (32, 4), (64, 4), (112, 4), (184, 4), (352, 1))
"""Channels and layers."""


class _Form(NamedTuple):
    side: int
    stem_stride: int
    strides: tuple[int, ...]
    head: int
    classes: int


_FORMS = {
    "cifar100": _Form(32, 1, (1, 1, 2, 2, 1, 2, 1), 1504, 100),
    "imagenet": _Form(224, 2, (1, 2, 2, 2, 1, 2, 1), 1984, 1000),
}


def encode(operations: Sequence[int], *, batch: int = 1, form: str = "cifar100") -> str:
    """One line for the choices of the layers (indices of `OPERATIONS`), the batch and the data set."""
    return f"{','.join(map(str, operations))} batch {batch} form {form}"


def graph(encoding: str) -> OperatorGraph:
    """The graph of what `encode` gave.

    Raises:
        DataError: not 22 choices, or one that does not exist.
    """
    return to_graph(describe, encoding)


def describe(net: Network, encoding: str) -> None:
    listed, _, batch, _, name = encoding.split(" ")
    choices = [int(choice) for choice in listed.split(",")]
    if len(choices) != LAYERS or not all(0 <= choice < len(OPERATIONS) for choice in choices):
        raise DataError(
            f"'{listed}' is no FBNet; expected {LAYERS} numbers from 0 to {len(OPERATIONS) - 1}, one per layer"
        )
    form = _FORMS[name]
    image = net.input("image", (int(batch), 3, form.side, form.side))
    x = net.block(_conv_relu, image, channels=16, kernel=3, stride=form.stem_stride)
    remaining = iter(choices)
    for (channels, layers), stride in zip(_STAGES, form.strides, strict=True):
        for layer in range(layers):
            x = _layer(net, x, channels, stride if layer == 0 else 1, next(remaining))
    x = net.block(_conv_relu, x, channels=form.head, kernel=1, stride=1)
    net.output(net.block(_head, x, classes=form.classes))


def _layer(net: Network, x: str, channels: int, stride: int, choice: int) -> str:
    if choice < len(_BLOCKS):
        kernel, expansion, groups = _BLOCKS[choice]
        return net.block(
            _inverted, x, channels=channels, kernel=kernel, expansion=expansion, groups=groups, stride=stride
        )
    if stride == 1 and net.shape(x)[1] == channels:
        return x
    return net.block(_conv_relu, x, channels=channels, kernel=1, stride=stride)


def _conv_relu(net: OnnxBuilder, x: str, *, channels: int, kernel: int, stride: int) -> str:
    return net.relu(net.conv(x, channels, kernel, stride=stride))


def _inverted(
    net: OnnxBuilder, x: str, *, channels: int, kernel: int, expansion: int, groups: int, stride: int
) -> str:
    hidden = net.channels(x) * expansion
    y = net.relu(net.conv(x, hidden, 1, groups=groups))
    if groups > 1:
        y = _shuffle(net, y, groups)
    y = net.relu(net.conv(y, hidden, kernel, stride=stride, groups=hidden))
    y = net.conv(y, channels, 1, groups=groups)
    return net.add(y, x) if stride == 1 and net.channels(x) == channels else y


def _shuffle(net: OnnxBuilder, x: str, groups: int) -> str:
    n, channels, height, width = net.shape(x)
    y = net.reshape(x, (n, groups, channels // groups, height, width))
    return net.reshape(net.transpose(y, (0, 2, 1, 3, 4)), (n, channels, height, width))


def _head(net: OnnxBuilder, x: str, *, classes: int) -> str:
    return net.linear(net.flatten(net.global_average_pool(x)), classes)
