"""Graphs of one to four operators on sequences and tokens, which teach what these operators cost by themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hardsight.datasets.families._family import Family
from hardsight.datasets.families._net import Net, log_integer

Operation = Callable[[Net, np.random.Generator, str], str]


def _signal(net: Net, rng: np.random.Generator) -> str:
    """Channels first, as convolutions in time want it."""
    return net.input("signal", (1, net.ch(48), log_integer(rng, 16, 2048)))


def _tokens(net: Net, rng: np.random.Generator) -> str:
    """Channels last, as attention and recurrence want it."""
    return net.input("tokens", (int(rng.choice([1, 1, 1, 4])), log_integer(rng, 4, 512), net.ch(128)))


# --- on a signal -------------------------------------------------------------------------------------------


def _conv(net: Net, rng: np.random.Generator, x: str) -> str:
    kernel, stride = int(rng.choice([1, 3, 3, 5, 7, 15])), int(rng.choice([1, 1, 1, 2, 4]))
    return net.conv(x, net.ch(float(rng.choice([32, 64, 128]))), kernel, stride=stride)


def _dilated_conv(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.conv(x, net.ch(48), int(rng.choice([3, 5, 7])), dilation=2 ** int(rng.integers(1, 7)))


def _depthwise_conv(net: Net, rng: np.random.Generator, x: str) -> str:
    kernel, dilation = int(rng.choice([3, 5, 7, 15, 31])), int(rng.choice([1, 1, 2, 8]))
    return net.depthwise(x, kernel, stride=int(rng.choice([1, 1, 2])), dilation=dilation)


def _pool(net: Net, rng: np.random.Generator, x: str) -> str:
    if net.shape(x)[2] < 4:
        return net.pooled(x)
    kernel = int(rng.choice([2, 3]))
    return net.max_pool(x, kernel, stride=2, padding=kernel // 2 if kernel == 3 else 0)


def _pool_all(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.pooled(x)


def _joined(net: Net, rng: np.random.Generator, x: str) -> str:
    n, _, length = net.shape(x)
    return net.concat([x, net.input(net.unique("other"), (n, net.ch(32), length))])


# --- on tokens ---------------------------------------------------------------------------------------------


def _recurrent(net: Net, rng: np.random.Generator, x: str) -> str:
    """One layer, the sequence first as the operator has it or transposed around it as exporters write it."""
    kind, gates = ("LSTM", 4) if rng.random() < 0.5 else ("GRU", 3)
    hidden, directions = net.ch(64), int(rng.choice([1, 1, 2]))
    batch_first = bool(rng.random() < 0.5)
    x = net.transpose(x, (1, 0, 2)) if batch_first else x
    name = net.unique(kind.lower())
    weights = [
        net.weight(f"{name}.weight_ih", (directions, gates * hidden, net.shape(x)[2])),
        net.weight(f"{name}.weight_hh", (directions, gates * hidden, hidden)),
        net.weight(f"{name}.bias", (directions, 2 * gates * hidden)),
    ]
    y, _ = net.node(
        kind,
        x,
        *weights,
        n_outputs=2,
        name=name,
        hidden_size=hidden,
        direction="bidirectional" if directions == 2 else "forward",
        linear_before_reset=1 if kind == "GRU" else None,
    )
    if directions == 1:
        y = net.squeeze(y, (1,))
    else:
        y = net.reshape(net.transpose(y, (0, 2, 1, 3)), (0, 0, -1))
    return net.transpose(y, (1, 0, 2)) if batch_first else y


def _dense(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.linear(x, net.ch(float(rng.choice([32, 128, 512]))), bias=net.style.bias)


def _self_attention(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.attention(x, _heads(net, x), fused=bool(rng.random() < 0.5))


def _scores(net: Net, rng: np.random.Generator, x: str) -> str:
    """Attention without its projections."""
    heads = _heads(net, x)
    q, k = net.heads(x, heads), net.heads(x, heads, (0, 2, 3, 1))
    return net.transpose(net.matmul(net.softmax(net.matmul(q, k)), q), (0, 2, 1, 3))


def _split_heads(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.heads(x, _heads(net, x), (0, 2, 1, 3) if rng.random() < 0.5 else (0, 2, 3, 1))


def _feed_forward(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.feed_forward(x, net.ch(256), str(rng.choice(["Gelu", "Relu", "Silu"])))


def _norm(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.layer_norm(x) if rng.random() < 0.7 else net.rms_norm(x)


def _activation(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.act(x, str(rng.choice(["Gelu", "Silu", "Relu", "Tanh", "Sigmoid", "Erf", "Exp", "Softplus"])))


def _softmax(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.softmax(x)


def _positions(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.positions(x)


def _residual(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.add(x, net.input(net.unique("skip"), net.shape(x)))


def _product(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.mul(x, net.sigmoid(net.input(net.unique("gate"), net.shape(x))))


def _transposed(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.transpose(x, (0, 2, 1) if rng.random() < 0.7 else (1, 0, 2))


def _last(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.node("Gather", x, net.constant(np.int64(-1)), axis=1)


def _average(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.reduce_mean(x, [1])


def _half(net: Net, rng: np.random.Generator, x: str) -> str:
    return net.slice(x, 0, max(1, net.shape(x)[-1] // 2), axis=len(net.shape(x)) - 1)


def _heads(net: Net, x: str) -> int:
    return next(h for h in (12, 8, 4, 2, 1) if net.shape(x)[2] % h == 0)


_ON_SIGNALS: tuple[Operation, ...] = (
    _conv, _conv, _conv, _dilated_conv, _dilated_conv, _depthwise_conv, _depthwise_conv, _pool, _pool_all, _joined,
    _activation,
)  # fmt: skip
_ON_TOKENS: tuple[Operation, ...] = (
    _recurrent, _recurrent, _recurrent, _dense, _dense, _self_attention, _scores, _split_heads, _feed_forward, _norm,
    _norm, _activation, _activation, _softmax, _positions, _residual, _product, _transposed, _last, _average, _half,
)  # fmt: skip


def _sequence_operator(net: Net, rng: np.random.Generator) -> Net:
    """One operation, or up to four in a row; where there are no MACs, ten per element stand for the size."""
    signal = bool(rng.random() < 0.4)
    x = start = _signal(net, rng) if signal else _tokens(net, rng)
    operations = _ON_SIGNALS if signal else _ON_TOKENS
    for _ in range(int(rng.choice([1, 1, 2, 3, 4]))):
        if len(net.shape(x)) != 3:
            break
        x = operations[int(rng.integers(len(operations)))](net, rng, x)
    if net.macs == 0:
        net.macs = 10 * int(np.prod(net.shape(start)))
    return net.finish(x)


SEQUENCE_OPERATOR = Family("sequence_operator", "this project", _sequence_operator, macs_range=(1e5, 1e9))
