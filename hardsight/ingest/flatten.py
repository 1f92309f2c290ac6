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
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from hardsight.errors import ModelError
from hardsight.ingest.external import settle
from hardsight.ingest.types import MAX_ELEMENTS, MAX_RANK, elements
from hardsight.ingest.values import attributes
from hardsight.ingest.words import listed, quoted

DOMAIN: Final = "hardsight"
BODIES: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})
STANDARD: Final = ("", "ai.onnx")
MAX_NODES: Final = 5_000_000
_LONGEST_PREFIX: Final = 200
_NEWEST: Final = 2**31 - 1  # native code takes no larger version

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
    """A node and where it came from. ``trips`` and ``branches`` run from the outermost body inwards.

    What is asked for often is taken out of the proto, where every look at a name makes a new string.
    ``op_type`` has the domain in front outside the standard one.
    """

    proto: NodeProto
    name: str
    op_type: str
    inputs: Sequence[str]
    outputs: Sequence[str]
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
    flat = FlatGraph([], [], list(graph.output), {}, {}, opsets, min(max(model.ir_version, 3), _NEWEST))
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
                f"output {quoted(value.name)} of {quoted(name)} is made by no node; repair the graph or export it again"
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
            f"{quoted(model)} has a name that is not UTF-8 text; the file is damaged, export it again"
        ) from None


def unique(name: str, used: dict[str, int]) -> str:
    """The name, or with a number behind it when it was given before; ``used`` counts them."""
    while (count := used.get(name, 0) + 1) > 1:
        used[name] = count
        name = f"{name}_{count}"
    used[name] = 1
    return name


def _opsets(model: ModelProto, name: str) -> dict[str, int]:
    # Before IR version 3 files had no opset list and meant version 1.
    require_text(name, *(o.domain for o in model.opset_import))
    opsets = {("" if o.domain in STANDARD else o.domain): min(o.version, _NEWEST) for o in model.opset_import}
    for domain, version in opsets.items():
        if version < 1 and domain in STANDARD:
            raise ModelError(
                f"{quoted(name)} asks for operator set {version}; expected 1 or above, so export it again"
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
            dense = TensorProto(name=local, dims=sparse.dims, data_type=sparse.values.data_type)
            self._check(dense)
            self.define(local, prefix + local, scope)
            self._flat.constants[prefix + local] = dense
        for value in graph.value_info:
            self._flat.declared[prefix + value.name] = value
        return scope

    def _check(self, tensor: TensorProto) -> None:
        dims = tuple(tensor.dims)
        if len(dims) > MAX_RANK or min(dims, default=0) < 0 or elements(dims) > MAX_ELEMENTS:
            raise ModelError(
                f"weight {quoted(tensor.name)} of {quoted(self._model)} has the impossible shape "
                f"({listed(dims)}); export the model again"
            )
        if tensor.data_location == TensorProto.EXTERNAL:
            require_text(self._model, *(text for e in tensor.external_data for text in (e.key, e.value)))
            settle(tensor, self._folder, self._model)

    def define(self, local: str, flat: str, scope: dict[str, str]) -> None:
        if local in scope:
            raise ModelError(
                f"{quoted(self._model)} makes the tensor {quoted(local)} twice; every name must be made once"
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
        for index, node, inputs, outputs in self._sorted(graph, scope):
            op_type, domain = node.op_type, node.domain
            if op_type in BODIES and domain in STANDARD:
                self._control(node, scope, prefix, trips, branches)
                continue
            if domain == "ai.onnx":
                node.domain = domain = ""
            attrs = attributes(node)
            require_text(self._model, *attrs)
            for value in attrs.values():
                if isinstance(value, TensorProto):
                    self._check(value)
            name = prefix + (node.name or f"{op_type}_{index}")
            # A copy is only needed where names change.
            proto = node
            if prefix:
                inputs = [scope[i] if i else "" for i in inputs]
                outputs = [scope[o] if o else "" for o in outputs]
                proto = NodeProto()
                proto.CopyFrom(node)
                proto.input[:] = inputs
                proto.output[:] = outputs
            kind = f"{domain}.{op_type}" if domain else op_type
            self.append(FlatNode(proto, name, kind, inputs, outputs, attrs, trips, branches))

    def append(self, node: FlatNode) -> None:
        self._flat.nodes.append(node)
        if len(self._flat.nodes) > MAX_NODES:
            raise ModelError(
                f"{quoted(self._model)} has more than {MAX_NODES} nodes once opened up; split it into parts"
            )

    def _sorted(
        self, graph: GraphProto, scope: MutableMapping[str, str]
    ) -> Sequence[tuple[int, NodeProto, list[str], list[str]]]:
        """Nodes with their place in the file, inputs and outputs; in the file's own order if it is topological."""
        prefix = self._prefix_of(scope)
        producer: dict[str, int] = {}
        nodes = [(i, node, list(node.input), list(node.output)) for i, node in enumerate(graph.node)]
        for index, node, inputs, outputs in nodes:
            require_text(self._model, node.name, node.op_type, node.domain, *inputs, *outputs)
            if not node.op_type:
                raise ModelError(
                    f"node {quoted(node.name)} (number {index}) of {quoted(self._model)} has no operator type; "
                    "export it again"
                )
            if node.domain == DOMAIN:
                raise ModelError(
                    f"node {quoted(node.name)} (number {index}) of {quoted(self._model)} is of the domain "
                    f"'{DOMAIN}', which is not for files; give its operator another domain"
                )
            for output in outputs:
                if output:
                    if output in producer or (output in scope and scope[output] == prefix + output):
                        raise ModelError(
                            f"{quoted(self._model)} makes the tensor {quoted(output)} twice; "
                            "every name must be made once"
                        )
                    producer[output] = index
        needs: list[set[int]] = []
        in_order = True
        for index, node, inputs, _ in nodes:
            sources: set[int] = set()
            for needed in _reads(node, inputs):
                made_by = producer.get(needed)
                if made_by is not None:
                    sources.add(made_by)
                    in_order = in_order and made_by < index
                elif needed not in scope:
                    raise ModelError(
                        f"node {quoted(node.name or node.op_type)} of {quoted(self._model)} reads {quoted(needed)}, "
                        "which nothing makes; repair the graph or export it again"
                    )
            needs.append(sources)
        for output in producer:
            scope[output] = prefix + output
        return nodes if in_order else [nodes[index] for index in self._kahn(graph, needs)]

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
                f"{quoted(self._model)} has a cycle through node {quoted(stuck.name or stuck.op_type)}; "
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
        # It prefixes every name in the body: a long one would be there as often as the body has names.
        name = self._unique(prefix + (node.name or node.op_type)[:_LONGEST_PREFIX])
        graphs = {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH or a.HasField("g")}
        wanted = ("then_branch", "else_branch") if node.op_type == "If" else ("body",)
        for key in wanted:
            if key not in graphs:
                raise ModelError(
                    f"node {quoted(name)} ({node.op_type}) of {quoted(self._model)} has no '{key}'; export it again"
                )
        inputs = [scope[i] if i else "" for i in node.input]
        outputs = [scope[o] if o else "" for o in node.output]
        opener = _Opener(self, node, name, inputs, outputs, scope, trips, branches)
        {"If": opener.branch, "Loop": opener.loop, "Scan": opener.scan, "SequenceMap": opener.sequence}[
            node.op_type
        ](graphs)

    def _unique(self, name: str) -> str:
        return unique(name, self._used)

    def error(self, name: str, what: str) -> ModelError:
        return ModelError(f"node {quoted(name)} of {quoted(self._model)} {what}; export the model again")

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
                raise self.to.error(
                    self.name, f"has a body whose output {quoted(value.name)} is made by no node"
                )
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
        kind = f"{DOMAIN}.{op_type}"
        self.to.append(FlatNode(proto, name, kind, inputs, outputs, attributes(proto), inside, self.branches))


def _attribute(key: str, value: int | str | list[int]) -> AttributeProto:
    if isinstance(value, str):
        return AttributeProto(name=key, type=AttributeProto.STRING, s=value.encode())
    if isinstance(value, int):
        return AttributeProto(name=key, type=AttributeProto.INT, i=value)
    return AttributeProto(name=key, type=AttributeProto.INTS, ints=value)


def _reads(node: NodeProto, inputs: Iterable[str]) -> Iterable[str]:
    """Names a node needs: its inputs, and what the bodies in it take from outside."""
    names = [name for name in inputs if name]
    if node.op_type in BODIES and node.domain in STANDARD:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names.extend(_captured(attribute.g))
    return names


def _captured(graph: GraphProto) -> list[str]:
    """Names that a body takes from outside, in the order it reads them."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {sparse.values.name for sparse in graph.sparse_initializer}
    made = {output for node in graph.node for output in node.output}
    read = [name for node in graph.node for name in _reads(node, node.input)]
    read.extend(value.name for value in graph.output)
    own |= made | {""}
    return [name for name in dict.fromkeys(read) if name not in own]
