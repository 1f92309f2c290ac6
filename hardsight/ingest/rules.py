"""Output shapes of operators that ONNX's own inference does not know.

One literal table from type to rule. A rule gets the attributes, the input types, the input values where
known, and how many outputs there are; it answers a type per output, or None for one that it cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from onnx import TensorProto, TypeProto, helper

from hardsight.ingest.types import Shape, TensorType, elements, resolve
from hardsight.ingest.values import Array

Attributes = Mapping[str, Any]
Types = Sequence[TypeProto | None]
Values = Sequence[Array | None]
Answer = Sequence[TypeProto | None]
Rule = Callable[[Attributes, Types, Values, int], Answer]

MICROSOFT: Final = "com.microsoft."
INTERNAL: Final = "hardsight."
ENDLESS: Final = 2**31
"""A Loop of this many trips or more means "until the condition fails"."""


def _get(types: Types, index: int) -> TensorType | None:
    proto = types[index] if index < len(types) else None
    return None if proto is None else resolve(proto, {})


def _tensor(code: int, shape: Sequence[int]) -> TypeProto:
    return helper.make_tensor_type_proto(code, [int(d) for d in shape])


def _pad(first: TypeProto | None, outputs: int) -> Answer:
    return [first, *[None] * (outputs - 1)]


def _like(index: int = 0, elem_from: int | None = None) -> Rule:
    """Every output has the shape of input ``index``, and the element type of ``elem_from``."""

    def rule(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
        source = _get(types, index)
        if source is None:
            return [None] * outputs
        code = source.elem_type
        if elem_from is not None:
            other = _get(types, elem_from)
            code = code if other is None else other.elem_type
        return [_tensor(code, source.shape) for _ in range(outputs)]

    return rule


def _broadcast(first: int, second: int, elem_type: int | None = None) -> Rule:
    def rule(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
        a, b = _get(types, first), _get(types, second)
        if a is None or b is None:
            return [None] * outputs
        code = a.elem_type if elem_type is None else elem_type
        return _pad(_tensor(code, np.broadcast_shapes(a.shape, b.shape)), outputs)

    return rule


def _first_only(inner: Rule) -> Rule:
    return lambda attrs, types, values, outputs: _pad(inner(attrs, types, values, 1)[0], outputs)


def matmul_shape(a: Shape, b: Shape) -> Shape:
    """Shape of ``a @ b`` by NumPy's rules."""
    if not a or not b:
        raise ValueError("a scalar cannot be multiplied as a matrix")
    left = a if len(a) > 1 else (1, *a)
    right = b if len(b) > 1 else (*b, 1)
    if left[-1] != right[-2]:
        raise ValueError(f"inner dimensions {left[-1]} and {right[-2]} differ")
    out = (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])
    if len(b) == 1:
        out = out[:-1]
    if len(a) == 1:
        out = (*out[:-2], out[-1]) if len(b) > 1 else out[:-1]
    return out


def swap(shape: Shape, wanted: bool) -> Shape:
    """The shape with its last two dimensions exchanged."""
    return (*shape[:-2], shape[-1], shape[-2]) if wanted and len(shape) > 1 else shape


def operand(shape: Shape, attrs: Attributes, side: str) -> Shape:
    """A factor as it is multiplied. FusedMatMul's transBatch first moves dimension 0 to the last but one."""
    if attrs.get("transBatch" + side):
        shape = (*shape[1:-1], shape[0], shape[-1])
    return swap(shape, bool(attrs.get("trans" + side)))


def _matmul(first: int, second: int, elem_type: int | None = None) -> Rule:
    def rule(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
        a, b = _get(types, first), _get(types, second)
        if a is None or b is None:
            return [None] * outputs
        left, right = operand(a.shape, attrs, "A"), operand(b.shape, attrs, "B")
        code = a.elem_type if elem_type is None else elem_type
        return _pad(_tensor(code, matmul_shape(left, right)), outputs)

    return rule


def _matmul_nbits(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    a = _get(types, 0)
    return _pad(None if a is None else _tensor(a.elem_type, (*a.shape[:-1], attrs["N"])), outputs)


def conv_spatial(attrs: Attributes, spatial: Shape, kernel: Shape) -> Shape:
    """Spatial output of a convolution or pooling (without ceil_mode)."""
    rank = len(spatial)
    strides = attrs.get("strides") or [1] * rank
    dilations = attrs.get("dilations") or [1] * rank
    pads = attrs.get("pads") or [0] * (2 * rank)
    auto = attrs.get("auto_pad", "NOTSET")
    out = []
    for i in range(rank):
        reach = (kernel[i] - 1) * dilations[i] + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            out.append(-(-spatial[i] // strides[i]))
            continue
        padding = 0 if auto == "VALID" else pads[i] + pads[i + rank]
        out.append((spatial[i] + padding - reach) // strides[i] + 1)
    return tuple(out)


def _conv(x_at: int, w_at: int, channels_last: bool = False) -> Rule:
    def rule(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
        x, w = _get(types, x_at), _get(types, w_at)
        if x is None or w is None:
            return [None] * outputs
        last = channels_last or bool(attrs.get("channels_last"))
        spatial = x.shape[1:-1] if last else x.shape[2:]
        out = conv_spatial(attrs, spatial, w.shape[2:])
        shape = (x.shape[0], *out, w.shape[0]) if last else (x.shape[0], w.shape[0], *out)
        return _pad(_tensor(x.elem_type, shape), outputs)

    return rule


def _global_pool(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    x = _get(types, 0)
    if x is None:
        return [None] * outputs
    ones = (1,) * (len(x.shape) - 2)
    shape = (x.shape[0], *ones, x.shape[-1]) if attrs.get("channels_last") else (*x.shape[:2], *ones)
    return _pad(_tensor(x.elem_type, shape), outputs)


def _average_pool(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    x = _get(types, 0)
    if x is None:
        return [None] * outputs
    last = bool(attrs.get("channels_last"))
    spatial = x.shape[1:-1] if last else x.shape[2:]
    if attrs.get("ceil_mode"):
        pads = attrs.get("pads") or [0] * (2 * len(spatial))
        strides = attrs.get("strides") or [1] * len(spatial)
        out = tuple(
            -(-(d + pads[i] + pads[i + len(spatial)] - attrs["kernel_shape"][i]) // strides[i]) + 1
            for i, d in enumerate(spatial)
        )
    else:
        out = conv_spatial(attrs, spatial, tuple(attrs["kernel_shape"]))
    shape = (x.shape[0], *out, x.shape[-1]) if last else (*x.shape[:2], *out)
    return _pad(_tensor(x.elem_type, shape), outputs)


def _qlinear_concat(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    parts = [_get(types, i) for i in range(2, len(types), 3)]
    if not parts or any(p is None for p in parts):
        return [None] * outputs
    known = [p for p in parts if p is not None]
    shape = list(known[0].shape)
    axis = attrs["axis"]
    shape[axis] = sum(p.shape[axis] for p in known)
    return _pad(_tensor(known[0].elem_type, shape), outputs)


def _qgemm(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    a, b = _get(types, 0), _get(types, 3)
    if a is None or b is None:
        return [None] * outputs
    left, right = operand(a.shape, attrs, "A"), operand(b.shape, attrs, "B")
    # Without an output scale the result is float.
    code = a.elem_type if len(types) > 7 and types[7] is not None else TensorProto.FLOAT
    return _pad(_tensor(code, matmul_shape(left, right)), outputs)


def _attention(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    """com.microsoft Attention and QAttention keep (batch, length) and give the hidden size of the values."""
    x, w = _get(types, 0), _get(types, 1)
    if x is None:
        return [None] * outputs
    sizes = attrs.get("qkv_hidden_sizes")
    hidden = sizes[2] if sizes else (w.shape[-1] // 3 if w is not None else x.shape[-1])
    code = x.elem_type if x.elem_type not in (TensorProto.INT8, TensorProto.UINT8) else TensorProto.FLOAT
    heads = attrs.get("num_heads") or 1
    present = _tensor(code, (2, x.shape[0], heads, x.shape[1], hidden // heads))
    return [_tensor(code, (*x.shape[:-1], hidden)), present, *[None] * (outputs - 2)][:outputs]


def _multi_head_attention(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    q, k, v = (_get(types, i) for i in range(3))
    if q is None:
        return [None] * outputs
    if len(q.shape) == 5:  # packed QKV: (batch, sequence, heads, 3, head size)
        return _pad(_tensor(q.elem_type, (q.shape[0], q.shape[1], q.shape[2] * q.shape[4])), outputs)
    heads = attrs.get("num_heads") or 1
    hidden = q.shape[-1]
    past_key = _get(types, 6)
    past = past_key.shape[2] if past_key is not None else 0
    if v is not None:
        hidden = v.shape[-1] if len(v.shape) == 3 else v.shape[1] * v.shape[-1]
    total = past + (k.shape[1] if k is not None and len(k.shape) == 3 else q.shape[1])
    present = _tensor(q.elem_type, (q.shape[0], heads, total, hidden // heads))
    return [_tensor(q.elem_type, (*q.shape[:2], hidden)), present, present, *[None] * outputs][:outputs]


def _grouped_attention(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    q, k, past = _get(types, 0), _get(types, 1), _get(types, 3)
    if q is None:
        return [None] * outputs
    heads, kv_heads = attrs["num_heads"], attrs["kv_num_heads"]
    packed = k is None
    size = q.shape[-1] // (heads + 2 * kv_heads) if packed else q.shape[-1] // heads
    length = (past.shape[2] if past is not None else 0) + q.shape[1]
    present = _tensor(q.elem_type, (q.shape[0], kv_heads, length, size))
    return [_tensor(q.elem_type, (*q.shape[:2], heads * size)), present, present, *[None] * outputs][:outputs]


def _skip_normalization(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    x = _get(types, 0)
    if x is None:
        return [None] * outputs
    scalar = _tensor(TensorProto.FLOAT, (*x.shape[:-1], 1))
    same = _tensor(x.elem_type, x.shape)
    return [same, scalar, scalar, same][:outputs]


def _embed_layer_normalization(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    ids, words = _get(types, 0), _get(types, 2)
    if ids is None or words is None:
        return [None] * outputs
    full = _tensor(words.elem_type, (*ids.shape, words.shape[-1]))
    return [full, _tensor(TensorProto.INT32, ids.shape[:1]), full][:outputs]


def _dynamic_quantize_lstm(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    x = _get(types, 0)
    if x is None:
        return [None] * outputs
    directions = 2 if attrs.get("direction") == "bidirectional" else 1
    length, batch, hidden = x.shape[0], x.shape[1], attrs["hidden_size"]
    state = _tensor(x.elem_type, (directions, batch, hidden))
    return [_tensor(x.elem_type, (length, directions, batch, hidden)), state, state][:outputs]


def _gather_block_quantized(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    data, indices, scales = _get(types, 0), _get(types, 1), _get(types, 2)
    if data is None or indices is None or scales is None:
        return [None] * outputs
    axis = attrs.get("gather_axis", 0)
    rest = list(data.shape)
    if data.elem_type == TensorProto.UINT8 and attrs.get("bits", 4) == 4:
        rest[-1] *= 2  # two values in a byte
    return _pad(_tensor(scales.elem_type, (*rest[:axis], *indices.shape, *rest[axis + 1 :])), outputs)


# --- sequences: priced by their largest element ---------------------------------------------------


def _sequence(proto: TypeProto) -> TypeProto:
    wrapped = TypeProto()
    wrapped.sequence_type.elem_type.CopyFrom(proto)
    return wrapped


def _sequence_of(*parts: int) -> Rule:
    """A sequence of the largest among some inputs, which are tensors or sequences themselves."""

    def rule(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
        found = [_get(types, i) for i in (parts or range(len(types)))]
        known = [t for t in found if t is not None]
        if not known:
            return [types[0]] if types and _is_sequence(types[0]) else [None]
        largest_part = max(known, key=lambda t: elements(t.shape))
        return [_sequence(_tensor(largest_part.elem_type, largest_part.shape))]

    return rule


def _is_sequence(proto: TypeProto | None) -> bool:
    return proto is not None and proto.WhichOneof("value") == "sequence_type"


# --- bodies of loops ----------------------------------------------------------------------------


def _count(values: Values, index: int) -> int | None:
    value = values[index] if index < len(values) else None
    if value is None or value.size != 1:
        return None
    count = int(value.reshape(-1)[0])
    return max(count, 0) if count < ENDLESS else None


def _begin(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    if attrs["kind"] == "Loop":
        return [_tensor(TensorProto.INT64, ()), _tensor(TensorProto.BOOL, ()), *types][:outputs]
    if attrs["kind"] == "SequenceMap":
        return [_element(proto) for proto in types]
    batch = (0,) if attrs["batched"] else ()
    removed = [batch] * attrs["states"] + [(*batch, axis) for axis in attrs["axes"]]
    return [
        None if proto is None else _without(proto, axes) for proto, axes in zip(types, removed, strict=True)
    ]


def _without(proto: TypeProto, axes: Sequence[int]) -> TypeProto | None:
    source = resolve(proto, {})
    if source is None:
        return None
    gone = {axis % len(source.shape) for axis in axes}
    return _tensor(source.elem_type, [d for i, d in enumerate(source.shape) if i not in gone])


def _element(proto: TypeProto | None) -> TypeProto | None:
    if proto is not None and _is_sequence(proto):
        inner = TypeProto()
        inner.CopyFrom(proto.sequence_type.elem_type)
        return inner
    return proto


def _end(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    proto = types[0]
    if attrs.get("sequence"):
        if proto is None:
            return [None]
        return [_sequence(proto)]
    source = None if proto is None else resolve(proto, {})
    if source is None or not (attrs["stacked"] or attrs["batched"]):
        return [proto]
    if "axis" in attrs:  # Scan: as long as what it scans
        scanned = _get(types, 1)
        if scanned is None:
            return [None]
        if attrs["batched"]:
            outer = scanned.shape[:2] if attrs["stacked"] else scanned.shape[:1]
            return [_tensor(source.elem_type, (*outer, *source.shape))]
        count: int | None = scanned.shape[attrs["axis"]]
    else:
        count = _count(values, 1)
    return [None if count is None else _tensor(source.elem_type, stacked(source.shape, attrs["at"], count))]


def stacked(shape: Shape, at: int, count: int) -> Shape:
    """``count`` tensors of ``shape`` put together along a new axis ``at``."""
    at = at if at >= 0 else at + len(shape) + 1
    return (*shape[:at], count, *shape[at:])


def _select(attrs: Attributes, types: Types, values: Values, outputs: int) -> Answer:
    """The branch that a constant condition takes; else the larger of the two shapes."""
    condition = values[0]
    if condition is not None and condition.size == 1:
        return [types[1] if bool(condition.reshape(-1)[0]) else types[2]]
    then, other = _get(types, 1), _get(types, 2)
    if then is None or other is None:
        return [types[1] if then is not None else types[2]]
    return [types[1] if elements(then.shape) >= elements(other.shape) else types[2]]


_QONNX: Final = ("qonnx.custom_op.general.", "onnx.brevitas.", "finn.custom_op.general.", "finn.")

OWN_RULES: Final[dict[str, Rule]] = {
    INTERNAL + "Begin": _begin,
    INTERNAL + "End": _end,
    INTERNAL + "Select": _select,
    **{
        domain + op: _like(0)
        for domain in _QONNX
        for op in ("Quant", "IntQuant", "BipolarQuant", "FloatQuant", "Trunc", "MultiThreshold")
    },
    **{
        MICROSOFT + op: _like(0)
        for op in (
            "Gelu", "BiasGelu", "FastGelu", "QuickGelu", "QLinearLeakyRelu", "QLinearSigmoid",
            "QLinearSoftmax", "BiasDropout", "BiasSoftmax", "GroupNorm", "SkipGroupNorm",
            "Inverse", "RotaryEmbedding", "Silu", "BiasAdd",
        )
    },
    **{
        MICROSOFT + op: _first_only(_like(0))
        for op in ("LayerNormalization", "SimplifiedLayerNormalization")
    },
    "SequenceConstruct": _sequence_of(),
    "SequenceInsert": _sequence_of(0, 1),
    "SimplifiedLayerNormalization": _first_only(_like(0)),
    MICROSOFT + "SkipLayerNormalization": _skip_normalization,
    MICROSOFT + "SkipSimplifiedLayerNormalization": _skip_normalization,
    MICROSOFT + "EmbedLayerNormalization": _embed_layer_normalization,
    MICROSOFT + "QuantizeLinear": _like(0, 2),
    MICROSOFT + "DequantizeLinear": _like(0, 1),
    MICROSOFT + "QLinearAdd": _broadcast(0, 3),
    MICROSOFT + "QLinearMul": _broadcast(0, 3),
    MICROSOFT + "QLinearConcat": _qlinear_concat,
    MICROSOFT + "QLinearGlobalAveragePool": _global_pool,
    MICROSOFT + "QLinearAveragePool": _average_pool,
    MICROSOFT + "QLinearConv": _conv(0, 3),
    MICROSOFT + "FusedConv": _conv(0, 1),
    MICROSOFT + "NhwcFusedConv": _conv(0, 1, channels_last=True),
    MICROSOFT + "FusedMatMul": _matmul(0, 1),
    MICROSOFT + "FusedGemm": _matmul(0, 1),
    MICROSOFT + "TransposeMatMul": _matmul(0, 1),
    MICROSOFT + "MatMulIntegerToFloat": _matmul(0, 1, TensorProto.FLOAT),
    MICROSOFT + "DynamicQuantizeMatMul": _matmul(0, 1),
    MICROSOFT + "QGemm": _qgemm,
    MICROSOFT + "MatMulNBits": _matmul_nbits,
    MICROSOFT + "MatMulBnb4": _matmul_nbits,
    MICROSOFT + "MatMulFpQ4": _matmul_nbits,
    MICROSOFT + "GatherBlockQuantized": _gather_block_quantized,
    MICROSOFT + "Attention": _attention,
    MICROSOFT + "QAttention": _attention,
    MICROSOFT + "MultiHeadAttention": _multi_head_attention,
    MICROSOFT + "GroupQueryAttention": _grouped_attention,
    MICROSOFT + "DynamicQuantizeLSTM": _dynamic_quantize_lstm,
}  # fmt: skip


# --- outputs whose size depends on the data ------------------------------------------------------


def largest(
    op_type: str, attrs: Attributes, inputs: Sequence[TensorType | None], index: int
) -> TensorType | None:
    """The largest output that a data-dependent operator of the standard domain can make, else None."""
    if not inputs or inputs[0] is None:
        return None
    x = inputs[0]
    size = elements(x.shape)
    int64 = int(TensorProto.INT64)
    if op_type == "NonZero":
        return TensorType(int64, (len(x.shape), size))
    if op_type == "Compress":
        if "axis" not in attrs:
            return TensorType(x.elem_type, (size,))
        return x
    if op_type == "Unique":
        axis = attrs.get("axis")
        if index == 0:
            return TensorType(x.elem_type, x.shape if axis is not None else (size,))
        return TensorType(int64, (x.shape[axis] if axis is not None else size,))
    if op_type == "NonMaxSuppression":
        scores = inputs[1] if len(inputs) > 1 else None
        if scores is None or len(scores.shape) != 3:
            return None
        return TensorType(int64, (elements(scores.shape), 3))
    if op_type == "TopK":
        return x if index == 0 else TensorType(int64, x.shape)
    if op_type in ("Slice", "StringNormalizer") or op_type.startswith("Reduce"):
        return x
    if op_type == "Dropout" and index == 1:
        return TensorType(int(TensorProto.BOOL), x.shape)
    return None
