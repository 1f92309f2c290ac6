"""Writing a `torch.fx` graph by calling functions: what is constant is computed at once, the rest becomes code."""

from __future__ import annotations

import copy
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
import torch._dynamo  # which torch's shape functions import at first use: better before a profiler forks
from onnx import numpy_helper
from torch import fx

from hardsight.errors import ModelError, NotSupportedError

Value = torch.Tensor | fx.Node
"""A constant, or a node whose ``meta["val"]`` is a tensor without data that tells its shape and type."""


class Emitter:
    """The module under construction.

    Args:
        dtype: type that single-precision weights, inputs and casts take.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.root = torch.nn.Module()
        self.graph = fx.Graph()
        self._attributes: dict[int, tuple[fx.Node, torch.Tensor]] = {}
        self._names: dict[int, tuple[str, torch.Tensor]] = {}
        self._views: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def input(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> fx.Node:
        """An argument of ``forward``."""
        node = self.graph.placeholder(_identifier(name))
        node.meta["val"] = torch.empty(shape, dtype=self.cast(dtype), device="meta")
        return node

    def call(self, target: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        """Apply a function, or the method of that name of the first argument.

        Constants in, constant out. Otherwise the call is written down, with constant tensors as parameters.
        A function with several results gives a tuple of values.
        """
        function: Callable[..., Any] = (
            target if callable(target) else lambda x, *rest, **options: getattr(x, target)(*rest, **options)
        )
        nodes: list[fx.Node] = []
        fx.map_arg((args, kwargs), lambda node: nodes.append(node))
        if not nodes:
            with torch.no_grad():
                return function(*args, **kwargs)
        args, kwargs = fx.node.map_aggregate((args, kwargs), self._held)
        written = self.graph.create_node(
            "call_function" if callable(target) else "call_method", target, args, kwargs
        )
        known_args, known_kwargs = fx.node.map_arg((args, kwargs), lambda node: node.meta["val"])
        with torch.no_grad():
            return self._result(written, function(*known_args, **known_kwargs))

    def module(self, name: str, module: torch.nn.Module, *args: Any) -> Any:
        """Apply a module of torch's that has its weights already."""
        target = self._unique(name)
        shadow = copy.deepcopy(module).to(device="meta", dtype=self.dtype)
        self.root.add_module(target, module.to(self.dtype).requires_grad_(False))
        args = fx.node.map_aggregate(args, self._held)
        node = self.graph.call_module(target, args)
        with torch.no_grad():
            return self._result(node, shadow(*fx.node.map_arg(args, lambda a: a.meta["val"])))

    def finish(self, outputs: list[Value], name: str) -> fx.GraphModule:
        """Close the graph; one output is returned as it is, several as a tuple."""
        nodes = tuple(self._held(value) for value in outputs)
        self.graph.output(nodes[0] if len(nodes) == 1 else nodes)
        # dense layers that were written again with their bias, inputs that nothing reads stay
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        self.graph.lint()
        module = fx.GraphModule(self.root, self.graph, _identifier(name))
        for (
            node
        ) in module.graph.nodes:  # tensors without data are of no more use, and others read "val" their way
            node.meta.clear()
        return module.eval()

    def cast(self, dtype: torch.dtype) -> torch.dtype:
        """The type that stands for ``dtype`` in this module."""
        return self.dtype if dtype is torch.float32 else dtype

    def named(self, name: str, constant: torch.Tensor) -> torch.Tensor:
        """The constant, which is to be called so if it becomes a parameter."""
        self._names[id(constant)] = name, constant  # the tensor too, so that its id stays taken
        return constant

    def view(self, constant: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
        """The same view of a constant each time, under its name: a shared weight stays shared."""
        key = (id(constant), tuple(view.shape), view.stride())
        if key not in self._views:
            name = self._names.get(id(constant), ("constant", constant))[0]
            self._views[key] = self.named(name, view), constant
        return self._views[key][0]

    def _held(self, value: Any) -> Any:
        """A constant as a parameter or buffer of the module; anything else as it is."""
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in self._attributes:
            data = value.detach().to(self.cast(value.dtype)).contiguous()
            target = self._unique(self._names.get(id(value), ("constant", value))[0])
            if data.is_floating_point():
                self.root.register_parameter(target, torch.nn.Parameter(data, requires_grad=False))
            else:
                self.root.register_buffer(target, data)
            node = self.graph.get_attr(target)
            node.meta["val"] = data.to("meta")
            self._attributes[id(value)] = node, value
        return self._attributes[id(value)][0]

    def _result(self, node: fx.Node, meta: Any) -> Any:
        if not isinstance(meta, tuple | list):
            node.meta["val"] = meta
            return node
        return tuple(
            self._result(self.graph.call_function(operator.getitem, (node, i)), part)
            for i, part in enumerate(meta)
        )

    def _unique(self, name: str) -> str:
        stem = _identifier(name)
        target, n = stem, 1
        while hasattr(self.root, target):
            target, n = f"{stem}_{n}", n + 1
        return target


@dataclass(frozen=True)
class Op:
    """One ONNX operator with its inputs as values: what a conversion rule sees.

    Args:
        emit: where calls go.
        node: the operator.
        opset: version of the standard operators.
        inputs: one value per input; None where an optional one is left out.
        sole: whether each input has no other reader than this operator.
    """

    emit: Emitter
    node: onnx.NodeProto
    opset: int
    inputs: list[Value | None]
    sole: list[bool]
    _attributes: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        found = {a.name: onnx.helper.get_attribute_value(a) for a in self.node.attribute}
        decoded = {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}
        object.__setattr__(self, "_attributes", decoded)

    def __getitem__(self, i: int) -> Value:
        value = self.inputs[i] if i < len(self.inputs) else None
        if value is None:
            raise ModelError(f"{self.title} has no input {i}, which {self.node.op_type} needs")
        return value

    @property
    def title(self) -> str:
        return f"{self.node.op_type} '{self.node.name or self.node.output[0]}'"

    def given(self, i: int) -> Value | None:
        """An input that may be left out."""
        return self.inputs[i] if i < len(self.inputs) else None

    def attr(self, name: str, default: Any = None) -> Any:
        return self._attributes.get(name, default)

    def constant(self, i: int, attribute: str | None = None) -> torch.Tensor | None:
        """Input ``i``, or the attribute that held it in older opsets; None when there is neither.

        Raises:
            NotSupportedError: when it is computed from the data.
        """
        value = self.given(i)
        if isinstance(value, fx.Node):
            raise NotSupportedError(
                f"{self.title} takes input {i} from the data; only a fixed value can be converted to PyTorch"
            )
        if value is None and attribute is not None and attribute in self._attributes:
            return torch.as_tensor(np.asarray(self._attributes[attribute]))
        return value

    def ints(self, i: int, attribute: str | None = None) -> list[int] | None:
        """The same as a list of integers."""
        value = self.constant(i, attribute)
        return None if value is None else [int(v) for v in value.reshape(-1).tolist()]

    def call(self, target: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        return self.emit.call(target, *args, **kwargs)

    def refuse(self, what: str) -> NotSupportedError:
        """The error that says which variant of the operator is not covered."""
        return NotSupportedError(f"{self.title} has {what}, which is not converted to PyTorch")


def shape_of(value: Value) -> tuple[int, ...]:
    """Dimensions of a value."""
    tensor = value.meta["val"] if isinstance(value, fx.Node) else value
    return tuple(int(d) for d in tensor.shape)


def dtype_of(value: Value) -> torch.dtype:
    """Element type of a value."""
    tensor = value.meta["val"] if isinstance(value, fx.Node) else value
    dtype: torch.dtype = tensor.dtype
    return dtype


def to_tensor(proto: onnx.TensorProto) -> torch.Tensor:
    """The data of an initializer.

    Raises:
        ModelError: when it has none.
        NotSupportedError: for an element type that torch does not have.
    """
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        raise ModelError(f"'{proto.name}' has no data; fill the model's weights first (fill_weights)")
    array = numpy_helper.to_array(proto)
    try:
        return torch.from_numpy(array.copy())
    except TypeError as error:
        raise NotSupportedError(
            f"'{proto.name}' has elements of type {array.dtype}, which are not converted to PyTorch"
        ) from error


def torch_dtype(elem_type: int) -> torch.dtype:
    """ONNX element type to torch's.

    Raises:
        NotSupportedError: when torch has no such type.
    """
    if elem_type == onnx.TensorProto.BFLOAT16:
        return torch.bfloat16
    array = np.zeros(0, onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    try:
        return torch.from_numpy(array).dtype
    except TypeError as error:
        name = onnx.TensorProto.DataType.Name(elem_type)
        raise NotSupportedError(f"elements of type {name} are not converted to PyTorch") from error


def _identifier(name: str) -> str:
    text = re.sub(r"\W", "_", name, flags=re.ASCII)
    return text if text and not text[0].isdigit() else f"_{text}"
