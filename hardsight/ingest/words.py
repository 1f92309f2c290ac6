"""What a message shows of a file's own words: printable, and never more than a line can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_LONGEST: Final = 160
_MOST_ITEMS: Final = 8


def short(text: str | bytes, longest: int = _LONGEST) -> str:
    """The text with line breaks, escape codes and the like written out; the middle of a long one left out.

    Protobuf hands out as bytes what is not UTF-8.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-longest // 4 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(name: str | bytes) -> str:
    """A name of the file, short and in quotation marks."""
    return f"'{short(name)}'"


def listed(items: Sequence[object]) -> str:
    """With commas between them; of absurdly many only the first."""
    shown = ", ".join(map(str, items[:_MOST_ITEMS]))
    return shown if len(items) <= _MOST_ITEMS else f"{shown}, … {len(items)} in all"
