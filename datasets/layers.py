"""The layers of an ONNX model whose precision can be chosen, and which of them meet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Final

import onnx

LAYER_TYPES: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that do the work; every other follows the layers it lies between."""

_PAIRS_PER_LAYER = 4


@dataclass(frozen=True)
class Layers:
    """Layers in topological order.

    Args:
        names: of their nodes.
        op_types: of their nodes.
        pairs: ``(i, j)`` with ``i < j`` of layers between which a tensor passes through no other layer, or whose
            outputs meet in an operator: what one costs depends on the other's precision.
        followers: other node to the layers that decide its precision.
        pairs_left_out: pairs beyond four per layer, which are taken not to matter (in dense networks).
    """

    names: tuple[str, ...]
    op_types: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    followers: dict[str, frozenset[int]]
    pairs_left_out: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def nodes(self, chosen: frozenset[int]) -> list[str]:
        """Names of these layers and of the operators that lie between them only."""
        return [
            *(self.names[i] for i in sorted(chosen)),
            *(name for name, layers in self.followers.items() if layers and layers <= chosen),
        ]


def name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node of the main graph has a name of its own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken: set[str] = set()
    for i, node in enumerate(copy.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{i}"
            while node.name in taken:
                node.name += "_"
        taken.add(node.name)
    return copy


def find_layers(model: onnx.ModelProto) -> Layers:
    """Read layers and their neighbourhood from a model whose nodes are named and in topological order."""
    names: list[str] = []
    op_types: list[str] = []
    above: dict[str, frozenset[int]] = {}  # tensor to the nearest layers that it comes from
    meetings: dict[tuple[int, int], None] = {}
    others: list[onnx.NodeProto] = []
    before: dict[str, frozenset[int]] = {}
    for node in model.graph.node:
        sources = frozenset[int]().union(*(above.get(tensor, frozenset()) for tensor in node.input))
        if node.op_type in LAYER_TYPES and node.domain in ("", "ai.onnx"):
            i = len(names)
            names.append(node.name)
            op_types.append(node.op_type)
            meetings |= {(source, i): None for source in sorted(sources)}
            sources = frozenset({i})
        else:
            others.append(node)
            before[node.name] = sources
            meetings |= dict.fromkeys(combinations(sorted(sources), 2))
        above |= dict.fromkeys(node.output, sources)
    below: dict[str, frozenset[int]] = {}
    index = {name: i for i, name in enumerate(names)}
    for node in reversed(model.graph.node):
        sinks = frozenset[int]().union(*(below.get(tensor, frozenset()) for tensor in node.output))
        if node.name in index:
            sinks = frozenset({index[node.name]})
        for tensor in node.input:
            below[tensor] = below.get(tensor, frozenset()) | sinks
    followers = {
        node.name: before[node.name]
        or frozenset[int]().union(*(below.get(tensor, frozenset()) for tensor in node.output))
        for node in others
    }
    pairs = sorted(meetings, key=lambda pair: (pair[1] - pair[0], pair))  # the nearest first
    most = _PAIRS_PER_LAYER * len(names)
    return Layers(
        tuple(names), tuple(op_types), tuple(sorted(pairs[:most])), followers, max(0, len(pairs) - most)
    )
