"""Networks for small devices: inverted bottlenecks, ghost modules, channel shuffling, and their supernets."""

from __future__ import annotations

import numpy as np

from hardsight.datasets.families._family import Family
from hardsight.datasets.families._net import Net, depths, pick_classes


def _inverted(
    net: Net,
    x: str,
    channels: int,
    *,
    expansion: float,
    kernel: int,
    stride: int,
    act: str | None = None,
    reduction: float = 0,
    gate_act: str | None = None,
    groups: int = 1,
) -> str:
    """Expand, filter depthwise, gate (if ``reduction``), project; a shortcut where the shape allows."""
    hidden = max(groups, round(net.channels(x) * expansion / groups) * groups)
    y = x
    if expansion != 1:
        y = net.act(net.conv(y, hidden, 1), act)
    y = net.act(net.depthwise(y, kernel, stride=stride), act)
    if reduction:
        y = net.squeeze_excite(y, reduction, gate_act)
    y = net.conv(y, channels, 1)
    return net.add(x, y) if stride == 1 and net.channels(x) == channels else y


def _stride(net: Net, x: str, wanted: bool) -> int:
    return 2 if wanted and net.shape(x)[2] > 3 else 1


def _head(net: Net, x: str, rng: np.random.Generator, act: str | None = None) -> Net:
    style = int(rng.integers(3))
    classes = pick_classes(rng)
    if style == 0:
        return net.finish(net.classifier(net.conv_act(x, 4 * net.channels(x), 1, act=act), classes))
    if style == 1:
        x = net.act(net.conv(net.pooled(x), 2 * net.channels(x), 1), act)
        return net.finish(net.linear(net.flat(x), classes))
    return net.finish(net.classifier(x, classes))


def _inverted_bottleneck(net: Net, rng: np.random.Generator) -> Net:
    act = str(rng.choice(["Relu6", "Relu6", "Relu", "HardSwish"]))
    x = net.conv_act(net.image(rng), net.ch(16), 3, stride=int(rng.integers(1, 3)), act=act)
    kernel, expansion = int(rng.choice([3, 3, 5])), float(rng.choice([2, 3, 4, 6, 6]))
    growth = float(rng.uniform(1.3, 1.9))
    for stage, depth in enumerate(depths(rng, int(rng.integers(3, 7)), 1, 5)):
        for block in range(depth):
            stride = _stride(net, x, block == 0 and stage > 0)
            ratio = 1.0 if stage == 0 and block == 0 else expansion
            channels = net.ch(12 * growth**stage)
            x = _inverted(net, x, channels, expansion=ratio, kernel=kernel, stride=stride, act=act)
    return _head(net, x, rng, act)


def _inverted_bottleneck_se(net: Net, rng: np.random.Generator) -> Net:
    efficient = bool(rng.random() < 0.5)
    main = "Silu" if efficient else "HardSwish"
    x = net.conv_act(net.image(rng), net.ch(16), 3, stride=2, act=main)
    reduction = 4.0 if rng.random() < 0.6 else float(rng.choice([8, 16]))
    growth = float(rng.uniform(1.3, 1.9))
    for stage, depth in enumerate(depths(rng, int(rng.integers(3, 7)), 1, 5)):
        kernel, expansion = int(rng.choice([3, 5])), float(rng.choice([1, 2.5, 4, 6, 6]))
        gated = efficient or bool(rng.random() < 0.6)
        act = main if efficient or stage > 1 else "Relu"
        for block in range(depth):
            x = _inverted(
                net,
                x,
                net.ch(12 * growth**stage),
                expansion=expansion,
                kernel=kernel,
                stride=_stride(net, x, block == 0 and stage > 0),
                act=act,
                reduction=reduction if gated else 0,
                gate_act="Silu" if efficient else "Relu",
            )
    return _head(net, x, rng, main)


def _ghost_module(net: Net, x: str, channels: int, act: str) -> str:
    """Half of the features by a 1x1 convolution, the rest from those by a cheap depthwise one."""
    half = (channels + 1) // 2
    primary = net.act(net.conv(x, half, 1), act)
    cheap = net.act(net.depthwise(primary, 3), act)
    y = net.concat([primary, cheap])
    return y if 2 * half == channels else net.slice(y, 0, channels, axis=1)


def _ghost(net: Net, rng: np.random.Generator) -> Net:
    x = net.conv_act(net.image(rng), net.ch(16), 3, stride=2, act="Relu")
    gate = bool(rng.random() < 0.5)
    expansion = float(rng.choice([2, 3, 4, 6]))
    for stage, depth in enumerate(depths(rng, int(rng.integers(3, 6)), 1, 5)):
        channels = net.ch(16 * 1.5**stage)
        for block in range(depth):
            stride = _stride(net, x, block == 0 and stage > 0)
            y = _ghost_module(net, x, round(net.channels(x) * expansion), "Relu")
            if stride == 2:
                y = net.depthwise(y, 3, stride=2)
            if gate and stage > 1:
                y = net.squeeze_excite(y, 4)
            y = _ghost_module(net, y, channels, "Identity")
            if stride == 2 or net.channels(x) != channels:
                x = net.conv(net.depthwise(x, 3, stride=stride), channels, 1)
            x = net.add(y, x)
    return _head(net, x, rng, "Relu")


def _shuffle(net: Net, rng: np.random.Generator) -> Net:
    x = net.conv_act(net.image(rng), net.ch(24, 4), 3, stride=2, act="Relu")
    kernel = int(rng.choice([3, 3, 5]))
    for stage, depth in enumerate(depths(rng, int(rng.integers(2, 5)), 2, 8)):
        channels = net.ch(32 * 2**stage, 4)
        half = channels // 2
        for block in range(depth):
            if block == 0:
                stride = _stride(net, x, True)
                left = net.conv_act(net.depthwise(x, kernel, stride=stride), half, 1, act="Relu")
                right = net.depthwise(net.conv_act(x, half, 1, act="Relu"), kernel, stride=stride)
            else:
                left, right = net.split(x, (half, half))
                right = net.depthwise(net.conv_act(right, half, 1, act="Relu"), kernel)
            right = net.conv_act(right, half, 1, act="Relu")
            x = net.channel_shuffle(net.concat([left, right]), 2)
    return _head(net, x, rng, "Relu")


def _fbnet(net: Net, rng: np.random.Generator) -> Net:
    """Each layer picks its own block: expansion, kernel, grouping, or a skip."""
    blocks = [(1, 3, 1), (1, 3, 2), (3, 3, 1), (6, 3, 1), (1, 5, 1), (1, 5, 2), (3, 5, 1), (6, 5, 1)]
    x = net.conv_act(net.image(rng), net.ch(16, 4), 3, stride=2, act="Relu")
    for stage in range(int(rng.integers(4, 8))):
        channels = net.ch(16 * 1.45**stage, 4)
        for block in range(int(rng.integers(1, 5))):
            first = block == 0
            choice = int(rng.integers(len(blocks) + 1))
            if choice == len(blocks) and not first:
                continue
            expansion, kernel, groups = blocks[choice % len(blocks)]
            stride = _stride(net, x, first and stage > 0)
            hidden = net.channels(x) * expansion
            y = net.conv_act(x, hidden, 1, groups=groups, act="Relu")
            if groups > 1:
                y = net.channel_shuffle(y, groups)
            y = net.conv(net.act(net.depthwise(y, kernel, stride=stride), "Relu"), channels, 1, groups=groups)
            x = net.add(x, y) if stride == 1 and net.channels(x) == channels else y
    return _head(net, x, rng, "Relu")


def _ofa(net: Net, rng: np.random.Generator) -> Net:
    """A subnetwork of a once-for-all supernet: kernel and expansion per layer, depth per stage, any side."""
    x = net.conv_act(net.image(rng), net.ch(16), 3, stride=2, act="HardSwish")
    x = _inverted(net, x, net.ch(16), expansion=1, kernel=3, stride=1, act="Relu")
    gates = (False, True, False, True, True)
    acts = ("Relu", "Relu", "HardSwish", "HardSwish", "HardSwish")
    strides = (True, True, True, False, True)
    for stage in range(5):
        for block in range(int(rng.integers(2, 5))):
            x = _inverted(
                net,
                x,
                net.ch((24, 40, 80, 112, 160)[stage] * 0.7),
                expansion=float(rng.choice([3, 4, 6])),
                kernel=int(rng.choice([3, 5, 7])),
                stride=_stride(net, x, strides[stage] and block == 0),
                act=acts[stage],
                reduction=4 if gates[stage] else 0,
            )
    x = net.conv_act(x, 6 * net.channels(x), 1, act="HardSwish")
    x = net.act(net.conv(net.pooled(x), 8 * net.ch(100), 1), "HardSwish")
    return net.finish(net.linear(net.flat(x), pick_classes(rng)))


INVERTED_BOTTLENECK = Family(
    "inverted_bottleneck", "Sandler et al., MobileNetV2, CVPR 2018", _inverted_bottleneck
)
INVERTED_BOTTLENECK_SE = Family(
    "inverted_bottleneck_se",
    "Howard et al., Searching for MobileNetV3, ICCV 2019; Tan and Le, EfficientNet, ICML 2019",
    _inverted_bottleneck_se,
)
GHOST = Family("ghost", "Han et al., GhostNet, CVPR 2020", _ghost)
SHUFFLE = Family("shuffle", "Ma et al., ShuffleNet V2, ECCV 2018", _shuffle)
FBNET = Family("fbnet", "Wu et al., FBNet, CVPR 2019", _fbnet)
OFA = Family("ofa", "Cai et al., Once-for-all, ICLR 2020", _ofa)
