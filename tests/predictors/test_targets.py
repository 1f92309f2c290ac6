"""Several metrics and devices in one predictor: additive heads, targets that are one, counts that may be zero."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from worlds import DEVICE, chain, conv, relu, world

from hardsight.graph import Operator, OperatorGraph, TensorSpec
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors import make_predictor
from hardsight.predictors.conformal import Conformal, split_families
from hardsight.predictors.evaluation import out_of_family, summary, with_intervals
from hardsight.predictors.graphnet import GraphNetConfig, GraphNetPredictor
from hardsight.predictors.joined import Joined
from hardsight.predictors.memory_peak import memory_peak
from hardsight.predictors.persist import load_saved, save_predictor
from hardsight.predictors.scale import logarithm, widened
from hardsight.predictors.ties import proportional
from hardsight.predictors.training import by_kind, fit_best

NPU = "ethos-u55-128/vela/int8"


def simulated(n: int = 60) -> MeasurementTable:
    """Cycles, latency at 500 MHz, flash and traffic of one device; flash of every tenth graph is zero."""
    import pandas as pd

    base = world(n, noise=0.0, device=NPU)
    latency = base.rows[base.rows["metric"] == str(Metric.LATENCY)]
    weights = np.array([base.graphs[d].weight_bytes for d in latency["digest"]]) / 4
    flash = np.where(np.arange(len(latency)) % 10 == 0, 0, weights)
    parts = [
        latency,
        latency.assign(metric=str(Metric.CYCLES), value=latency["value"] * 5e8),
        latency.assign(metric=str(Metric.FLASH), value=flash),
    ]
    rows = pd.concat(parts, ignore_index=True).assign(provenance="simulated")
    return MeasurementTable(rows, base.graphs, base.families)


def small() -> GraphNetPredictor:
    return GraphNetPredictor(GraphNetConfig(hidden=16, members=1, epochs=60, least_steps=0, batch=16))


def test_heads_of_several_metrics(tmp_path: Path) -> None:
    table = simulated()
    predictor = small().fit(table)
    assert set(predictor.heads) == {(NPU, Metric.CYCLES), (NPU, Metric.FLASH)}
    graphs, cycles = table.labelled(NPU, Metric.CYCLES)
    assert np.median(np.abs(predictor.point(graphs, NPU, Metric.CYCLES) / cycles - 1)) < 0.2
    some, flash = table.labelled_above_zero(NPU, Metric.FLASH)
    assert len(some) < len(graphs)
    assert np.median(np.abs(predictor.point(some, NPU, Metric.FLASH) / flash - 1)) < 0.2
    latency = predictor.point(graphs, NPU, Metric.LATENCY)
    np.testing.assert_allclose(latency, predictor.point(graphs, NPU, Metric.CYCLES) / 5e8, rtol=1e-3)
    np.testing.assert_allclose(predictor.layer_costs(graphs[0], NPU).sum(), latency[0], rtol=1e-5)
    save_predictor(predictor, tmp_path / "p")
    loaded = load_saved(tmp_path / "p")
    assert loaded.targets == predictor.targets
    np.testing.assert_array_equal(loaded.point(graphs, NPU, Metric.LATENCY), latency)


def test_memory_is_a_maximum_and_not_a_sum() -> None:
    base = simulated()
    cycles = base.rows[base.rows["metric"] == str(Metric.CYCLES)]
    held = [1.25 * memory_peak(base.graphs[d]).bytes + 2e4 for d in cycles["digest"]]
    rows = cycles.assign(metric=str(Metric.SRAM), value=held)
    predictor = small().fit(MeasurementTable(rows, base.graphs, base.families))
    shallow, deep = (stack(depth) for depth in (2, 40))
    assert deep.digest not in base.graphs
    both = predictor.point([shallow, deep], NPU, Metric.SRAM)
    assert both[1] == pytest.approx(both[0], rel=0.15)
    assert both[1] == pytest.approx(1.25 * memory_peak(deep).bytes + 2e4, rel=0.2)
    assert predictor.layer_costs(deep, NPU, Metric.SRAM).sum() == pytest.approx(both[1], rel=1e-6)


def stack(depth: int) -> OperatorGraph:
    """As many equal layers; what is alive at once does not depend on how many."""
    operators: list[Operator] = []
    for i in range(depth):
        operators += [conv(f"c{i}", 2 * i - 1, 48, 48, 16), relu(f"e{i}", 2 * i, 48, 16, "Exp")]
    ends = (TensorSpec("x", (1, 48, 16, 16), "float", 32),), (TensorSpec("y", (1, 48, 16, 16), "float", 32),)
    weights = sum(op.bytes_weights for op in operators)
    return OperatorGraph("stack", tuple(operators), *ends, ((2 * depth - 1, 0),), weights)


def test_only_constant_proportions_are_ties() -> None:
    table = simulated()
    cycles, flash, latency = ((NPU, m) for m in (Metric.CYCLES, Metric.FLASH, Metric.LATENCY))
    assert proportional(table, [cycles, flash, latency]) == {latency: (cycles, pytest.approx(2e-9))}
    off = table.rows.copy()
    first = off.index[off["metric"] == str(Metric.LATENCY)][0]
    off.loc[first, "value"] *= 1.01
    assert proportional(MeasurementTable(off, table.graphs, table.families), [cycles, latency]) == {}


@pytest.mark.parametrize("name", ["ridge", "forest", "roofline"])
def test_labels_of_zero_cost_no_predictor_its_fit(name: str) -> None:
    table = simulated()
    predictor = make_predictor(name).fit(table)
    graphs, _ = table.labelled(NPU, Metric.FLASH)
    assert np.isfinite(predictor.point(graphs, NPU, Metric.FLASH)).all()
    scored = Conformal(predictor).conformalize(table)
    assert np.isfinite(scored.scores[NPU, Metric.FLASH]).all()


def test_intervals_of_counts_reach_zero_and_never_below() -> None:
    lower, upper = widened(Metric.CYCLES, np.array([0.0, 1.0, 1e6]), np.array([0.5, 2.0, 0.1]))
    np.testing.assert_allclose(lower, [0, 0, (1e6 + 1) * np.exp(-0.1) - 1])
    np.testing.assert_allclose(upper, [np.exp(0.5) - 1, 2 * np.exp(2.0) - 1, (1e6 + 1) * np.exp(0.1) - 1])
    assert logarithm(Metric.CYCLES, np.array([0.0]))[0] == 0
    lower, upper = widened(Metric.LATENCY, np.array([1e-3]), np.array([0.1]))
    np.testing.assert_allclose([lower[0], upper[0]], [1e-3 * np.exp(-0.1), 1e-3 * np.exp(0.1)])


def test_each_kind_of_device_keeps_its_best(tmp_path: Path) -> None:
    import pandas as pd

    npu, cpu = simulated(), world(60)
    both = npu + cpu
    kinds = by_kind(both)
    assert set(kinds) == {"npu", "cpu"}
    assert kinds["cpu"].devices == [DEVICE]
    frames = {}
    for name in ("ridge", "roofline"):
        parts = [
            out_of_family(lambda name=name: make_predictor(name), part, [["plain"], ["thin"]])
            for part in kinds.values()
        ]
        frames[name] = with_intervals(pd.concat(parts, ignore_index=True))
    compared = pd.concat([summary(f).assign(predictor=name) for name, f in frames.items()])
    assert {"smape", "r2"} <= set(compared)
    best = compared[(compared["device"] == NPU) & (compared["metric"] == str(Metric.FLASH))]
    result = fit_best(both, compared, frames)
    assert (
        result.chosen["npu", Metric.FLASH]
        == best.sort_values("smape", ignore_index=True)["predictor"].iloc[0]
    )
    assert isinstance(result.predictor, Joined)
    assert set(result.predictor.targets) == {
        (d, m) for d in both.devices for m in both.select(device=d).metrics
    }
    save_predictor(result.predictor, tmp_path / "p")
    loaded = load_saved(tmp_path / "p")
    graphs, _ = cpu.labelled(DEVICE, Metric.LATENCY)
    before, after = result.predictor.predict(graphs, DEVICE), loaded.predict(graphs, DEVICE)
    assert before.metrics == after.metrics
    np.testing.assert_array_equal(before.value, after.value)


def test_joined_fits_each_part_to_its_own_labels() -> None:
    table = world(60)
    metrics = table.metrics
    joined = Joined({(DEVICE, m): make_predictor("ridge") for m in metrics})
    joined.fit(table)
    for m in metrics:
        assert joined.parts[DEVICE, m].targets == [(DEVICE, m)]


def test_a_graph_unlike_training_is_flagged_and_gets_a_wider_interval() -> None:
    train, held = split_families(world(60), ["mixed"])
    predictor = Conformal(small().fit(train)).conformalize(held)
    usual = train.graphs[train.digests[0]]
    odd = OperatorGraph(
        "odd",
        tuple(
            dataclasses.replace(relu(f"o{i}", i - 1, 64, 16, kind), input_bits=8, output_bits=8)
            for i, kind in enumerate(("Softmax", "Gather", "TopK", "Resize"))
        ),
        (TensorSpec("x", (1, 64, 16, 16), "uint8", 8),),
        (TensorSpec("y", (1, 64, 16, 16), "uint8", 8),),
        ((3, 0),),
    )
    novelty = predictor.novelty([usual, odd], DEVICE, Metric.LATENCY)
    assert novelty[0] <= 1.2
    assert novelty[1] > 1
    answer = predictor.predict([usual, odd], DEVICE)
    assert not any("unlike" in said for said in answer.assumptions[0])
    assert any("unlike the networks" in said for said in answer.assumptions[1])
    np.testing.assert_array_equal(predictor.predict([odd], DEVICE).upper, answer.upper[1:])
    q = np.log(answer.upper[1, 0] / answer.value[1, 0]) / predictor.doubt([odd], DEVICE, Metric.LATENCY)[0]
    usual_q = (
        np.log(answer.upper[0, 0] / answer.value[0, 0]) / predictor.doubt([usual], DEVICE, Metric.LATENCY)[0]
    )
    assert q == pytest.approx(usual_q * novelty[1], rel=1e-6)


def test_a_cost_far_beyond_the_labels_is_flagged_by_any_predictor() -> None:
    table = world(60)
    predictor = Conformal(make_predictor("ridge")).fit(table).conformalize(table)
    big = chain(np.random.default_rng(0), "plain")
    operators = tuple(dataclasses.replace(op, macs=op.macs * 10**6, repeats=1000) for op in big.operators)
    huge = dataclasses.replace(big, operators=operators)
    novelty = predictor.novelty([big, huge], DEVICE, Metric.LATENCY)
    assert novelty[0] == 0
    assert novelty[1] > 3
    said = predictor.predict([huge], DEVICE).assumptions[0]
    assert any("latency_s was learned from" in text for text in said)


def test_adders_of_a_quantized_network() -> None:
    """Widths follow through pooling and reshaping; depth adds up along the path."""
    from hardsight.datasets.store import load_shipped
    from hardsight.predictors.adders import COLUMNS, adder_numbers
    from hardsight.predictors.merging import consumers_of

    table = load_shipped()
    digest = next(d for d in sorted(table.digests) if table.families[d] == "quantized_conv1d")
    graph = table.graphs[digest]
    numbers = {c: adder_numbers(graph, consumers_of(graph))[:, i] for i, c in enumerate(COLUMNS)}
    for i, op in enumerate(graph.operators):
        if op.op_type in ("Conv", "Gemm"):
            assert numbers["in_bits"][i] <= 8
            assert numbers["sum_bits"][i] > numbers["in_bits"][i]
            assert numbers["depth"][i] > 0
    assert (np.diff(numbers["depth_before"]) >= 0).all()
    assert numbers["stages"].sum() == (numbers["depth_before"][-1] + numbers["depth"][-1]) // 5
    plain = world(5)
    assert not adder_numbers(
        plain.graphs[plain.digests[0]], consumers_of(plain.graphs[plain.digests[0]])
    ).any()


def test_an_answer_names_those_who_gave_it() -> None:
    npu, cpu = simulated(), world(60)
    ridge, roofline = make_predictor("ridge").fit(npu), make_predictor("roofline").fit(cpu)
    joined = Joined({(NPU, Metric.FLASH): ridge, (DEVICE, Metric.LATENCY): roofline})
    graphs, _ = cpu.labelled(DEVICE, Metric.LATENCY)
    assert joined.name == "ridge+roofline"
    assert joined.predict(graphs[:1], DEVICE).predictor == "roofline"
    assert joined.only(NPU).targets == [(NPU, Metric.FLASH)]
