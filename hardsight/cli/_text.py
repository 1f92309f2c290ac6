"""Text from a model or a file name, made safe for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with escape codes, line breaks and the like written out, as Python does."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
