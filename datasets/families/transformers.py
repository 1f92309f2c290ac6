"""Attention and what competes with it: ViT, windows, hybrids, mixers, language models."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from hardsight.datasets.families._family import Family
from hardsight.datasets.families._net import Net, log_integer, pick_classes


def _encoder_block(
    net: Net, x: str, heads: int, hidden: int, *, fused: bool, pre: bool, mask: str | None
) -> str:
    if pre:
        x = net.add(x, net.attention(net.layer_norm(x), heads, fused=fused, mask=mask))
        return net.add(x, net.feed_forward(net.layer_norm(x), hidden))
    x = net.layer_norm(net.add(net.attention(x, heads, fused=fused, mask=mask), x))
    return net.layer_norm(net.add(net.feed_forward(x, hidden), x))


def _vit(net: Net, rng: np.random.Generator) -> Net:
    patch = int(rng.choice([4, 8, 14, 16, 16, 32]))
    grid = log_integer(rng, max(3, 32 // patch), max(4, min(16, 224 // patch)))
    heads = int(rng.choice([1, 2, 3, 4, 6, 8]))
    dim = net.ch(96, 4 * heads)
    image = net.input("image", (1, 3, patch * grid, patch * grid))
    x = net.tokens(net.conv(image, dim, patch, stride=patch, padding=0))
    token = bool(rng.random() < 0.6)
    if token:
        x = net.concat([net.weight("class_token", (1, 1, dim)), x], axis=1)
    x = net.positions(x)
    ratio, fused = float(rng.choice([2, 3, 4, 4])), bool(rng.random() < 0.6)
    for _ in range(log_integer(rng, 1, 14)):
        x = _encoder_block(net, x, heads, round(dim * ratio), fused=fused, pre=True, mask=None)
    x = net.layer_norm(x)
    if token:
        x = net.node("Gather", x, net.constant(np.int64(0)), axis=1)
    else:
        x = net.reduce_mean(x, [1], keepdims=False)
    return net.finish(net.linear(x, pick_classes(rng)))


def _windows(net: Net, x: str, window: int) -> str:
    """``(1, h, w, c)`` to ``(windows, window x window, c)``."""
    _, height, width, channels = net.shape(x)
    y = net.reshape(x, (1, height // window, window, width // window, window, channels))
    return net.reshape(net.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, window * window, channels))


def _unwindows(net: Net, x: str, window: int, height: int, width: int) -> str:
    channels = net.shape(x)[-1]
    y = net.reshape(x, (1, height // window, width // window, window, window, channels))
    return net.reshape(net.transpose(y, (0, 1, 3, 2, 4, 5)), (1, height, width, channels))


def _rolled(net: Net, x: str, shift: int) -> str:
    """torch.roll over height and width, as it is exported: slices and concatenations."""
    for axis in (1, 2):
        size = net.shape(x)[axis]
        cut = shift % size
        x = net.concat([net.slice(x, cut, size, axis), net.slice(x, 0, cut, axis)], axis=axis)
    return x


def _windowed_attention(net: Net, rng: np.random.Generator) -> Net:
    window, patch = int(rng.choice([4, 7, 8])), int(rng.choice([2, 4]))
    stages = int(rng.integers(1, 4))
    unit = window * patch * 2 ** (stages - 1)
    side = unit * log_integer(rng, 1, max(1, 224 // unit))
    width = int(rng.choice([8, 16, 32]))
    x = net.input("image", (1, 3, side, side))
    dim = net.ch(32, width)
    x = net.conv(x, dim, patch, stride=patch, padding=0)
    x = net.layer_norm(net.transpose(x, (0, 2, 3, 1)))
    ratio = float(rng.choice([2, 4]))
    for stage in range(stages):
        _, height, _, dim = net.shape(x)
        heads = dim // width
        for block in range(2 * log_integer(rng, 1, 3)):
            shift = window // 2 if block % 2 and height > window else 0
            y = net.layer_norm(x)
            y = _windows(net, _rolled(net, y, shift) if shift else y, window)
            relative = net.weight(net.unique("relative_position"), (1, heads, window**2, window**2))
            mask = (
                net.weight(net.unique("mask"), (net.shape(y)[0], 1, window**2, window**2)) if shift else None
            )
            y = net.attention(y, heads, fused=True, bias=relative, mask=mask)
            y = _unwindows(net, y, window, height, height)
            x = net.add(x, _rolled(net, y, -shift) if shift else y)
            x = net.add(x, net.feed_forward(net.layer_norm(x), round(dim * ratio)))
        if stage + 1 < stages:  # patch merging: every second row and column
            rows = [net.slice(x, i, height, 1, 2) for i in (0, 1)]
            x = net.concat([net.slice(r, j, height, 2, 2) for j in (0, 1) for r in rows], axis=3)
            x = net.linear(net.layer_norm(x), 2 * dim, bias=False)
    x = net.reduce_mean(net.layer_norm(x), [1, 2], keepdims=False)
    return net.finish(net.linear(x, pick_classes(rng)))


def _hybrid_attention(net: Net, rng: np.random.Generator) -> Net:
    act = str(rng.choice(["Silu", "HardSwish", "Relu"]))
    x = net.conv_act(net.image(rng, 32, 224, 32), net.ch(16), 3, stride=2, act=act)
    heads, patch = int(rng.choice([2, 4])), int(rng.choice([1, 2]))
    for stage in range(int(rng.integers(2, 5))):
        stride = 2 if net.shape(x)[2] >= 8 else 1
        channels = net.ch(24 * 1.4**stage)
        y = net.act(net.conv(x, 2 * net.channels(x), 1), act)
        x = net.conv(net.act(net.depthwise(y, 3, stride=stride), act), channels, 1)
        if stage == 0 or net.shape(x)[2] > 28:
            continue
        x = _global_block(
            net, x, net.ch(32 * 1.4**stage, 4 * heads), heads, patch, act, int(rng.integers(1, 4))
        )
    return net.finish(net.classifier(net.conv_act(x, 4 * net.channels(x), 1, act=act), pick_classes(rng)))


def _global_block(net: Net, x: str, dim: int, heads: int, patch: int, act: str, depth: int) -> str:
    """Convolutions around attention between the patches' equal positions (MobileViT)."""
    _, channels, height, width = net.shape(x)
    patch = patch if height % patch == 0 else 1
    y = net.conv(net.conv_act(x, channels, 3, act=act), dim, 1, bias=False)
    if patch > 1:
        grid = (dim * height // patch, patch, width // patch, patch)
        y = net.transpose(net.reshape(y, grid), (0, 2, 1, 3))
        y = net.reshape(y, (1, dim, height * width // patch**2, patch**2))
        y = net.reshape(net.transpose(y, (0, 3, 2, 1)), (patch**2, height * width // patch**2, dim))
    else:
        y = net.tokens(y)
    for _ in range(depth):
        y = net.add(y, net.attention(net.layer_norm(y), heads, fused=True))
        y = net.add(y, net.feed_forward(net.layer_norm(y), 2 * dim, "Silu"))
    y = net.layer_norm(y)
    if patch > 1:
        y = net.transpose(net.reshape(y, (1, patch**2, height * width // patch**2, dim)), (0, 3, 2, 1))
        y = net.reshape(y, (dim * height // patch, width // patch, patch, patch))
        y = net.reshape(net.transpose(y, (0, 2, 1, 3)), (1, dim, height, width))
    else:
        y = net.untokens(y, height, width)
    y = net.conv_act(y, channels, 1, act=act)
    return net.conv_act(net.concat([x, y]), channels, 3, act=act)


def _mlp_mixer(net: Net, rng: np.random.Generator) -> Net:
    patch = int(rng.choice([4, 8, 16, 32]))
    grid = log_integer(rng, max(3, 32 // patch), max(4, min(16, 224 // patch)))
    dim = net.ch(96)
    image = net.input("image", (1, 3, patch * grid, patch * grid))
    x = net.tokens(net.conv(image, dim, patch, stride=patch, padding=0))
    token_hidden, channel_hidden = net.ch(48), round(dim * float(rng.choice([2, 4])))
    for _ in range(log_integer(rng, 1, 14)):
        y = net.transpose(net.layer_norm(x), (0, 2, 1))
        y = net.transpose(net.feed_forward(y, token_hidden), (0, 2, 1))
        x = net.add(x, y)
        x = net.add(x, net.feed_forward(net.layer_norm(x), channel_hidden))
    x = net.reduce_mean(net.layer_norm(x), [1], keepdims=False)
    return net.finish(net.linear(x, pick_classes(rng)))


def _embedded(net: Net, ids: str, vocabulary: int, dim: int) -> str:
    return net.node("Gather", net.weight("embedding.weight", (vocabulary, dim)), ids, axis=0)


def _bert(net: Net, rng: np.random.Generator) -> Net:
    length, heads = log_integer(rng, 8, 256), int(rng.choice([1, 2, 4, 8, 12]))
    dim = net.ch(96, 4 * heads)
    ids = net.input("input_ids", (1, length), TensorProto.INT64)
    masked = bool(rng.random() < 0.6)
    mask: str | None = None
    if masked:  # 0 where a token counts, a large negative number where it does not
        given = net.node(
            "Cast", net.input("attention_mask", (1, length), TensorProto.INT64), to=TensorProto.FLOAT
        )
        given = net.node("Unsqueeze", given, net.constant(np.array([1, 2], np.int64)))
        mask = net.scaled(net.node("Sub", net.constant(np.float32(1)), given), -10000.0)
    x = net.positions(_embedded(net, ids, int(rng.choice([512, 1000, 4000, 8000])), dim))
    x = net.layer_norm(x)
    fused, pre, ratio = bool(rng.random() < 0.3), bool(rng.random() < 0.3), float(rng.choice([2, 4, 4]))
    for _ in range(log_integer(rng, 1, 12)):
        x = _encoder_block(net, x, heads, round(dim * ratio), fused=fused, pre=pre, mask=mask)
    if rng.random() < 0.6:
        first = net.node("Gather", x, net.constant(np.int64(0)), axis=1)
        x = net.act(net.linear(first, dim), "Tanh")
    return net.finish(net.linear(x, int(rng.choice([2, 3, 9, 30]))))


def _gpt(net: Net, rng: np.random.Generator) -> Net:
    """Causal: the mask is a table. Half of the draws are LLaMA-like: RMS norm and a gated SiLU layer."""
    length, heads = log_integer(rng, 8, 256), int(rng.choice([1, 2, 4, 8, 12]))
    dim = net.ch(96, 4 * heads)
    vocabulary = int(rng.choice([256, 512, 1000, 4000]))
    ids = net.input("input_ids", (1, length), TensorProto.INT64)
    x = _embedded(net, ids, vocabulary, dim)
    gated, fused = bool(rng.random() < 0.5), bool(rng.random() < 0.6)
    x = x if gated else net.positions(x)
    norm = net.rms_norm if gated else net.layer_norm
    mask = net.weight("causal_mask", (1, 1, length, length))
    hidden = round(dim * float(rng.choice([2, 8 / 3, 4])))
    for _ in range(log_integer(rng, 1, 12)):
        x = net.add(x, net.attention(norm(x), heads, fused=fused, mask=mask))
        y = norm(x)
        if gated:
            gate = net.act(net.linear(y, hidden, bias=False), "Silu")
            y = net.linear(net.mul(gate, net.linear(y, hidden, bias=False)), dim, bias=False)
        else:
            y = net.feed_forward(y, hidden)
        x = net.add(x, y)
    x = norm(x)
    if rng.random() < 0.3:  # only the last position's logits
        x = net.slice(x, length - 1, length, axis=1)
    return net.finish(net.linear(x, vocabulary, bias=False))


VIT = Family("vit", "Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021", _vit)
WINDOWED_ATTENTION = Family(
    "windowed_attention", "Liu et al., Swin transformer, ICCV 2021", _windowed_attention
)
HYBRID_ATTENTION = Family("hybrid_attention", "Mehta and Rastegari, MobileViT, ICLR 2022", _hybrid_attention)
MLP_MIXER = Family("mlp_mixer", "Tolstikhin et al., MLP-Mixer, NeurIPS 2021", _mlp_mixer)
BERT = Family("bert", "Devlin et al., BERT, NAACL 2019", _bert)
GPT = Family("gpt", "Radford et al., 2019; Touvron et al., LLaMA, 2023", _gpt)
