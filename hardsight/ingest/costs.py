"""What each operator computes: one literal table from type to multiply-accumulate rule.

Three tables and nothing implicit: :data:`MACS` (types that multiply and accumulate), :data:`MOVERS` (types
whose cost is the bytes they move: element by element, normalising, pooling, reducing, rearranging) and
:data:`VIEWS` (types that move nothing). A type in none of them is not known: it is counted, named in the
answer and priced by its bytes.

Winograd and other fast algorithms are ignored, and so is the addition of a bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hardsight.ingest.rules import operand
from hardsight.ingest.types import Shape, elements


@dataclass(frozen=True, slots=True)
class Call:
    """One node as the rules see it: None stands for an absent optional input."""

    attributes: Mapping[str, Any]
    inputs: Sequence[Shape | None]
    outputs: Sequence[Shape]

    def shape(self, index: int) -> Shape:
        """Shape of an input that must be there.

        Raises:
            ValueError: it is not.
        """
        found = self.get(index)
        if found is None:
            raise ValueError(f"input {index} is missing")
        return found

    def get(self, index: int) -> Shape | None:
        """Shape of an input that may be absent."""
        return self.inputs[index] if index < len(self.inputs) else None


Rule = Callable[[Call], int]


def _conv(weight: int, channels_last: bool = False) -> Rule:
    """Every output element is a sum over the weight's (channels of the group, kernel)."""

    def rule(call: Call) -> int:
        x, w = call.shape(0), call.shape(weight)
        groups = int(call.attributes.get("group", 1))
        if x[1] != w[1] * groups and not channels_last:
            raise ValueError(f"{x[1]} input channels meet a weight for {w[1]} x {groups}")
        return elements(call.outputs[0]) * elements(w[1:])

    return rule


def _conv_transpose(call: Call) -> int:
    """Every input element is multiplied with the weight's (output channels of the group, kernel)."""
    return elements(call.shape(0)) * elements(call.shape(1)[1:])


def _matmul(left: int) -> Rule:
    def rule(call: Call) -> int:
        return elements(call.outputs[0]) * operand(call.shape(left), call.attributes, "A")[-1]

    return rule


def _gemm(call: Call) -> int:
    a, b = call.shape(0), call.shape(1)
    depth = a[0] if call.attributes.get("transA") else a[1]
    if depth != (b[1] if call.attributes.get("transB") else b[0]):
        raise ValueError(f"matrices of shapes {a} and {b} cannot be multiplied")
    return elements(call.outputs[0]) * depth


def _matmul_nbits(call: Call) -> int:
    return elements(call.shape(0)) * int(call.attributes["N"])


def _einsum(call: Call) -> int:
    """Size of the joint index space, once per multiplication (operands - 1)."""
    equation = str(call.attributes["equation"]).replace(" ", "").split("->")[0]
    sizes: dict[str, int] = {}
    extra: Shape = ()
    for position, term in enumerate(equation.split(",")):
        shape = call.shape(position)
        before, dots, after = term.partition("...")
        inner = shape[len(before) : len(shape) - len(after)] if dots else ()
        extra = max(extra, inner, key=elements)
        pairs = zip(
            before + after, shape[: len(before)] + shape[len(shape) - len(after) :], strict=dots != ""
        )
        for letter, size in pairs:
            sizes[letter] = max(sizes.get(letter, 1), size)
    operands = equation.count(",") + 1
    return elements(tuple(sizes.values())) * elements(extra) * max(operands - 1, 0)


def _recurrent(call: Call) -> int:
    """Each of length x batch steps multiplies by all of W and R, both (directions, gates x hidden, …)."""
    x = call.shape(0)
    return x[0] * x[1] * (elements(call.shape(1)) + elements(call.shape(2)))


def _attention(call: Call) -> int:
    """Q K^T and the product with V, on (batch, heads, length, size) or (batch, length, hidden)."""
    q, k, v = call.shape(0), call.shape(1), call.shape(2)
    past = call.get(4)
    before = past[2] if past is not None else 0
    if len(q) == 4:
        batch, heads, length, size = q
        return batch * heads * length * (k[2] + before) * (size + v[3])
    heads, kv_heads = int(call.attributes["q_num_heads"]), int(call.attributes["kv_num_heads"])
    size, value = q[2] // heads, v[2] // kv_heads
    return q[0] * heads * q[1] * (k[1] + before) * (size + value)


def _packed_attention(call: Call) -> int:
    """com.microsoft Attention: the projection to Q, K and V, then attention over (batch, length, hidden)."""
    x, w = call.shape(0), call.shape(1)
    sizes = call.attributes.get("qkv_hidden_sizes") or [w[1] // 3] * 3
    past = next((p for p in (call.get(4), call.get(8)) if p is not None and len(p) == 5), None)
    total = x[1] + (past[3] if past is not None else 0)
    return elements(x) * w[1] + x[0] * x[1] * total * (int(sizes[0]) + int(sizes[2]))


def _multi_head_attention(call: Call) -> int:
    q, k, v = call.shape(0), call.get(1), call.get(2)
    if len(q) == 5:
        hidden = q[2] * q[4]
        return q[0] * q[1] * q[1] * 2 * hidden
    past = call.get(6)
    if k is None:
        total = q[1]
    else:
        total = k[1] if len(k) == 3 else (k[2] if len(k) == 4 else k[1])
    total += past[2] if past is not None else 0
    value = q[-1] if v is None else (v[2] if len(v) == 3 else v[1] * v[3])
    return q[0] * q[1] * total * (q[2] + value)


def _grouped_attention(call: Call) -> int:
    """GroupQueryAttention; with a shared past buffer its whole length counts."""
    out, past = call.outputs[0], call.get(3)
    present = call.outputs[1][2] if len(call.outputs) > 1 and len(call.outputs[1]) == 4 else out[1]
    total = max(present, past[2] if past is not None else 0)
    return out[0] * out[1] * total * 2 * out[2]


_MS: Final = "com.microsoft."

MACS: Final[dict[str, Rule]] = {
    "Attention": _attention,
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "ConvTranspose": _conv_transpose,
    "DeformConv": _conv(1),
    "Einsum": _einsum,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "MatMul": _matmul(0),
    "MatMulInteger": _matmul(0),
    "QLinearConv": _conv(3),
    "QLinearMatMul": _matmul(0),
    "RNN": _recurrent,
    _MS + "Attention": _packed_attention,
    _MS + "DynamicQuantizeLSTM": _recurrent,
    _MS + "DynamicQuantizeMatMul": _matmul(0),
    _MS + "FusedConv": _conv(1),
    _MS + "FusedGemm": _matmul(0),
    _MS + "FusedMatMul": _matmul(0),
    _MS + "FusedMatMulActivation": _matmul(0),
    _MS + "GroupQueryAttention": _grouped_attention,
    _MS + "MatMulBnb4": _matmul_nbits,
    _MS + "MatMulFpQ4": _matmul_nbits,
    _MS + "MatMulIntegerToFloat": _matmul(0),
    _MS + "MatMulNBits": _matmul_nbits,
    _MS + "MultiHeadAttention": _multi_head_attention,
    _MS + "NhwcFusedConv": _conv(1, channels_last=True),
    _MS + "QAttention": _packed_attention,
    _MS + "QGemm": _matmul(0),
    _MS + "QLinearConv": _conv(3),
    _MS + "TransposeMatMul": _matmul(0),
}

VIEWS: Final = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Loop", "Scan", "SequenceMap"})
"""They give memory another shape or pass it on, and move no byte."""

GATHERS: Final = frozenset({"Gather", "GatherElements", "GatherND", "Slice", _MS + "GatherBlockQuantized"})
"""They read of their first input only what they put out: an embedding costs its rows, not its table."""

_QUANTIZERS: Final = ("Quant", "IntQuant", "BipolarQuant", "FloatQuant", "Trunc", "MultiThreshold")
QONNX_DOMAINS: Final = ("qonnx.custom_op.general.", "onnx.brevitas.", "finn.custom_op.general.", "finn.")

_STANDARD_MOVERS: Final = """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike
    Ceil Celu CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape Cos
    Cosh CumProd CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf
    Exp Expand EyeLike Floor Gather GatherElements GatherND Gelu GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow
    HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LayerNormalization
    LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool Max MaxPool MaxRoiPool MaxUnpool
    Mean MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Neg NegativeLogLikelihoodLoss
    NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or PRelu Pad Pow QuantizeLinear
    RMSNormalization RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Resize ReverseSequence RoiAlign RotaryEmbedding Round Scatter ScatterElements
    ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
    SequenceLength Shape Shrink Sigmoid Sign SimplifiedLayerNormalization Sin Sinh Size Slice Softmax
    SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Sub Sum Swish Tan
    Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Upsample Where Xor
"""
_MICROSOFT_MOVERS: Final = """
    BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu DequantizeLinear EmbedLayerNormalization
    FastGelu GatherBlockQuantized Gelu GroupNorm LayerNormalization NhwcMaxPool QLinearAdd
    QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul
    QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QuantizeLinear QuickGelu
    RotaryEmbedding Silu SimplifiedLayerNormalization SkipGroupNorm SkipLayerNormalization
    SkipSimplifiedLayerNormalization
"""

MOVERS: Final = frozenset(
    [
        *_STANDARD_MOVERS.split(),
        *(_MS + op for op in _MICROSOFT_MOVERS.split()),
        *(domain + op for domain in QONNX_DOMAINS for op in _QUANTIZERS),
    ]
)
"""They multiply and accumulate nothing worth counting; what they cost is the bytes they move."""


def known(op_type: str) -> bool:
    """Whether a table here prices the type."""
    return op_type in MACS or op_type in MOVERS or op_type in VIEWS


def macs(op_type: str, call: Call) -> int:
    """Multiply-accumulate operations of one execution; 0 for types without a rule.

    Raises:
        ValueError: an input that the rule needs is missing or has another rank than the type allows.
    """
    rule = MACS.get(op_type)
    if rule is None:
        return 0
    try:
        return max(int(rule(call)), 0)
    except (IndexError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"an input or attribute is missing or of another rank ({error!r})") from error
