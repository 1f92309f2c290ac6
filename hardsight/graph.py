"""A network as the predictors see it: operators, shapes and bit-widths; no weights."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]
"""What an operator attribute may hold; tensors and subgraphs are never kept."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph input or output.

    Args:
        name: as in the file.
        shape: every dimension bound, row-major.
        dtype: ONNX element type in lower case, for example ``"float"``, ``"int8"``.
        bits: width of one element.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bits: int


@dataclass(frozen=True, slots=True)
class Operator:
    """One node. All sizes are of one execution; ``repeats`` says how often it runs.

    Args:
        name: as in the file, or made up from type and position; unique in the graph.
        op_type: ``"Conv"``; with the domain in front outside the standard one: ``"com.microsoft.FusedConv"``.
        inputs: one ``(producer, slot)`` per activation input: the index of the operator that makes
            it and which of its outputs it is; ``(-1, i)`` is graph input ``i``.
        input_shapes: shapes of those activations, in the same order.
        output_shapes: shapes of all outputs.
        weight_shapes: shapes of the constant inputs (initializers and whatever folds to a constant).
        attributes: the ones that change cost or meaning.
        input_bits: width of one activation element as the runtime would hold it: 8 behind a DequantizeLinear.
        weight_bits: the same of the largest constant, so that an int32 bias does not decide; 0 without weights.
        output_bits: 8 where every consumer is a QuantizeLinear.
        macs: multiply-accumulate operations.
        bytes_in: bytes of activations read.
        bytes_out: bytes written.
        bytes_weights: bytes of constants read.
        repeats: executions per inference; above 1 inside a Loop or Scan.
        known: False when no cost rule covers the type: then ``macs`` is 0 and only bytes price it.
    """

    name: str
    op_type: str
    inputs: tuple[tuple[int, int], ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    weight_shapes: tuple[tuple[int, ...], ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    input_bits: int = 32
    weight_bits: int = 0
    output_bits: int = 32
    macs: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    bytes_weights: int = 0
    repeats: int = 1
    known: bool = True

    @property
    def bytes(self) -> int:
        """Everything moved in one execution."""
        return self.bytes_in + self.bytes_out + self.bytes_weights


@dataclass(frozen=True, eq=False)
class OperatorGraph:
    """Operators in topological order, and what had to be assumed to read them.

    Two graphs are the same architecture when their digests are equal; ``==`` is identity.

    Args:
        name: for messages only; no part of the identity.
        operators: producers before consumers.
        inputs: graph inputs that are not initializers.
        outputs: graph outputs.
        output_edges: ``(producer, slot)`` of each output.
        weight_bytes: bytes of all constants, each counted once however many operators share it.
        assumptions: sentences for the answer: "batch dimension 'N' unbound, taken as 1".
    """

    name: str
    operators: tuple[Operator, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    output_edges: tuple[tuple[int, int], ...] = ()
    weight_bytes: int = 0
    assumptions: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the architecture (32 hex digits).

        A Merkle hash: types, attributes, shapes, bit-widths and wiring. Names, weights, the order in
        which a file lists its nodes and the assumptions have no part in it.
        """
        inputs, done = self._fingerprints()
        ends = tuple(sorted((inputs[s] if p < 0 else done[p], s) for p, s in self.output_edges))
        return _hash("graph", tuple(sorted(inputs)), tuple(sorted(done)), ends)[:32]

    def fingerprints(self) -> list[str]:
        """Of each operator, a hash of itself and of all that it depends on, whatever the order of the list."""
        return self._fingerprints()[1]

    def _fingerprints(self) -> tuple[list[str], list[str]]:
        """Of the graph's inputs and of its operators."""
        inputs = [_hash("input", spec.shape, spec.dtype) for spec in self.inputs]
        done: list[str] = []
        for op in self.operators:
            sources = tuple(
                (inputs[slot] if producer < 0 else done[producer], slot if producer >= 0 else 0)
                for producer, slot in op.inputs
            )
            done.append(
                _hash(
                    op.op_type,
                    sources,
                    op.input_shapes,
                    op.output_shapes,
                    op.weight_shapes,
                    tuple(sorted(op.attributes.items())),
                    (op.input_bits, op.weight_bits, op.output_bits, op.repeats),
                )
            )
        return inputs, done

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulate operations of one inference."""
        return sum(op.macs * op.repeats for op in self.operators)

    @cached_property
    def unknown_ops(self) -> dict[str, int]:
        """Operator types without a cost rule, and how many there are of each."""
        return dict(Counter(op.op_type for op in self.operators if not op.known))

    def __len__(self) -> int:
        return len(self.operators)


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
