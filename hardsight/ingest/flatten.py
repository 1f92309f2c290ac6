"""One flat list of nodes: sorted, checked, control flow opened.

The body of an If, Loop, Scan or SequenceMap joins the list of the graph around it, its names prefixed
with the node's. What a body repeats, and which branch of an If a node sits in, is kept beside the node.
The nodes that tie a body to its surroundings have the domain :data:`DOMAIN`:

``Begin``   outer values -> what the body sees of them: a Scan's slices, a Loop's counter, the states.
``End``     one value of the body -> the same outside: the state as it is, a scan output stacked.
``Select``  condition, value of the then branch, of the else branch -> the If's output.
"""

from __future__ import annotations

import heapq
from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from hardsight.errors import ModelError
from hardsight.ingest.external import settle
from hardsight.ingest.types import MAX_ELEMENTS, elements
from hardsight.ingest.values import attributes

DOMAIN: Final = "hardsight"
BODIES: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})
STANDARD: Final = ("", "ai.onnx")
MAX_NODES: Final = 5_000_000

Branch = tuple[str, int]
"""The name of an If and 0 for its then branch, 1 for its else branch."""


@dataclass(frozen=True, slots=True)
class Trips:
    """How often a body runs: the value of ``tensor``, or with ``axis`` the length of that axis of it."""

    owner: str
    kind: str
    tensor: str
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class FlatNode:
    """A node and where it came from. ``trips`` and ``branches`` run from the outermost body inwards."""

    proto: NodeProto
    name: str
    attributes: Mapping[str, Any]
    trips: tuple[Trips, ...] = ()
    branches: tuple[Branch, ...] = ()


@dataclass(slots=True)
class FlatGraph:
    """Nodes in topological order over one namespace.

    Args:
        nodes: producers first.
        inputs: graph inputs that are no initializers.
        outputs: graph outputs.
        constants: initializers by name; sparse ones as an empty tensor of their dense shape.
        declared: types that the file states for inner tensors.
        opsets: domain to version; the standard domain is ``""``.
    """

    nodes: list[FlatNode]
    inputs: list[ValueInfoProto]
    outputs: list[ValueInfoProto]
    constants: dict[str, TensorProto]
    declared: dict[str, ValueInfoProto]
    opsets: dict[str, int]
    ir_version: int = 8
    assumptions: list[str] = field(default_factory=list)


def flatten(model: ModelProto, name: str, folder: Path | None = None) -> FlatGraph:
    """Check and flatten ``model``, whose local functions are inlined already.

    Raises:
        ModelError: a cycle, an input nobody makes, a name made twice, an operator set of no version.
    """
    graph = model.graph
    opsets = _opsets(model, name)
    flat = FlatGraph([], [], list(graph.output), {}, {}, opsets, max(model.ir_version, 3))
    flattener = _Flattener(flat, name, folder)
    scope = flattener.constants(graph, "")
    for value in graph.input:
        if value.name not in flat.constants:  # before IR version 4 initializers were inputs as well
            flattener.define(value.name, value.name, scope)
            flat.inputs.append(value)
    flattener.body(graph, scope, "", (), ())
    for value in graph.output:
        if value.name not in scope:
            raise ModelError(
                f"output '{value.name}' of '{name}' is made by no node; repair the graph or export it again"
            )
    return flat


def require_text(model: str, *strings: str) -> None:
    """Refuse names that are not UTF-8: protobuf hands those out as bytes.

    Raises:
        ModelError: one of them is.
    """
    try:
        "".join(strings)
    except TypeError:
        raise ModelError(
            f"'{model}' has a name that is not UTF-8 text; the file is damaged, export it again"
        ) from None


def _opsets(model: ModelProto, name: str) -> dict[str, int]:
    # Before IR version 3 files had no opset list and meant version 1.
    require_text(name, *(o.domain for o in model.opset_import))
    opsets = {("" if o.domain in STANDARD else o.domain): o.version for o in model.opset_import}
    for domain, version in opsets.items():
        if version < 1 and domain in STANDARD:
            raise ModelError(
                f"'{name}' asks for operator set {version}; expected 1 or above, so export it again"
            )
    opsets.setdefault("", 1)
    return opsets


class _Flattener:
    def __init__(self, flat: FlatGraph, name: str, folder: Path | None) -> None:
        self._flat = flat
        self._model = name
        self._folder = folder
        self._used: dict[str, int] = {}

    def constants(self, graph: GraphProto, prefix: str) -> dict[str, str]:
        """Take in the initializers of a graph; returns its namespace, local name to flat name."""
        scope: dict[str, str] = {}
        named = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
        require_text(self._model, *(item.name for item in named))
        require_text(self._model, *(sparse.values.name for sparse in graph.sparse_initializer))
        for tensor in graph.initializer:
            self._check(tensor)
            self.define(tensor.name, prefix + tensor.name, scope)
            self._flat.constants[prefix + tensor.name] = tensor
        for sparse in graph.sparse_initializer:
            local = sparse.values.name
            dense = TensorProto(dims=sparse.dims, data_type=sparse.values.data_type)
            self._check(dense)
            self.define(local, prefix + local, scope)
            self._flat.constants[prefix + local] = dense
        for value in graph.value_info:
            self._flat.declared[prefix + value.name] = value
        return scope

    def _check(self, tensor: TensorProto) -> None:
        if any(dim < 0 for dim in tensor.dims) or elements(tuple(tensor.dims)) > MAX_ELEMENTS:
            raise ModelError(
                f"weight '{tensor.name}' of '{self._model}' has the impossible shape {tuple(tensor.dims)}; "
                "export the model again"
            )
        if tensor.data_location == TensorProto.EXTERNAL:
            require_text(self._model, *(text for e in tensor.external_data for text in (e.key, e.value)))
            settle(tensor, self._folder, self._model)

    def define(self, local: str, flat: str, scope: dict[str, str]) -> None:
        if local in scope:
            raise ModelError(
                f"'{self._model}' makes the tensor '{local}' twice; every name must be made once"
            )
        scope[local] = flat

    def body(
        self,
        graph: GraphProto,
        scope: MutableMapping[str, str],
        prefix: str,
        trips: tuple[Trips, ...],
        branches: tuple[Branch, ...],
    ) -> None:
        """Append the nodes of ``graph``; ``scope`` holds all names visible in it and is added to."""
        order = self._sorted(graph, scope)
        for index in order:
            node = graph.node[index]
            if node.op_type in BODIES and node.domain in STANDARD:
                self._control(node, scope, prefix, trips, branches)
                continue
            if node.domain == "ai.onnx":
                node.domain = ""
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    self._check(attribute.t)
            name = prefix + (node.name or f"{node.op_type}_{index}")
            # A copy is only needed where names change.
            proto = node
            if prefix:
                proto = NodeProto()
                proto.CopyFrom(node)
                del proto.input[:], proto.output[:]
                proto.input.extend(scope[i] if i else "" for i in node.input)
                proto.output.extend(scope[o] if o else "" for o in node.output)
            self.append(FlatNode(proto, name, attributes(proto), trips, branches))

    def append(self, node: FlatNode) -> None:
        self._flat.nodes.append(node)
        if len(self._flat.nodes) > MAX_NODES:
            raise ModelError(
                f"'{self._model}' has more than {MAX_NODES} nodes once opened up; split it into parts"
            )

    def _sorted(self, graph: GraphProto, scope: MutableMapping[str, str]) -> Iterable[int]:
        """Node indices in topological order, the file's own order where it is one already."""
        prefix = self._prefix_of(scope)
        producer: dict[str, int] = {}
        for index, node in enumerate(graph.node):
            keys = (attribute.name for attribute in node.attribute)
            require_text(self._model, node.name, node.op_type, node.domain, *node.input, *node.output, *keys)
            if not node.op_type:
                raise ModelError(
                    f"node '{node.name}' (number {index}) of '{self._model}' has no operator type; export it again"
                )
            for output in node.output:
                if output:
                    if output in producer or (output in scope and scope[output] == prefix + output):
                        raise ModelError(
                            f"'{self._model}' makes the tensor '{output}' twice; every name must be made once"
                        )
                    producer[output] = index
        needs: list[set[int]] = []
        in_order = True
        for index, node in enumerate(graph.node):
            sources: set[int] = set()
            for needed in _reads(node):
                made_by = producer.get(needed)
                if made_by is not None:
                    sources.add(made_by)
                    in_order = in_order and made_by < index
                elif needed not in scope:
                    raise ModelError(
                        f"node '{node.name or node.op_type}' of '{self._model}' reads '{needed}', "
                        "which nothing makes; repair the graph or export it again"
                    )
            needs.append(sources)
        for output in producer:
            scope[output] = prefix + output
        if in_order:
            return range(len(needs))
        return self._kahn(graph, needs)

    def _kahn(self, graph: GraphProto, needs: list[set[int]]) -> list[int]:
        readers: list[list[int]] = [[] for _ in needs]
        waiting = [len(sources) for sources in needs]
        for index, sources in enumerate(needs):
            for source in sources:
                readers[source].append(index)
        ready = [index for index, count in enumerate(waiting) if count == 0]
        order: list[int] = []
        while ready:
            index = heapq.heappop(ready)
            order.append(index)
            for reader in readers[index]:
                waiting[reader] -= 1
                if waiting[reader] == 0:
                    heapq.heappush(ready, reader)
        if len(order) < len(needs):
            stuck = graph.node[next(i for i, count in enumerate(waiting) if count)]
            raise ModelError(
                f"'{self._model}' has a cycle through node '{stuck.name or stuck.op_type}'; "
                "expected a graph without cycles, so export it again"
            )
        return order

    def _prefix_of(self, scope: Mapping[str, str]) -> str:
        return scope.get("", "")  # no tensor is named ""

    # --- control flow ---------------------------------------------------------------------------

    def _control(
        self,
        node: NodeProto,
        scope: MutableMapping[str, str],
        prefix: str,
        trips: tuple[Trips, ...],
        branches: tuple[Branch, ...],
    ) -> None:
        name = self._unique(prefix + (node.name or node.op_type))
        graphs = {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH or a.HasField("g")}
        wanted = ("then_branch", "else_branch") if node.op_type == "If" else ("body",)
        for key in wanted:
            if key not in graphs:
                raise ModelError(
                    f"node '{name}' ({node.op_type}) of '{self._model}' has no '{key}'; export it again"
                )
        inputs = [scope[i] if i else "" for i in node.input]
        outputs = [scope[o] if o else "" for o in node.output]
        opener = _Opener(self, node, name, inputs, outputs, scope, trips, branches)
        {"If": opener.branch, "Loop": opener.loop, "Scan": opener.scan, "SequenceMap": opener.sequence}[
            node.op_type
        ](graphs)

    def _unique(self, name: str) -> str:
        count = self._used[name] = self._used.get(name, 0) + 1
        return name if count == 1 else self._unique(f"{name}_{count}")

    def error(self, name: str, what: str) -> ModelError:
        return ModelError(f"node '{name}' of '{self._model}' {what}; export the model again")

    @property
    def scan_is_batched(self) -> bool:
        """Before operator set 9 a Scan had a batch axis and a first input of sequence lengths."""
        return self._flat.opsets[""] < 9


@dataclass(slots=True)
class _Opener:
    """Joins the body of one control node to the flat list."""

    to: _Flattener
    node: NodeProto
    name: str
    inputs: list[str]
    outputs: list[str]
    scope: MutableMapping[str, str]
    trips: tuple[Trips, ...]
    branches: tuple[Branch, ...]

    def branch(self, graphs: Mapping[str, GraphProto]) -> None:
        ends = [
            self._body(graphs[key], f"{self.name}/{key}/", self.trips, (*self.branches, (self.name, side)))
            for side, key in enumerate(("then_branch", "else_branch"))
        ]
        if not self.inputs or min(map(len, ends)) < len(self.outputs):
            raise self.to.error(self.name, "(If) has outputs that a branch does not make")
        for index, output in enumerate(self.outputs):
            if output:
                self._tie("Select", [self.inputs[0], ends[0][index], ends[1][index]], [output])

    def loop(self, graphs: Mapping[str, GraphProto]) -> None:
        body = graphs["body"]
        count, states = self.inputs[0] if self.inputs else "", self.inputs[2:]
        prefix = f"{self.name}/body/"
        names = [prefix + value.name for value in body.input]
        if len(names) != len(states) + 2:
            raise self.to.error(self.name, "(Loop) gives its body another number of values than it takes")
        trips = (*self.trips, Trips(self.name, "Loop", count))
        self._tie("Begin", [*states], names, trips=trips, kind="Loop")
        ends = self._body(body, prefix, trips, self.branches)
        self._finish(ends[1:], len(states), count, trips)

    def scan(self, graphs: Mapping[str, GraphProto]) -> None:
        body = graphs["body"]
        ints = {a.name: list(a.ints) or [a.i] for a in self.node.attribute}
        n_scan = ints.get("num_scan_inputs", [1])[0]
        inputs = self.inputs[1:] if self.to.scan_is_batched else self.inputs
        if not 1 <= n_scan <= len(inputs) or len(body.input) != len(inputs):
            raise self.to.error(self.name, "(Scan) gives its body another number of values than it takes")
        n_state = len(inputs) - n_scan
        axes = ints.get("scan_input_axes") or [0] * n_scan
        if self.to.scan_is_batched:
            axes = [1] * n_scan
        if len(axes) != n_scan:
            raise self.to.error(self.name, "(Scan) has another number of axes than of scanned inputs")
        prefix = f"{self.name}/body/"
        names = [prefix + value.name for value in body.input]
        trips = (*self.trips, Trips(self.name, "Scan", inputs[n_state], axes[0]))
        if self.to.scan_is_batched:
            trips = (*trips, Trips(self.name, "Scan", inputs[n_state], 0))
        self._tie(
            "Begin",
            inputs,
            names,
            trips=trips,
            kind="Scan",
            states=n_state,
            axes=axes,
            batched=int(self.to.scan_is_batched),
        )
        ends = self._body(body, prefix, trips, self.branches)
        self._finish(ends, n_state, inputs[n_state], trips, axis=axes[0], out=ints.get("scan_output_axes"))

    def sequence(self, graphs: Mapping[str, GraphProto]) -> None:
        body = graphs["body"]
        prefix = f"{self.name}/body/"
        names = [prefix + value.name for value in body.input]
        if len(names) != len(self.inputs):
            raise self.to.error(
                self.name, "(SequenceMap) gives its body another number of values than it takes"
            )
        trips = (*self.trips, Trips(self.name, "SequenceMap", ""))
        self._tie("Begin", self.inputs, names, trips=trips, kind="SequenceMap")
        ends = self._body(body, prefix, trips, self.branches)
        for end, output in zip(ends, self.outputs, strict=False):
            if output:
                self._tie("End", [end], [output], sequence=1)

    def _finish(
        self,
        ends: list[str],
        n_state: int,
        count: str,
        trips: tuple[Trips, ...],
        axis: int | None = None,
        out: list[int] | None = None,
    ) -> None:
        """Tie the body's ends to the node's outputs: states as they are, the rest stacked."""
        if len(ends) < len(self.outputs):
            raise self.to.error(self.name, f"({self.node.op_type}) has outputs that its body does not make")
        batched = self.node.op_type == "Scan" and self.to.scan_is_batched
        for index, output in enumerate(self.outputs):
            if not output:
                continue
            stacked = index >= n_state
            at = (out or [])[index - n_state] if stacked and out and index - n_state < len(out) else 0
            ends_at: dict[str, int] = {
                "stacked": int(stacked),
                "at": at,
                "batched": int(batched),
            }
            if axis is not None:
                ends_at["axis"] = axis
            needs_count = bool(count) and (stacked or batched)
            self._tie(
                "End", [ends[index], count] if needs_count else [ends[index]], [output], None, **ends_at
            )

    def _body(
        self, graph: GraphProto, prefix: str, trips: tuple[Trips, ...], branches: tuple[Branch, ...]
    ) -> list[str]:
        """Append a body's nodes and return the flat names of its outputs."""
        inner = ChainMap(self.to.constants(graph, prefix), self.scope)
        inner[""] = prefix
        for value in graph.input:
            inner[value.name] = prefix + value.name
        self.to.body(graph, inner, prefix, trips, branches)
        for value in graph.output:
            if value.name not in inner:
                raise self.to.error(self.name, f"has a body whose output '{value.name}' is made by no node")
        return [inner[value.name] for value in graph.output]

    def _tie(
        self,
        op_type: str,
        inputs: list[str],
        outputs: list[str],
        trips: tuple[Trips, ...] | None = None,
        **given: int | str | list[int],
    ) -> None:
        proto = NodeProto(op_type=op_type, domain=DOMAIN, input=inputs, output=outputs)
        for key, value in given.items():
            proto.attribute.append(_attribute(key, value))
        name = self.name if op_type == "Begin" else f"{self.name}/{op_type}/{outputs[0]}"
        inside = self.trips if trips is None else trips
        self.to.append(FlatNode(proto, name, attributes(proto), inside, self.branches))


def _attribute(key: str, value: int | str | list[int]) -> AttributeProto:
    if isinstance(value, str):
        return AttributeProto(name=key, type=AttributeProto.STRING, s=value.encode())
    if isinstance(value, int):
        return AttributeProto(name=key, type=AttributeProto.INT, i=value)
    return AttributeProto(name=key, type=AttributeProto.INTS, ints=value)


def _reads(node: NodeProto) -> Iterable[str]:
    """Names a node needs: its inputs, and what the bodies in it take from outside."""
    names = [name for name in node.input if name]
    if node.op_type in BODIES and node.domain in STANDARD:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names.extend(_captured(attribute.g))
    return names


def _captured(graph: GraphProto) -> set[str]:
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {sparse.values.name for sparse in graph.sparse_initializer}
    made = {output for node in graph.node for output in node.output}
    read = {name for node in graph.node for name in _reads(node)} | {value.name for value in graph.output}
    return read - own - made - {""}
