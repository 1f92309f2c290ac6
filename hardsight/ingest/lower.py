"""From flat nodes with known types to operators with costs.

What runtimes do before the first inference is done here as well, because it is not paid for later: an
operator on constants only becomes a constant, the shape of a tensor is a constant, Identity, Dropout and
casts to the same type vanish. A tensor between a quantizer and its neighbour is held in the narrow type by
runtimes with integer kernels, so it is priced like that, and a quantizer that changes no width moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from sys import intern
from typing import Any, Final

from onnx import TensorProto

from hardsight.errors import ModelError
from hardsight.graph import Attribute, Operator, OperatorGraph, TensorSpec
from hardsight.ingest import costs
from hardsight.ingest.bits import BITS, NAMES, STRING_BITS, size_bytes
from hardsight.ingest.flatten import BODIES, DOMAIN, Branch, FlatGraph, FlatNode, Trips, unique
from hardsight.ingest.rules import ENDLESS
from hardsight.ingest.types import MAX_ELEMENTS, MAX_RANK, Shape, TensorType, elements
from hardsight.ingest.values import Array, small_value
from hardsight.ingest.words import quoted, short

_BEGIN, _END, _SELECT = (f"{DOMAIN}.{op}" for op in ("Begin", "End", "Select"))
_PASSING: Final = frozenset({"Identity", _END, _SELECT})
_RANDOM: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
_QUANTIZERS: Final = frozenset({"QuantizeLinear", "com.microsoft.QuantizeLinear"})
_DEQUANTIZERS: Final = frozenset({"DequantizeLinear", "com.microsoft.DequantizeLinear"})
_FAKE_QUANTIZERS: Final = frozenset(
    domain + op
    for domain in costs.QONNX_DOMAINS
    for op in ("Quant", "IntQuant", "BipolarQuant", "FloatQuant", "Trunc")
)
_REQUANTIZERS: Final = _QUANTIZERS | _DEQUANTIZERS | _FAKE_QUANTIZERS
_KEEP_WIDTH: Final = frozenset(
    {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Identity", "Gather", "Split"}
)
"""On constants these move values only, so a folded weight stays as narrow as it was."""
_FOLDABLE_DOMAINS: Final = ("", "com.microsoft", *(d.rstrip(".") for d in costs.QONNX_DOMAINS))
_LONGEST_ATTRIBUTE: Final = 64
_LISTS: Final = frozenset({"kernel_shape", "strides", "dilations", "perm"})
_LEAST: Final = {
    **dict.fromkeys(_LISTS - {"perm"} | {"group", "hidden_size"}, 1),
    "perm": 0,
    "axis": -MAX_RANK,
}
"""Attributes that the predictors compute with, and the smallest value that makes sense."""
MAX_WORK: Final = 2**62
"""An operator of more MACs and bytes than this is taken for a damaged file: no machine finishes it."""


@dataclass(slots=True)
class Value:
    """A tensor held in ``bits`` per element; constants have a key and a size, activations a source."""

    shape: Shape
    elem_type: int
    bits: int
    source: tuple[int, int] = (-1, -1)
    constant: str = ""
    nbytes: int = 0

    @property
    def held_bytes(self) -> int:
        return self.nbytes if self.constant else size_bytes(elements(self.shape), self.bits)


@dataclass(slots=True)
class _Draft:
    """An operator, whether the branch it sits in is the one priced, and the constants it reads."""

    operator: Operator
    constants: tuple[Value, ...]
    kept: bool = True


class _Missing(Exception):
    """A tensor whose shape nobody knows; the text names it."""


def lower(
    flat: FlatGraph, types: Mapping[str, TensorType], values: Mapping[str, Array], name: str
) -> OperatorGraph:
    """Operators in topological order.

    Args:
        flat: a graph whose inputs are bound.
        types: of every tensor that a node makes.
        values: small constants that inference folded.
        name: for messages and the result.

    Raises:
        ModelError: a shape that cannot be known, or one that does not fit the operator.
    """
    return _Lowering(flat, types, values, name).run()


class _Lowering:
    def __init__(
        self, flat: FlatGraph, types: Mapping[str, TensorType], values: Mapping[str, Array], name: str
    ) -> None:
        self._flat = flat
        self._types = types
        self._folded = values
        self._name = name
        self._values: dict[str, Value] = {}
        self._drafts: list[_Draft] = []
        self._assumptions = dict.fromkeys(flat.assumptions)
        self._decided: dict[str, int] = {}
        self._conditions: dict[str, int] = {}
        self._impossible: set[Branch] = set()
        self._widths: dict[str, int] = {}
        self._used_names: dict[str, int] = {}
        self._by_branch: dict[Branch, list[int]] = {}
        self._read: set[str] = set()
        self._held = {
            node.outputs[0]: node.attributes.get("value")
            for node in flat.nodes
            if node.op_type == "Constant" and node.outputs
        }
        self._ends = {value.name for value in flat.outputs}

    def run(self) -> OperatorGraph:
        flat = self._flat
        inputs = tuple(self._input(value.name, index) for index, value in enumerate(flat.inputs))
        for name, tensor in flat.constants.items():
            shape = tuple(tensor.dims)
            bits = self._bits(tensor.data_type, name)
            self._values[name] = Value(
                shape, tensor.data_type, bits, constant=name, nbytes=size_bytes(elements(shape), bits)
            )
        self._widths = self._held_widths()
        for node in flat.nodes:
            if any(branch in self._impossible for branch in node.branches):
                continue
            try:
                self._node(node)
            except _Missing as missing:
                if not node.branches:
                    raise ModelError(
                        f"the shape of {missing} in {quoted(self._name)} cannot be computed; "
                        "it depends on values that are not in the file; export the model with fixed sizes"
                    ) from None
                self._impossible.add(node.branches[-1])
        outputs, edges = self._outputs()
        return self._finish(inputs, outputs, edges)

    # --- tensors --------------------------------------------------------------------------------

    def _input(self, name: str, index: int) -> TensorSpec:
        found = self._type(name)
        bits = self._bits(found.elem_type, name)
        self._values[name] = Value(found.shape, found.elem_type, bits, (-1, index))
        return TensorSpec(name, found.shape, NAMES.get(found.elem_type, "undefined"), bits)

    def _type(self, name: str) -> TensorType:
        found = self._types.get(name)
        if found is None:
            raise _Missing(quoted(name))
        if found.kind != "tensor":
            self._assume(f"{quoted(name)} is a {found.kind}, priced as one element of shape {found.shape}")
        return found

    def _bits(self, elem_type: int, name: str) -> int:
        bits = BITS.get(elem_type)
        if bits is None:
            raise ModelError(
                f"tensor {quoted(name)} of {quoted(self._name)} has the unknown element type {elem_type}; "
                "export the model again"
            )
        if elem_type == TensorProto.STRING:
            self._assume(f"strings are taken as {STRING_BITS // 8} bytes each")
        return bits

    def _assume(self, sentence: str) -> None:
        self._assumptions.setdefault(sentence)

    def _held_widths(self) -> dict[str, int]:
        """Narrow width of each tensor that only quantizers read; one walk against the flow."""
        widths = {value.name: 0 for value in self._flat.outputs}
        for node in reversed(self._flat.nodes):
            op_type, outputs = node.op_type, node.outputs
            passes = op_type in _PASSING
            for index, name in enumerate(node.inputs):
                if not name:
                    continue
                bits = 0
                if index == 0 and op_type in _QUANTIZERS and outputs:
                    target = self._types.get(outputs[0])
                    bits = BITS.get(target.elem_type, 0) if target is not None else 0
                elif index == 0 and op_type in _FAKE_QUANTIZERS:
                    bits = self._fake_bits(node) or 0
                elif passes and outputs:
                    bits = widths.get(outputs[0], 0)
                if widths.setdefault(name, bits) != bits:  # its readers disagree
                    widths[name] = 0
        self._read = set(widths)
        return {name: bits for name, bits in widths.items() if bits}

    def _number(self, name: str) -> float | None:
        """The single number that a constant holds, where its value is known."""
        value = self._folded.get(name)
        if value is None:
            tensor = self._flat.constants.get(name) or self._held.get(name)
            if isinstance(tensor, TensorProto) and all(dim == 1 for dim in tensor.dims):
                value = small_value(tensor)
        return float(value.reshape(-1)[0]) if value is not None and value.size else None

    def _fake_bits(self, node: FlatNode) -> int | None:
        """Width that a QONNX quantizer gives; of a float, sign + exponent + mantissa."""
        op, inputs = node.proto.op_type, node.inputs
        if op == "BipolarQuant":
            return 1
        if op == "FloatQuant":
            parts = [self._number(i) for i in inputs[2:4]]
            return _whole_bits(None if len(parts) < 2 or None in parts else 1 + sum(p or 0 for p in parts))
        at = 4 if op == "Trunc" else 3
        number = self._number(inputs[at]) if len(inputs) > at else None
        return _whole_bits(number)

    # --- nodes ----------------------------------------------------------------------------------

    def _node(self, node: FlatNode) -> None:
        op_type = node.op_type
        if op_type == _SELECT:
            return self._select(node)
        inputs = [self._value(name, node) if name else None for name in node.inputs]
        if op_type == _END:
            return self._alias(node, inputs)
        if self._fold(node, op_type, inputs):
            return None
        if self._vanishes(node, op_type, inputs):
            return self._alias(node, inputs)
        self._operator(node, op_type, inputs)
        return None

    def _value(self, name: str, node: FlatNode) -> Value:
        found = self._values.get(name)
        if found is None:  # made in a branch that its shapes rule out
            raise _Missing(f"{quoted(name)} read by {quoted(node.name)}")
        return found

    def _alias(self, node: FlatNode, inputs: Sequence[Value | None]) -> None:
        """The output is the input; only its shape may differ, where a loop stacks its results."""
        source = inputs[0]
        if source is None:
            raise _Missing(quoted(node.outputs[0]))
        out = node.outputs[0]
        found = self._types.get(out)
        self._values[out] = source if found is None else replace(source, shape=found.shape)

    def _vanishes(self, node: FlatNode, op_type: str, inputs: Sequence[Value | None]) -> bool:
        if not inputs or inputs[0] is None or not node.outputs:
            return False
        if op_type == "Identity":
            return True
        if op_type == "Cast":
            target = self._types.get(node.outputs[0])
            return target is not None and target.elem_type == inputs[0].elem_type
        if op_type == "Dropout":
            training = len(inputs) > 2 and inputs[2] is not None and self._number(node.inputs[2]) != 0
            return not training and not any(mask in self._read for mask in node.outputs[1:])
        return False

    def _fold(self, node: FlatNode, op_type: str, inputs: Sequence[Value | None]) -> bool:
        """Make the outputs constants if runtimes would; True when done."""
        outputs = [name for name in node.outputs if name]
        given = [value for value in inputs if value is not None]
        constant = (
            op_type == "Constant"
            or op_type in ("Shape", "Size")
            or (
                (bool(given) and all(value.constant for value in given))
                and op_type not in _RANDOM
                and node.proto.domain in _FOLDABLE_DOMAINS
            )
        )
        if not constant and not (node.outputs and all(out in self._folded for out in outputs)):
            return False
        for out in outputs:
            self._values[out] = self._folded_value(node, op_type, out, given)
        return True

    def _folded_value(self, node: FlatNode, op_type: str, out: str, given: Sequence[Value]) -> Value:
        found = self._type(out)
        bits = self._bits(found.elem_type, out)
        count = elements(found.shape)
        if op_type in _DEQUANTIZERS and given:
            # Kept narrow, with its scales and zero points beside it.
            return Value(
                found.shape, found.elem_type, given[0].bits, constant=out, nbytes=sum(v.nbytes for v in given)
            )
        if op_type in _FAKE_QUANTIZERS:
            bits = self._fake_bits(node) or bits
        elif op_type in _KEEP_WIDTH and given and given[0].elem_type == found.elem_type:
            bits = given[0].bits
        return Value(found.shape, found.elem_type, bits, constant=out, nbytes=size_bytes(count, bits))

    def _operator(self, node: FlatNode, op_type: str, inputs: Sequence[Value | None]) -> None:
        attrs = node.attributes
        if op_type == _BEGIN:
            op_type, attrs = attrs["kind"], {k: v for k, v in attrs.items() if k == "axes"}
        # An output that nobody reads and nobody knows the shape of is not worth a refusal.
        names = [name for name in node.outputs if name in self._read or name in self._types]
        index = len(self._drafts)
        outputs = [self._made(name, op_type, node, inputs, (index, slot)) for slot, name in enumerate(names)]
        shapes = tuple(value.shape for value in outputs)
        call = costs.Call(attrs, [None if v is None else v.shape for v in inputs], shapes)
        try:
            macs = costs.macs(op_type, call)
        except ValueError as error:
            raise ModelError(
                f"{self._label(node, op_type)} does not fit its inputs: {short(str(error), 200)}; export it again"
            ) from error
        activations = [value for value in inputs if value is not None and not value.constant]
        constants = [value for value in inputs if value is not None and value.constant]
        operator = Operator(
            name=self._unique(node.name),
            op_type=intern(op_type),  # looked up and compared often
            inputs=tuple(value.source for value in activations),
            input_shapes=tuple(value.shape for value in activations),
            output_shapes=shapes,
            weight_shapes=tuple(value.shape for value in constants),
            attributes=_kept(attrs, inputs),
            input_bits=_widest(activations, 32),
            weight_bits=_weight_bits(op_type, attrs, constants),
            output_bits=outputs[0].bits if outputs else 32,
            macs=macs,
            repeats=self._repeats(node.trips),
            known=costs.known(op_type),
            **_bytes(op_type, inputs, outputs),
        )
        if (operator.macs + operator.bytes + 1) * operator.repeats > MAX_WORK:
            raise ModelError(
                f"{self._label(node, op_type)} asks for more work than any machine finishes; export it again"
            )
        self._drafts.append(_Draft(operator, tuple(constants)))
        for branch in node.branches:
            self._by_branch.setdefault(branch, []).append(index)
        self._values.update(zip(names, outputs, strict=True))

    def _label(self, node: FlatNode, op_type: str) -> str:
        return f"node {quoted(node.name)} ({short(op_type)}) of {quoted(self._name)}"

    def _made(
        self,
        name: str,
        op_type: str,
        node: FlatNode,
        inputs: Sequence[Value | None],
        source: tuple[int, int],
    ) -> Value:
        found = self._type(name)
        bits = self._bits(found.elem_type, name)
        first = inputs[0] if inputs else None
        if op_type in _FAKE_QUANTIZERS:
            bits = self._fake_bits(node) or bits
        elif (op_type in _DEQUANTIZERS and first is not None and name not in self._ends) or (
            op_type in costs.VIEWS
            and first is not None
            and first.elem_type == found.elem_type
            and op_type not in BODIES
        ):
            bits = first.bits
        else:
            bits = self._widths.get(name, bits)
        return Value(found.shape, found.elem_type, bits, source)

    def _unique(self, name: str) -> str:
        return unique(name, self._used_names)

    def _repeats(self, trips: Iterable[Trips]) -> int:
        total = 1
        for trip in trips:
            if trip.axis is not None:
                total *= self._length(trip.tensor, trip.axis)
                continue
            number = self._number(trip.tensor) if trip.tensor else None
            if number is None or not number < ENDLESS:  # perhaps because it is no number
                self._assume(
                    f"how often {quoted(trip.owner)} ({trip.kind}) runs depends on the data, taken as once"
                )
            else:
                total *= int(max(number, 0))
        return total

    def _length(self, name: str, axis: int) -> int:
        value = self._values.get(name)
        if value is None or not -len(value.shape) <= axis < len(value.shape):
            raise _Missing(f"what {quoted(name)} is scanned along")
        return value.shape[axis]

    # --- branches -------------------------------------------------------------------------------

    def _select(self, node: FlatNode) -> None:
        owner = node.name.removesuffix(f"/Select/{node.outputs[0]}")
        condition, *ends = node.inputs
        side = self._decide(owner, condition)
        value = self._value(ends[side], node)
        self._values[node.outputs[0]] = value

    def _decide(self, owner: str, condition: str) -> int:
        """Which branch of an If is priced: the one a constant condition takes, else the costlier one."""
        if owner in self._decided:
            return self._decided[owner]
        number = self._number(condition)
        possible = [side for side in (0, 1) if (owner, side) not in self._impossible]
        if not possible:
            raise _Missing(f"what {quoted(owner)} (If) makes in either branch")
        if number is not None and (0 if number else 1) in possible:
            side = 0 if number else 1
        else:
            side = max(possible, key=lambda s: (self._branch_cost((owner, s)), -s))
            branch = ("then", "else")[side]
            self._assume(f"{quoted(owner)} (If) is priced by its costlier branch, the {branch} branch")
        for index in self._by_branch.get((owner, 1 - side), ()):
            self._drafts[index].kept = False
        self._decided[owner] = side
        return side

    def _branch_cost(self, branch: Branch) -> int:
        """MACs and bytes alike count as one unit: enough to tell the heavier branch."""
        return sum(
            (draft.operator.macs + draft.operator.bytes + 1) * draft.operator.repeats
            for draft in map(self._drafts.__getitem__, self._by_branch.get(branch, ()))
            if draft.kept
        )

    # --- the end --------------------------------------------------------------------------------

    def _outputs(self) -> tuple[tuple[TensorSpec, ...], list[tuple[int, int]]]:
        specs: list[TensorSpec] = []
        edges: list[tuple[int, int]] = []
        for output in self._flat.outputs:
            value = self._values.get(output.name)
            if value is None:
                raise ModelError(
                    f"output {quoted(output.name)} of {quoted(self._name)} lies in a branch that its shapes rule out"
                )
            if value.constant:
                value = self._constant_output(output.name, value)
            bits = BITS[value.elem_type]
            specs.append(TensorSpec(output.name, value.shape, NAMES[value.elem_type], bits))
            edges.append(value.source)
        return tuple(specs), edges

    def _constant_output(self, name: str, value: Value) -> Value:
        """A constant that leaves the graph is copied out by an operator of its own."""
        operator = Operator(
            name=self._unique(f"{name}/Constant"),
            op_type="Constant",
            inputs=(),
            input_shapes=(),
            output_shapes=(value.shape,),
            weight_shapes=(value.shape,),
            input_bits=value.bits,
            weight_bits=value.bits,
            output_bits=value.bits,
            bytes_out=value.nbytes,
            bytes_weights=value.nbytes,
        )
        self._drafts.append(_Draft(operator, (value,)))
        return replace(value, constant="", source=(len(self._drafts) - 1, 0))

    def _finish(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], edges: list[tuple[int, int]]
    ) -> OperatorGraph:
        position: dict[int, int] = {-1: -1}
        operators: list[Operator] = []
        weights: dict[str, int] = {}
        dropped = any(not draft.kept for draft in self._drafts)
        for index, draft in enumerate(self._drafts):
            if not draft.kept:
                continue
            position[index] = len(operators)
            operator = draft.operator
            if dropped:
                operator = replace(operator, inputs=tuple((position[p], s) for p, s in operator.inputs))
            operators.append(operator)
            for constant in draft.constants:
                weights[constant.constant] = constant.nbytes
        return OperatorGraph(
            name=self._name,
            operators=tuple(operators),
            inputs=inputs,
            outputs=outputs,
            output_edges=tuple((position[p], s) for p, s in edges),
            weight_bytes=sum(weights.values()),
            assumptions=tuple(self._assumptions),
        )


def _whole_bits(number: float | None) -> int | None:
    """A width rounded up; None for what is no width."""
    return None if number is None or not 0 < number <= 64 else -int(-number // 1)


def _widest(values: Sequence[Value], default: int) -> int:
    """Width of the largest tensor: a mask or an index beside it does not decide."""
    return max(values, key=lambda v: elements(v.shape)).bits if values else default


def _weight_bits(op_type: str, attrs: Mapping[str, Any], constants: Sequence[Value]) -> int:
    packed = attrs.get("bits")  # several values in one byte
    if constants and isinstance(packed, int) and 0 < packed <= 64 and op_type.startswith("com.microsoft."):
        return packed
    # Scales, zero points and other single numbers are no weights.
    return _widest([value for value in constants if elements(value.shape) > 1], 0)


def _bytes(op_type: str, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> dict[str, int]:
    """Bytes of activations read, written, and of constants read."""
    moved = {"bytes_in": 0, "bytes_out": 0, "bytes_weights": 0}
    if op_type in costs.VIEWS:
        return moved
    first = inputs[0] if inputs else None
    if op_type in _REQUANTIZERS and first is not None and outputs and first.bits == outputs[0].bits:
        return moved  # fused into its neighbour, which holds the tensor like that
    written = sum(value.held_bytes for value in outputs)
    for index, value in enumerate(inputs):
        if value is None:
            continue
        size = value.held_bytes
        if index == 0 and op_type in costs.GATHERS and outputs:
            # Of an embedding only the rows asked for are read, never the table.
            size = min(size, size_bytes(elements(outputs[0].shape), value.bits))
        moved["bytes_weights" if value.constant else "bytes_in"] += size
    moved["bytes_out"] = written
    return moved


def _sound(key: str, value: object) -> bool:
    """False for a number that others compute with and that is none, or one that no operator can have."""
    least = _LEAST.get(key)
    if least is None:
        return True
    numbers = value if key in _LISTS else [value]
    if not isinstance(numbers, list) or not all(isinstance(n, int) for n in numbers):
        return False
    return min(numbers, default=least) >= least and prod(numbers) <= MAX_ELEMENTS


def _kept(attrs: Mapping[str, Any], inputs: Sequence[Value | None]) -> Mapping[str, Attribute]:
    """Attributes that say what is computed: numbers and words, never tensors or long lists."""
    kept: dict[str, Attribute] = {}
    for key, value in attrs.items():
        if not _sound(key, value):
            continue
        if isinstance(value, (int, float, str)):
            kept[intern(key)] = value
        elif isinstance(value, list) and len(value) <= _LONGEST_ATTRIBUTE:
            kept[intern(key)] = tuple(value)
    roles = "".join("c" if v.constant else "a" for v in inputs if v is not None)
    if "ca" in roles:  # constant - x is not x - constant
        kept["operands"] = roles
    return kept
