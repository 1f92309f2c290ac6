"""What the learned predictors see of a graph: kernels, which are operators with what a runtime merges into them.

Numbers per kernel are gathered in one pass over the operators; `hardsight.predictors.encoding` makes features of
them, for all graphs of a batch at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hardsight.graph import Attribute, Operator, OperatorGraph
from hardsight.prediction import FloatArray
from hardsight.predictors import adders
from hardsight.predictors.features import CATEGORIES, TYPES, IntArray, category_of
from hardsight.predictors.liveness import lifetimes, live_bytes, running_order
from hardsight.predictors.merging import consumers_of, merge

Array = npt.NDArray[np.float32]

RAW = (
    "macs", "bytes_in", "bytes_out", "bytes_weights", "elements", "c_in", "c_out", "groups", "area", "kernel",
    "stride", "dilation", "rank", "width", "height", "inner", "axis", "into", "consumers", "repeats",
    "in_bits", "weight_bits", "out_bits", "operand", "out_rank", "in_elements", "batch", "activation",
    "pattern", "leads", "mode", "directions", "largest_in", "smallest_in", "from_input", "to_output", "live_bytes",
    *(f"adder_{name}" for name in adders.COLUMNS),
)  # fmt: skip
"""Numbers gathered per kernel, in this order, then category and type."""
_AT = {name: i for i, name in enumerate(RAW)}

_TYPE = {name: i for i, name in enumerate(TYPES)}
_CATEGORY = {name: i for i, name in enumerate(CATEGORIES)}
PATTERNS = ("layer norm", "rms norm", "erf gelu", "tanh gelu", "silu", "mish", "hard swish")
"""Chains of operators that spell one function; many runtimes make one kernel of them."""


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
    pattern, leads = _patterns(operators, consumers)
    added = adders.adder_numbers(graph, consumers)
    order = running_order(graph, consumers)
    live = live_bytes(operators, order, *lifetimes(graph, order, merged, kinds))
    outputs = {producer for producer, _ in graph.output_edges}
    made_by: list[int] = []  # the kernel behind each operator's output; -1 for the graph's inputs
    kept: list[int] = []
    rows: list[list[float]] = []
    pairs: set[tuple[int, int]] = set()
    for i, op in enumerate(operators):
        if merged[i]:
            producer = op.inputs[0][0] if op.inputs else -1
            made_by.append(made_by[producer] if producer >= 0 else -1)
            continue
        k = len(kept)
        kept.append(i)
        made_by.append(k)
        row = _raw(op, category[i])
        row[_CONSUMERS] = len(consumers[i])
        row[_ACTIVATION] = swallowed.get(i, 0)
        row[_PATTERN], row[_LEADS] = pattern.get(i, 0), i in leads
        row[_TO_OUTPUT] = i in outputs
        row[_LIVE] = live[i]
        for producer, _ in op.inputs:
            if producer < 0 or made_by[producer] < 0:
                row[_FROM_INPUT] = 1
            else:
                pairs.add((made_by[producer], k))
        rows.append(row)
    of_kernel = np.array(kept, dtype=np.int64)
    raw = np.array(rows, dtype=np.float64).reshape(-1, len(RAW) - len(adders.COLUMNS))
    return Kernels(
        of_kernel,
        np.concatenate([raw, added[of_kernel]], axis=1),
        np.array([category[i] for i in kept], dtype=np.int64),
        np.array([_TYPE.get(operators[i].op_type, -1) for i in kept], dtype=np.int64),
        np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T,
        float(graph.weight_bytes),
        float(sum(prod(spec.shape) * spec.bits / 8 for spec in graph.inputs)),
    )


_CONSUMERS, _ACTIVATION, _PATTERN, _LEADS, _FROM_INPUT, _TO_OUTPUT, _LIVE = (
    _AT[name]
    for name in ("consumers", "activation", "pattern", "leads", "from_input", "to_output", "live_bytes")
)


def _patterns(
    operators: Sequence[Operator], consumers: Sequence[Sequence[int]]
) -> tuple[dict[int, int], set[int]]:
    """Members of the chains in `PATTERNS` (their number from 1), and which member of each leads."""
    found: dict[int, int] = {}
    leads: set[int] = set()

    def producer(i: int, *kinds: str) -> int:
        """The operator of one of these kinds that makes an input of ``i``; -1 when there is none."""
        if i >= 0:
            for p, _ in operators[i].inputs:
                if p >= 0 and operators[p].op_type in kinds:
                    return p
        return -1

    def consumer(i: int, *kinds: str) -> int:
        """The only consumer of ``i``, when it is of one of these kinds."""
        if i < 0 or len(set(consumers[i])) != 1 or operators[consumers[i][0]].op_type not in kinds:
            return -1
        return consumers[i][0]

    def mark(name: str, lead: int, *members: int) -> None:
        for i in (lead, *members):
            if i >= 0:
                found[i] = PATTERNS.index(name) + 1
        leads.add(lead)

    for i, op in enumerate(operators):
        kind = op.op_type
        if kind == "Erf":
            after = consumer(i, "Add")
            half = consumer(after, "Mul")
            mark("erf gelu", i, producer(i, "Div", "Mul"), after, half, consumer(half, "Mul"))
        elif kind == "Tanh":
            after = consumer(i, "Add")
            scaled = producer(i, "Mul")
            cubic = producer(producer(scaled, "Add"), "Mul")
            if after >= 0 and producer(cubic, "Pow") >= 0:
                mark(
                    "tanh gelu", i, scaled, producer(scaled, "Add"), cubic, producer(cubic, "Pow"), after,
                    consumer(after, "Mul"),
                )  # fmt: skip
        elif kind == "Sqrt":
            variance = producer(producer(i, "Add"), "ReduceMean")
            square = producer(variance, "Pow", "Mul")
            if square < 0:
                continue
            centred, last = producer(square, "Sub"), consumer(i, "Div", "Mul")
            if centred >= 0:
                scaled = consumer(last, "Mul")
                mark(
                    "layer norm", last if last >= 0 else i, i, producer(i, "Add"), variance, square, centred,
                    producer(centred, "ReduceMean"), scaled, consumer(scaled, "Add"),
                )  # fmt: skip
            else:
                product = consumer(last, "Mul")
                mark(
                    "rms norm", product if product >= 0 else i, i, producer(i, "Add"), variance, square, last,
                    consumer(product, "Mul"),
                )  # fmt: skip
        elif kind == "Mul":
            for p, _ in op.inputs:
                gate = operators[p] if p >= 0 else None
                if gate is None:
                    continue
                others = {source for source in op.inputs if source[0] != p}
                if gate.op_type in ("Sigmoid", "HardSigmoid") and set(gate.inputs) == others:
                    mark("silu" if gate.op_type == "Sigmoid" else "hard swish", p, i)
                elif gate.op_type == "Tanh" and (plus := producer(p, "Softplus")) >= 0:
                    mark("mish", p, plus, i)
                elif gate.op_type == "Clip":
                    shift = producer(p, "Add")
                    if shift >= 0 and set(operators[shift].inputs) == others:
                        mark("hard swish", p, shift, i, consumer(i, "Div"))
    return found, leads


def _integers(value: Attribute | None) -> tuple[int, ...]:
    return tuple(v for v in value if isinstance(v, int)) if isinstance(value, tuple) else ()


def _raw(op: Operator, category: int) -> list[float]:
    """`RAW` of one operator, without what is known of adders."""
    attributes = op.attributes
    out = op.output_shapes[0] if op.output_shapes else ()
    into = op.input_shapes[0] if op.input_shapes else ()
    elements = prod(out)
    sizes = [prod(shape) for shape in op.input_shapes]
    in_elements = max(sizes, default=0)
    image = len(out) > 2 and category not in _CHANNELS_LAST
    c_out = out[1] if image else (out[-1] if out else 1)
    c_in = into[1] if image and len(into) > 1 else (into[-1] if into else 1)
    kernel = _integers(attributes.get("kernel_shape"))
    area, largest, rank = prod(kernel), max(kernel, default=1), len(kernel)
    stride = max(_integers(attributes.get("strides")), default=1) if rank else 1
    dilation = max(_integers(attributes.get("dilations")), default=1) if rank else 1
    groups = attributes.get("group", 1)
    inner, axis = _run(op, category, into, out)
    return [
        op.macs, op.bytes_in, op.bytes_out, op.bytes_weights, elements, c_in, c_out,
        groups if isinstance(groups, int) else 1, area, largest,
        stride, dilation, rank, out[-1] if out else 1, out[-2] if len(out) > 1 else 1, inner, axis, len(op.inputs),
        0, op.repeats, op.input_bits, op.weight_bits, op.output_bits,
        _operand(op, out) if category == _BINARY else 0,
        len(out), in_elements, out[0] if len(out) > 1 else 1, 0, 0, 0,
        _MODES.get(str(attributes.get("mode", "")), 0), 2 if attributes.get("direction") == "bidirectional" else 1,
        in_elements, min(sizes, default=0), 0, 0, 0,
    ]  # fmt: skip


_MODES = {"linear": 1, "cubic": 2, "reflect": 1, "edge": 2}
_BINARY, _MOVE, _RECURRENT = _CATEGORY["binary"], _CATEGORY["move"], _CATEGORY["recurrent"]
_CHANNELS_LAST = {_CATEGORY["matmul"], _RECURRENT}
_ALONG_AXIS = {_CATEGORY["softmax"], _CATEGORY["norm"]}
_SHRINKING = {_CATEGORY["reduce"], _CATEGORY["pool"]}


def _run(op: Operator, category: int, into: tuple[int, ...], out: tuple[int, ...]) -> tuple[float, float]:
    """How many neighbouring elements move or are reduced together, and the length of what is reduced."""
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
    if category != _MOVE:
        return 1, 1
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
