"""The front door: an ONNX model in, an OperatorGraph out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, defs

from hardsight.errors import ModelError
from hardsight.graph import OperatorGraph
from hardsight.ingest.bind import bind
from hardsight.ingest.check import RULES as CHECKED
from hardsight.ingest.check import consistent
from hardsight.ingest.client import WORKER, WorkerCrash, WorkerRefusal
from hardsight.ingest.flatten import DOMAIN, FlatGraph, flatten
from hardsight.ingest.infer import OPTIONAL
from hardsight.ingest.load import Source, load
from hardsight.ingest.lower import lower
from hardsight.ingest.types import MAX_ELEMENTS, Shape, TensorType, elements, loose, resolve
from hardsight.ingest.values import Array, small_value
from hardsight.ingest.worker import INFER, INLINE

_VALUES_NEEDED: Final = frozenset({"Begin", "Select"})


def read_onnx(
    source: Source, *, shapes: Mapping[str, Sequence[int]] | None = None, name: str | None = None
) -> OperatorGraph:
    """Read a model's architecture; its weights are never loaded and need not be there.

    Args:
        source: path of an ONNX file, its bytes, or a ModelProto (left as it is).
        shapes: numbers for the dimensions of inputs, ``{"input": (1, 3, 224, 224)}``. An open batch
            dimension that is not given becomes 1, and the graph's assumptions say so.
        name: what messages and the graph call the model; the file's name by default.

    Raises:
        ModelError: the file is missing, damaged or no ONNX; the graph has a cycle, a tensor made twice or
            never, impossible or contradictory shapes; a dynamic dimension is left open; data lies outside
            the model's folder; native code fails on it.

    Example:
        >>> graph = read_onnx("mobilenet.onnx", shapes={"input": (1, 3, 224, 224)})  # doctest: +SKIP
        >>> graph.macs  # doctest: +SKIP
        300774272
    """
    loaded = load(source, name)
    model = loaded.model
    if model.functions:
        model = _inlined(model, loaded.name)
    flat = flatten(model, loaded.name, loaded.folder)
    _newest(flat)
    symbols, trusted = bind(flat, shapes or {}, loaded.name)
    types = _declared(flat, symbols) if trusted else None
    if types is not None:
        values = _constants(flat)
    else:
        types, values = _inferred(flat, loaded.name)
    for value in flat.inputs:
        types[value.name] = loose(value.type) or TensorType(1, ())
    return lower(flat, types, values, loaded.name)


def _newest(flat: FlatGraph) -> None:
    version, newest = flat.opsets[""], defs.onnx_opset_version()
    if version > newest:
        flat.assumptions.append(f"operator set {version} is newer than the known ones, read as {newest}")
        flat.opsets[""] = newest


def _inlined(model: ModelProto, name: str) -> ModelProto:
    """The model without local functions."""
    data = _ask(INLINE, model.SerializeToString(), name)
    try:
        inlined = ModelProto()
        inlined.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"the functions of '{name}' cannot be inlined ({error}); export it again") from error
    return inlined


def _declared(flat: FlatGraph, symbols: Mapping[str, int]) -> dict[str, TensorType] | None:
    """Types from the file alone, or None where one is missing, wrong, or only inference can know it."""
    stated: dict[str, ValueInfoProto] = {**flat.declared, **{v.name: v for v in flat.outputs}}
    types: dict[str, TensorType] = {}
    shapes: dict[str, Shape] = {name: tuple(tensor.dims) for name, tensor in flat.constants.items()}
    for value in flat.inputs:
        if (found := resolve(value.type, symbols)) is not None:
            shapes[value.name] = found.shape
    for node in flat.nodes:
        if node.proto.domain == DOMAIN and node.proto.op_type in _VALUES_NEEDED:
            return None  # trip counts and conditions may have to be computed
        for output in node.proto.output:
            if not output:
                continue
            declared = stated.get(output)
            found = resolve(declared.type, symbols) if declared is not None else None
            if found is None or elements(found.shape) > MAX_ELEMENTS:
                return None
            types[output] = found
            shapes[output] = found.shape
        if node.proto.op_type in CHECKED and not node.proto.domain and node.proto.output:
            inputs = [shapes.get(name) for name in node.proto.input if name]
            known = [shape for shape in inputs if shape is not None]
            made = shapes.get(node.proto.output[0])
            if made is None or not known or len(known) < len(inputs):
                return None
            if not consistent(node.proto.op_type, node.attributes, known, made):
                return None
    return types


def _constants(flat: FlatGraph) -> dict[str, Array]:
    """Single numbers among the constants: bit widths are all that lowering asks for."""
    values: dict[str, Array] = {}
    for name, tensor in flat.constants.items():
        if all(dim == 1 for dim in tensor.dims) and (value := small_value(tensor)) is not None:
            values[name] = value
    for node in flat.nodes:
        if node.proto.op_type == "Constant" and not node.proto.domain and node.proto.output:
            held = node.attributes.get("value")
            if isinstance(held, TensorProto) and all(dim == 1 for dim in held.dims):
                value = small_value(held)
                if value is not None:
                    values[node.proto.output[0]] = value
    return values


def _inferred(flat: FlatGraph, name: str) -> tuple[dict[str, TensorType], dict[str, Array]]:
    graph = GraphProto(name="flat", input=flat.inputs, output=flat.outputs)
    for node in flat.nodes:
        added = graph.node.add()
        added.CopyFrom(node.proto)
        added.name = node.name
        added.doc_string = OPTIONAL if node.branches else ""
    for label, tensor in flat.constants.items():
        kept = graph.initializer.add()
        kept.CopyFrom(tensor)
        kept.name = label
    for label, value in flat.declared.items():
        graph.value_info.add(name=label, type=value.type)
    model = ModelProto(graph=graph, ir_version=flat.ir_version)
    for domain, version in flat.opsets.items():
        model.opset_import.add(domain=domain, version=version)
    answer = GraphProto.FromString(_ask(INFER, model.SerializeToString(), name))
    flat.assumptions.extend(entry.value for entry in answer.metadata_props)
    types = {v.name: found for v in answer.value_info if (found := loose(v.type)) is not None}
    values = _constants(flat)
    for tensor in answer.initializer:
        if (number := small_value(tensor)) is not None:
            values[tensor.name] = number
    return types, values


def _ask(tag: bytes, payload: bytes, name: str) -> bytes:
    try:
        return WORKER.ask(tag, payload)
    except WorkerRefusal as refusal:
        raise ModelError(f"'{name}' contradicts itself: {refusal}; export it again") from None
    except WorkerCrash as crash:
        raise ModelError(
            f"'{name}' is malformed: ONNX's own shape inference {crash} on it; check how the file was made"
        ) from None
