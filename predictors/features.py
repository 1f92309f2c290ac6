"""What predictors see of a graph: numbers per operator and per graph.

`SCHEMA` changes whenever their meaning does; a saved predictor of another schema is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hardsight.graph import Operator, OperatorGraph
from hardsight.prediction import FloatArray

IntArray = npt.NDArray[np.int64]

# Rough constants of one modern CPU core. They set the scale of the analytic prior; learning corrects them.
PEAK_MACS_PER_S = 5e10
BANDWIDTH_BYTES_PER_S = 1e10
DISPATCH_S = 2e-6

CATEGORIES = (
    "conv",
    "depthwise",
    "matmul",
    "recurrent",
    "norm",
    "pool",
    "reduce",
    "softmax",
    "activation",
    "binary",
    "move",
    "view",
    "quantize",
    "other",
)

_CATEGORY_OF = {
    **dict.fromkeys(
        (
            "Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv", "DeformConv",
            "QLinearConvTranspose",
        ),
        "conv",
    ),
    **dict.fromkeys(
        (
            "MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "QGemm", "FusedMatMul", "FusedGemm", "Einsum",
            "MatMulNBits", "Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention",
            "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "TransposeMatMul",
        ),
        "matmul",
    ),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "recurrent"),
    **dict.fromkeys(
        (
            "BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization",
            "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "LRN",
            "MeanVarianceNormalization", "LpNormalization",
        ),
        "norm",
    ),
    **dict.fromkeys(
        (
            "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool",
            "QLinearGlobalAveragePool", "QLinearAveragePool",
        ),
        "pool",
    ),
    **dict.fromkeys(
        (
            "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
            "ReduceSumSquare", "ReduceLogSumExp", "ArgMax", "ArgMin", "TopK", "CumSum", "QLinearReduceMean",
        ),
        "reduce",
    ),
    **dict.fromkeys(("Softmax", "LogSoftmax", "QLinearSoftmax", "Hardmax"), "softmax"),
    **dict.fromkeys(
        (
            "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Elu",
            "Selu", "Celu", "Softplus", "Softsign", "Mish", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs",
            "Pow", "Sin", "Cos", "Floor", "Ceil", "Round", "Sign", "Not", "Cast", "QLinearSigmoid",
            "QLinearLeakyRelu", "FastGelu", "QuickGelu", "BiasGelu", "Swish", "ThresholdedRelu", "IsNaN",
        ),
        "activation",
    ),
    **dict.fromkeys(
        (
            "Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Where", "Equal", "Greater", "Less", "And",
            "Or", "Xor", "Mod", "GreaterOrEqual", "LessOrEqual", "QLinearAdd", "QLinearMul", "BitShift",
        ),
        "binary",
    ),
    **dict.fromkeys(
        (
            "Transpose", "Concat", "Split", "Slice", "Pad", "Gather", "GatherElements", "GatherND", "Scatter",
            "ScatterElements", "ScatterND", "Expand", "Tile", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth",
            "QLinearConcat", "GridSample", "RoiAlign", "OneHot", "Trilu", "Range", "ConstantOfShape", "NonZero",
        ),
        "move",
    ),
    **dict.fromkeys(
        ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout", "Shape", "Size", "Constant"), "view"
    ),
    **dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Quant", "BipolarQuant", "IntQuant", "Trunc"),
        "quantize",
    ),
}  # fmt: skip

TYPES = (
    "Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN", "BatchNormalization",
    "LayerNormalization", "InstanceNormalization", "GroupNormalization", "MaxPool", "AveragePool",
    "GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceMax", "ArgMax", "TopK", "Softmax", "Relu",
    "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Elu", "Erf", "Exp",
    "Sqrt", "Pow", "Reciprocal", "Cast", "Add", "Sub", "Mul", "Div", "Max", "Min", "Where", "Transpose", "Concat",
    "Split", "Slice", "Pad", "Gather", "Expand", "Resize", "DepthToSpace", "SpaceToDepth", "QuantizeLinear",
    "DequantizeLinear",
)  # fmt: skip

_FUSED_ACTIVATIONS = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid"}
NUMERIC = 33
NODE_FEATURES = NUMERIC + len(CATEGORIES) + len(TYPES)

_type_index = {name: i for i, name in enumerate(TYPES)}
_category_index = {name: i for i, name in enumerate(CATEGORIES)}

TOTALS = (
    *(f"{c}.{q}" for c in (*CATEGORIES, "conv8", "matmul8") for q in ("count", "macs", "bytes")),
    "weight_bytes",
    "peak_live_bytes",
    "largest_tensor_bytes",
    "input_bytes",
    "one",
)

SCHEMA = hashlib.sha256(repr((TYPES, CATEGORIES, TOTALS, NUMERIC, 1)).encode()).hexdigest()[:16]


class GraphArrays(NamedTuple):
    """A graph as arrays. Operators that a runtime merges into a neighbour are left out of the ``k`` kernels.

    Args:
        kept: ``(k,)`` which operators are kernels.
        nodes: ``(k, f)`` features of the kernels.
        edges: ``(2, e)`` producing and consuming kernel; merged operators are passed through.
        prior: ``(k,)`` roofline latency with the generic constants above, repeats included, in seconds.
        category: ``(v,)`` index into `CATEGORIES`, of every operator.
        int8: ``(v,)`` True where the arithmetic is 8-bit.
    """

    kept: IntArray
    nodes: npt.NDArray[np.float32]
    edges: IntArray
    prior: FloatArray
    category: IntArray
    int8: npt.NDArray[np.bool_]


def category_of(op: Operator) -> str:
    """One of `CATEGORIES`; convolutions with one input channel per group are depthwise."""
    kind = _CATEGORY_OF.get(op.op_type.rsplit(".", 1)[-1], "other")
    if kind == "conv" and op.attributes.get("group", 1) != 1 and op.weight_shapes:
        weight = max(op.weight_shapes, key=len)
        if len(weight) > 2 and weight[1] == 1:
            return "depthwise"
    return kind


def is_int8(op: Operator) -> bool:
    """Whether the operator computes on 8-bit (or narrower) numbers."""
    return op.input_bits <= 8 and (op.weight_bits == 0 or op.weight_bits <= 8)


def roofline_costs(graph: OperatorGraph) -> FloatArray:
    """Generic roofline latency of each operator ``(v,)`` in seconds; merged operators cost nothing."""
    arrays = graph_arrays(graph)
    costs = np.zeros(len(graph.operators))
    costs[arrays.kept] = arrays.prior
    return costs


@lru_cache(maxsize=2048)
def graph_arrays(graph: OperatorGraph) -> GraphArrays:
    """Features of a graph; the same object for the same graph."""
    v = len(graph.operators)
    consumers: list[list[int]] = [[] for _ in range(v)]
    for i, op in enumerate(graph.operators):
        for producer, _ in op.inputs:
            if producer >= 0:
                consumers[producer].append(i)
    names = [category_of(op) for op in graph.operators]
    merged = _merged(graph, consumers, names)
    category = np.array([_category_index[name] for name in names], dtype=np.int64)
    int8 = np.array(
        [is_int8(op) and name != "quantize" for op, name in zip(graph.operators, names, strict=True)], bool
    )
    kept = [i for i in range(v) if not merged[i]]
    kernel_of = _kernels(graph, merged, kept)
    nodes = np.zeros((len(kept), NODE_FEATURES), dtype=np.float32)
    prior = np.zeros(len(kept))
    pairs: set[tuple[int, int]] = set()
    for k, i in enumerate(kept):
        op = graph.operators[i]
        compute = op.macs / (PEAK_MACS_PER_S * (3 if int8[i] else 1))
        moved = 0.0 if names[i] == "view" else op.bytes / BANDWIDTH_BYTES_PER_S
        prior[k] = op.repeats * (max(compute, moved) + DISPATCH_S)
        swallows = any(merged[c] for c in consumers[i])
        nodes[k, :NUMERIC] = _numbers(op, bool(int8[i]), swallows, len(consumers[i]), prior[k])
        nodes[k, NUMERIC + category[i]] = 1
        type_at = _type_index.get(op.op_type)
        if type_at is not None:
            nodes[k, NUMERIC + len(CATEGORIES) + type_at] = 1
        pairs.update((kernel_of[p], k) for p, _ in op.inputs if p >= 0 and kernel_of[p] >= 0)
    edges = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T
    return GraphArrays(np.array(kept, dtype=np.int64), nodes, edges, prior, category, int8)


def _kernels(graph: OperatorGraph, merged: Sequence[bool], kept: Sequence[int]) -> list[int]:
    """For each operator the kernel that makes its output, looking through merged ones; -1 for the graph's input."""
    position = {i: k for k, i in enumerate(kept)}
    kernels: list[int] = []
    for i, op in enumerate(graph.operators):
        if not merged[i]:
            kernels.append(position[i])
        else:
            producer = op.inputs[0][0] if op.inputs else -1
            kernels.append(kernels[producer] if producer >= 0 else -1)
    return kernels


def _log(x: float) -> float:
    return float(np.log1p(max(x, 0.0))) / 10


def _numbers(op: Operator, int8: bool, swallows: bool, n_consumers: int, prior: float) -> list[float]:
    out = op.output_shapes[0] if op.output_shapes else ()
    into = op.input_shapes[0] if op.input_shapes else ()
    weight = max(op.weight_shapes, key=prod, default=())
    kernel = op.attributes.get("kernel_shape", ())
    strides = op.attributes.get("strides", ())
    kernel_area = prod(int(k) for k in kernel) if isinstance(kernel, tuple) else 1
    stride = max((int(s) for s in strides), default=1) if isinstance(strides, tuple) else 1
    spatial = len(out) > 2
    c_out = out[1] if spatial else (out[-1] if out else 1)
    c_in = into[1] if spatial and len(into) > 1 else (into[-1] if into else 1)
    positions = prod(out) / max(c_out, 1)
    elements = prod(out)
    group = op.attributes.get("group", 1)
    groups = int(group) if isinstance(group, int | float) else 1
    perm = op.attributes.get("perm", ())
    keeps_last = not (isinstance(perm, tuple) and perm and perm[-1] != len(perm) - 1)
    broadcast = len({s for s in op.input_shapes if s}) > 1 or (bool(weight) and weight != out)
    return [
        _log(op.macs),
        _log(op.bytes_in),
        _log(op.bytes_out),
        _log(op.bytes_weights),
        _log(elements),
        _log(op.macs / max(elements, 1)),
        _log(op.macs / max(op.bytes, 1)),
        _log(c_in),
        _log(c_out),
        _log(c_in / max(groups, 1)),
        _log(c_out / max(groups, 1)),
        _log(positions),
        _log(kernel_area),
        _log(groups),
        _log(max(kernel, default=1) if isinstance(kernel, tuple) and kernel else 1),  # type: ignore[arg-type]
        float(stride > 1),
        float(len(kernel) == 1 if isinstance(kernel, tuple) else 0),
        float(c_in % 16 == 0),
        float(c_out % 16 == 0),
        float(c_in % 4 == 0),
        float(c_out % 8 == 0),
        float(c_in < 8),
        float(int8),
        float(op.output_bits <= 8),
        float(op.input_bits <= 8),
        float(swallows),
        _log(op.repeats),
        _log(len(op.inputs)),
        _log(n_consumers),
        float(keeps_last),
        float(broadcast),
        _log(out[-1] if out else 1),
        float(np.log(prior + 1e-12)) / 10,
    ]


def _merged(graph: OperatorGraph, consumers: Sequence[Sequence[int]], kinds: Sequence[str]) -> list[bool]:
    """Operators a runtime usually merges into a neighbour.

    Activations behind a convolution or matrix product, and quantize/dequantize pairs around an integer kernel.
    """
    heavy = {"conv", "depthwise", "matmul"}
    merged = [False] * len(graph.operators)
    for i, op in enumerate(graph.operators):
        producer = op.inputs[0][0] if op.inputs else -1
        if op.op_type in _FUSED_ACTIVATIONS and producer >= 0 and kinds[producer] in heavy:
            merged[i] = len(consumers[producer]) == 1
        elif op.op_type == "DequantizeLinear":
            merged[i] = bool(consumers[i]) and all(
                graph.operators[c].input_bits <= 8 and kinds[c] != "quantize" for c in consumers[i]
            )
        elif op.op_type == "QuantizeLinear" and producer >= 0:
            merged[i] = (
                graph.operators[producer].input_bits <= 8 and graph.operators[producer].output_bits <= 8
            )
    return merged


def peak_live_bytes(graph: OperatorGraph) -> tuple[int, int]:
    """Largest sum of activations alive at once when operators run in order, and the largest single tensor.

    Views own no memory of their own; their source stays alive for them.
    """
    operators = graph.operators
    owner = list(range(len(operators)))
    for i, op in enumerate(operators):
        if category_of(op) == "view" and op.inputs and op.inputs[0][0] >= 0:
            owner[i] = owner[op.inputs[0][0]]
    last = list(range(len(operators)))
    for i, op in enumerate(operators):
        for producer, _ in op.inputs:
            if producer >= 0:
                last[owner[producer]] = i
    for producer, _ in graph.output_edges:
        if producer >= 0:
            last[owner[producer]] = len(operators)
    frees: dict[int, list[int]] = {}
    for i, end in enumerate(last):
        frees.setdefault(end, []).append(i)
    live = peak = largest = 0
    for i, op in enumerate(operators):
        if owner[i] == i:
            live += op.bytes_out
            largest = max(largest, op.bytes_out)
        peak = max(peak, live)
        for done in frees.get(i, ()):
            if owner[done] == done:
                live -= operators[done].bytes_out
    return peak, largest


def operator_totals(graph: OperatorGraph) -> FloatArray:
    """Additive part of the totals, per operator: ``(v, t)``, columns `TOTALS`; graph-level columns are 0."""
    arrays = graph_arrays(graph)
    table = np.zeros((len(graph.operators), len(TOTALS)))
    names = (*CATEGORIES, "conv8", "matmul8")
    for i in arrays.kept:
        op = graph.operators[i]
        kind = CATEGORIES[arrays.category[i]]
        if arrays.int8[i] and kind in ("conv", "matmul"):
            kind += "8"
        at = 3 * names.index(kind)
        table[i, at : at + 3] = np.array([1, op.macs, op.bytes]) * op.repeats
    return table


@lru_cache(maxsize=2048)
def graph_totals(graph: OperatorGraph) -> FloatArray:
    """Sums over operators and a few figures of the whole graph ``(t,)``, columns `TOTALS`, SI units."""
    peak, largest = peak_live_bytes(graph)
    inputs = sum(prod(s.shape) * s.bits / 8 for s in graph.inputs)
    totals: FloatArray = operator_totals(graph).sum(axis=0)
    totals[-5:] = [graph.weight_bytes, peak, largest, inputs, 1.0]
    return totals


def totals_matrix(graphs: Sequence[OperatorGraph]) -> FloatArray:
    """Stacked `graph_totals` ``(n, t)``."""
    return np.stack([graph_totals(g) for g in graphs]) if graphs else np.zeros((0, len(TOTALS)))
