"""From a graph to ZigZag's layers: nested loops with an equation.

ZigZag has an ONNX reader of its own. It takes Conv in two dimensions, Gemm and MatMul, passes over everything
else in silence, swaps height and width of kernels and strides, and takes two graph inputs for weights. So the
layers are made here from `OperatorGraph`, in the form that ZigZag documents for workload files; where its
reader is right, the two agree. Every multiply-accumulate is in some layer, or the graph is refused.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from hardsight.errors import BackendError
from hardsight.graph import Operator, OperatorGraph
from hardsight.ingest.costs import VIEWS

BITS: Final = {"W": 8, "I": 8, "O": 16, "O_final": 8}
"""Bits of weights, inputs, partial sums and outputs: what ZigZag's ONNX reader assumes."""

Layers = list[tuple[dict[str, Any], int]]
"""Each layer and how often it runs."""


def layers(graph: OperatorGraph) -> Counter[str]:
    """The distinct layers of a graph, each as canonical JSON, and how often each runs.

    Raises:
        BackendError: nothing in the graph multiplies, or something that does has no form as a layer.
    """
    if graph.unknown_ops:
        listed = ", ".join(f"{op} ({n})" for op, n in sorted(graph.unknown_ops.items()))
        raise BackendError(
            f"'{graph.name}' has operators without a cost rule: {listed}; ZigZag cannot price it"
        )
    found: Counter[str] = Counter()
    for op in graph.operators:
        if op.macs:
            for layer, count in _lower(op):
                found[json.dumps(layer, sort_keys=True)] += count * op.repeats
    if not found:
        raise BackendError(
            f"'{graph.name}' has no convolution or matrix product; ZigZag prices nothing else, so it has no label"
        )
    priced = sum(macs(json.loads(text)) * count for text, count in found.items())
    if abs(priced / graph.macs - 1) > 0.01:
        raise BackendError(
            f"ZigZag's layers hold {priced} multiply-accumulates, '{graph.name}' has {graph.macs}; "
            "they should agree within 1 %"
        )
    return found


def unpriced(graph: OperatorGraph) -> str:
    """Operators that cost nothing in ZigZag though they move data: ``"Relu 16, Add 8"``."""
    counts = Counter(op.op_type for op in graph.operators if not op.macs and op.op_type not in VIEWS)
    return ", ".join(f"{op} {n}" for op, n in counts.most_common())


def macs(layer: dict[str, Any]) -> int:
    """Multiply-accumulates of one execution: the product of its loops."""
    return math.prod(layer["loop_sizes"])


def _lower(op: Operator) -> Layers:
    rule = _RULES.get(op.op_type)
    found = rule(op) if rule else None
    if found is None:
        raise BackendError(
            f"{op.op_type} '{op.name}' {op.input_shapes} multiplies, but has no form as a ZigZag layer; "
            "a price without it would be wrong"
        )
    return found


def _conv(op: Operator) -> Layers | None:
    x, weight, out = op.input_shapes[0], _weight(op), op.output_shapes[0]
    rank = len(x) - 2
    strides = _ints(op, "strides", rank)
    dilations = _ints(op, "dilations", rank)
    groups = int(op.attributes.get("group", 1))  # type: ignore[arg-type]
    return _convolution(x, out[1:], weight[1:], strides, dilations, groups)


def _conv_transpose(op: Operator) -> Layers | None:
    """Where strides divide the kernel: a convolution with ``prod(strides)`` times the channels, before a shuffle.

    Shi et al., "Is the deconvolution layer the same as a convolutional layer?", arXiv 1609.07009.
    """
    x, weight = op.input_shapes[0], _weight(op)
    rank = len(x) - 2
    strides = _ints(op, "strides", rank)
    kernel = weight[2:]
    groups = int(op.attributes.get("group", 1))  # type: ignore[arg-type]
    if any(k % s for k, s in zip(kernel, strides, strict=True)):
        return None
    small = [k // s for k, s in zip(kernel, strides, strict=True)]
    channels = weight[1] * groups * math.prod(strides)
    ones = [1] * rank
    return _convolution(
        x, (channels, *x[2:]), (x[1] // groups, *small), ones, _ints(op, "dilations", rank), groups
    )


def _convolution(
    x: Sequence[int],
    out: Sequence[int],
    filters: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> Layers | None:
    """One convolution: ``x`` (batch, channels, *spatial), ``out`` and ``filters`` (channels, *spatial)."""
    if not 1 <= len(x) - 2 <= 2:
        return None
    flat = len(x) == 3  # one dimension is the width of an image of height 1
    (iy, ix), (oy, ox), (fy, fx), (sy, sx), (dy, dx) = (
        (1, values[0]) if flat else tuple(values)
        for values in (x[2:], out[1:], filters[1:], strides, dilations)
    )
    return [
        (
            {
                "operator_type": "Conv",
                "equation": "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]",
                "loop_dims": ["B", "K", "G", "OX", "OY", "C", "FX", "FY"],
                "loop_sizes": [x[0], out[0] // groups, groups, ox, oy, filters[0], fx, fy],
                "dimension_relations": [f"ix={sx}*ox+{dx}*fx", f"iy={sy}*oy+{dy}*fy"],
                "operand_precision": BITS,
                "pr_loop_dims": ["IX", "IY"],
                "pr_loop_sizes": [ix, iy],
            },
            1,
        )
    ]


def _matmul(op: Operator) -> Layers | None:
    """``(…, d, c) @ (…, c, k)``; with one constant factor that one is the weights, on whichever side."""
    out = op.output_shapes[0]
    if len(out) < 2 or any(len(shape) < 2 for shape in op.input_shapes):
        return None
    rows, columns = out[-2:]
    depth = op.macs // math.prod(out)
    batch = out[:-2]
    if len(op.input_shapes) == 2:
        return [(_product(batch, rows, depth, columns, weights_per_batch=True), 1)]
    weight = _weight(op)
    from_left = math.prod(op.input_shapes[0]) == math.prod(batch) * rows * depth
    if not from_left:
        rows, columns = columns, rows  # the transpose of both sides
    return [(_product(batch, rows, depth, columns, weights_per_batch=math.prod(weight[:-2]) > 1), 1)]


def _recurrent(op: Operator) -> Layers | None:
    """All steps' products with the input at once, then a product with the hidden state in each step."""
    steps, batch, features = op.input_shapes[0]
    directions, gates, hidden = op.weight_shapes[1]
    return [
        (_product((), steps * batch, features, directions * gates, weights_per_batch=False), 1),
        (_product((), batch, hidden, gates, weights_per_batch=False), steps * directions),
    ]


def _product(
    batch: Sequence[int], rows: int, depth: int, columns: int, *, weights_per_batch: bool
) -> dict[str, Any]:
    """A matrix product, as ZigZag's ONNX reader writes it: dimensions before the last three are one."""
    sizes = (math.prod(batch[:-1]), batch[-1]) if len(batch) > 1 else tuple(batch)
    names = ("B", "H")[: len(sizes)]
    index = "".join(f"[{name.lower()}]" for name in names)
    return {
        "operator_type": "Gemm",
        "equation": f"O{index}[d][k]+=I{index}[d][c]*W{index if weights_per_batch else ''}[c][k]",
        "loop_dims": ["C", "D", "K", *names],
        "loop_sizes": [depth, rows, columns, *sizes],
        "dimension_relations": [],
        "operand_precision": BITS,
    }


def _weight(op: Operator) -> tuple[int, ...]:
    """Shape of the constant factor: the largest constant, so that a bias or a scale is not taken for it."""
    return max(op.weight_shapes, key=lambda shape: (len(shape), math.prod(shape)))


def _ints(op: Operator, name: str, rank: int) -> Sequence[int]:
    value = op.attributes.get(name)
    return value if isinstance(value, tuple) and len(value) == rank else (1,) * rank  # type: ignore[return-value]


_RULES: Final[dict[str, Callable[[Operator], Layers | None]]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "ConvTranspose": _conv_transpose,
    "GRU": _recurrent,
    "Gemm": _matmul,
    "LSTM": _recurrent,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "RNN": _recurrent,
    "com.microsoft.FusedConv": _conv,
    "com.microsoft.FusedGemm": _matmul,
    "com.microsoft.FusedMatMul": _matmul,
    "com.microsoft.QGemm": _matmul,
    "com.microsoft.QLinearConv": _conv,
}
"""Operators that become layers; any other that multiplies has its graph refused."""
