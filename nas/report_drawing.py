"""A network's blocks → a drawing for a page: inline SVG as narrow as a phone, colours by bits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from hardsight.nas.report_blocks import Block

# One hue whose lightness falls with the bits, and another for float: told apart by the colour-blind too; each box
# also says its bits. Black is legible on all.
_FLOAT = "#f7c873"
_SHADES = ((3, "#eef6fb"), (4, "#cfe6f4"), (6, "#a3d0ea"), (8, "#6db5dd"), (16, "#4a9bcb"))

_WIDTH, _HEIGHT = 130.0, 34.0  # of the largest box
_LEAST_WIDTH, _LEAST_HEIGHT = 38.0, 17.0
_ROW = 34.0  # two lines of text
_GAP = 13.0
_MIDDLE = 66.0
_TEXT_X = 160.0
_PAGE_WIDTH = 400.0
_LETTERS = 38  # that fit beside the boxes


def colour(bits: str) -> str:
    """Of a box: by the bits of the weights, ``32``, ``8`` or ``w4a6``."""
    found = re.match(r"w?(\d+)", bits)
    width = int(found[1]) if found else 32
    return next((shade for most, shade in _SHADES if width <= most), _FLOAT)


def alternative_text(title: str, blocks: Sequence[Block]) -> str:
    """The drawing in words."""
    return f"{title}: " + "; ".join(
        f"{block.name}: {', '.join(block.operations)}, {block.shape}, {block.bits} bits{_added_words(block, blocks)}"
        for block in blocks
    )


def drawing(title: str, input_shape: Sequence[int], blocks: Sequence[Block]) -> str:
    """A column of boxes, as wide as their channels and as high as their resolution, added outputs as arcs.

    Args:
        title: of the network, for those who do not see it.
        input_shape: of a sample.
        blocks: at least one.
    """
    most, longest = max(block.channels for block in blocks), max(block.side for block in blocks)
    parts = [_text(_MIDDLE, 14, f"input {'×'.join(map(str, input_shape))}", anchor="middle")]
    y, bottoms = 20.0, [20.0]  # what an arc may start from, the input first
    for i, block in enumerate(blocks):
        width = _LEAST_WIDTH + (_WIDTH - _LEAST_WIDTH) * block.channels / most
        height = _LEAST_HEIGHT + (_HEIGHT - _LEAST_HEIGHT) * block.side / longest
        top = y + _GAP + (max(_ROW, height) - height) / 2
        parts.append(f'<line x1="{_MIDDLE}" y1="{bottoms[-1]:.1f}" x2="{_MIDDLE}" y2="{top:.1f}"/>')
        parts.append(_box(block, width, height, top))
        parts += _labels(block, top + height / 2)
        y += _GAP + max(_ROW, height)
        bottoms.append(top + height)
        for source in block.added:
            parts.append(_arc(bottoms[source + 1] + 10, bottoms[-1] + 4, i - source))
    label = escape(alternative_text(title, blocks), quote=True)
    return (
        f'<svg viewBox="0 0 {_PAGE_WIDTH:g} {y + _GAP:.0f}" role="img" aria-label="{label}" font-size="12.5" '
        'fill="none" stroke="#6b7580">' + "".join(parts) + "</svg>"
    )


def _box(block: Block, width: float, height: float, top: float) -> str:
    return (
        f'<rect x="{_MIDDLE - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" '
        f'fill="{colour(block.bits)}"/>' + _text(_MIDDLE, top + height / 2 + 4.5, block.bits, anchor="middle")
    )


def _labels(block: Block, middle: float) -> list[str]:
    operations = " · ".join(block.operations)
    first = f"{block.name}, {block.shape}"
    return [
        _text(_TEXT_X, middle - 3, _shortened(first), weight="600"),
        _text(_TEXT_X, middle + 12, _shortened(operations)),
    ]


def _arc(start: float, end: float, blocks: int) -> str:
    """From where the added output leaves to where it is added, further out the more blocks it passes."""
    out = _MIDDLE + _WIDTH / 2 + 4 + min(4 * blocks, 20)
    return (
        f'<path d="M{_MIDDLE} {start:.1f} H{out:.1f} V{end:.1f} H{_MIDDLE + 6}" stroke="#b3470a" '
        f'stroke-width="1.3"/><circle cx="{_MIDDLE}" cy="{end:.1f}" r="4" fill="#fff" stroke="#b3470a"/>'
        f'<path d="M{_MIDDLE - 2.5} {end:.1f} h5 M{_MIDDLE} {end - 2.5:.1f} v5" stroke="#b3470a"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "400") -> str:
    return (
        f'<text x="{x:g}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="#1b1f24" stroke="none">'
        f"{escape(text)}</text>"
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def _added_words(block: Block, blocks: Sequence[Block]) -> str:
    names = ["the input" if i < 0 else blocks[i].name for i in block.added]
    return f", to which {' and '.join(names)} is added" if names else ""
