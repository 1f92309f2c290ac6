"""Networks whose layers branch and join: dense, inception, squeeze-fire, NAS cells, random wiring."""

from __future__ import annotations

import numpy as np

from hardsight.datasets.families._family import Family
from hardsight.datasets.families._net import Net, depths, pick_classes


def _norm_act(net: Net, x: str, kept: bool) -> str:
    return net.act(net.batch_norm(x) if kept else x, "Relu")


def _dense(net: Net, rng: np.random.Generator) -> Net:
    """Batch normalisation precedes the convolutions here, so exporters cannot fold the first of a pair."""
    x = net.stem(net.image(rng), net.ch(24), int(rng.choice([1, 2, 4])), int(rng.choice([3, 7])))
    growth = net.ch(12)
    bottleneck, kept = bool(rng.random() < 0.7), bool(rng.random() < 0.8)
    stages = depths(rng, int(rng.integers(2, 5)), 2, 10)
    for stage, depth in enumerate(stages):
        for _ in range(depth):
            y = _norm_act(net, x, kept)
            if bottleneck:
                y = net.conv_act(y, 4 * growth, 1, act="Relu")
            x = net.concat([x, net.conv(y, growth, 3, bias=False)])
        if stage + 1 < len(stages) and net.shape(x)[2] >= 4:
            x = net.conv(_norm_act(net, x, kept), max(4, net.channels(x) // 2), 1, bias=False)
            x = net.average_pool(x, 2, stride=2)
    return net.finish(net.classifier(_norm_act(net, x, kept), pick_classes(rng)))


def _inception(net: Net, rng: np.random.Generator) -> Net:
    x = net.stem(net.image(rng), net.ch(24), int(rng.choice([2, 4])), int(rng.choice([3, 7])))
    factorised = bool(rng.random() < 0.4)
    for stage, depth in enumerate(depths(rng, int(rng.integers(1, 4)), 1, 5)):
        unit = 12 * 1.6**stage
        for _ in range(depth):
            branches = [net.conv_act(x, net.ch(unit * rng.uniform(0.5, 2)), 1, act="Relu")]
            for kernel in (3, 5):
                y = net.conv_act(x, net.ch(unit * rng.uniform(0.5, 1.5)), 1, act="Relu")
                channels = net.ch(unit * rng.uniform(0.5, 2.5))
                if factorised:
                    y = net.act(net.conv(y, channels, (1, kernel)), "Relu")
                    y = net.act(net.conv(y, channels, (kernel, 1)), "Relu")
                else:
                    y = net.conv_act(y, channels, kernel, act="Relu")
                branches.append(y)
            pool = net.max_pool if rng.random() < 0.5 else net.average_pool
            branches.append(net.conv_act(pool(x, 3, stride=1, padding=1), net.ch(unit), 1, act="Relu"))
            x = net.concat(branches)
        if net.shape(x)[2] >= 4:
            x = net.max_pool(x, 3, stride=2, padding=1)
    return net.finish(net.classifier(x, pick_classes(rng)))


def _squeeze_fire(net: Net, rng: np.random.Generator) -> Net:
    x = net.conv_act(net.image(rng), net.ch(32), int(rng.choice([3, 7])), stride=2, act="Relu")
    residual = bool(rng.random() < 0.4)
    ratio = float(rng.choice([0.125, 0.25, 0.5]))
    for stage, depth in enumerate(depths(rng, int(rng.integers(2, 5)), 1, 4)):
        if net.shape(x)[2] >= 6:
            x = net.max_pool(x, 3, stride=2, ceil=True)
        expand = net.ch(32 * 1.5**stage)
        for _ in range(depth):
            s = net.conv_act(x, max(4, round(2 * expand * ratio)), 1, act="Relu")
            y = net.concat([net.conv_act(s, expand, 1, act="Relu"), net.conv_act(s, expand, 3, act="Relu")])
            x = net.add(x, y) if residual and net.channels(x) == 2 * expand else y
    return net.finish(net.flat(net.pooled(net.conv_act(x, pick_classes(rng), 1, act="Relu"))))


def _nasbench201(net: Net, rng: np.random.Generator) -> Net:
    """Cells of four nodes; each of the six edges is one of five operations, the same in every cell."""
    operations = ("none", "skip", "conv1", "conv3", "pool")
    while True:
        edges = [str(rng.choice(operations, p=[0.12, 0.18, 0.25, 0.3, 0.15])) for _ in range(6)]
        if _connected(edges):
            break
    x = net.conv(net.image(rng, 32, 128), net.ch(16), 3)
    if rng.random() < 0.4:
        x = net.conv_act(x, net.ch(16), 3, stride=2, act="Relu")
    cells = int(rng.integers(1, 6))
    for stage in range(3):
        channels = net.ch(16 * 2**stage)
        if stage > 0:
            y = net.conv(net.conv_act(x, channels, 3, stride=2, act="Relu"), channels, 3)
            x = net.add(net.conv(net.average_pool(x, 2, stride=2), channels, 1), y)
        for _ in range(cells):
            x = _cell(net, x, edges)
    return net.finish(net.classifier(net.act(net.batch_norm(x), "Relu"), pick_classes(rng)))


def _connected(edges: list[str]) -> bool:
    reached = {0}
    for index, (source, target) in enumerate(_EDGES):
        if edges[index] != "none" and source in reached:
            reached.add(target)
    return 3 in reached


_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # sources in topological order


def _cell(net: Net, x: str, edges: list[str]) -> str:
    nodes: dict[int, str] = {0: x}
    for target in (1, 2, 3):
        parts = []
        for (source, end), operation in zip(_EDGES, edges, strict=True):
            if end != target or operation == "none" or source not in nodes:
                continue
            y = nodes[source]
            if operation == "pool":
                y = net.average_pool(y, 3, stride=1, padding=1)
            elif operation != "skip":  # ReLU, convolution, folded normalisation
                y = net.conv(net.relu(y), net.channels(y), 3 if operation == "conv3" else 1)
            parts.append(y)
        if parts:
            total = parts[0]
            for part in parts[1:]:
                total = net.add(total, part)
            nodes[target] = total
    return nodes[3]


def _random_wiring(net: Net, rng: np.random.Generator) -> Net:
    """Stages are random graphs in Watts and Strogatz's manner; nodes sum their inputs, gated or not."""
    x = net.stem(net.image(rng), net.ch(16), int(rng.choice([1, 2])))
    gated, separable = bool(rng.random() < 0.5), bool(rng.random() < 0.6)
    for stage in range(int(rng.integers(1, 4))):
        channels = net.ch(24 * 2**stage)
        size, near, rewire = int(rng.integers(4, 14)), int(rng.choice([1, 2])), float(rng.uniform(0.1, 0.8))
        sources: list[set[int]] = [set() for _ in range(size)]
        for target in range(1, size):
            for back in range(1, near + 1):
                source = max(0, target - back)
                sources[target].add(int(rng.integers(target)) if rng.random() < rewire else source)
        outs: list[str] = []
        for target in range(size):
            stride = 2 if target == 0 and net.shape(x)[2] > 3 else 1
            parts = [outs[s] for s in sorted(sources[target])] or [x]
            if gated and len(parts) > 1:
                parts = [net.mul(p, net.weight(net.unique("gate"), (1,))) for p in parts]
            total = parts[0]
            for part in parts[1:]:
                total = net.add(total, part)
            y = net.relu(total)
            if separable:
                outs.append(net.conv(net.depthwise(y, 3, stride=stride), channels, 1))
            else:
                outs.append(net.conv(y, channels, 3, stride=stride))
        ends = [o for i, o in enumerate(outs) if not any(i in s for s in sources)]
        total = ends[0]
        for end in ends[1:]:
            total = net.add(total, end)
        x = net.scaled(total, 1 / len(ends)) if len(ends) > 1 else total
    return net.finish(net.classifier(x, pick_classes(rng)))


DENSE = Family("dense", "Huang et al., Densely connected convolutional networks, CVPR 2017", _dense)
INCEPTION = Family("inception", "Szegedy et al., Going deeper with convolutions, CVPR 2015", _inception)
SQUEEZE_FIRE = Family("squeeze_fire", "Iandola et al., SqueezeNet, 2016", _squeeze_fire)
NASBENCH201 = Family("nasbench201", "Dong and Yang, NAS-Bench-201, ICLR 2020", _nasbench201)
RANDOM_WIRING = Family(
    "random_wiring", "Xie et al., Exploring randomly wired networks, ICCV 2019", _random_wiring
)
