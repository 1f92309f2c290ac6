"""The front door: an ONNX model in, an OperatorGraph out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from onnx import GraphProto, ModelProto, ValueInfoProto, defs

from hardsight.graph import OperatorGraph
from hardsight.ingest.bind import bind
from hardsight.ingest.check import BROADCASTING, RULES, consistent, follows
from hardsight.ingest.client import ask
from hardsight.ingest.flatten import DOMAIN, FlatGraph, flatten
from hardsight.ingest.functions import inlined
from hardsight.ingest.infer import OPTIONAL
from hardsight.ingest.load import Source, load
from hardsight.ingest.lower import lower
from hardsight.ingest.types import MAX_ELEMENTS, TensorType, elements, loose, resolve
from hardsight.ingest.values import Array, small_value
from hardsight.ingest.worker import INFER

_VALUES_NEEDED: Final = frozenset({f"{DOMAIN}.Begin", f"{DOMAIN}.Select"})


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
        model = inlined(model, loaded.name)
    flat = flatten(model, loaded.name, loaded.folder)
    _newest(flat)
    symbols, trusted = bind(flat, shapes or {}, loaded.name)
    types = _told(flat, symbols) if trusted else None
    values: dict[str, Array] = {}
    if types is None:
        types, values = _inferred(flat, loaded.name)
    for value in flat.inputs:
        types[value.name] = loose(value.type) or TensorType(1, ())
    return lower(flat, types, values, loaded.name)


def _newest(flat: FlatGraph) -> None:
    version, newest = flat.opsets[""], defs.onnx_opset_version()
    if version > newest:
        flat.assumptions.append(f"operator set {version} is newer than the known ones, read as {newest}")
        flat.opsets[""] = newest


def _told(flat: FlatGraph, symbols: Mapping[str, int]) -> dict[str, TensorType] | None:
    """Types that the file states, or that follow from others; None where one is wrong or has to be inferred."""
    stated: dict[str, ValueInfoProto] = {**flat.declared, **{v.name: v for v in flat.outputs}}
    types: dict[str, TensorType] = {}
    known = {
        name: TensorType(tensor.data_type, tuple(tensor.dims)) for name, tensor in flat.constants.items()
    }
    for value in flat.inputs:
        if (found := resolve(value.type, symbols)) is not None:
            known[value.name] = found
    for node in flat.nodes:
        if node.op_type in _VALUES_NEEDED:
            return None  # trip counts and conditions may have to be computed
        op_type, attrs = node.op_type, node.attributes
        inputs = [known.get(name) for name in node.inputs]
        for output in node.outputs:
            if not output:
                continue
            declared = stated.get(output)
            found = resolve(declared.type, symbols) if declared is not None else None
            if found is None and flat.opsets[""] >= BROADCASTING:
                found = follows(op_type, attrs, inputs, len(node.outputs))
            if found is None or elements(found.shape) > MAX_ELEMENTS:
                return None
            types[output] = known[output] = found
        if op_type in RULES and node.outputs:
            made = known.get(node.outputs[0])
            sources = [found for found in inputs if found is not None]
            complete = bool(sources) and len(sources) == sum(map(bool, node.inputs))
            if made is None or not complete or not consistent(op_type, attrs, sources, made):
                return None
    return types


def _inferred(flat: FlatGraph, name: str) -> tuple[dict[str, TensorType], dict[str, Array]]:
    # The protos are ours, and copying them in one go is faster than one by one.
    for node in flat.nodes:
        node.proto.name = node.name
        node.proto.doc_string = OPTIONAL if node.branches else ""
    for label, tensor in flat.constants.items():
        tensor.name = label
    graph = GraphProto(
        name="flat",
        node=[node.proto for node in flat.nodes],
        input=flat.inputs,
        output=flat.outputs,
        initializer=flat.constants.values(),
    )
    for label, value in flat.declared.items():
        graph.value_info.add(name=label, type=value.type)
    model = ModelProto(graph=graph, ir_version=flat.ir_version)
    for domain, version in flat.opsets.items():
        model.opset_import.add(domain=domain, version=version)
    answer = GraphProto.FromString(ask(INFER, model.SerializeToString(), name))
    flat.assumptions.extend(entry.value for entry in answer.metadata_props)
    types = {v.name: found for v in answer.value_info if (found := loose(v.type)) is not None}
    values = {t.name: number for t in answer.initializer if (number := small_value(t)) is not None}
    return types, values
