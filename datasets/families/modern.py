"""Convolutional networks after transformers: ConvNeXt-like and large depthwise kernels."""

from __future__ import annotations

import numpy as np

from hardsight.datasets.families._family import Family
from hardsight.datasets.families._net import Net, depths, pick_classes


def _convnext(net: Net, rng: np.random.Generator) -> Net:
    """Blocks hold their dense layers as MatMul on channels-last data, as the authors do, or as 1x1."""
    patch = int(rng.choice([2, 4]))
    x = net.conv(net.image(rng, 32, 224, 16), net.ch(24), patch, stride=patch, padding=0)
    x = net.channel_norm(x)
    kernel, ratio = int(rng.choice([3, 5, 7, 7])), int(rng.choice([2, 4, 4]))
    last, scaled = bool(rng.random() < 0.6), bool(rng.random() < 0.5)
    for stage, depth in enumerate(depths(rng, int(rng.integers(2, 5)), 1, 6)):
        channels = net.ch(24 * 2**stage)
        if stage > 0 and net.shape(x)[2] >= 4 and net.shape(x)[2] % 2 == 0:
            x = net.conv(net.channel_norm(x), channels, 2, stride=2, padding=0)
        elif stage > 0:
            x = net.conv(x, channels, 1)
        for _ in range(depth):
            y = net.depthwise(x, kernel)
            if last:
                y = net.feed_forward(net.layer_norm(net.transpose(y, (0, 2, 3, 1))), ratio * channels)
                if scaled:
                    y = net.mul(net.weight(net.unique("layer_scale"), (channels,)), y)
                y = net.transpose(y, (0, 3, 1, 2))
            else:
                y = net.conv(net.act(net.conv(net.channel_norm(y), ratio * channels, 1), "Gelu"), channels, 1)
            x = net.add(x, y)
    x = net.flat(net.pooled(x))
    return net.finish(net.linear(net.layer_norm(x), pick_classes(rng)))


def _large_kernel(net: Net, rng: np.random.Generator) -> Net:
    act = str(rng.choice(["Relu", "Gelu"]))
    x = net.conv_act(net.image(rng), net.ch(24), 3, stride=2, act=act)
    decomposed = bool(rng.random() < 0.4)
    for stage, depth in enumerate(depths(rng, int(rng.integers(2, 5)), 1, 4)):
        channels = net.ch(24 * 1.7**stage)
        if stage > 0 and net.shape(x)[2] >= 4:
            x = net.act(net.conv(net.depthwise(x, 3, stride=2), channels, 1), act)
        elif stage > 0:
            x = net.conv_act(x, channels, 1, act=act)
        kernel = int(rng.choice([9, 13, 17, 21, 31]))
        kernel = min(kernel, 2 * (net.shape(x)[2] // 2) + 1)
        for _ in range(depth):
            y = net.conv_act(x, channels, 1, act=act)
            if decomposed:  # "visual attention network": a small and a dilated kernel, then a gate
                gate = net.conv(net.depthwise(net.depthwise(y, 5), 7, dilation=3), channels, 1)
                y = net.mul(
                    y, net.sigmoid(gate)
                )  # unbounded, the gate explodes without trained normalisation
            else:
                y = net.act(net.depthwise(y, kernel), act)
            x = net.add(x, net.conv(y, channels, 1))
            x = net.add(x, net.conv(net.act(net.conv(x, 2 * channels, 1), "Gelu"), channels, 1))
    return net.finish(net.classifier(x, pick_classes(rng)))


CONVNEXT = Family("convnext", "Liu et al., A ConvNet for the 2020s, CVPR 2022", _convnext)
LARGE_KERNEL = Family(
    "large_kernel",
    "Ding et al., Scaling up your kernels to 31x31, CVPR 2022; "
    "Guo et al., Visual attention network, CVMJ 2023",
    _large_kernel,
)
