"""Single blocks of TF-NAS (Hu et al., ECCV 2020), as its `MBInvertedResBlock` runs them."""

from __future__ import annotations

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.sources._graphs_blocks import Network, to_graph
from hardsight.errors import DataError
from hardsight.graph import OperatorGraph


def encode(
    *,
    batch: int,
    resolution: int,
    c_in: int,
    c_mid: int,
    c_se: int,
    c_out: int,
    kernel: int,
    stride: int,
    act: str,
) -> str:
    """One line for a block.

    Args:
        batch: images at a time.
        resolution: side of the input.
        c_in: channels of the input.
        c_mid: between the expansion and the projection; ``c_in`` means that there is no expansion.
        c_se: of the squeeze; 0 means no gate.
        c_out: of the output.
        kernel: of the depthwise convolution.
        stride: of the same.
        act: relu or swish.

    Raises:
        DataError: a width below that of the input, which upstream's code widens to it, or another activation.
    """
    if c_mid < c_in or act not in ("relu", "swish"):
        raise DataError(
            f"a TF-NAS block with {c_mid} middle channels for {c_in} and the activation '{act}' does not exist; "
            "expected at least as many as go in, and relu or swish"
        )
    return f"{batch} {resolution} {c_in} {c_mid} {c_se} {c_out} {kernel} {stride} {act}"


def graph(encoding: str) -> OperatorGraph:
    """The graph of what `encode` gave."""
    return to_graph(describe, encoding)


def describe(net: Network, encoding: str) -> None:
    *numbers, act = encoding.split(" ")
    batch, side, c_in, c_mid, c_se, c_out, kernel, stride = map(int, numbers)
    x = net.input("features", (batch, c_in, side, side))
    net.output(
        net.block(
            _inverted, x, hidden=c_mid, gate=c_se, channels=c_out, kernel=kernel, stride=stride, act=act
        )
    )


def _inverted(
    net: OnnxBuilder, x: str, *, hidden: int, gate: int, channels: int, kernel: int, stride: int, act: str
) -> str:
    y = _act(net, net.conv(x, hidden, 1), act) if hidden > net.channels(x) else x
    y = _act(net, net.conv(y, hidden, kernel, stride=stride, groups=hidden), act)
    if gate:
        squeezed = _act(net, net.conv(net.global_average_pool(y), gate, 1), act)
        y = net.mul(y, net.sigmoid(net.conv(squeezed, hidden, 1)))
    y = net.conv(y, channels, 1)
    return net.add(y, x) if stride == 1 and net.channels(x) == channels else y


def _act(net: OnnxBuilder, x: str, kind: str) -> str:
    return net.relu(x) if kind == "relu" else net.mul(x, net.sigmoid(x))
