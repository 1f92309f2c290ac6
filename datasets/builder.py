"""Writing ONNX graphs directly: layers in, a weightless `ModelProto` out.

An architecture is known before its weights are, and its cost hardly depends on them. `OnnxBuilder` therefore
declares every weight as an initializer without data (external, never written), so that a model of a hundred
megabytes is a few kilobytes. `hardsight.datasets.weights.fill_weights` adds data when a model has to run.

Shapes are tracked node by node with onnx's own inference, so ``builder.shape(tensor)`` answers at any time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from hardsight.errors import InputError

Shape = tuple[int, ...]
Precision = Literal["fp32", "int8"]

QONNX = "qonnx.custom_op.general"
"""Domain of operators on numbers of any width (Pappalardo et al., AccML 2022)."""

WEIGHTS_FILE = "weights.bin"
"""Where weightless initializers claim their data is; the file never exists."""

_QUANTIZATION_SCALE = 0.05  # He-scaled activations have a deviation near 1: 8 bits then span about 12 of them
_NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs"})
_KEEPS_SIGN = frozenset(
    {"MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten", "Transpose", "DequantizeLinear"}
)


class OnnxBuilder:
    """Builds one graph; every method that adds an operator returns the name of its output.

    Args:
        name: of the graph.
        opset: of the standard domain, 13 or newer. Methods pick the spelling that this opset has.
        constants_as_nodes: write small constants as `Constant` nodes, as some exporters do, instead of
            initializers.

    Example:
        >>> net = OnnxBuilder("tiny")
        >>> x = net.input("image", (1, 3, 32, 32))
        >>> x = net.relu(net.conv(x, 8, 3, stride=2))
        >>> net.shape(x)
        (1, 8, 16, 16)
        >>> net.output(x)
        >>> model = net.model()
    """

    def __init__(self, name: str, opset: int = 17, *, constants_as_nodes: bool = False) -> None:
        if opset < 13:
            raise InputError(f"opset {opset} is too old to build for; give 13 or newer")
        self.name = name
        self.opset = opset
        self.macs = 0
        self.weight_bytes = 0
        self.largest_tensor = 0
        self._constants_as_nodes = constants_as_nodes
        self._imports = [helper.make_opsetid("", opset)]
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[TensorProto] = []
        self._inputs: list[str] = []
        self._outputs: list[str] = []
        self._types: dict[str, onnx.TypeProto] = {}
        self._shapes: dict[str, Shape] = {}
        self._data: dict[str, TensorProto] = {}
        self._producers: dict[str, onnx.NodeProto] = {}
        self._names: Counter[str] = Counter()

    # --- the graph ---------------------------------------------------------------------------------------

    def input(self, name: str, shape: Sequence[int], dtype: int = TensorProto.FLOAT) -> str:
        """Declare a graph input."""
        self._declare(name, helper.make_tensor_type_proto(dtype, list(shape)))
        self._inputs.append(name)
        return name

    def output(self, tensor: str) -> None:
        """Make ``tensor`` a graph output."""
        self._outputs.append(tensor)

    def weight(self, name: str, shape: Sequence[int], dtype: int = TensorProto.FLOAT) -> str:
        """Declare an initializer without data."""
        tensor = TensorProto(name=name, data_type=dtype, dims=list(shape), data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=WEIGHTS_FILE)
        self._weights.append(tensor)
        self._declare(name, helper.make_tensor_type_proto(dtype, list(shape)))
        self.weight_bytes += math.prod(shape) * helper.tensor_dtype_to_np_dtype(dtype).itemsize
        return name

    def constant(self, array: npt.ArrayLike, name: str | None = None) -> str:
        """Add a small constant with its data: axes, target shapes, scales."""
        value = np.asarray(array)
        name = name or self.unique("constant")
        tensor = numpy_helper.from_array(value, name)
        self._data[name] = tensor
        self._declare(name, helper.make_tensor_type_proto(tensor.data_type, list(value.shape)))
        if self._constants_as_nodes:
            self._nodes.append(helper.make_node("Constant", [], [name], f"/{name}", value=tensor))
        else:
            self._weights.append(tensor)
        return name

    @overload
    def node(
        self,
        op_type: str,
        *inputs: str,
        n_outputs: Literal[1] = 1,
        domain: str = "",
        name: str | None = None,
        **attributes: Any,
    ) -> str: ...

    @overload
    def node(
        self,
        op_type: str,
        *inputs: str,
        n_outputs: int,
        domain: str = "",
        name: str | None = None,
        **attributes: Any,
    ) -> list[str]: ...

    def node(
        self,
        op_type: str,
        *inputs: str,
        n_outputs: int = 1,
        domain: str = "",
        name: str | None = None,
        **attributes: Any,
    ) -> str | list[str]:
        """Add any standard operator; an input left out is ``""``, an attribute of None is not written.

        Returns:
            the output's name, or the list of them when ``n_outputs`` is above 1.

        Raises:
            InputError: when the operator does not exist in this opset or does not fit its inputs.
        """
        name = name or self.unique(op_type.lower())
        outputs = [f"{name}.out"] if n_outputs == 1 else [f"{name}.out{i}" for i in range(n_outputs)]
        node = helper.make_node(
            op_type, list(inputs), outputs, f"/{name}", domain=domain or None, **attributes
        )
        try:
            types = shape_inference.infer_node_outputs(
                onnx.defs.get_schema(op_type, self.opset, domain),
                node,
                {i: self._types[i] for i in inputs if i},
                {i: self._data[i] for i in inputs if i in self._data},
                opset_imports=self._imports,
            )
            for output in outputs:
                self._declare(output, types[output])
        except (KeyError, shape_inference.InferenceError, onnx.defs.SchemaError) as error:
            shapes = ", ".join(f"{i}{self._shapes.get(i, '?')}" for i in inputs)
            raise InputError(
                f"{op_type} (opset {self.opset}) does not fit the inputs {shapes}: {error}"
            ) from error
        for output in outputs:
            self._producers[output] = node
            self.largest_tensor = max(self.largest_tensor, math.prod(self._shapes[output]))
        self._nodes.append(node)
        self.macs += self._count_macs(node)
        return outputs[0] if n_outputs == 1 else outputs

    def shape(self, tensor: str) -> Shape:
        """Shape of any tensor built so far."""
        return self._shapes[tensor]

    def channels(self, tensor: str) -> int:
        """Size of dimension 1."""
        return self._shapes[tensor][1]

    def unique(self, stem: str) -> str:
        """A name not given before: ``stem_0``, ``stem_1`` …"""
        self._names[stem] += 1
        return f"{stem}_{self._names[stem] - 1}"

    def model(self) -> onnx.ModelProto:
        """The graph as a model with complete value_info; weights without data.

        Raises:
            InputError: when no output was declared.
        """
        if not self._outputs:
            raise InputError(f"the graph '{self.name}' has no output; call output() first")
        ends = {*self._inputs, *self._outputs, *(w.name for w in self._weights)}
        graph = helper.make_graph(
            self._nodes,
            self.name,
            [self._value(t) for t in self._inputs],
            [self._value(t) for t in self._outputs],
            initializer=self._weights,
            value_info=[self._value(t) for t in self._types if t not in ends],
        )
        version = helper.find_min_ir_version_for(self._imports)
        model = helper.make_model(graph, opset_imports=self._imports, ir_version=version)
        model.producer_name = "hardsight"
        if any(node.domain == QONNX for node in self._nodes):
            model.opset_import.append(helper.make_opsetid(QONNX, 1))
        return model

    def _declare(self, name: str, type_proto: onnx.TypeProto) -> None:
        if name in self._types:
            raise InputError(f"the graph '{self.name}' has two tensors called '{name}'")
        dims = type_proto.tensor_type.shape.dim
        if not all(d.HasField("dim_value") for d in dims):
            raise InputError(f"the shape of '{name}' cannot be inferred; use constant() for shapes and axes")
        self._types[name] = type_proto
        self._shapes[name] = tuple(d.dim_value for d in dims)

    def _value(self, name: str) -> onnx.ValueInfoProto:
        return onnx.ValueInfoProto(name=name, type=self._types[name])

    def _count_macs(self, node: onnx.NodeProto) -> int:
        """Multiply-accumulates of the operators that dominate; used to aim at a size, not to predict."""
        kind = node.op_type
        if kind not in _MAC_RULES:
            return 0
        return _MAC_RULES[kind](
            [self._shapes[i] if i else () for i in node.input], self._shapes[node.output[0]]
        )

    # --- layers with weights -----------------------------------------------------------------------------

    def conv(
        self,
        x: str,
        out_channels: int,
        kernel: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        groups: int = 1,
        dilation: int = 1,
        padding: int | Sequence[int] | None = None,
        bias: bool = True,
        name: str | None = None,
        precision: Precision = "fp32",
    ) -> str:
        """Convolution over as many spatial dimensions as ``x`` has, batch normalisation folded in.

        Args:
            x: shape ``(batch, channels, *spatial)``.
            kernel: one size, or one per spatial dimension.
            padding: per spatial dimension and on both sides; by default the size is kept at stride 1.
            precision: ``"int8"`` writes int8 weights and an int32 bias behind DequantizeLinear; ``x``
                should then come from `dequantize` and the result go to `quantize` (a ReLU may stand between).
                Beware: ONNX Runtime runs a lone fp32 convolution on integers too where it stands directly
                between DequantizeLinear and QuantizeLinear.

        Returns:
            shape ``(batch, out_channels, *spatial)``.
        """
        rank = len(self.shape(x)) - 2
        kernel_shape = _per_dimension(kernel, rank)
        pads = (
            [dilation * (k - 1) // 2 for k in kernel_shape]
            if padding is None
            else _per_dimension(padding, rank)
        )
        name = name or self.unique("conv")
        weight_shape = (out_channels, self.channels(x) // groups, *kernel_shape)
        weights = self._layer_weights(name, weight_shape, out_channels, bias, precision, x, axis=0)
        return self.node(
            "Conv",
            x,
            *weights,
            name=name,
            kernel_shape=kernel_shape,
            strides=_per_dimension(stride, rank),
            pads=[*pads, *pads],
            dilations=[dilation] * rank,
            group=groups,
        )

    def conv_transpose(
        self,
        x: str,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 2,
        bias: bool = True,
        name: str | None = None,
    ) -> str:
        """Transposed convolution that multiplies the spatial size by ``stride``."""
        rank = len(self.shape(x)) - 2
        name = name or self.unique("conv_transpose")
        weight_shape = (self.channels(x), out_channels, *[kernel] * rank)
        weights = self._layer_weights(name, weight_shape, out_channels, bias, "fp32", x, axis=1)
        before, extra = divmod(kernel - stride, 2)
        return self.node(
            "ConvTranspose",
            x,
            *weights,
            name=name,
            kernel_shape=[kernel] * rank,
            strides=[stride] * rank,
            pads=[before] * rank + [before + extra] * rank,
        )

    def linear(
        self,
        x: str,
        out_features: int,
        *,
        bias: bool = True,
        name: str | None = None,
        precision: Precision = "fp32",
    ) -> str:
        """Dense layer on the last dimension: Gemm on a matrix, else MatMul and Add, as exporters write it.

        ``<name>.weight`` has shape ``(out, in)`` with Gemm and ``(in, out)`` with MatMul.
        """
        name = name or self.unique("linear")
        in_features = self.shape(x)[-1]
        if len(self.shape(x)) == 2:
            weights = self._layer_weights(
                name, (out_features, in_features), out_features, bias, precision, x, axis=0
            )
            return self.node("Gemm", x, *weights, name=name, alpha=1.0, beta=1.0, transB=1)
        shape = (in_features, out_features)
        weight, *_ = self._layer_weights(name, shape, out_features, False, precision, x, axis=1)
        y = self.node("MatMul", x, weight, name=name)
        if not bias:
            return y
        return self.node("Add", self.weight(f"{name}.bias", (out_features,)), y, name=f"{name}.add")

    def batch_norm(self, x: str, *, name: str | None = None) -> str:
        """Batch normalisation that no convolution precedes, and so stays in the graph."""
        name = name or self.unique("batch_norm")
        roles = ("weight", "bias", "running_mean", "running_var")
        weights = [self.weight(f"{name}.{role}", (self.channels(x),)) for role in roles]
        return self.node("BatchNormalization", x, *weights, name=name, epsilon=1e-5)

    def _layer_weights(
        self, name: str, shape: Shape, n_out: int, bias: bool, precision: Precision, x: str, *, axis: int
    ) -> list[str]:
        if precision == "fp32":
            weights = [self.weight(f"{name}.weight", shape)]
            return [*weights, self.weight(f"{name}.bias", (n_out,))] if bias else weights
        if precision != "int8":
            raise InputError(f"precision '{precision}' is not one of fp32, int8")
        weights = [self._dequantized_weight(f"{name}.weight", shape, n_out, TensorProto.INT8, axis)]
        if bias:
            weights.append(self._dequantized_weight(f"{name}.bias", (n_out,), n_out, TensorProto.INT32, 0))
        return weights

    def _dequantized_weight(self, name: str, shape: Shape, n_out: int, dtype: int, axis: int) -> str:
        """A quantized initializer with one scale per output channel, back in float."""
        tensors = [self.weight(name, shape, dtype), self.weight(f"{name}_scale", (n_out,))]
        # ONNX Runtime leaves integer kernels unused where the zero points are implied
        tensors.append(self.weight(f"{name}_zero_point", (n_out,), dtype))
        return self.node("DequantizeLinear", *tensors, name=f"{name}_dequantize", axis=axis)

    # --- quantization of activations ---------------------------------------------------------------------

    def quantize(
        self, x: str, name: str | None = None, dtype: int = TensorProto.UINT8, *, like: str | None = None
    ) -> str:
        """Activation to 8 bits, with a placeholder ``<name>.scale`` and ``<name>.zero_point``.

        The zero point is 0 where ``x`` cannot be negative, since that is what lets runtimes absorb a ReLU.

        Args:
            name: of the scale; by default that of ``x``.
            like: a quantized tensor whose scale to share, as pooling and reshaping need it.
        """
        name = name or x
        if like is not None:
            scale, zero_point = self._producers[like].input[1:3]
        else:
            middle = 128 if dtype == TensorProto.UINT8 and not self._never_negative(x) else 0
            scale = self._scalar(np.float32(_QUANTIZATION_SCALE), f"{name}.scale")
            zero_point = self._scalar(
                helper.tensor_dtype_to_np_dtype(dtype).type(middle), f"{name}.zero_point"
            )
        return self.node("QuantizeLinear", x, scale, zero_point, name=f"{name}.quantize")

    def dequantize(self, q: str) -> str:
        """Back to float with the scale that `quantize` gave ``q``."""
        _, scale, zero_point = self._producers[q].input
        return self.node("DequantizeLinear", q, scale, zero_point)

    def quantized(self, x: str, *, like: str | None = None) -> str:
        """`quantize`, then `dequantize`."""
        return self.dequantize(self.quantize(x, like=like))

    def qonnx_quant(
        self, x: str, scale: str, bits: int, *, signed: bool, narrow: bool = False, rounding: str = "ROUND"
    ) -> str:
        """QONNX's Quant: ``x`` on the nearest of the levels of an integer of that width, back in float.

        Args:
            scale: constant with the distance of two levels, one or one per channel.
            narrow: leave out the lowest level, so that they are symmetric.
            rounding: of what lies in between; ``ROUND`` takes halves to even, ``HALF_UP`` upwards.
        """
        numbers = [scale, *(self.constant(np.float32(value)) for value in (0.0, bits))]
        out = f"{self.unique('quant')}.out"
        attributes: dict[str, Any] = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": rounding}
        self._nodes.append(
            helper.make_node("Quant", [x, *numbers], [out], f"/{out[:-4]}", domain=QONNX, **attributes)
        )
        self._declare(out, self._types[x])
        return out

    def _scalar(self, value: np.generic, name: str) -> str:
        tensor = numpy_helper.from_array(np.asarray(value), name)
        self._weights.append(tensor)
        self._declare(name, helper.make_tensor_type_proto(tensor.data_type, []))
        return name

    def _never_negative(self, tensor: str) -> bool:
        node = self._producers.get(tensor)
        if node is None:
            return False
        if node.op_type == "Clip":
            low = self._data.get(node.input[1]) if len(node.input) > 1 else None
            return low is not None and float(numpy_helper.to_array(low)) >= 0
        if node.op_type in _KEEPS_SIGN:
            return self._never_negative(node.input[0])
        if node.op_type == "QuantizeLinear":
            return self._never_negative(node.input[0])
        return node.op_type in _NEVER_NEGATIVE

    # --- operators without weights -----------------------------------------------------------------------

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def clip(self, x: str, low: float, high: float) -> str:
        return self.node("Clip", x, self.constant(np.float32(low)), self.constant(np.float32(high)))

    def sigmoid(self, x: str) -> str:
        return self.node("Sigmoid", x)

    def add(self, a: str, b: str) -> str:
        return self.node("Add", a, b)

    def mul(self, a: str, b: str) -> str:
        return self.node("Mul", a, b)

    def matmul(self, a: str, b: str) -> str:
        return self.node("MatMul", a, b)

    def softmax(self, x: str, axis: int = -1) -> str:
        return self.node("Softmax", x, axis=axis)

    def scaled(self, x: str, factor: float) -> str:
        """``x`` times a constant."""
        return self.mul(x, self.constant(np.float32(factor)))

    def concat(self, tensors: Sequence[str], axis: int = 1) -> str:
        return self.node("Concat", *tensors, axis=axis)

    def split(self, x: str, sizes: Sequence[int], axis: int = 1) -> list[str]:
        """Cut ``x`` along ``axis`` into pieces of the given sizes (two or more)."""
        return self.node(
            "Split", x, self.constant(np.array(sizes, np.int64)), n_outputs=len(sizes), axis=axis
        )

    def slice(self, x: str, start: int, stop: int, axis: int, step: int = 1) -> str:
        bounds = [self.constant(np.array([v], np.int64)) for v in (start, stop, axis, step)]
        return self.node("Slice", x, *bounds)

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """Reshape; 0 keeps a dimension, -1 is inferred."""
        return self.node("Reshape", x, self.constant(np.array(shape, np.int64)))

    def transpose(self, x: str, perm: Sequence[int]) -> str:
        return self.node("Transpose", x, perm=list(perm))

    def flatten(self, x: str) -> str:
        return self.node("Flatten", x, axis=1)

    def reduce_mean(self, x: str, axes: Sequence[int], *, keepdims: bool = True) -> str:
        if self.opset < 18:
            return self.node("ReduceMean", x, axes=list(axes), keepdims=int(keepdims))
        return self.node("ReduceMean", x, self.constant(np.array(axes, np.int64)), keepdims=int(keepdims))

    def squeeze(self, x: str, axes: Sequence[int]) -> str:
        return self.node("Squeeze", x, self.constant(np.array(axes, np.int64)))

    def global_average_pool(self, x: str) -> str:
        return self.node("GlobalAveragePool", x)

    def max_pool(self, x: str, kernel: int, *, stride: int = 1, padding: int = 0, ceil: bool = False) -> str:
        rank = len(self.shape(x)) - 2
        return self.node(
            "MaxPool",
            x,
            kernel_shape=[kernel] * rank,
            strides=[stride] * rank,
            pads=[padding] * 2 * rank,
            ceil_mode=int(ceil),
        )

    def average_pool(self, x: str, kernel: int, *, stride: int = 1, padding: int = 0) -> str:
        rank = len(self.shape(x)) - 2
        return self.node(
            "AveragePool",
            x,
            kernel_shape=[kernel] * rank,
            strides=[stride] * rank,
            pads=[padding] * 2 * rank,
            count_include_pad=1,
        )

    def resize(self, x: str, factor: int, mode: Literal["nearest", "linear"] = "nearest") -> str:
        """Enlarge the spatial dimensions by ``factor``."""
        rank = len(self.shape(x)) - 2
        scales = self.constant(np.array([1, 1, *[factor] * rank], np.float32))
        nearest = mode == "nearest"
        return self.node(
            "Resize",
            x,
            "",
            scales,
            mode=mode,
            coordinate_transformation_mode="asymmetric" if nearest else "pytorch_half_pixel",
            nearest_mode="floor" if nearest else None,
        )


def _per_dimension(value: int | Sequence[int], rank: int) -> list[int]:
    return [value] * rank if isinstance(value, int) else list(value)


def _conv_macs(inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * math.prod(inputs[1][1:])


def _conv_transpose_macs(inputs: list[Shape], output: Shape) -> int:
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _gemm_macs(inputs: list[Shape], output: Shape) -> int:
    return math.prod(inputs[0]) * output[-1]


def _matmul_macs(inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * inputs[0][-1]


def _recurrent_macs(inputs: list[Shape], output: Shape) -> int:
    steps, batch, features = inputs[0]
    directions, gates_x_hidden, hidden = inputs[2]
    return steps * batch * directions * gates_x_hidden * (features + hidden)


_MAC_RULES = {
    "Conv": _conv_macs,
    "ConvTranspose": _conv_transpose_macs,
    "Gemm": _gemm_macs,
    "MatMul": _matmul_macs,
    "LSTM": _recurrent_macs,
    "GRU": _recurrent_macs,
    "RNN": _recurrent_macs,
}
