"""Damaged ONNX files by number: ``mutant(4711)`` is the same file for ever.

A few sound models (`seeds`, made by `make_seeds`) are damaged in their bytes (`raw`) or in their protobuf
structure (`structure`); now and then a file made to do harm takes their place (`bombs`). `examine` reads
one under limits; ``python -m mutator`` does it from the command line.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from onnx import ModelProto

from mutator.bombs import BOMBS
from mutator.raw import RAW
from mutator.structure import STRUCTURE

__all__ = ["Mutant", "mutant", "seed_models"]

_BOMB_SHARE, _RAW_SHARE, _BOTH_SHARE = 0.06, 0.18, 0.06
_HOW_MANY = (1, 1, 1, 2, 4)  # changes to one file


@dataclass(frozen=True)
class Mutant:
    """A damaged file.

    Args:
        number: what `mutant` was asked for.
        origin: the seed model, or "" for a file made to do harm.
        changes: names of the functions that made it what it is, in order.
        data: its bytes.
    """

    number: int
    origin: str
    changes: tuple[str, ...]
    data: bytes


@cache
def seed_models() -> dict[str, bytes]:
    """The sound models by name."""
    files = sorted((Path(__file__).parent / "seeds").glob("*.onnx"))
    return {file.stem: file.read_bytes() for file in files}


def mutant(number: int) -> Mutant:
    """The damaged file of that number."""
    rng = random.Random(number)
    kind = rng.random()
    if kind < _BOMB_SHARE:
        bomb = rng.choice(BOMBS)
        return Mutant(number, "", (bomb.__name__,), bomb(rng))
    origin = rng.choice(list(seed_models()))
    data = seed_models()[origin]
    changes: list[str] = []
    if kind >= _BOMB_SHARE + _RAW_SHARE:
        model = ModelProto.FromString(data)
        for change in rng.choices(STRUCTURE, k=rng.choice(_HOW_MANY)):
            change(model, rng)
            changes.append(change.__name__)
        data = model.SerializeToString()
    if kind < _BOMB_SHARE + _RAW_SHARE + _BOTH_SHARE:
        for damage in rng.choices(RAW, k=rng.choice(_HOW_MANY)):
            data = damage(data, rng)
            changes.append(damage.__name__)
    return Mutant(number, origin, tuple(changes), data)
