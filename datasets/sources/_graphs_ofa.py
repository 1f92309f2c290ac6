"""Subnetworks of the once-for-all MobileNetV3 supernet of width 1 (Cai et al., ICLR 2020), as its code runs them.

Five stages of two to four inverted bottlenecks, each with its own kernel and expansion. Hard swish, hard sigmoid
and global pooling are written out as upstream computes them: ``x * relu6(x + 3) / 6`` and a mean per axis.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.sources._graphs_blocks import Network, to_graph
from hardsight.errors import DataError
from hardsight.graph import OperatorGraph

_STAGES = (
    (24, 2, "relu", False),
    (40, 2, "relu", True),
    (80, 2, "h_swish", False),
    (112, 1, "h_swish", True),
    (160, 2, "h_swish", True),
)
"""Channels, stride of the first block, activation, squeeze-and-excitation."""
_PER_STAGE = 4
_CLASSES = 1000


def encode(
    resolution: int,
    depths: Sequence[int],
    kernels: Sequence[int],
    expansions: Sequence[int],
    *,
    batch: int = 1,
) -> str:
    """One line for a subnetwork; entries of blocks that its depths leave out are dropped.

    Args:
        resolution: side of the image.
        depths: blocks of each stage, ``(5,)``.
        kernels: of block ``j`` of stage ``s`` at ``4 s + j``, ``(20,)``.
        expansions: the same.
        batch: images at a time.

    Raises:
        DataError: a list has another length, or a depth is not 1 to 4.
    """
    if len(depths) != len(_STAGES) or not all(1 <= depth <= _PER_STAGE for depth in depths):
        raise DataError(f"depths {list(depths)} are no OFA network; expected five numbers from 1 to 4")
    if not len(kernels) == len(expansions) == len(_STAGES) * _PER_STAGE:
        raise DataError(
            f"{len(kernels)} kernels and {len(expansions)} expansions are no OFA network; expected 20 of each"
        )
    blocks = [
        [[int(kernels[i]), int(expansions[i])] for i in range(_PER_STAGE * stage, _PER_STAGE * stage + depth)]
        for stage, depth in enumerate(depths)
    ]
    return json.dumps({"batch": batch, "side": resolution, "blocks": blocks})


def graph(encoding: str) -> OperatorGraph:
    """The graph of what `encode` gave."""
    return to_graph(describe, encoding)


def describe(net: Network, encoding: str) -> None:
    wanted = json.loads(encoding)
    image = net.input("image", (wanted["batch"], 3, wanted["side"], wanted["side"]))
    x = net.block(_first, image)
    for (channels, stride, act, gated), blocks in zip(_STAGES, wanted["blocks"], strict=True):
        for index, (kernel, expansion) in enumerate(blocks):
            x = net.block(
                _inverted,
                x,
                channels=channels,
                kernel=kernel,
                hidden=divisible(net.shape(x)[1] * expansion),
                stride=stride if index == 0 else 1,
                act=act,
                gated=gated,
            )
    net.output(net.block(_last, x))


def divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``channels``, but not more than a tenth below."""
    near = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return near + divisor if near < 0.9 * channels else near


def _first(net: OnnxBuilder, x: str) -> str:
    x = _act(net, net.conv(x, 16, 3, stride=2), "h_swish")
    y = _act(net, net.conv(x, 16, 3, groups=16), "relu")
    return net.add(net.conv(y, 16, 1), x)


def _inverted(
    net: OnnxBuilder, x: str, *, channels: int, kernel: int, hidden: int, stride: int, act: str, gated: bool
) -> str:
    y = _act(net, net.conv(x, hidden, 1), act)
    y = _act(net, net.conv(y, hidden, kernel, stride=stride, groups=hidden), act)
    if gated:
        y = _gated(net, y)
    y = net.conv(y, channels, 1)
    return net.add(y, x) if stride == 1 and net.channels(x) == channels else y


def _gated(net: OnnxBuilder, x: str) -> str:
    channels = net.channels(x)
    y = net.relu(net.conv(_mean(net, x), divisible(channels // 4), 1))
    return net.mul(x, _sixth(net, _relu6_of_three_more(net, net.conv(y, channels, 1))))


def _last(net: OnnxBuilder, x: str) -> str:
    x = _mean(net, _act(net, net.conv(x, 960, 1), "h_swish"))
    x = _act(net, net.conv(x, 1280, 1, bias=False), "h_swish")
    return net.linear(net.flatten(x), _CLASSES)


def _mean(net: OnnxBuilder, x: str) -> str:
    return net.reduce_mean(net.reduce_mean(x, [3]), [2])


def _act(net: OnnxBuilder, x: str, kind: str) -> str:
    if kind == "relu":
        return net.relu(x)
    return _sixth(net, net.mul(x, _relu6_of_three_more(net, x)))


def _relu6_of_three_more(net: OnnxBuilder, x: str) -> str:
    return net.clip(net.add(x, net.constant(np.float32(3))), 0.0, 6.0)


def _sixth(net: OnnxBuilder, x: str) -> str:
    return net.node("Div", x, net.constant(np.float32(6)))
