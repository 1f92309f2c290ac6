"""HAT's Transformers for translation (Wang et al., ACL 2020), encoder and decoder apart, as they were measured.

From latency_dataset.py and transformer_super.py of the authors' repository. The sentence has 30 tokens (23 for
IWSLT), the beam is 5. Attention is 512 wide whatever the embedding; normalisation follows each sum; the
decoder attends to the last one, two or three encoder layers, laid end to end ("arbitrary encoder-decoder
attention").

The decoder's label is of as many incremental steps as the sentence has tokens, so its graph is a Loop around one
step. Where we depart from the code, since a Loop's shapes are fixed: keys and values of earlier steps are kept in a
window of full length that moves by one per step, with a mask over what is not there yet, while upstream's
grow from 1 to 30. That is under 1 % of the multiply-accumulates. The embedding table counts twice in the decoder,
once for looking up and once, transposed, for the output, though upstream ties the two.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from onnx import TensorProto

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.sources._graphs_blocks import Network, to_graph
from hardsight.errors import DataError
from hardsight.graph import OperatorGraph

BEAM: Final = 5  # fairseq's default, which no configuration of the latency data sets changes
WIDTH: Final = 512  # qkv-dim in all of them


@dataclass(frozen=True)
class Task:
    """A translation task.

    Args:
        tokens: of the sentence that is translated, and of the translation.
        source_words: entries of the encoder's vocabulary.
        target_words: entries of the decoder's.
    """

    tokens: int
    source_words: int
    target_words: int


TASKS: Final = {
    "wmt14ende": Task(30, 32768, 32768),
    "wmt14enfr": Task(30, 44512, 44512),
    "wmt19ende": Task(30, 49600, 49600),
    "iwslt14deen": Task(23, 8848, 6632),
}
"""Vocabularies are fairseq's for these data; the paper rounds that of WMT'19, and no better number was published."""


@dataclass(frozen=True)
class Encoder:
    """Choices of an encoder: one entry per layer of ``ffn`` and ``heads``."""

    task: str
    embed: int
    ffn: tuple[int, ...]
    heads: tuple[int, ...]

    def encode(self) -> str:
        return json.dumps({"encoder": asdict(self)})


@dataclass(frozen=True)
class Decoder:
    """Choices of a decoder.

    Args:
        task: key of `TASKS`.
        embed: width of the decoder's tokens.
        encoder_embed: width of the encoder's.
        ffn: inner width of each layer's dense pair.
        heads: of each layer's self-attention.
        cross_heads: of each layer's attention to the encoder.
        sources: how many of the last encoder layers each layer attends to, 1 to 3.
    """

    task: str
    embed: int
    encoder_embed: int
    ffn: tuple[int, ...]
    heads: tuple[int, ...]
    cross_heads: tuple[int, ...]
    sources: tuple[int, ...]

    def encode(self) -> str:
        return json.dumps({"decoder": asdict(self)})


def graph(encoding: str) -> OperatorGraph:
    """The graph of what `Encoder.encode` or `Decoder.encode` gave."""
    return to_graph(describe, encoding)


def describe(net: Network, encoding: str) -> None:
    ((part, choices),) = json.loads(encoding).items()
    if choices["task"] not in TASKS:
        raise DataError(f"HAT has no task '{choices['task']}'; expected one of {', '.join(TASKS)}")
    if part == "encoder":
        _describe_encoder(net, Encoder(**choices))
    else:
        _describe_decoder(net, Decoder(**choices))


def _describe_encoder(net: Network, wanted: Encoder) -> None:
    task = TASKS[wanted.task]
    ids = net.input("tokens", (1, task.tokens), TensorProto.INT64)
    x = net.block(_embedded, ids, words=task.source_words, embed=wanted.embed)
    for ffn, heads in zip(wanted.ffn, wanted.heads, strict=True):
        x = net.block(_encoder_layer, x, ffn=ffn, heads=heads)
    net.output(x)


def _describe_decoder(net: Network, wanted: Decoder) -> None:
    task = TASKS[wanted.task]
    tokens = net.input("tokens", (BEAM, task.tokens), TensorProto.INT64)
    encoded = [
        net.input(f"encoded_{index}", (task.tokens, BEAM, wanted.encoder_embed))
        for index in range(max(wanted.sources))
    ]
    memories = [
        net.blocks(_memory, *encoded[:count], heads=heads)
        for count, heads in zip(wanted.sources, wanted.cross_heads, strict=True)
    ]
    states = [
        net.input(f"{kind}_{index}", (BEAM * heads, task.tokens, WIDTH // heads))
        for index, heads in enumerate(wanted.heads)
        for kind in ("keys", "values")
    ]

    def step(number: str, kept: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
        x = net.block(_next_token, tokens, number, words=task.target_words, embed=wanted.embed)
        mask = net.block(_mask, number, tokens=task.tokens)
        afterwards: list[str] = []
        for index, (ffn, heads) in enumerate(zip(wanted.ffn, wanted.heads, strict=True)):
            past, memory = kept[2 * index : 2 * index + 2], memories[index]
            x, keys, values = net.blocks(
                _decoder_layer,
                x,
                mask,
                *past,
                *memory,
                ffn=ffn,
                heads=heads,
                cross_heads=wanted.cross_heads[index],
            )
            afterwards += [keys, values]
        return tuple(afterwards), net.block(_words, x, words=task.target_words)

    net.output(net.loop(task.tokens, states, step))


def _embedded(net: OnnxBuilder, ids: str, *, words: int, embed: int) -> str:
    """Word and position, first dimension time as in all that follows."""
    x = net.node("Gather", net.weight("words", (words, embed)), ids, axis=0)
    x = net.scaled(x, math.sqrt(embed))
    x = net.add(x, net.weight("positions", (1, net.shape(ids)[1], embed)))
    return net.transpose(x, (1, 0, 2))


def _next_token(net: OnnxBuilder, tokens: str, number: str, *, words: int, embed: int) -> str:
    ids = net.node("Gather", tokens, number, axis=1)
    x = net.node("Gather", net.weight(net.unique("words"), (words, embed)), ids, axis=0)
    x = net.scaled(x, math.sqrt(embed))
    position = net.weight(net.unique("positions"), (net.shape(tokens)[1], embed))
    x = net.add(x, net.node("Gather", position, number, axis=0))
    return net.node("Unsqueeze", x, net.constant(np.array([0], np.int64)))


def _mask(net: OnnxBuilder, number: str, *, tokens: int) -> str:
    """What to add to the scores of a window that fills from its end."""
    return net.node("Gather", net.weight(net.unique("mask"), (tokens, tokens)), number, axis=0)


def _encoder_layer(net: OnnxBuilder, x: str, *, ffn: int, heads: int) -> str:
    q, k, v = net.split(net.linear(x, 3 * WIDTH), (WIDTH,) * 3, axis=2)
    y = _attended(
        net, _heads(net, net.scaled(q, _scale(heads)), heads), _heads(net, k, heads), _heads(net, v, heads)
    )
    return _dense(net, _merged(net, x, y), ffn)


def _decoder_layer(
    net: OnnxBuilder,
    x: str,
    mask: str,
    keys: str,
    values: str,
    memory_keys: str,
    memory_values: str,
    *,
    ffn: int,
    heads: int,
    cross_heads: int,
) -> tuple[str, ...]:
    q, k, v = net.split(net.linear(x, 3 * WIDTH), (WIDTH,) * 3, axis=2)
    keys = _moved(net, keys, _heads(net, k, heads))
    values = _moved(net, values, _heads(net, v, heads))
    y = _attended(net, _heads(net, net.scaled(q, _scale(heads)), heads), keys, values, mask)
    x = _merged(net, x, y)
    q = net.scaled(net.linear(x, WIDTH), _scale(cross_heads))
    x = _merged(net, x, _attended(net, _heads(net, q, cross_heads), memory_keys, memory_values))
    return _dense(net, x, ffn), keys, values


def _memory(net: OnnxBuilder, *encoded: str, heads: int) -> tuple[str, ...]:
    """Keys and values of the encoder's layers, computed once per sentence."""
    x = net.concat(encoded, axis=0) if len(encoded) > 1 else encoded[0]
    return _heads(net, net.linear(x, WIDTH), heads), _heads(net, net.linear(x, WIDTH), heads)


def _words(net: OnnxBuilder, x: str, *, words: int) -> str:
    return net.linear(net.transpose(x, (1, 0, 2)), words, bias=False)


def _heads(net: OnnxBuilder, x: str, heads: int) -> str:
    """``(time, batch, width)`` to ``(batch x heads, time, width / heads)``."""
    time, batch, width = net.shape(x)
    return net.transpose(net.reshape(x, (time, batch * heads, width // heads)), (1, 0, 2))


def _attended(net: OnnxBuilder, q: str, k: str, v: str, mask: str | None = None) -> str:
    scores = net.matmul(q, net.transpose(k, (0, 2, 1)))
    if mask is not None:
        scores = net.add(scores, mask)
    return net.matmul(net.softmax(scores), v)


def _merged(net: OnnxBuilder, x: str, attended: str) -> str:
    """Heads side by side again, projected, added to ``x`` and normalised."""
    time, batch, embed = net.shape(x)
    y = net.reshape(net.transpose(attended, (1, 0, 2)), (time, batch, WIDTH))
    return _normalised(net, net.add(x, net.linear(y, embed)))


def _dense(net: OnnxBuilder, x: str, ffn: int) -> str:
    return _normalised(net, net.add(x, net.linear(net.relu(net.linear(x, ffn)), net.shape(x)[2])))


def _normalised(net: OnnxBuilder, x: str) -> str:
    name = net.unique("layer_norm")
    weights: list[Any] = [net.weight(f"{name}.{role}", net.shape(x)[-1:]) for role in ("weight", "bias")]
    return net.node("LayerNormalization", x, *weights, name=name, axis=-1, epsilon=1e-5)


def _moved(net: OnnxBuilder, window: str, newest: str) -> str:
    """The window without its oldest entry and with ``newest`` at its end."""
    return net.concat([net.slice(window, 1, net.shape(window)[1], axis=1), newest], axis=1)


def _scale(heads: int) -> float:
    return float((WIDTH // heads) ** -0.5)
