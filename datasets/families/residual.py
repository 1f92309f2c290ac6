"""Residual networks: basic, bottleneck (grouped and wide), RegNet-like."""

from __future__ import annotations

import numpy as np

from hardsight.datasets.families._family import Family
from hardsight.datasets.families._net import Net, depths, pick_classes


def _shortcut(net: Net, x: str, channels: int, stride: int, pooled: bool) -> str:
    if stride == 1 and net.channels(x) == channels:
        return x
    if stride == 2 and pooled and net.shape(x)[2] % 2 == 0:  # "ResNet-D"
        return net.conv(net.average_pool(x, 2, stride=2), channels, 1)
    return net.conv(x, channels, 1, stride=stride)


def _strides(net: Net, x: str, stage: int, block: int) -> int:
    return 2 if stage > 0 and block == 0 and net.shape(x)[2] > 2 else 1


def _residual_basic(net: Net, rng: np.random.Generator) -> Net:
    x = net.image(rng)
    reduce = int(rng.choice([1, 2, 4]))
    base, growth = 16, float(rng.choice([1.5, 2.0, 2.0]))
    x = net.stem(x, net.ch(base), reduce, int(rng.choice([3, 5, 7])))
    pooled, gate = bool(rng.random() < 0.3), bool(rng.random() < 0.2)
    for stage, depth in enumerate(depths(rng, int(rng.integers(2, 5)), 1, 8)):
        channels = net.ch(base * growth**stage)
        for block in range(depth):
            stride = _strides(net, x, stage, block)
            y = net.conv(net.conv_act(x, channels, 3, stride=stride), channels, 3)
            y = net.squeeze_excite(y, 8) if gate else y
            x = net.act(net.add(y, _shortcut(net, x, channels, stride, pooled)))
    return net.finish(net.classifier(x, pick_classes(rng)))


def _residual_bottleneck(net: Net, rng: np.random.Generator) -> Net:
    x = net.image(rng)
    x = net.stem(x, net.ch(16), int(rng.choice([1, 2, 4])), int(rng.choice([3, 7])))
    expansion = float(rng.choice([2, 4, 4]))
    groups = int(rng.choice([1, 1, 2, 4, 8, 16]))
    width = float(rng.choice([1.0, 1.0, 2.0]))
    dilated, pooled, gate = bool(rng.random() < 0.15), bool(rng.random() < 0.3), bool(rng.random() < 0.2)
    for stage, depth in enumerate(depths(rng, int(rng.integers(2, 5)), 1, 8)):
        inner = net.ch(16 * width * 2**stage, groups * max(1, net.style.divisor // groups))
        outer = net.ch(16 * expansion * 2**stage)
        last = dilated and stage >= 2
        for block in range(depth):
            stride = 1 if last else _strides(net, x, stage, block)
            y = net.conv_act(x, inner, 1)
            y = net.conv_act(y, inner, 3, stride=stride, groups=groups, dilation=2 if last else 1)
            y = net.conv(y, outer, 1)
            y = net.squeeze_excite(y, 16) if gate else y
            x = net.act(net.add(y, _shortcut(net, x, outer, stride, pooled)))
    return net.finish(net.classifier(x, pick_classes(rng)))


def _regnet(net: Net, rng: np.random.Generator) -> Net:
    """Widths grow linearly with depth and are rounded to powers of ``jump`` (equations 2 to 4)."""
    x = net.image(rng)
    depth = int(rng.integers(6, 24))
    slope, jump = float(rng.uniform(4, 40)), float(rng.uniform(1.8, 3.0))
    group_width = int(rng.choice([4, 8, 16, 24]))
    gate = bool(rng.random() < 0.5)
    x = net.conv_act(x, net.ch(16), 3, stride=2)
    linear = 24 + slope * np.arange(depth)
    stages = np.round(np.log(linear / 24) / np.log(jump)).astype(int)
    for i, stage in enumerate(stages):
        channels = net.ch(24 * jump ** int(stage), group_width)
        first = (i == 0 or stages[i - 1] != stage) and net.shape(x)[2] > 2
        stride = 2 if first else 1
        y = net.conv_act(x, channels, 1)
        y = net.conv_act(y, channels, 3, stride=stride, groups=channels // group_width)
        y = net.squeeze_excite(y, 4) if gate else y
        y = net.conv(y, channels, 1)
        x = net.act(net.add(y, _shortcut(net, x, channels, stride, False)))
    return net.finish(net.classifier(x, pick_classes(rng)))


RESIDUAL_BASIC = Family("residual_basic", "He et al., Deep residual learning, CVPR 2016", _residual_basic)
RESIDUAL_BOTTLENECK = Family(
    "residual_bottleneck",
    "He et al., CVPR 2016; Xie et al., Aggregated residual transformations, CVPR 2017; "
    "Zagoruyko and Komodakis, Wide residual networks, BMVC 2016",
    _residual_bottleneck,
)
REGNET = Family("regnet", "Radosavovic et al., Designing network design spaces, CVPR 2020", _regnet)
