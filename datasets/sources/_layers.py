"""Networks of published tables, written once and built in two ways.

A search space has thousands of members, and all of their digests are needed to read its table. `OnnxBuilder`
and `read_onnx` take about 60 ms for 260 operators, which is right for a model that is going to run and too slow
for that. `GraphBuilder` has the same methods and makes the `OperatorGraph` at once, about fifteen times faster.
A network is a function of either; tests/datasets/test_sources_layers.py proves that the digests are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any, Protocol

from hardsight.errors import InputError
from hardsight.graph import Attribute, Operator, OperatorGraph, TensorSpec
from hardsight.ingest import costs

Shape = tuple[int, ...]

_FLOAT_BYTES = 4
_KEEP_SHAPE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Clip", "Elu", "LeakyRelu"})


class Layers(Protocol):
    """What a network function may call; `OnnxBuilder` and `GraphBuilder` have it."""

    def input(self, name: str, shape: Sequence[int]) -> str: ...
    def output(self, tensor: str) -> None: ...
    def shape(self, tensor: str) -> Shape: ...
    def channels(self, tensor: str) -> int: ...
    def conv(
        self,
        x: str,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = None,
        bias: bool = True,
    ) -> str: ...
    def linear(self, x: str, out_features: int, *, bias: bool = True) -> str: ...
    def relu(self, x: str) -> str: ...
    def clip(self, x: str, low: float, high: float) -> str: ...
    def sigmoid(self, x: str) -> str: ...
    def add(self, a: str, b: str) -> str: ...
    def mul(self, a: str, b: str) -> str: ...
    def concat(self, tensors: Sequence[str], axis: int = 1) -> str: ...
    def flatten(self, x: str) -> str: ...
    def reshape(self, x: str, shape: Sequence[int]) -> str: ...
    def transpose(self, x: str, perm: Sequence[int]) -> str: ...
    def global_average_pool(self, x: str) -> str: ...
    def max_pool(self, x: str, kernel: int, *, stride: int = 1, padding: int = 0) -> str: ...
    def average_pool(self, x: str, kernel: int, *, stride: int = 1, padding: int = 0) -> str: ...
    def node(self, op_type: str, x: str, /, **attributes: Any) -> str:
        """An operator of one input that keeps its shape, such as HardSwish."""
        ...


class GraphBuilder:
    """`Layers` in float32 that end in an `OperatorGraph`, without an ONNX model on the way.

    Args:
        name: of the graph.

    Example:
        >>> net = GraphBuilder("tiny")
        >>> x = net.input("image", (1, 3, 32, 32))
        >>> net.output(net.relu(net.conv(x, 8, 3, stride=2)))
        >>> net.graph().macs
        55296
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._operators: list[Operator] = []
        self._inputs: list[TensorSpec] = []
        self._tensors: dict[str, tuple[tuple[int, int], Shape]] = {}
        self._ends: list[str] = []
        self._weight_bytes = 0

    def graph(self) -> OperatorGraph:
        """What was built.

        Raises:
            InputError: when no output was declared.
        """
        if not self._ends:
            raise InputError(f"the graph '{self.name}' has no output; call output() first")
        ends = [self._tensors[end] for end in self._ends]
        return OperatorGraph(
            name=self.name,
            operators=tuple(self._operators),
            inputs=tuple(self._inputs),
            outputs=tuple(
                TensorSpec(name, shape, "float", 32)
                for name, (_, shape) in zip(self._ends, ends, strict=True)
            ),
            output_edges=tuple(source for source, _ in ends),
            weight_bytes=self._weight_bytes,
        )

    def input(self, name: str, shape: Sequence[int]) -> str:
        self._tensors[name] = (-1, len(self._inputs)), tuple(shape)
        self._inputs.append(TensorSpec(name, tuple(shape), "float", 32))
        return name

    def output(self, tensor: str) -> None:
        self._ends.append(tensor)

    def shape(self, tensor: str) -> Shape:
        return self._tensors[tensor][1]

    def channels(self, tensor: str) -> int:
        return self.shape(tensor)[1]

    def conv(
        self,
        x: str,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = None,
        bias: bool = True,
    ) -> str:
        batch, channels, *space = self.shape(x)
        pad = (kernel - 1) // 2 if padding is None else padding
        weights: tuple[Shape, ...] = ((out_channels, channels // groups, *[kernel] * len(space)),)
        return self._add(
            "Conv",
            [x],
            (batch, out_channels, *_slid(space, kernel, stride, pad)),
            (*weights, (out_channels,)) if bias else weights,
            **_window(len(space), kernel, stride, pad),
            dilations=(1,) * len(space),
            group=groups,
        )

    def linear(self, x: str, out_features: int, *, bias: bool = True) -> str:
        batch, features = self.shape(x)
        weights: tuple[Shape, ...] = ((out_features, features),)
        return self._add(
            "Gemm",
            [x],
            (batch, out_features),
            (*weights, (out_features,)) if bias else weights,
            alpha=1.0,
            beta=1.0,
            transB=1,
        )

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def clip(self, x: str, low: float, high: float) -> str:
        return self._add("Clip", [x], self.shape(x), ((), ()))

    def sigmoid(self, x: str) -> str:
        return self.node("Sigmoid", x)

    def add(self, a: str, b: str) -> str:
        return self._elementwise("Add", a, b)

    def mul(self, a: str, b: str) -> str:
        return self._elementwise("Mul", a, b)

    def concat(self, tensors: Sequence[str], axis: int = 1) -> str:
        first = self.shape(tensors[0])
        joined = sum(self.shape(t)[axis] for t in tensors)
        return self._add("Concat", tensors, (*first[:axis], joined, *first[axis + 1 :]), axis=axis)

    def flatten(self, x: str) -> str:
        shape = self.shape(x)
        return self._add("Flatten", [x], (shape[0], prod(shape[1:])), axis=1)

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        return self._add("Reshape", [x], tuple(shape), ((len(shape),),))

    def transpose(self, x: str, perm: Sequence[int]) -> str:
        shape = self.shape(x)
        return self._add("Transpose", [x], tuple(shape[p] for p in perm), perm=tuple(perm))

    def global_average_pool(self, x: str) -> str:
        shape = self.shape(x)
        return self._add("GlobalAveragePool", [x], (*shape[:2], *[1] * (len(shape) - 2)))

    def max_pool(self, x: str, kernel: int, *, stride: int = 1, padding: int = 0) -> str:
        return self._pool("MaxPool", x, kernel, stride, padding, ceil_mode=0)

    def average_pool(self, x: str, kernel: int, *, stride: int = 1, padding: int = 0) -> str:
        return self._pool("AveragePool", x, kernel, stride, padding, count_include_pad=1)

    def node(self, op_type: str, x: str, /, **attributes: Any) -> str:
        if op_type not in _KEEP_SHAPE:
            raise InputError(f"'{op_type}' may change shapes; build this network with OnnxBuilder")
        return self._add(op_type, [x], self.shape(x), **attributes)

    def _pool(self, op_type: str, x: str, kernel: int, stride: int, padding: int, **more: Attribute) -> str:
        batch, channels, *space = self.shape(x)
        shape = (batch, channels, *_slid(space, kernel, stride, padding))
        return self._add(op_type, [x], shape, **_window(len(space), kernel, stride, padding), **more)

    def _elementwise(self, op_type: str, a: str, b: str) -> str:
        pairs = zip(self.shape(a), self.shape(b), strict=True)
        return self._add(op_type, [a, b], tuple(max(pair) for pair in pairs))

    def _add(
        self,
        op_type: str,
        inputs: Sequence[str],
        out: Shape,
        weights: tuple[Shape, ...] = (),
        **attributes: Attribute,
    ) -> str:
        known = [self._tensors[i] for i in inputs]
        pattern = _pattern(
            op_type, tuple(shape for _, shape in known), out, weights, tuple(sorted(attributes.items()))
        )
        self._weight_bytes += sum(map(prod, weights)) * _weight_bits(op_type) // 8
        index = len(self._operators)
        name = f"{op_type.lower()}_{index}"
        self._operators.append(replace(pattern, name=name, inputs=tuple(source for source, _ in known)))
        self._tensors[name] = (index, 0), out
        return name


@cache
def _pattern(
    op_type: str,
    inputs: tuple[Shape, ...],
    out: Shape,
    weights: tuple[Shape, ...],
    attributes: tuple[Any, ...],
) -> Operator:
    """The operator without its place in a graph; a search space has few different ones."""
    named: Mapping[str, Any] = dict(attributes)
    view = op_type in costs.VIEWS
    largest = max((prod(shape) for shape in weights), default=0)
    return Operator(
        name="",
        op_type=op_type,
        inputs=(),
        input_shapes=inputs,
        output_shapes=(out,),
        weight_shapes=weights,
        attributes=named,
        weight_bits=_weight_bits(op_type) if largest > 1 else 0,
        macs=costs.macs(op_type, costs.Call(named, [*inputs, *weights], [out])),
        bytes_in=0 if view else _FLOAT_BYTES * sum(map(prod, inputs)),
        bytes_out=0 if view else _FLOAT_BYTES * prod(out),
        bytes_weights=0 if view else _FLOAT_BYTES * sum(map(prod, weights)),
        known=costs.known(op_type),
    )


def _weight_bits(op_type: str) -> int:
    return 64 if op_type == "Reshape" else 32  # the target shape is int64


def _slid(space: Sequence[int], kernel: int, stride: int, padding: int) -> list[int]:
    return [(side + 2 * padding - kernel) // stride + 1 for side in space]


def _window(rank: int, kernel: int, stride: int, padding: int) -> dict[str, Attribute]:
    return {
        "kernel_shape": (kernel,) * rank,
        "strides": (stride,) * rank,
        "pads": (padding,) * 2 * rank,
    }
