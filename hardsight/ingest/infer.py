"""Types of all tensors: one walk over a flat, sorted graph; runs inside the worker process.

Each node is tried in this order: its value, where all its inputs are known small constants (`values`); our
own shape rule (`rules`: other domains, bodies of loops); ONNX's native inference, which gets the known
values with the types; what the file declares; the largest that a data-dependent operator can make; for a
type that nobody knows, the type of its first input. A single pass suffices because every value is known when
it is reached, unlike whole-graph inference, which has to be repeated whenever a constant subgraph was folded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    defs,
    helper,
    numpy_helper,
    shape_inference,
)

from hardsight.ingest.check import BROADCASTING, FOLLOWING, follows
from hardsight.ingest.flatten import DOMAIN
from hardsight.ingest.rules import OWN_RULES, largest, stacked
from hardsight.ingest.types import MAX_ELEMENTS, TensorType, elements, resolve
from hardsight.ingest.values import Array, Unknown, attributes, fold, small_value
from hardsight.ingest.words import listed, quoted, short

OPTIONAL = "optional"
"""Document string of a node inside a branch of an If: the branch may be one that its shapes never allow."""


class InferError(Exception):
    """The model contradicts itself; the text is one clause for a message."""


def infer(model: ModelProto) -> GraphProto:
    """Types as ``value_info``, small values as ``initializer``, assumptions as ``metadata_props``.

    Raises:
        InferError: a node's inputs do not fit it.
    """
    return _Walk(model).run()


def _label(node: NodeProto) -> str:
    return f"node {quoted(node.name)} ({short(node.op_type)})"


class _Walk:
    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._opsets = {o.domain: o.version for o in model.opset_import}
        self._imports = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        self._ir_version = model.ir_version
        # Protos and numbers cost more to make than most nodes need: both are made when first asked for.
        self._types: dict[str, TypeProto] = {v.name: v.type for v in self._graph.input}
        self._data: dict[str, TensorProto] = {t.name: t for t in self._graph.initializer if t.name}
        self._found: dict[str, TensorType | None] = {
            name: TensorType(tensor.data_type, tuple(tensor.dims)) for name, tensor in self._data.items()
        }
        self._values: dict[str, Array | None] = {}
        self._declared = {v.name: v.type for v in (*self._graph.value_info, *self._graph.output)}
        self._assumptions: list[str] = []
        self._schemas: dict[tuple[str, str], defs.OpSchema | None] = {}

    def run(self) -> GraphProto:
        folded: list[str] = []
        for node in self._graph.node:
            folded.extend(self._node(node))
        result = GraphProto()
        for name in dict.fromkeys(output for node in self._graph.node for output in node.output if output):
            if (proto := self._type(name)) is not None:
                result.value_info.append(ValueInfoProto(name=name, type=proto))
        result.initializer.extend(self._as_tensor(name) for name in folded)
        for text in dict.fromkeys(self._assumptions):
            result.metadata_props.add(key="assumption", value=text)
        return result

    def _node(self, node: NodeProto) -> list[str]:
        """Set the types of a node's outputs; returns the outputs whose values became known."""
        known = self._fold(node)
        if known is not None:
            return known
        if self._follow(node):
            return []
        try:
            types = self._own(node)
            if types is None:
                types = self._native(node)
        except InferError:
            if node.doc_string != OPTIONAL:
                raise
            return []
        self._complete(node, types)
        return []

    # --- values ---------------------------------------------------------------------------------

    def _fold(self, node: NodeProto) -> list[str] | None:
        if node.domain:
            return None
        if node.op_type in ("Shape", "Size") and node.input:
            resolved = self._resolved(node.input[0])
            if resolved is None or resolved.kind != "tensor":
                return None
            shape = resolved.shape
            if node.op_type == "Size":
                outputs = [np.asarray(elements(shape), dtype=np.int64)]
            else:
                start, end = (attributes(node).get(key) for key in ("start", "end"))
                if not isinstance(start, int | None) or not isinstance(end, int | None):
                    return None
                outputs = [np.asarray(shape[start:end], dtype=np.int64)]
        else:
            if any(name and self._value(name) is None for name in node.input):
                return None
            try:
                outputs = fold(node, [self._value(name) if name else None for name in node.input])
            except Unknown:
                return None
        known = []
        for name, value in zip(node.output, outputs, strict=False):
            if name:
                self._values[name] = value
                self._found[name] = TensorType(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                known.append(name)
        return known

    def _value(self, name: str) -> Array | None:
        if name not in self._values and name in self._data:
            self._values[name] = small_value(self._data[name])
        return self._values.get(name)

    def _as_tensor(self, name: str) -> TensorProto:
        tensor = self._data.get(name)
        value = self._values.get(name)
        if tensor is None:
            assert value is not None
            tensor = self._data[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
            if value.ndim == 0:
                del tensor.dims[:]  # ascontiguousarray makes a scalar a vector of one
        return tensor

    # --- types ----------------------------------------------------------------------------------

    def _resolved(self, name: str) -> TensorType | None:
        if name not in self._found:
            proto = self._types.get(name)
            self._found[name] = None if proto is None else resolve(proto, {})
        return self._found[name]

    def _type(self, name: str) -> TypeProto | None:
        if name not in self._types and (found := self._found.get(name)) is not None:
            self._types[name] = helper.make_tensor_type_proto(found.elem_type, found.shape)
        return self._types.get(name)

    def _own(self, node: NodeProto) -> Sequence[TypeProto | None] | None:
        rule = OWN_RULES.get(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
        if rule is None:
            return None
        inputs = [self._type(name) for name in node.input]
        values = [self._value(name) for name in node.input]
        try:
            return rule(attributes(node), inputs, values, len(node.output))
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise InferError(f"{_label(node)} does not fit its inputs ({short(str(error), 200)})") from error

    def _follow(self, node: NodeProto) -> bool:
        """Set the type that our own rules for common types tell: native inference says the same, far slower."""
        if node.domain or node.op_type not in FOLLOWING or self._opsets[""] < BROADCASTING:
            return False
        inputs = [self._resolved(name) for name in node.input]
        found = follows(node.op_type, attributes(node), inputs, len(node.output))
        if found is None or elements(found.shape) > MAX_ELEMENTS:
            return False
        if node.output[0]:
            self._found[node.output[0]] = found
        return True

    def _schema(self, node: NodeProto) -> defs.OpSchema | None:
        key = (node.domain, node.op_type)
        if key not in self._schemas:
            version = self._opsets.get(node.domain, 1)
            try:
                self._schemas[key] = defs.get_schema(node.op_type, version, node.domain)
            except (defs.SchemaError, TypeError):  # TypeError: a version beyond every integer of C++
                self._schemas[key] = None
        return self._schemas[key]

    def _native(self, node: NodeProto) -> Sequence[TypeProto | None]:
        schema = self._schema(node)
        types = {name: proto for name in node.input if name and (proto := self._type(name)) is not None}
        if schema is None or any(name and name not in types for name in node.input):
            return [None] * len(node.output)
        data = {name: self._as_tensor(name) for name in types if self._value(name) is not None}
        try:
            found: Mapping[str, TypeProto] = shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=self._imports, ir_version=self._ir_version
            )
        except Exception as error:  # native code raises several unrelated types
            if node.domain not in ("", "ai.onnx.ml"):
                return [None] * len(node.output)
            reason = " ".join(str(error).split()).removeprefix("[ShapeInferenceError] ")
            raise InferError(f"{_label(node)} does not fit its inputs: {short(reason, 300)}") from error
        return [found.get(name) for name in node.output]

    def _complete(self, node: NodeProto, types: Sequence[TypeProto | None]) -> None:
        for index, name in enumerate(node.output):
            if not name:
                continue
            proto = types[index] if index < len(types) else None
            resolved = None if proto is None else resolve(proto, {})
            if resolved is None:
                declared = self._declared.get(name)
                if declared is not None and (resolved := resolve(declared, {})) is not None:
                    proto = declared
            if resolved is None:
                proto, resolved = self._guess(node, index, proto)
            if resolved is not None and elements(resolved.shape) > MAX_ELEMENTS:
                raise InferError(
                    f"{_label(node)} makes a tensor of the impossible shape ({listed(resolved.shape)})"
                )
            if proto is not None:
                self._types[name] = proto

    def _guess(
        self, node: NodeProto, index: int, proto: TypeProto | None
    ) -> tuple[TypeProto | None, TensorType | None]:
        """The largest a data-dependent output can be, or the first input's type for an unknown operator."""
        inputs = [self._resolved(name) for name in node.input]
        op_type = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        label = f"{quoted(node.output[index])} ({short(op_type)})"
        attrs = attributes(node)
        guess = largest(node.op_type, attrs, inputs, index) if not node.domain else None
        if guess is not None:
            self._assumptions.append(
                f"the size of {label} depends on the data, taken as the largest possible"
            )
        elif node.domain == DOMAIN:
            if node.op_type == "End" and inputs[0] is not None and attrs.get("stacked"):
                # A loop of unknown length is taken to run once; lowering says so.
                guess = TensorType(inputs[0].elem_type, stacked(inputs[0].shape, attrs["at"], 1))
        elif self._schema(node) is None and inputs and inputs[0] is not None:
            guess = inputs[0]
            self._assumptions.append(f"the shape of {label} is unknown, taken as that of its first input")
        if guess is None:
            return proto, None
        code = guess.elem_type
        if proto is not None and proto.HasField("tensor_type") and proto.tensor_type.elem_type:
            code = proto.tensor_type.elem_type
        return helper.make_tensor_type_proto(code, guess.shape), guess
