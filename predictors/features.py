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
from hardsight.predictors.liveness import lifetimes, live_bytes
from hardsight.predictors.merging import consumers_of, merge

IntArray = npt.NDArray[np.int64]

# Rough constants of one modern CPU core. They set the scale of the analytic prior; learning corrects them.
PEAK_MACS_PER_S = 5e10
BANDWIDTH_BYTES_PER_S = 1e10
DISPATCH_S = 2e-6
INT8_SPEEDUP = 3

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

_category_index = {name: i for i, name in enumerate(CATEGORIES)}

TOTALS = (
    *(f"{c}.{q}" for c in (*CATEGORIES, "conv8", "matmul8") for q in ("count", "macs", "bytes")),
    "weight_bytes",
    "peak_live_bytes",
    "largest_tensor_bytes",
    "input_bytes",
    "one",
)

SCHEMA = hashlib.sha256(repr((TYPES, CATEGORIES, TOTALS, 2)).encode()).hexdigest()[:16]


class GraphArrays(NamedTuple):
    """What every predictor asks of a graph's operators. Merged ones are left out of the ``k`` kernels.

    Args:
        kept: ``(k,)`` which operators are kernels.
        prior: ``(k,)`` roofline latency with the generic constants above, repeats included, in seconds.
        category: ``(v,)`` index into `CATEGORIES`, of every operator.
        int8: ``(v,)`` True where the arithmetic is 8-bit.
    """

    kept: IntArray
    prior: FloatArray
    category: IntArray
    int8: npt.NDArray[np.bool_]


def category_of(op: Operator) -> str:
    """One of `CATEGORIES`; convolutions with one input channel per group are depthwise."""
    kind = _category_of_type(op.op_type)
    if kind == "conv" and op.attributes.get("group", 1) != 1 and op.weight_shapes:
        weight = max(op.weight_shapes, key=len)
        if len(weight) > 2 and weight[1] == 1:
            return "depthwise"
    return kind


@lru_cache(maxsize=1024)
def _category_of_type(op_type: str) -> str:
    return _CATEGORY_OF.get(op_type.rsplit(".", 1)[-1], "other")


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
    """Kinds and roofline of a graph's operators; the same object for the same graph."""
    names = [category_of(op) for op in graph.operators]
    category = np.array([_category_index[name] for name in names], dtype=np.int64)
    int8 = np.array(
        [is_int8(op) and name != "quantize" for op, name in zip(graph.operators, names, strict=True)], bool
    )
    merged, _ = merge(graph.operators, consumers_of(graph), names)
    kept = [i for i in range(len(names)) if not merged[i]]
    prior = np.zeros(len(kept))
    for k, i in enumerate(kept):
        op = graph.operators[i]
        compute = op.macs / (PEAK_MACS_PER_S * (INT8_SPEEDUP if int8[i] else 1))
        moved = 0.0 if names[i] == "view" else op.bytes / BANDWIDTH_BYTES_PER_S
        prior[k] = op.repeats * (max(compute, moved) + DISPATCH_S)
    return GraphArrays(np.array(kept, dtype=np.int64), prior, category, int8)


def peak_live_bytes(graph: OperatorGraph) -> tuple[int, int]:
    """Largest sum of activations alive at once when operators run in order, and the largest single tensor.

    Views own no memory of their own; their source stays alive for them.
    """
    operators = graph.operators
    order = range(len(operators))
    owner, last = lifetimes(graph, order, [False] * len(operators), [category_of(op) for op in operators])
    live = live_bytes(operators, order, owner, last)
    largest = max((op.bytes_out for i, op in enumerate(operators) if owner[i] == i), default=0)
    return int(live.max(initial=0)), largest


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
