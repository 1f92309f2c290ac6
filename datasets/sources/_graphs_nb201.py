"""NAS-Bench-201's networks (Dong and Yang, ICLR 2020), every edge of the cell as written.

Three stages of five cells with 16, 32 and 64 channels, two residual blocks that halve the image between them.
A ``none`` edge multiplies by zero, as upstream's `Zero` does, and branches that lead nowhere are computed: that
is what the PyTorch measurements of published tables timed, and what makes the 15,625 cells different graphs. A
converter such as TFLite's prunes them.
"""

from __future__ import annotations

import re
from typing import Final

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.sources._graphs_blocks import Network, to_graph
from hardsight.errors import DataError
from hardsight.graph import OperatorGraph

OPERATIONS: Final = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")

_CELL = re.compile(
    r"\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|"
)  # edges 01, 02, 12, 03, 13, 23
_KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}


def encode(cell: str, *, batch: int = 1, classes: int = 100, side: int = 32) -> str:
    """One line for a cell in NAS-Bench-201's own notation, with what the measurement adds to it."""
    return f"{cell} batch {batch} classes {classes} side {side}"


def graph(encoding: str) -> OperatorGraph:
    """The graph of what `encode` gave."""
    return to_graph(describe, encoding)


def parse_cell(cell: str) -> tuple[str, ...]:
    """The operations on the edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3.

    Raises:
        DataError: it is no cell of NAS-Bench-201.
    """
    found = _CELL.fullmatch(cell)
    if found is None or any(operation not in OPERATIONS for operation in found.groups()):
        raise DataError(
            f"'{cell}' is no NAS-Bench-201 cell; expected six of {', '.join(OPERATIONS)} "
            "as in |nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
        )
    return found.groups()


def describe(net: Network, encoding: str) -> None:
    cell, *settings = encoding.split(" ")
    batch, classes, side = (int(number) for number in settings[1::2])
    edges = parse_cell(cell)
    x = net.block(_stem, net.input("image", (batch, 3, side, side)))
    for channels in (16, 32, 64):
        if channels > 16:
            x = net.block(_reduction, x, channels=channels)
        for _ in range(5):
            x = _cell(net, x, edges)
    net.output(net.block(_head, x, classes=classes))


def _cell(net: Network, x: str, edges: tuple[str, ...]) -> str:
    first = _edge(net, x, edges[0])
    second = net.block(_add, _edge(net, x, edges[1]), _edge(net, first, edges[2]))
    third = net.block(_add, _edge(net, x, edges[3]), _edge(net, first, edges[4]))
    return net.block(_add, third, _edge(net, second, edges[5]))


def _edge(net: Network, x: str, operation: str) -> str:
    if operation == "skip_connect":
        return x
    if operation == "none":
        return net.block(_zero, x)
    if operation == "avg_pool_3x3":
        return net.block(_pool, x)
    return net.block(_relu_conv, x, kernel=_KERNELS[operation])


def _stem(net: OnnxBuilder, x: str) -> str:
    return net.conv(x, 16, 3)


def _relu_conv(net: OnnxBuilder, x: str, *, kernel: int) -> str:
    return net.conv(net.relu(x), net.channels(x), kernel)


def _zero(net: OnnxBuilder, x: str) -> str:
    return net.scaled(x, 0.0)


def _pool(net: OnnxBuilder, x: str) -> str:
    return net.node("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=0)


def _add(net: OnnxBuilder, a: str, b: str) -> str:
    return net.add(a, b)


def _reduction(net: OnnxBuilder, x: str, *, channels: int) -> str:
    y = net.conv(net.relu(x), channels, 3, stride=2)
    y = net.conv(net.relu(y), channels, 3)
    return net.add(net.conv(net.average_pool(x, 2, stride=2), channels, 1, bias=False), y)


def _head(net: OnnxBuilder, x: str, *, classes: int) -> str:
    x = net.relu(net.batch_norm(x))  # behind a sum, so no convolution can take it in
    return net.linear(net.flatten(net.global_average_pool(x)), classes)
