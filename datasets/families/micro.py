"""Graphs of one to five operators, which teach the cost of an operator by itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hardsight.datasets.families._family import Family
from hardsight.datasets.families._net import Net, log_integer

Operation = Callable[[Net, str, np.random.Generator], str]


def _map(net: Net, rng: np.random.Generator) -> str:
    """A feature map such as the inside of a network has."""
    side = log_integer(rng, 4, 112)
    return net.input("x", (1, net.ch(64), side, side))


def _standard_conv(net: Net, x: str, rng: np.random.Generator) -> str:
    kernel, stride = int(rng.choice([1, 3, 3, 5, 7])), int(rng.choice([1, 1, 2]))
    out = net.ch(float(rng.choice([32, 64, 128])))
    return net.conv(x, out, min(kernel, net.shape(x)[2]) | 1, stride=stride)


def _dilated_conv(net: Net, x: str, rng: np.random.Generator) -> str:
    return net.conv(x, net.ch(64), 3, dilation=int(rng.choice([2, 3, 4])))


def _grouped_conv(net: Net, x: str, rng: np.random.Generator) -> str:
    groups = int(rng.choice([g for g in (1, 2, 4, 8, 16) if net.channels(x) % g == 0]))
    return net.conv(x, net.channels(x), 3, groups=groups, stride=int(rng.choice([1, 2])))


def _depthwise_conv(net: Net, x: str, rng: np.random.Generator) -> str:
    return net.depthwise(x, int(rng.choice([3, 5, 7, 11])), stride=int(rng.choice([1, 1, 2])))


def _transposed_conv(net: Net, x: str, rng: np.random.Generator) -> str:
    return net.conv_transpose(x, net.ch(32), int(rng.choice([2, 4])))


def _activation(net: Net, x: str, rng: np.random.Generator) -> str:
    kinds = [
        "Relu",
        "Relu6",
        "LeakyRelu",
        "PRelu",
        "HardSwish",
        "Silu",
        "Gelu",
        "Mish",
        "Sigmoid",
        "Tanh",
        "Elu",
    ]
    kind = str(rng.choice([*kinds, "HardSigmoid", "Softplus", "Erf", "Exp", "Sqrt", "Abs"]))
    return net.node("Sqrt", net.node("Abs", x)) if kind == "Sqrt" else net.act(x, kind)


def _pooling(net: Net, x: str, rng: np.random.Generator) -> str:
    kernel, stride = int(rng.choice([2, 3])), int(rng.choice([1, 2]))
    pool = net.max_pool if rng.random() < 0.5 else net.average_pool
    return pool(x, kernel, stride=stride, padding=kernel // 2 if kernel == 3 else 0)


def _global_pool(net: Net, x: str, rng: np.random.Generator) -> str:
    return net.pooled(x)


def _elementwise(net: Net, x: str, rng: np.random.Generator) -> str:
    kind = str(rng.choice(["Add", "Mul", "Sub", "Div", "Max"]))
    return net.node(kind, x, net.input(net.unique("other"), net.shape(x)))


def _broadcast(net: Net, x: str, rng: np.random.Generator) -> str:
    return net.mul(x, net.input(net.unique("gate"), (1, net.channels(x), 1, 1)))


def _concatenation(net: Net, x: str, rng: np.random.Generator) -> str:
    n, _, height, width = net.shape(x)
    return net.concat([x, net.input(net.unique("other"), (n, net.ch(32), height, width))])


def _cutting(net: Net, x: str, rng: np.random.Generator) -> str:
    half = net.channels(x) // 2
    if rng.random() < 0.5:
        return net.slice(x, 0, half, axis=1)
    first, second = net.split(x, (half, net.channels(x) - half))
    return net.concat([second, first])


def _permutation(net: Net, x: str, rng: np.random.Generator) -> str:
    return net.transpose(x, [0, *(int(i) for i in rng.permutation([1, 2, 3]))])


def _shuffling(net: Net, x: str, rng: np.random.Generator) -> str:
    return net.channel_shuffle(x, 2 if net.channels(x) % 2 == 0 else 1)


def _enlarging(net: Net, x: str, rng: np.random.Generator) -> str:
    return net.resize(x, 2, "nearest" if rng.random() < 0.5 else "linear")


def _depth_to_space(net: Net, x: str, rng: np.random.Generator) -> str:
    y = x if net.channels(x) % 4 == 0 else net.conv(x, net.ch(16, 4), 1)
    return net.node("DepthToSpace", y, blocksize=2, mode="CRD")


def _padding(net: Net, x: str, rng: np.random.Generator) -> str:
    p = int(rng.integers(1, 4))
    pads = net.constant(np.array([0, 0, p, p, 0, 0, p, p], np.int64))
    return net.node("Pad", x, pads, mode=str(rng.choice(["constant", "reflect", "edge"])))


def _normalisation(net: Net, x: str, rng: np.random.Generator) -> str:
    kind = int(rng.integers(4))
    if kind == 0:
        return net.batch_norm(x)
    if kind == 1:
        return net.channel_norm(x)
    if kind == 2:
        return net.group_norm(x, next(g for g in (8, 4, 2, 1) if net.channels(x) % g == 0))
    return net.layer_norm(net.tokens(x))


def _dense_on_tokens(net: Net, x: str, rng: np.random.Generator) -> str:
    return _back(net, x, net.linear(net.tokens(x), net.ch(64)))


def _softmax(net: Net, x: str, rng: np.random.Generator) -> str:
    return net.softmax(x, axis=int(rng.choice([1, 3])))


def _reduction(net: Net, x: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        return net.reduce_mean(x, [1])
    return net.node("ReduceMax", x, keepdims=1, axes=[1] if net.opset < 18 else None)


def _self_attention(net: Net, x: str, rng: np.random.Generator) -> str:
    if net.shape(x)[2] > 24:
        return net.relu(x)
    heads = next(h for h in (8, 4, 2, 1) if net.channels(x) % h == 0)
    return _back(net, x, net.attention(net.tokens(x), heads, fused=bool(rng.random() < 0.5)))


def _gate(net: Net, x: str, rng: np.random.Generator) -> str:
    return net.squeeze_excite(x, float(rng.choice([4, 8, 16])))


def _back(net: Net, x: str, tokens: str) -> str:
    return net.untokens(tokens, *net.shape(x)[2:])


_WITH_MACS: tuple[Operation, ...] = (
    _standard_conv, _standard_conv, _standard_conv, _dilated_conv, _grouped_conv, _depthwise_conv,
    _depthwise_conv, _transposed_conv, _dense_on_tokens, _self_attention,
)  # fmt: skip
_WITHOUT_MACS: tuple[Operation, ...] = (
    _activation, _activation, _activation, _pooling, _global_pool, _elementwise, _elementwise, _broadcast,
    _concatenation, _cutting, _permutation, _shuffling, _enlarging, _depth_to_space, _padding, _normalisation,
    _softmax, _reduction,
)  # fmt: skip


def _single_operator(net: Net, rng: np.random.Generator) -> Net:
    """One operation; where it has no MACs, ten per element stand for its size."""
    draw = rng.random()
    if draw < 0.15:
        return _matrix_product(net, rng)
    operations = _WITH_MACS if draw < 0.6 else _WITHOUT_MACS
    x = _map(net, rng)
    operation = operations[int(rng.integers(len(operations)))]
    y = operation(net, x, rng)
    if net.macs == 0:
        net.macs = 10 * int(np.prod(net.shape(x)))
    return net.finish(y)


def _matrix_product(net: Net, rng: np.random.Generator) -> Net:
    kind = int(rng.integers(3))
    rows, inner = log_integer(rng, 1, 512), net.ch(float(rng.choice([64, 256, 512])))
    if kind == 0:
        x = net.input("x", (rows, inner))
        return net.finish(net.linear(x, net.ch(float(rng.choice([64, 256, 1024])))))
    if kind == 1:
        x = net.input("x", (1, rows, inner))
        return net.finish(net.linear(x, net.ch(float(rng.choice([64, 256, 1024]))), bias=net.style.bias))
    batch = int(rng.choice([1, 2, 4, 8]))
    a, b = net.input("a", (1, batch, rows, inner)), net.input("b", (1, batch, inner, rows))
    return net.finish(net.matmul(a, b))


def _small_block(net: Net, rng: np.random.Generator) -> Net:
    """Two to five operations in a row, the first of them with weights."""
    x = _map(net, rng)
    length = int(rng.integers(2, 6))
    start = x
    for i in range(length):
        heavy = i == 0 or rng.random() < 0.4
        operations = _WITH_MACS if heavy else _WITHOUT_MACS
        if len(net.shape(x)) != 4 or min(net.shape(x)[2:]) < 4 or net.channels(x) < 4:
            break
        x = operations[int(rng.integers(len(operations)))](net, x, rng)
    if net.shape(x) == net.shape(start) and rng.random() < 0.5:
        x = net.add(x, start)
    return net.finish(x)


SINGLE_OPERATOR = Family("single_operator", "this project", _single_operator)
SMALL_BLOCK = Family("small_block", "this project", _small_block)
