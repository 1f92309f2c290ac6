"""Networks on sequences and on plain features: temporal convolution, recurrence, MLP."""

from __future__ import annotations

import numpy as np

from hardsight.datasets.families._family import Family
from hardsight.datasets.families._net import Net, log_integer, pick_classes


def _tcn(net: Net, rng: np.random.Generator) -> Net:
    length, features = log_integer(rng, 32, 2048), int(rng.choice([1, 6, 12, 40, 64]))
    x = net.input("signal", (1, features, length))
    kernel, separable = int(rng.choice([3, 3, 5, 7])), bool(rng.random() < 0.3)
    dilated = bool(rng.random() < 0.6)
    x = net.conv_act(x, net.ch(32), kernel, stride=int(rng.choice([1, 2])))
    for level in range(log_integer(rng, 2, 9)):
        channels = net.ch(32 if dilated else 32 * 1.3**level)
        dilation = 2 ** min(level, 6) if dilated else 1
        y = x
        for _ in range(2):
            if separable:
                y = net.act(net.conv(net.depthwise(y, kernel, dilation=dilation), channels, 1))
            else:
                y = net.conv_act(y, channels, kernel, dilation=dilation)
        x = net.act(net.add(y, x if net.channels(x) == channels else net.conv(x, channels, 1)))
        if not dilated and net.shape(x)[2] >= 8:
            x = net.max_pool(x, 2, stride=2)
    if rng.random() < 0.3:
        return net.finish(net.conv(x, int(rng.choice([2, 10, 40])), 1))
    return net.finish(net.classifier(x, pick_classes(rng)))


def _recurrent(net: Net, rng: np.random.Generator) -> Net:
    """Batch-first input, as exporters write it: transposed around each layer, states given as constants."""
    length, features = log_integer(rng, 8, 256), int(rng.choice([8, 16, 40, 80]))
    kind, gates = ("LSTM", 4) if rng.random() < 0.5 else ("GRU", 3)
    x = net.input("sequence", (1, length, features))
    hidden, directions = net.ch(64), int(rng.choice([1, 1, 2]))
    if rng.random() < 0.3:  # a convolutional front end
        x = net.transpose(net.conv_act(net.transpose(x, (0, 2, 1)), hidden, 3), (0, 2, 1))
    x = net.transpose(x, (1, 0, 2))
    for _ in range(int(rng.integers(1, 4))):
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
            linear_before_reset=1 if kind == "GRU" else None,  # torch's kind of GRU
        )
        if directions == 1:
            x = net.squeeze(y, (1,))
        else:
            x = net.reshape(net.transpose(y, (0, 2, 1, 3)), (0, 0, -1))
    x = net.transpose(x, (1, 0, 2))
    if rng.random() < 0.7:
        x = net.node("Gather", x, net.constant(np.int64(-1)), axis=1)
    return net.finish(net.linear(x, pick_classes(rng)))


def _mlp(net: Net, rng: np.random.Generator) -> Net:
    """Rows of a table, or an image flattened; a batch stands for what dense layers meet elsewhere."""
    batch = int(rng.choice([1, 1, 4, 16, 64, 256]))
    if batch == 1 and rng.random() < 0.4:
        side = int(rng.choice([28, 32, 64]))
        x = net.flat(net.input("image", (1, int(rng.choice([1, 3])), side, side)))
    else:
        x = net.input("features", (batch, log_integer(rng, 4, 1024)))
    hidden, taper = float(rng.choice([64, 128, 256])), float(rng.choice([1.0, 1.0, 0.5, 0.75]))
    residual, normed = bool(rng.random() < 0.3), bool(rng.random() < 0.3)
    for layer in range(log_integer(rng, 1, 12)):
        y = net.linear(x, net.ch(max(8.0, hidden * taper**layer)))
        y = net.layer_norm(y) if normed else y
        y = net.act(y)
        x = net.add(x, y) if residual and net.shape(x) == net.shape(y) else y
    x = net.linear(x, pick_classes(rng))
    return net.finish(net.softmax(x) if rng.random() < 0.3 else x)


TCN = Family("tcn", "Bai et al., An empirical evaluation of convolutional and recurrent networks, 2018", _tcn)
RECURRENT = Family(
    "recurrent",
    "Hochreiter and Schmidhuber, Long short-term memory, 1997; Cho et al., GRU, EMNLP 2014",
    _recurrent,
)
MLP = Family("mlp", "Rumelhart et al., Learning representations by back-propagating errors, 1986", _mlp)
