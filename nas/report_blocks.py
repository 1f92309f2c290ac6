"""A delivered network's layers → the blocks that a reader knows it by."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

Row = Mapping[str, Any]

INPUT = -1
"""Place of the network's input among the blocks."""

_BLOCK = re.compile(r"((?:s\d+_)?b\d+)(?:_.*)?")
_OPENS_NEXT = frozenset({"pool", "layer_norm", "tokens"})
"""Without weights, these begin what follows; an addition or activation ends what came before."""


@dataclass(frozen=True)
class Block:
    """Layers that share a precision, or one layer.

    Args:
        name: ``s0_b1``; of a layer that is no part of a block its own.
        operations: what it computes, in order: ``("1×1", "3×3 depthwise", "1×1")``.
        channels: it writes.
        positions: of what it writes: height and width, a length, a number of tokens; empty where there is one value
            per channel.
        bits: ``32`` is float, ``8`` INT8; ``w4a6`` has weights of 4 bits and reads 6.
        added: places of the blocks whose outputs are added to what this one computes; `INPUT` is the network's input.
    """

    name: str
    operations: tuple[str, ...]
    channels: int
    positions: tuple[int, ...]
    bits: str
    added: tuple[int, ...] = ()

    @property
    def shape(self) -> str:
        """``24 channels, 8×8``; ``24 channels, 16 positions``; of one value per channel ``10 outputs``."""
        if not self.positions or math.prod(self.positions) == 1:
            return f"{self.channels} outputs"
        size = "×".join(map(str, self.positions)) + (" positions" if len(self.positions) == 1 else "")
        return f"{self.channels} channels, {size}"

    @property
    def side(self) -> float:
        """Mean length of a dimension."""
        return math.prod(self.positions) ** (1 / len(self.positions)) if self.positions else 1.0


def bits_of(layers: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """Name and bits of each block with weights."""
    return tuple({_block_name(row): _bits(row) for row in layers if "bits" in row}.items())


def blocks_of(layers: Sequence[Row]) -> tuple[Block, ...]:
    """The blocks of a network.

    Args:
        layers: as the search's verification wrote them; without shapes, as older ones did, there is nothing to draw.
    """
    if not all("positions" in row for row in layers):
        return ()
    groups = _groups(layers)
    place = {row["name"]: i for i, group in enumerate(groups) for row in group} | {"input": INPUT}
    return tuple(_block(i, group, place) for i, group in enumerate(groups))


def _groups(layers: Sequence[Row]) -> list[list[Row]]:
    """Layers by block; those without weights go to a neighbour."""
    found: list[list[Row]] = []
    waiting: list[Row] = []
    for _, rows in groupby(layers, _block_name):
        group = [*waiting, *rows]
        waiting = []
        if any("bits" in row for row in group):
            found.append(group)
        elif found and not _OPENS_NEXT.intersection(row["kind"] for row in group):
            found[-1] += group
        else:
            waiting = group
    if found:
        found[-1] += waiting
    return found


def _block(place_here: int, group: Sequence[Row], place: Mapping[str, int]) -> Block:
    weighted = [row for row in group if "bits" in row]
    outside = [place[name] for row in group for name in row["inputs"] if place[name] != place_here]
    additions = [row for row in group if row["kind"] == "add"]
    added = [place[name] for row in additions for name in row["inputs"] if place[name] != place_here]
    if additions and not added:
        added = outside[:1]  # a projection stands in the shortcut
    return Block(
        name=_block_name(weighted[0]),
        operations=tuple(_operations(group)),
        channels=group[-1]["channels"],
        positions=tuple(group[-1]["positions"]),
        bits=_bits(weighted[-1]),
        added=tuple(dict.fromkeys(added)),
    )


def _operations(group: Sequence[Row]) -> list[str]:
    """In words; a gate (squeeze and excite) is one, linear layers in a row are counted."""
    inside = {row["name"] for row in group}
    gated = any(row["kind"] == "mul" for row in group)
    words = []
    for i, row in enumerate(group):
        word = _operation(row, gated)
        if word and i and row["kind"] == "conv" and not inside.intersection(row["inputs"]):
            word += " shortcut"
        words += [word] if word else []
    counted = [(word, len(list(same))) for word, same in groupby(words)]
    return [
        shown
        for word, n in counted
        for shown in ([f"{n} {word}"] if word == "linear" and n > 1 else [word] * n)
    ]


def _operation(row: Row, gated: bool) -> str:
    match row["kind"]:
        case "conv":
            if gated and math.prod(row["positions"]) == 1:
                return ""
            dimensions = len(row["positions"])
            window = (
                "×".join([str(row["kernel"])] * dimensions) if dimensions > 1 else f"window {row['kernel']}"
            )
            return f"{window} depthwise" if row["groups"] > 1 else window
        case "pool":
            return "" if gated else "mean"
        case "mul":
            return "gate"
        case "linear" | "attention" as kind:
            return str(kind)
        case _:
            return ""


def _block_name(row: Row) -> str:
    """Layers of a block share its name's beginning and its precision: ``s0_b1_expand`` belongs to ``s0_b1``."""
    found = _BLOCK.fullmatch(row["name"])
    return found[1] if found else str(row["name"]).removesuffix("_act")


def _bits(row: Row) -> str:
    return f"w{row['bits']}a{row['activation_bits']}" if "activation_bits" in row else str(row["bits"])
