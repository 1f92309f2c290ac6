"""Damage to the bytes of a file, without regard to what they mean."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Final

Damage = Callable[[bytes, random.Random], bytes]


def _span(data: bytes, rng: random.Random, longest: int) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(start + rng.randint(1, longest), len(data))


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 8) if data else 0):
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def overwrite(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng, 16)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def insert(data: bytes, rng: random.Random) -> bytes:
    start, _ = _span(data, rng, 1)
    return data[:start] + rng.randbytes(rng.randint(1, 16)) + data[start:]


def delete(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng, 64)
    return data[:start] + data[end:]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def cut_the_head(data: bytes, rng: random.Random) -> bytes:
    return data[rng.randrange(len(data) + 1) :]


def repeat_chunk(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng, 512)
    return data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:]


def swap_chunks(data: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def huge_varint(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng, 2)
    number = rng.choice((b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\xff" * 4 + b"\x07", b"\x80" * 9 + b"\x01"))
    return data[:start] + number + data[end:]


def zeros(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng, 128)
    return data[:start] + bytes(end - start) + data[end:]


def merge_with_itself(data: bytes, rng: random.Random) -> bytes:
    """Two messages in a row are one with everything twice."""
    return data + data


def name_that_is_not_utf8(data: bytes, rng: random.Random) -> bytes:
    words = [match.start() for match in re.finditer(rb"[A-Za-z_]{2,}", data)]
    if not words:
        return data
    at = rng.choice(words)
    return data[:at] + b"\xff" + data[at + 1 :]


def another_name(data: bytes, rng: random.Random) -> bytes:
    """One word becomes another of the same length, everywhere in the file."""
    words = sorted(set(re.findall(rb"[A-Za-z_]{2,}", data)))
    pairs = [(a, b) for a in words for b in words if a != b and len(a) == len(b)]
    return data.replace(*rng.choice(pairs)) if pairs else data


RAW: Final[tuple[Damage, ...]] = (
    flip_bits,
    overwrite,
    insert,
    delete,
    truncate,
    cut_the_head,
    repeat_chunk,
    swap_chunks,
    huge_varint,
    zeros,
    merge_with_itself,
    name_that_is_not_utf8,
    another_name,
)
