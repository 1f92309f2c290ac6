"""What the learned predictors see of a graph: kernels, which are operators with what a runtime merges into them.

Numbers per kernel are gathered in one pass over the operators; `hardsight.predictors.encoding` makes features of
them, for all graphs of a batch at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hardsight.graph import Operator, OperatorGraph
from hardsight.prediction import FloatArray
from hardsight.predictors import adders
from hardsight.predictors.features import CATEGORIES, TYPES, IntArray, category_of
from hardsight.predictors.liveness import lifetimes, live_bytes, running_order
from hardsight.predictors.merging import consumers_of, merge
from hardsight.predictors.patterns import patterns_of

Array = npt.NDArray[np.float32]

RAW = (
    "macs", "bytes_in", "bytes_out", "bytes_weights", "elements", "c_in", "c_out", "groups", "area", "kernel",
    "stride", "dilation", "rank", "width", "height", "inner", "axis", "into", "consumers", "repeats",
    "in_bits", "weight_bits", "out_bits", "operand", "out_rank", "in_elements", "batch", "activation",
    "pattern", "leads", "mode", "directions", "largest_in", "smallest_in", "from_input", "to_output", "live_bytes",
    *(f"adder_{name}" for name in adders.COLUMNS),
)  # fmt: skip
"""Numbers gathered per kernel, in this order, then category and type."""
_AROUND = ("consumers", "activation", "pattern", "leads", "from_input", "to_output", "live_bytes")
"""Those that an operator owes to its graph; the others, but for the adders', it has by itself."""
_AROUND_AT = [RAW.index(name) for name in _AROUND]
_OWN_AT = [i for i in range(len(RAW) - len(adders.COLUMNS)) if i not in _AROUND_AT]

_TYPE = {name: i for i, name in enumerate(TYPES)}
_CATEGORY = {name: i for i, name in enumerate(CATEGORIES)}


class Kernels(NamedTuple):
    """A graph as kernels.

    Args:
        kept: ``(k,)`` operators that are kernels; the others are merged into a neighbour.
        raw: ``(k, len(RAW))``.
        category: ``(k,)`` index into `CATEGORIES`.
        type: ``(k,)`` index into `TYPES`; -1 for another.
        edges: ``(2, e)`` producing and consuming kernel; merged operators are passed through.
        weight_bytes: of the graph.
        input_bytes: of the graph's inputs.
    """

    kept: IntArray
    raw: FloatArray
    category: IntArray
    type: IntArray
    edges: IntArray
    weight_bytes: float
    input_bytes: float


@lru_cache(maxsize=4096)
def kernels(graph: OperatorGraph) -> Kernels:
    """Gather the kernels of a graph; the same object for the same graph."""
    operators = graph.operators
    consumers = consumers_of(graph)
    kinds = [category_of(op) for op in operators]
    category = [_CATEGORY[kind] for kind in kinds]
    merged, swallowed = merge(operators, consumers, kinds)
    kept = [i for i, gone in enumerate(merged) if not gone]
    from_input, edges = _wiring(operators, merged)
    of_kernel = np.array(kept, dtype=np.int64)
    raw = np.zeros((len(kept), len(RAW)))
    if kept:
        raw[:, _OWN_AT] = [_own(operators[i], category[i]) for i in kept]
    raw[:, _AROUND_AT] = _around(graph, consumers, merged, swallowed, kinds, from_input)[of_kernel]
    raw[:, -len(adders.COLUMNS) :] = adders.adder_numbers(graph, consumers)[of_kernel]
    return Kernels(
        of_kernel,
        raw,
        np.array([category[i] for i in kept], dtype=np.int64),
        np.array([_TYPE.get(operators[i].op_type, -1) for i in kept], dtype=np.int64),
        edges,
        float(graph.weight_bytes),
        float(sum(prod(spec.shape) * spec.bits / 8 for spec in graph.inputs)),
    )


def _wiring(operators: Sequence[Operator], merged: Sequence[bool]) -> tuple[list[int], IntArray]:
    """Operators that read an input of the graph, and `Kernels.edges`."""
    made_by: list[int] = []  # the kernel behind each operator's output; -1 for the graph's inputs
    from_input: list[int] = []
    pairs: set[int] = set()  # n times the producer, plus the consumer
    n = len(operators)
    k = 0
    for i, op in enumerate(operators):
        if merged[i]:
            producer = op.inputs[0][0] if op.inputs else -1
            made_by.append(made_by[producer] if producer >= 0 else -1)
            continue
        for producer, _ in op.inputs:
            if producer < 0 or made_by[producer] < 0:
                from_input.append(i)
            else:
                pairs.add(n * made_by[producer] + k)
        made_by.append(k)
        k += 1
    return from_input, np.stack(np.divmod(np.array(sorted(pairs), dtype=np.int64), max(n, 1)))


def _around(
    graph: OperatorGraph,
    consumers: Sequence[Sequence[int]],
    merged: Sequence[bool],
    swallowed: Mapping[int, int],
    kinds: Sequence[str],
    from_input: Sequence[int],
) -> FloatArray:
    """`_AROUND` of each operator ``(v, 7)``."""
    operators = graph.operators
    order = running_order(graph, consumers)
    pattern, leads = patterns_of(operators, consumers)
    table = np.zeros((len(_AROUND), len(operators)))
    of_consumers, of_activation, of_pattern, of_leads, of_input, of_output, of_live = table
    of_consumers[:] = [len(readers) for readers in consumers]
    of_activation[list(swallowed)] = list(swallowed.values())
    of_pattern[list(pattern)] = list(pattern.values())
    of_leads[list(leads)] = 1
    of_input[from_input] = 1
    of_output[[producer for producer, _ in graph.output_edges if producer >= 0]] = 1
    of_live[:] = live_bytes(operators, order, *lifetimes(graph, order, merged, kinds))
    return table.T


def _window(attributes: Mapping[str, Any]) -> tuple[int, int, int, int, int]:
    """Area, longest side, stride, dilation and rank of a sliding window; reading has dropped what is no number."""
    kernel = attributes["kernel_shape"]
    if not kernel:
        return _NO_WINDOW
    stride, dilation = max(attributes.get("strides") or _ONE), max(attributes.get("dilations") or _ONE)
    return prod(kernel), max(kernel), stride, dilation, len(kernel)


_ONE = (1,)
_NO_WINDOW = (1, 1, 1, 1, 0)


def _own(op: Operator, category: int) -> tuple[float, ...]:
    """What one operator has by itself, in the order of `RAW`."""
    attributes = op.attributes
    shapes, outputs = op.input_shapes, op.output_shapes
    into, out = shapes[0] if shapes else (), outputs[0] if outputs else ()
    largest_in = smallest_in = prod(into) if shapes else 0
    if len(shapes) > 1:
        sizes = [*map(prod, shapes)]
        largest_in, smallest_in = max(sizes), min(sizes)
    rank = len(out)
    image = rank > 2 and category not in _CHANNELS_LAST
    groups = attributes.get("group", 1)
    area, side, stride, dilation, sides = _window(attributes) if "kernel_shape" in attributes else _NO_WINDOW
    inner, axis = _run(op, category, into, out) if category in _RUNS else _NO_RUN
    return (
        op.macs, op.bytes_in, op.bytes_out, op.bytes_weights, prod(out),
        into[1] if image and len(into) > 1 else (into[-1] if into else 1),
        out[1] if image else (out[-1] if out else 1),
        groups if isinstance(groups, int) else 1, area, side, stride, dilation, sides,
        out[-1] if out else 1, out[-2] if rank > 1 else 1, inner, axis,
        len(op.inputs), op.repeats, op.input_bits, op.weight_bits, op.output_bits,
        _operand(op, out) if category == _BINARY else 0, rank, largest_in, out[0] if rank > 1 else 1,
        _MODES.get(attributes.get("mode"), 0), 2 if attributes.get("direction") == "bidirectional" else 1,
        largest_in, smallest_in,
    )  # fmt: skip


_MODES: dict[object, int] = {"linear": 1, "cubic": 2, "reflect": 1, "edge": 2}
_BINARY, _MOVE, _RECURRENT = _CATEGORY["binary"], _CATEGORY["move"], _CATEGORY["recurrent"]
_CHANNELS_LAST = {_CATEGORY["matmul"], _RECURRENT}
_ALONG_AXIS = {_CATEGORY["softmax"], _CATEGORY["norm"]}
_SHRINKING = {_CATEGORY["reduce"], _CATEGORY["pool"]}
_RUNS = {_RECURRENT, _MOVE, *_ALONG_AXIS, *_SHRINKING}
_NO_RUN = (1, 1)


def _run(op: Operator, category: int, into: tuple[int, ...], out: tuple[int, ...]) -> tuple[float, float]:
    """How many neighbouring elements move or are reduced together, and the length of what is reduced; of `_RUNS`."""
    if category == _RECURRENT:
        hidden = op.attributes.get("hidden_size", 1)
        return (hidden if isinstance(hidden, int) else 1), (into[0] if into else 1)
    if category in _ALONG_AXIS:
        axis = op.attributes.get("axis", -1)
        at = axis % len(into) if into and isinstance(axis, int) else len(into) - 1
        return prod(into[at + 1 :]), (into[at] if into else 1)
    if category in _SHRINKING:
        if len(into) == len(out):
            at = max((d for d in range(len(into)) if into[d] != out[d]), default=len(into) - 1)
            return prod(into[at + 1 :]), prod(into) / max(prod(out), 1)
        return 1, prod(into) / max(prod(out), 1)
    perm = op.attributes.get("perm")
    if isinstance(perm, tuple):
        at = len(perm)
        while at and perm[at - 1] == at - 1:
            at -= 1
        return prod(into[at:]), 1
    if len(into) == len(out):
        at = min((d for d in range(len(into)) if into[d] != out[d]), default=0)
        return min(prod(into[at:]), prod(out[at:])), prod(out) / max(prod(into), 1)
    return (out[-1] if out else 1), 1


def _operand(op: Operator, out: tuple[int, ...]) -> int:
    """How the second operand of a binary operator spreads over the first."""
    if op.weight_shapes:
        shape = op.weight_shapes[0]
        size = prod(shape)
        if size <= 1:
            return 1
        if size == prod(out):
            return 5
        return 3 if shape and out and shape[-1] == out[-1] else 2
    if len(set(op.input_shapes)) > 1:
        return 4
    return 0
