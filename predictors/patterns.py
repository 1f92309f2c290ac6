"""Chains of operators that spell one function, for which many runtimes have one kernel."""

from __future__ import annotations

from collections.abc import Sequence

from hardsight.graph import Operator

PATTERNS = ("layer norm", "rms norm", "erf gelu", "tanh gelu", "silu", "mish", "hard swish")

_STARTS = frozenset({"Erf", "Tanh", "Sqrt", "Mul"})  # types from which a chain is looked for


def patterns_of(
    operators: Sequence[Operator], consumers: Sequence[Sequence[int]]
) -> tuple[dict[int, int], set[int]]:
    """Members of the chains in `PATTERNS` (their number from 1), and which member of each leads."""
    found: dict[int, int] = {}
    leads: set[int] = set()

    def producer(i: int, *kinds: str) -> int:
        """The operator of one of these kinds that makes an input of ``i``; -1 when there is none."""
        if i >= 0:
            for p, _ in operators[i].inputs:
                if p >= 0 and operators[p].op_type in kinds:
                    return p
        return -1

    def consumer(i: int, *kinds: str) -> int:
        """The only consumer of ``i``, when it is of one of these kinds."""
        if i < 0 or len(set(consumers[i])) != 1 or operators[consumers[i][0]].op_type not in kinds:
            return -1
        return consumers[i][0]

    def mark(name: str, lead: int, *members: int) -> None:
        for i in (lead, *members):
            if i >= 0:
                found[i] = PATTERNS.index(name) + 1
        leads.add(lead)

    for i, op in enumerate(operators):
        kind = op.op_type
        if kind not in _STARTS:
            continue
        if kind == "Erf":
            after = consumer(i, "Add")
            half = consumer(after, "Mul")
            mark("erf gelu", i, producer(i, "Div", "Mul"), after, half, consumer(half, "Mul"))
        elif kind == "Tanh":
            after = consumer(i, "Add")
            scaled = producer(i, "Mul")
            cubic = producer(producer(scaled, "Add"), "Mul")
            if after >= 0 and producer(cubic, "Pow") >= 0:
                mark(
                    "tanh gelu", i, scaled, producer(scaled, "Add"), cubic, producer(cubic, "Pow"), after,
                    consumer(after, "Mul"),
                )  # fmt: skip
        elif kind == "Sqrt":
            variance = producer(producer(i, "Add"), "ReduceMean")
            square = producer(variance, "Pow", "Mul")
            if square < 0:
                continue
            centred, last = producer(square, "Sub"), consumer(i, "Div", "Mul")
            if centred >= 0:
                scaled = consumer(last, "Mul")
                mark(
                    "layer norm", last if last >= 0 else i, i, producer(i, "Add"), variance, square, centred,
                    producer(centred, "ReduceMean"), scaled, consumer(scaled, "Add"),
                )  # fmt: skip
            else:
                product = consumer(last, "Mul")
                mark(
                    "rms norm", product if product >= 0 else i, i, producer(i, "Add"), variance, square, last,
                    consumer(product, "Mul"),
                )  # fmt: skip
        elif kind == "Mul":
            for p, _ in op.inputs:
                gate = operators[p] if p >= 0 else None
                if gate is None:
                    continue
                others = {source for source in op.inputs if source[0] != p}
                if gate.op_type in ("Sigmoid", "HardSigmoid") and set(gate.inputs) == others:
                    mark("silu" if gate.op_type == "Sigmoid" else "hard swish", p, i)
                elif gate.op_type == "Tanh" and (plus := producer(p, "Softplus")) >= 0:
                    mark("mish", p, plus, i)
                elif gate.op_type == "Clip":
                    shift = producer(p, "Add")
                    if shift >= 0 and set(operators[shift].inputs) == others:
                        mark("hard swish", p, shift, i, consumer(i, "Div"))
    return found, leads
