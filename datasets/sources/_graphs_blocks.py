"""Networks of published search spaces, written once in blocks and built in two ways.

A search space has thousands of members made of a few dozen blocks. `OnnxBlocks` writes a member as ONNX;
`GraphBlocks` makes its `OperatorGraph` at once, from blocks that went through `OnnxBuilder` and `read_onnx`
the first time they were met. Both give the same digest, which tests/datasets/test_sources_graphs.py proves: what a
block becomes depends on nothing but its inputs' shapes, since no operator here is quantized.

A block is a function of an `OnnxBuilder`, the names of its inputs, and settings::

    >>> def relu_conv(net, x, *, channels):
    ...     return net.conv(net.relu(x), channels, 3)
    >>> net = GraphBlocks("tiny")
    >>> x = net.block(relu_conv, net.input("image", (1, 3, 8, 8)), channels=4)
    >>> net.output(x)
    >>> net.graph().macs
    6912
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper

from hardsight.datasets.builder import OnnxBuilder, Shape
from hardsight.errors import InputError
from hardsight.graph import Operator, OperatorGraph, TensorSpec
from hardsight.ingest import read_onnx
from hardsight.ingest.bits import BITS, NAMES

Block = Callable[..., str]
Blocks = Callable[..., tuple[str, ...]]
Body = Callable[[str, tuple[str, ...]], tuple[tuple[str, ...], str]]
"""One pass of a loop: from its number and the states to the states after it and a result to keep."""

_BLOCKS_KEPT = 8192
_operator: Callable[..., Operator] = Operator


class Network(Protocol):
    """What the function that describes a network may call; `OnnxBlocks` and `GraphBlocks` have it."""

    def input(self, name: str, shape: Sequence[int], dtype: int = TensorProto.FLOAT) -> str: ...
    def output(self, tensor: str) -> None: ...
    def shape(self, tensor: str) -> Shape: ...
    def block(self, function: Block, *tensors: str, **settings: Hashable) -> str:
        """Add a block with one output."""
        ...

    def blocks(self, function: Blocks, *tensors: str, **settings: Hashable) -> tuple[str, ...]:
        """Add a block with several outputs."""
        ...

    def loop(self, trips: int, states: Sequence[str], body: Body) -> str:
        """Run ``body`` ``trips`` times; returns its results, stacked along a new first dimension."""
        ...


Describe = Callable[[Network, str], None]
"""Adds the network that an encoding stands for, inputs and outputs included."""


def to_graph(describe: Describe, encoding: str) -> OperatorGraph:
    """The graph of a member of a search space, without ONNX on the way."""
    net = GraphBlocks(encoding)
    describe(net, encoding)
    return net.graph()


def to_onnx(describe: Describe, encoding: str) -> onnx.ModelProto:
    """The same member as a weightless ONNX model."""
    net = OnnxBlocks(encoding)
    describe(net, encoding)
    return net.net.model()


class OnnxBlocks:
    """A `Network` that ends in an ONNX model: ``net.model()``.

    Args:
        name: of the graph.
    """

    def __init__(self, name: str) -> None:
        self.net = _LoopBuilder(name)

    def input(self, name: str, shape: Sequence[int], dtype: int = TensorProto.FLOAT) -> str:
        return self.net.input(name, shape, dtype)

    def output(self, tensor: str) -> None:
        self.net.output(tensor)

    def shape(self, tensor: str) -> Shape:
        return self.net.shape(tensor)

    def block(self, function: Block, *tensors: str, **settings: Hashable) -> str:
        return function(self.net, *tensors, **settings)

    def blocks(self, function: Blocks, *tensors: str, **settings: Hashable) -> tuple[str, ...]:
        return function(self.net, *tensors, **settings)

    def loop(self, trips: int, states: Sequence[str], body: Body) -> str:
        return self.net.loop(trips, states, body)


class _LoopBuilder(OnnxBuilder):
    """An `OnnxBuilder` that can write a Loop; weights of the body stay outside, where runtimes pack them once."""

    def loop(self, trips: int, states: Sequence[str], body: Body) -> str:
        name = self.unique("loop")
        step, going = f"{name}.step", f"{name}.going"
        self._declare(step, helper.make_tensor_type_proto(TensorProto.INT64, []))
        self._declare(going, helper.make_tensor_type_proto(TensorProto.BOOL, []))
        inner = tuple(f"{name}.{index}" for index in range(len(states)))
        for state, outer in zip(inner, states, strict=True):
            self._declare(state, self._types[outer])
        around, self._nodes = self._nodes, []
        ends, result = body(step, inner)
        nodes = [*self._nodes, helper.make_node("Identity", [going], [f"{name}.goes_on"])]
        self._nodes = around
        goes_on = helper.make_tensor_value_info(f"{name}.goes_on", TensorProto.BOOL, [])
        graph = helper.make_graph(
            nodes,
            name,
            [self._value(value) for value in (step, going, *inner)],
            [goes_on, *(self._value(value) for value in (*ends, result))],
        )
        afterwards = [f"{name}.out{index}" for index in range(len(states))]
        for after, state in zip(afterwards, inner, strict=True):
            self._declare(after, self._types[state])
        stacked = f"{name}.stacked"
        element = self._types[result].tensor_type.elem_type
        self._declare(stacked, helper.make_tensor_type_proto(element, [trips, *self.shape(result)]))
        count = self.constant(np.int64(trips))
        self._nodes.append(
            helper.make_node("Loop", [count, "", *states], [*afterwards, stacked], f"/{name}", body=graph)
        )
        return stacked


class _Tensor(NamedTuple):
    """Where a tensor comes from and what it is."""

    source: tuple[int, int]
    shape: Shape
    dtype: int


class _Part(NamedTuple):
    """A block as operators whose inputs are counted from its own first operator."""

    operators: tuple[Operator, ...]
    fields: tuple[tuple[Any, ...], ...]
    edges: tuple[tuple[int, int], ...]
    outputs: tuple[tuple[Shape, int], ...]
    weight_bytes: int


class GraphBlocks:
    """A `Network` that ends in an `OperatorGraph`.

    Args:
        name: of the graph.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._operators: list[Operator] = []
        self._tensors: dict[str, _Tensor] = {}
        self._inputs: list[TensorSpec] = []
        self._ends: list[str] = []
        self._weight_bytes = 0
        self._repeats = 1

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
            outputs=tuple(_spec(name, t) for name, t in zip(self._ends, ends, strict=True)),
            output_edges=tuple(end.source for end in ends),
            weight_bytes=self._weight_bytes,
        )

    def input(self, name: str, shape: Sequence[int], dtype: int = TensorProto.FLOAT) -> str:
        tensor = _Tensor((-1, len(self._inputs)), tuple(shape), dtype)
        self._tensors[name] = tensor
        self._inputs.append(_spec(name, tensor))
        return name

    def output(self, tensor: str) -> None:
        self._ends.append(tensor)

    def shape(self, tensor: str) -> Shape:
        return self._tensors[tensor].shape

    def block(self, function: Block, *tensors: str, **settings: Hashable) -> str:
        (only,) = self.blocks(function, *tensors, **settings)  # type: ignore[arg-type]
        return only

    def blocks(self, function: Blocks, *tensors: str, **settings: Hashable) -> tuple[str, ...]:
        given = [self._tensors[tensor] for tensor in tensors]
        part = _part(function, tuple((t.shape, t.dtype) for t in given), tuple(settings.items()))
        return self._place(part, [t.source for t in given])

    def loop(self, trips: int, states: Sequence[str], body: Body) -> str:
        given = [self._tensors[state] for state in states]
        part = _loop_entry(trips, tuple((t.shape, t.dtype) for t in given))
        self._repeats, before = self._repeats * trips, self._repeats
        step, _, *inner = self._place(part, [t.source for t in given])
        _, result = body(step, tuple(inner))
        self._repeats = before
        last = self._tensors[result]
        stacked = f"{result}.stacked"
        self._tensors[stacked] = last._replace(shape=(trips, *last.shape))
        return stacked

    def _place(self, part: _Part, sources: Sequence[tuple[int, int]]) -> tuple[str, ...]:
        base = len(self._operators)
        for offset, (operator, (op_type, rest)) in enumerate(zip(part.operators, part.fields, strict=True)):
            inputs = tuple(
                sources[slot] if producer < 0 else (base + producer, slot)
                for producer, slot in operator.inputs
            )
            name = f"{op_type}_{base + offset}"
            self._operators.append(_operator(name, op_type, inputs, *rest, self._repeats, operator.known))
        self._weight_bytes += part.weight_bytes
        names = tuple(f"{len(self._tensors)}.{index}" for index in range(len(part.outputs)))
        for name, (producer, slot), (shape, dtype) in zip(names, part.edges, part.outputs, strict=True):
            source = sources[slot] if producer < 0 else (base + producer, slot)
            self._tensors[name] = _Tensor(source, shape, dtype)
        return names


def _spec(name: str, tensor: _Tensor) -> TensorSpec:
    return TensorSpec(name, tensor.shape, NAMES[tensor.dtype], BITS[tensor.dtype])


@lru_cache(_BLOCKS_KEPT)
def _part(
    function: Block | Blocks,
    inputs: tuple[tuple[Shape, int], ...],
    settings: tuple[tuple[str, Hashable], ...],
) -> _Part:
    net = OnnxBuilder("block")
    names = [net.input(f"in{index}", shape, dtype) for index, (shape, dtype) in enumerate(inputs)]
    made = function(net, *names, **dict(settings))
    for name in (made,) if isinstance(made, str) else made:
        net.output(name)
    return _read(net.model())


@lru_cache(_BLOCKS_KEPT)
def _loop_entry(trips: int, states: tuple[tuple[Shape, int], ...]) -> _Part:
    """The operator with which a Loop begins: it hands out the number of the pass and the states."""
    net = _LoopBuilder("loop")
    names = [net.input(f"in{index}", shape, dtype) for index, (shape, dtype) in enumerate(states)]
    net.output(
        net.loop(trips, names, lambda step, inner: (inner, net.node("Cast", step, to=TensorProto.FLOAT)))
    )
    entry = _read(net.model()).operators[0]
    outputs = ((), TensorProto.INT64), ((), TensorProto.BOOL), *states
    edges = tuple((0, slot) for slot in range(len(outputs)))
    return _Part((entry,), (_fields(entry),), edges, outputs, 0)


def _read(model: onnx.ModelProto) -> _Part:
    graph = read_onnx(model, name="block")
    assert not graph.assumptions, graph.assumptions
    types = [value.type.tensor_type.elem_type for value in model.graph.output]
    return _Part(
        graph.operators,
        tuple(_fields(operator) for operator in graph.operators),
        graph.output_edges,
        tuple((spec.shape, dtype) for spec, dtype in zip(graph.outputs, types, strict=True)),
        graph.weight_bytes,
    )


def _fields(operator: Operator) -> tuple[str, tuple[Any, ...]]:
    """The type, and all that stays the same wherever the operator stands: `Operator`'s fourth to fourteenth field."""
    return operator.op_type, (
        operator.input_shapes,
        operator.output_shapes,
        operator.weight_shapes,
        operator.attributes,
        operator.input_bits,
        operator.weight_bits,
        operator.output_bits,
        operator.macs,
        operator.bytes_in,
        operator.bytes_out,
        operator.bytes_weights,
    )
