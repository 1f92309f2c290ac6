"""Filling weightless models with numbers that behave, and taking them out again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from hardsight.datasets.builder import WEIGHTS_FILE
from hardsight.errors import ModelError

Array = npt.NDArray[np.generic]
FloatArray = npt.NDArray[np.float32]

_PROTOBUF_LIMIT = 2**31 - 2**20  # protobuf refuses messages of 2 GiB; the graph itself needs some room
_ALWAYS_KEPT = 8  # elements: scalars, Resize scales, pads
_INTEGERS_KEPT = 4096  # elements: shapes, axes, index tables
_TILE = 262_139  # normal deviates drawn once per model; prime, so that rows of a larger weight never repeat
_INT8_DEVIATION = 40.0  # of quantized weights: a normal then uses the range to about three deviations
_GAIN = 1.6  # He et al. 2015 has 2; less, since residual branches add up without batch normalisation
_ACTIVATION_SCALE = 0.05  # where no QuantizeLinear tells the scale of a convolution's input

_INTEGER_TYPES = frozenset(
    {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.UINT64, TensorProto.UINT32}
)
_SHAPE_INPUTS = {  # (operator, input) whose values decide shapes: no number can be made up for them
    ("Reshape", 1), ("Expand", 1), ("Tile", 1), ("Slice", 1), ("Slice", 2), ("Slice", 3), ("Slice", 4),
    ("Unsqueeze", 1), ("Squeeze", 1), ("Pad", 1), ("Resize", 2), ("Resize", 3), ("Split", 1), ("TopK", 1),
    ("ConstantOfShape", 0), ("ReduceMean", 1), ("ReduceSum", 1), ("OneHot", 1), ("Range", 0), ("Range", 1),
}  # fmt: skip


def fill_weights(
    model: onnx.ModelProto, seed: int = 0, values: Mapping[str, Array] | None = None
) -> onnx.ModelProto:
    """A copy of ``model`` with data in every initializer.

    Weights are normal with He's deviation (He et al., "Delving deep into rectifiers", ICCV 2015), so that
    activations neither explode nor fade into denormal numbers, which would be slow and spoil a measurement.
    Initializers that have data keep it, unless ``values`` names them.

    Args:
        model: left as it is.
        seed: of the random numbers.
        values: data by initializer name; shape must match, the type is converted.

    Raises:
        ModelError: when the weights exceed what one ONNX file can hold (2 GB), when ``values`` names an
            unknown initializer or has a wrong shape, or when missing data would decide a shape.
    """
    given = dict(values or {})
    total = sum(_size(t) * _itemsize(t) for t in model.graph.initializer)
    if total > _PROTOBUF_LIMIT:
        raise ModelError(
            f"the weights of '{model.graph.name}' take {total / 1e9:.1f} GB; "
            "one ONNX file holds at most 2 GB. Give a smaller model"
        )
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    tensors = {t.name: t for t in filled.graph.initializer}
    unknown = sorted(set(given) - set(tensors))
    if unknown:
        raise ModelError(
            f"values for {', '.join(unknown)}, which '{model.graph.name}' has no initializer for"
        )
    for name, value in given.items():
        if tuple(value.shape) != tuple(tensors[name].dims):
            raise ModelError(
                f"'{name}' has shape {tuple(tensors[name].dims)}; the value given has {value.shape}"
            )
    draw = _Draw(filled, seed)
    for name, tensor in tensors.items():
        if name in given:
            _store(tensor, given[name])
        elif not _has_data(tensor):
            _store(tensor, draw(tensor))
    return filled


def strip_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without weight data; constants that decide shapes stay.

    Kept are tensors of at most 8 elements and integer tables of at most 4,096, unless they are dequantized.
    Large `Constant` nodes become initializers without data.
    """
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    for graph in _graphs(stripped.graph):
        kept = [node for node in graph.node if not _is_large_constant(node)]
        if len(kept) < len(graph.node):
            for node in graph.node:
                if _is_large_constant(node):
                    tensor = graph.initializer.add()
                    tensor.CopyFrom(node.attribute[0].t)
                    tensor.name = node.output[0]
            del graph.node[:]
            graph.node.extend(kept)
        quantized = {n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
        for tensor in graph.initializer:
            keep = _INTEGERS_KEPT if tensor.data_type in _INTEGER_TYPES else _ALWAYS_KEPT
            if _size(tensor) > (_ALWAYS_KEPT if tensor.name in quantized else keep):
                _clear(tensor)
    return stripped


class _Draw:
    """Makes up data for initializers according to what reads them."""

    def __init__(self, model: onnx.ModelProto, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._normal = self._rng.standard_normal(_TILE, dtype=np.float32)
        self._dims = {t.name: tuple(t.dims) for t in model.graph.initializer}
        self._scalars = {
            t.name: float(numpy_helper.to_array(t))
            for t in model.graph.initializer
            if not t.dims and _has_data(t) and t.data_type == TensorProto.FLOAT
        }
        self._readers: dict[str, tuple[onnx.NodeProto, int]] = {}
        self._producers: dict[str, onnx.NodeProto] = {}
        for graph in _graphs(model.graph):
            for node in graph.node:
                for output in node.output:
                    self._producers[output] = node
                for i, name in enumerate(node.input):
                    self._readers.setdefault(name, (node, i))

    def __call__(self, tensor: TensorProto) -> Array:
        shape = tuple(tensor.dims)
        node, slot = self._readers.get(tensor.name, (onnx.NodeProto(), 0))
        if node.op_type == "DequantizeLinear":
            return self._quantized(tensor, node, slot)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if (node.op_type, slot) in _SHAPE_INPUTS:
            raise ModelError(
                f"'{tensor.name}' has no data, but as input {slot} of {node.op_type} '{node.name}' "
                "it decides a shape; give the model with this constant"
            )
        if np.issubdtype(dtype, np.integer) or dtype == np.bool_:
            return np.zeros(shape, dtype)
        if node.op_type in _RULES:
            return _RULES[node.op_type](self, shape, slot, node).astype(dtype, copy=False)
        return self._default(shape).astype(dtype, copy=False)

    def normal(self, shape: tuple[int, ...], deviation: float, mean: float = 0.0) -> FloatArray:
        n = math.prod(shape)
        start = int(self._rng.integers(_TILE))
        flat = np.resize(np.roll(self._normal, -start), n) if n > _TILE else self._take(start, n)
        out = flat.reshape(shape) * np.float32(deviation)
        return out + np.float32(mean) if mean else out

    def _take(self, start: int, n: int) -> FloatArray:
        return np.take(self._normal, np.arange(start, start + n), mode="wrap")

    def _default(self, shape: tuple[int, ...]) -> FloatArray:
        if len(shape) < 2:
            return self.normal(shape, 0.1)
        return self.normal(shape, math.sqrt(_GAIN / max(1, shape[-2])))

    def _quantized(self, tensor: TensorProto, node: onnx.NodeProto, slot: int) -> Array:
        """Data, scale or zero point of a weight behind DequantizeLinear."""
        shape = tuple(tensor.dims)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if slot == 2:
            return np.zeros(shape, dtype)
        reader, position = self._readers.get(node.output[0], (onnx.NodeProto(), 0))
        is_bias = reader.op_type in ("Conv", "Gemm", "ConvTranspose") and position == 2
        if slot == 0:
            bound = np.iinfo(dtype)
            deviation = _INT8_DEVIATION if bound.bits <= 8 else 1000.0
            drawn = np.rint(self.normal(shape, deviation, mean=128.0 if bound.min == 0 else 0.0))
            return np.clip(drawn, bound.min, bound.max).astype(dtype)
        if is_bias:  # runtimes take the bias to be in units of input scale x weight scale
            weight = self._producers.get(reader.input[1])
            if weight is not None and weight.input[0] in self._dims:
                return np.full(shape, self._input_scale(reader) * self._weight_scale(weight, reader), dtype)
        return np.full(shape, self._weight_scale(node, reader), dtype)

    def _weight_scale(self, dequantize: onnx.NodeProto, reader: onnx.NodeProto) -> float:
        dims = self._dims.get(dequantize.input[0], ())
        fan_in = dims[0] if reader.op_type == "MatMul" and dims else math.prod(dims[1:])
        return math.sqrt(_GAIN / max(1, fan_in)) / _INT8_DEVIATION

    def _input_scale(self, reader: onnx.NodeProto) -> float:
        source = self._producers.get(reader.input[0])
        if source is None or source.op_type != "DequantizeLinear":
            return _ACTIVATION_SCALE
        return self._scalars.get(source.input[1], _ACTIVATION_SCALE)


def _conv(draw: _Draw, shape: tuple[int, ...], slot: int, node: onnx.NodeProto) -> FloatArray:
    return draw.normal(shape, math.sqrt(_GAIN / math.prod(shape[1:])) if slot == 1 else 0.05)


def _gemm(draw: _Draw, shape: tuple[int, ...], slot: int, node: onnx.NodeProto) -> FloatArray:
    if slot == 2:
        return draw.normal(shape, 0.05)
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return draw.normal(shape, math.sqrt(_GAIN / shape[1 if transposed else 0]))


def _recurrent(draw: _Draw, shape: tuple[int, ...], slot: int, node: onnx.NodeProto) -> FloatArray:
    return draw.normal(shape, math.sqrt(1 / shape[-1]) if slot in (1, 2) else 0.05)


def _normalisation(draw: _Draw, shape: tuple[int, ...], slot: int, node: onnx.NodeProto) -> FloatArray:
    if slot in (1, 4):  # scale and variance: near one, never negative
        return np.abs(draw.normal(shape, 0.1, mean=1.0)) + np.float32(0.1)
    return draw.normal(shape, 0.1)


def _slope(draw: _Draw, shape: tuple[int, ...], slot: int, node: onnx.NodeProto) -> FloatArray:
    return np.full(shape, 0.25, np.float32)


def _multiply(draw: _Draw, shape: tuple[int, ...], slot: int, node: onnx.NodeProto) -> FloatArray:
    return draw.normal(shape, 0.1, mean=1.0)


def _table(draw: _Draw, shape: tuple[int, ...], slot: int, node: onnx.NodeProto) -> FloatArray:
    return draw.normal(shape, 0.5)


_RULES: dict[str, Callable[[_Draw, tuple[int, ...], int, onnx.NodeProto], FloatArray]] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "BatchNormalization": _normalisation,
    "InstanceNormalization": _normalisation,
    "LayerNormalization": _normalisation,
    "GroupNormalization": _normalisation,
    "PRelu": _slope,
    "Mul": _multiply,
    "Div": _multiply,
    "Pow": _multiply,
    "Gather": _table,
}


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _is_large_constant(node: onnx.NodeProto) -> bool:
    if node.op_type != "Constant" or not node.attribute or node.attribute[0].name != "value":
        return False
    tensor = node.attribute[0].t
    return _size(tensor) > (_INTEGERS_KEPT if tensor.data_type in _INTEGER_TYPES else _ALWAYS_KEPT)


def _size(tensor: TensorProto) -> int:
    return math.prod(tensor.dims)


def _itemsize(tensor: TensorProto) -> int:
    return int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _has_data(tensor: TensorProto) -> bool:
    return tensor.data_location != TensorProto.EXTERNAL


def _store(tensor: TensorProto, value: Array) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    name, dims, data_type = tensor.name, list(tensor.dims), tensor.data_type
    tensor.Clear()
    tensor.name, tensor.data_type = name, data_type
    tensor.dims.extend(dims)
    tensor.raw_data = np.ascontiguousarray(value, dtype).tobytes()


def _clear(tensor: TensorProto) -> None:
    name, dims, data_type = tensor.name, list(tensor.dims), tensor.data_type
    tensor.Clear()
    tensor.name, tensor.data_type, tensor.data_location = name, data_type, TensorProto.EXTERNAL
    tensor.dims.extend(dims)
    tensor.external_data.add(key="location", value=WEIGHTS_FILE)
