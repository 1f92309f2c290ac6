"""Networks with an image or several maps as output: U-Net, feature pyramids, super-resolution."""

from __future__ import annotations

from typing import Literal

import numpy as np

from hardsight.datasets.families._family import Family
from hardsight.datasets.families._net import Net, log_integer


def _unet(net: Net, rng: np.random.Generator) -> Net:
    levels = int(rng.integers(2, 5))
    x = net.image(rng, 32, 224, 2**levels)
    transposed, convs = bool(rng.random() < 0.5), int(rng.integers(1, 3))
    mode: Literal["nearest", "linear"] = "nearest" if rng.random() < 0.5 else "linear"
    normed = bool(rng.random() < 0.25)

    def stage(y: str, channels: int) -> str:
        for _ in range(convs):
            y = net.conv(y, channels, 3)
            y = net.act(net.group_norm(y, _divisor(channels, 4)) if normed else y)
        return y

    skips: list[str] = []
    for level in range(levels):
        x = stage(x, net.ch(12 * 2**level))
        skips.append(x)
        x = net.max_pool(x, 2, stride=2)
    x = stage(x, net.ch(12 * 2**levels))
    for level in reversed(range(levels)):
        channels = net.ch(12 * 2**level)
        if transposed:
            x = net.conv_transpose(x, channels, 2)
        else:
            x = net.conv(net.resize(x, 2, mode), channels, 1)
        x = stage(net.concat([skips[level], x]), channels)
    classes = int(rng.choice([1, 2, 4, 21]))
    x = net.conv(x, classes, 1)
    return net.finish(net.sigmoid(x) if classes == 1 else x)


def _divisor(n: int, wanted: int) -> int:
    return next(g for g in range(min(n, wanted), 0, -1) if n % g == 0)


def _fpn(net: Net, rng: np.random.Generator) -> Net:
    """A residual backbone, top-down paths at three scales, and a shared kind of detection head."""
    x = net.image(rng, 32, 224, 32)
    x = net.conv_act(x, net.ch(12), 3, stride=2)
    maps: list[str] = []
    for level in range(4):
        channels = net.ch(16 * 1.8**level)
        x = net.conv_act(x, channels, 3, stride=2)
        for _ in range(int(rng.integers(1, 4))):
            x = net.act(net.add(x, net.conv(net.conv_act(x, channels, 3), channels, 3)))
        maps.append(x)
    width, joined = net.ch(24), bool(rng.random() < 0.4)
    top = net.conv(maps[-1], width, 1)
    outs = [top]
    for feature in reversed(maps[1:-1]):
        lateral = net.conv(feature, width, 1)
        up = net.resize(outs[-1], 2)
        outs.append(net.conv_act(net.concat([up, lateral]), width, 3) if joined else net.add(up, lateral))
    heads: list[str] = []
    outputs = int(rng.choice([6, 25, 85]))
    for feature in outs:
        y = net.conv_act(feature, width, 3)
        for _ in range(int(rng.integers(0, 3))):
            y = net.conv_act(y, width, 3)
        heads.append(net.conv(y, outputs, 1))
    if rng.random() < 0.5:
        return net.finish(*heads)
    flat = [net.transpose(net.reshape(h, (1, outputs, -1)), (0, 2, 1)) for h in heads]
    return net.finish(net.sigmoid(net.concat(flat, axis=1)))


def _super_resolution(net: Net, rng: np.random.Generator) -> Net:
    """Collapsed linear blocks between two long shortcuts, and depth to space at the end."""
    side, factor = 8 * log_integer(rng, 4, 28), int(rng.choice([2, 3, 4]))
    colours = int(rng.choice([1, 3]))
    image = net.input("image", (1, colours, side, side))
    act = str(rng.choice(["Relu", "PRelu", "LeakyRelu"]))
    channels = net.ch(16, int(rng.choice([1, 4, 8])))
    first = net.conv_act(image, channels, int(rng.choice([3, 5])), act=act)
    x, residual = first, bool(rng.random() < 0.4)
    for _ in range(log_integer(rng, 2, 16)):
        y = net.conv_act(x, channels, 3, act=act)
        x = net.add(net.conv(y, channels, 3), x) if residual else y
    x = net.conv(net.add(x, first), colours * factor**2, int(rng.choice([3, 5])))
    if rng.random() < 0.5:
        x = net.add(x, net.concat([image] * factor**2))
    mode = "CRD" if rng.random() < 0.7 else "DCR"
    return net.finish(net.node("DepthToSpace", x, blocksize=factor, mode=mode))


UNET = Family("unet", "Ronneberger et al., U-Net, MICCAI 2015", _unet)
FPN = Family("fpn", "Lin et al., Feature pyramid networks, CVPR 2017", _fpn)
SUPER_RESOLUTION = Family(
    "super_resolution", "Bhardwaj et al., Collapsible linear blocks (SESR), MLSys 2022", _super_resolution
)
