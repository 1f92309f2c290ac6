"""Plain chains of convolutions."""

from __future__ import annotations

import numpy as np

from hardsight.datasets.families._family import Family
from hardsight.datasets.families._net import Net, depths, pick_classes


def _plain_chain(net: Net, rng: np.random.Generator) -> Net:
    x = net.image(rng)
    stages = int(rng.integers(2, 6))
    kernel = int(rng.choice([3, 3, 3, 5]))
    pool = str(rng.choice(["max", "average", "stride"]))
    growth = float(rng.uniform(1.4, 2.1))
    for stage, depth in enumerate(depths(rng, stages, 1, 4)):
        channels = net.ch(24 * growth**stage)
        for i in range(depth):
            stride = 2 if pool == "stride" and i == 0 else 1
            x = net.conv_act(x, channels, kernel if net.shape(x)[2] >= kernel else 1, stride=stride)
        if net.shape(x)[2] >= 4 and pool == "max":
            x = net.max_pool(x, 2, stride=2)
        elif net.shape(x)[2] >= 4 and pool == "average":
            x = net.average_pool(x, 2, stride=2)
    hidden = net.ch(64)
    if rng.random() < 0.4 and net.shape(x)[2] <= 8:
        x = net.act(net.linear(net.flat(x), hidden), "Relu")
        if rng.random() < 0.5:
            x = net.act(net.linear(x, hidden), "Relu")
        return net.finish(net.linear(x, pick_classes(rng)))
    return net.finish(net.classifier(x, pick_classes(rng)))


PLAIN_CHAIN = Family(
    "plain_chain", "Simonyan and Zisserman, Very deep convolutional networks, ICLR 2015", _plain_chain
)
