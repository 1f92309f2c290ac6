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

from hardsight.ingest.flatten import DOMAIN
from hardsight.ingest.rules import OWN_RULES, largest, stacked
from hardsight.ingest.types import MAX_ELEMENTS, TensorType, elements, resolve
from hardsight.ingest.values import Array, Unknown, attributes, fold, small_value

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


class _Walk:
    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._opsets = {o.domain: o.version for o in model.opset_import}
        self._imports = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        self._ir_version = model.ir_version
        self._types: dict[str, TypeProto] = {v.name: v.type for v in self._graph.input}
        self._values: dict[str, Array] = {}
        self._data: dict[str, TensorProto] = {}
        self._declared = {v.name: v.type for v in (*self._graph.value_info, *self._graph.output)}
        self._assumptions: list[str] = []
        self._schemas: dict[tuple[str, str], defs.OpSchema | None] = {}

    def run(self) -> GraphProto:
        folded: list[str] = []
        for tensor in self._graph.initializer:
            self._types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            value = small_value(tensor)
            if value is not None:
                self._values[tensor.name] = value
                self._data[tensor.name] = tensor
        for node in self._graph.node:
            folded.extend(self._node(node))
        result = GraphProto()
        made = {output for node in self._graph.node for output in node.output if output}
        for name in made:
            if name in self._types:
                result.value_info.append(ValueInfoProto(name=name, type=self._types[name]))
        result.initializer.extend(self._as_tensor(name) for name in folded)
        for text in dict.fromkeys(self._assumptions):
            result.metadata_props.add(key="assumption", value=text)
        return result

    def _node(self, node: NodeProto) -> list[str]:
        """Set the types of a node's outputs; returns the outputs whose values became known."""
        known = self._fold(node)
        if known is not None:
            return known
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
                attrs = attributes(node)
                outputs = [np.asarray(shape[attrs.get("start", 0) : attrs.get("end")], dtype=np.int64)]
        else:
            if any(name and name not in self._values for name in node.input):
                return None
            try:
                outputs = fold(node, [self._values[name] if name else None for name in node.input])
            except Unknown:
                return None
        known = []
        for name, value in zip(node.output, outputs, strict=False):
            if name:
                self._values[name] = value
                self._types[name] = helper.make_tensor_type_proto(
                    helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
                )
                known.append(name)
        return known

    def _as_tensor(self, name: str) -> TensorProto:
        tensor = self._data.get(name)
        if tensor is None:
            tensor = self._data[name] = numpy_helper.from_array(
                np.ascontiguousarray(self._values[name]), name
            )
            if self._values[name].ndim == 0:
                del tensor.dims[:]  # ascontiguousarray makes a scalar a vector of one
        return tensor

    # --- types ----------------------------------------------------------------------------------

    def _resolved(self, name: str) -> TensorType | None:
        proto = self._types.get(name)
        return None if proto is None else resolve(proto, {})

    def _own(self, node: NodeProto) -> Sequence[TypeProto | None] | None:
        rule = OWN_RULES.get(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
        if rule is None:
            return None
        inputs = [self._types.get(name) for name in node.input]
        values = [self._values.get(name) for name in node.input]
        try:
            return rule(attributes(node), inputs, values, len(node.output))
        except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InferError(
                f"node '{node.name}' ({node.op_type}) does not fit its inputs ({error})"
            ) from error

    def _schema(self, node: NodeProto) -> defs.OpSchema | None:
        key = (node.domain, node.op_type)
        if key not in self._schemas:
            version = self._opsets.get(node.domain, 1)
            try:
                self._schemas[key] = defs.get_schema(node.op_type, version, node.domain)
            except defs.SchemaError:
                self._schemas[key] = None
        return self._schemas[key]

    def _native(self, node: NodeProto) -> Sequence[TypeProto | None]:
        schema = self._schema(node)
        if schema is None or any(name and name not in self._types for name in node.input):
            return [None] * len(node.output)
        types = {name: self._types[name] for name in node.input if name}
        data = {name: self._as_tensor(name) for name in types if name in self._values}
        try:
            found: Mapping[str, TypeProto] = shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=self._imports, ir_version=self._ir_version
            )
        except Exception as error:  # native code raises several unrelated types
            if node.domain not in ("", "ai.onnx.ml"):
                return [None] * len(node.output)
            reason = " ".join(str(error).split()).removeprefix("[ShapeInferenceError] ")
            raise InferError(
                f"node '{node.name}' ({node.op_type}) does not fit its inputs: {reason}"
            ) from error
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
                    f"node '{node.name}' ({node.op_type}) makes a tensor of impossible shape {resolved.shape}"
                )
            if proto is not None:
                self._types[name] = proto

    def _guess(
        self, node: NodeProto, index: int, proto: TypeProto | None
    ) -> tuple[TypeProto | None, TensorType | None]:
        """The largest a data-dependent output can be, or the first input's type for an unknown operator."""
        inputs = [self._resolved(name) for name in node.input]
        op_type = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        label = f"'{node.output[index]}' ({op_type})"
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
