"""Networks that are quantized already, on devices that quantize every network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from hardsight.datasets.store import GraphStore, load_shipped
from hardsight.graph import OperatorGraph
from hardsight.predictors.arrays import arrays_of
from hardsight.predictors.encoding import OF_ARRAY, PRIORS, encode_graphs
from hardsight.predictors.in_float import in_float

ETHOS = arrays_of(["ethos-u55-128/vela/int8"])
REACHED = len(PRIORS) + OF_ARRAY.index("reached")


def totals(graph: OperatorGraph) -> Mapping[str, float]:
    priors = encode_graphs([graph], list(ETHOS.values())).priors
    weights, live = (priors[:, PRIORS.index(name)] for name in ("weights", "live"))
    return {"cycles": priors[:, REACHED].sum(), "weights": weights.sum(), "live": live.max()}


def twins(families: tuple[str, ...], n: int) -> list[tuple[OperatorGraph, OperatorGraph]]:
    """Fully quantized networks beside what they were made of."""
    table = load_shipped()
    assert isinstance(table.graphs, GraphStore)
    facts = table.graphs.facts
    full = [d for d, f in facts.items() if f.twin and f.family in families]
    return [(table.graphs[facts[d].twin], table.graphs[d]) for d in full[:: max(1, len(full) // n)][:n]]


def test_a_quantized_network_looks_like_the_float_one_it_was_made_of() -> None:
    narrower = []
    for before, quantized in twins(("plain_chain", "tcn", "super_resolution", "fbnet"), 12):
        seen = in_float(quantized).graph
        assert len(seen.operators) < len(quantized.operators)
        expected, found = totals(before), totals(seen)
        assert found["weights"] == pytest.approx(
            expected["weights"], rel=0.15
        )  # normalisations are folded in
        assert found["live"] == pytest.approx(expected["live"], rel=0.01)
        assert found["cycles"] == pytest.approx(expected["cycles"], rel=0.05)
        narrower.append(totals(quantized)["live"] / expected["live"])
    assert np.median(narrower) < 0.5  # what they look like as they are


def test_a_float_network_is_itself_and_every_operator_keeps_its_place() -> None:
    before, quantized = twins(("plain_chain",), 1)[0]
    assert in_float(before).graph is before
    assert in_float(before).kept == tuple(range(len(before.operators)))
    seen, kept = in_float(quantized)
    assert [op.op_type for op in seen.operators] == [quantized.operators[i].op_type for i in kept]
    assert {op.op_type for op in seen.operators}.isdisjoint({"QuantizeLinear", "DequantizeLinear"})
    assert sum(op.macs for op in seen.operators) == sum(op.macs for op in quantized.operators)


def test_wiring_leads_past_the_quantizers() -> None:
    _, quantized = twins(("residual_basic",), 1)[0]
    seen, kept = in_float(quantized)
    for i, op in enumerate(seen.operators):
        assert op.input_shapes == quantized.operators[kept[i]].input_shapes
        for (producer, slot), shape in zip(op.inputs, op.input_shapes, strict=True):
            made = seen.inputs[slot].shape if producer < 0 else seen.operators[producer].output_shapes[slot]
            assert producer < i
            assert np.prod(made) == np.prod(shape)
