"""The hls4ml predictor: the contract of predictors, on made-up layers whose law is known."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from hardsight.datasets.sources._hls4ml import layer
from hardsight.errors import NotSupportedError
from hardsight.graph import OperatorGraph, TensorSpec
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors import persist
from hardsight.predictors._hls4ml_conformal import CountConformal
from hardsight.predictors.conformal import family_folds, split_families
from hardsight.predictors.hls4ml import Hls4mlPredictor

DEVICE = "lab/hls4ml/resource"
SHAPES = [(n_in, n_out) for n_in in (8, 16, 32, 48) for n_out in (8, 16, 24)]
METRICS = (Metric.CYCLES, Metric.INTERVAL_CYCLES, Metric.DSP, Metric.LUT, Metric.BRAM_18K)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(persist.KINDS, "Hls4mlPredictor", "hardsight.predictors.hls4ml")
    monkeypatch.setitem(persist.KINDS, "CountConformal", "hardsight.predictors._hls4ml_conformal")


def counts(n_in: int, n_out: int, bits: int, reuse: int) -> dict[Metric, float]:
    multipliers = n_in * n_out // reuse
    if reuse == 1:  # unrolled: a law of its own
        return {
            Metric.CYCLES: 1,
            Metric.INTERVAL_CYCLES: 1,
            Metric.DSP: multipliers // 2 if bits > 4 else 0,
            Metric.LUT: 9 * multipliers,
            Metric.BRAM_18K: 0,
        }
    return {
        Metric.CYCLES: reuse + (3 if n_out == 24 else 2),
        Metric.INTERVAL_CYCLES: reuse,
        Metric.DSP: 0 if bits <= 4 else multipliers - (bits == 6 and n_in >= 16),
        Metric.LUT: 100 + 30 * n_in + 20 * n_out + 50 * multipliers,
        Metric.BRAM_18K: multipliers * bits // 36 + 1,
    }


@cache
def table() -> MeasurementTable:
    graphs, families, labels = {}, {}, []
    for n_in, n_out in SHAPES:
        for reuse in (1, n_in, 2 * n_in, 4 * n_in):
            for bits in (4, 6, 8):
                graph = layer(f"dense {n_in} {n_out} {bits} {reuse}")
                graphs[graph.digest], families[graph.digest] = graph, f"{n_in}x{n_out}"
                labels += [
                    Measurement(graph.digest, DEVICE, metric, value, 0.0, 1)
                    for metric, value in counts(n_in, n_out, bits, reuse).items()
                ]
    return MeasurementTable.from_measurements(labels, graphs, families)


@cache
def fitted() -> CountConformal:
    held = [fold[0] for fold in family_folds(table(), 3)]
    train, rest = split_families(table(), held)
    return CountConformal(Hls4mlPredictor().fit(train)).conformalize(rest)


@cache
def fitted_to_all() -> Hls4mlPredictor:
    return Hls4mlPredictor().fit(table())


def unseen() -> list[OperatorGraph]:
    """Shapes between those of the table."""
    sizes = ((24, 16, 48), (24, 8, 24), (40, 16, 40), (24, 24, 1), (16, 12, 32), (8, 20, 16))
    return [layer(f"dense {a} {b} 8 {reuse}") for a, b, reuse in sizes]


def two_layers(first: str = "dense 16 24 8 32", second: str = "dense 24 8 8 48") -> OperatorGraph:
    """One layer behind the other."""
    a, b = layer(first), layer(second)
    n = len(a.operators)
    moved = tuple(
        dataclasses.replace(
            op,
            name=f"{op.name}.2",
            inputs=tuple((p + n, s) if p >= 0 else a.output_edges[0] for p, s in op.inputs),
        )
        for op in b.operators
    )
    edges = tuple((p + n, s) for p, s in b.output_edges)
    return OperatorGraph("two", a.operators + moved, a.inputs, b.outputs, edges)


# --- what it learns ----------------------------------------------------------------------------------------------


def test_recovers_the_law_of_shapes_it_did_not_see() -> None:
    sizes = [(24, 16, 48), (24, 8, 24), (40, 16, 40)]
    said = fitted_to_all().predict([layer(f"dense {a} {b} 8 {r}") for a, b, r in sizes], DEVICE)
    for i, (n_in, n_out, reuse) in enumerate(sizes):
        truth = counts(n_in, n_out, 8, reuse)
        for metric in (Metric.CYCLES, Metric.INTERVAL_CYCLES, Metric.DSP):
            assert said[metric].value[i, 0] == truth[metric], metric
        assert said[Metric.LUT].value[i, 0] == pytest.approx(truth[Metric.LUT], rel=0.02)


def test_the_hurdle_says_zero_where_products_are_narrow() -> None:
    graphs = [layer(f"dense 24 16 {bits} 48") for bits in (4, 6, 8)]
    assert list(fitted_to_all().point(graphs, DEVICE, Metric.DSP)) == [0, 7, 8]


def test_an_illegal_reuse_factor_is_taken_as_the_closest_legal_one() -> None:
    """16 x 24 allows 32 and 48, not 36."""
    predictor = fitted()
    asked, legal = layer("dense 16 24 8 36"), layer("dense 16 24 8 32")
    for metric in METRICS:
        assert predictor.point([asked], DEVICE, metric) == predictor.point([legal], DEVICE, metric)


def test_layers_add_up_and_the_slowest_sets_the_interval() -> None:
    predictor = fitted()
    parts = [layer("dense 16 24 8 32"), layer("dense 24 8 8 48")]
    for metric in METRICS:
        each = predictor.point(parts, DEVICE, metric)
        whole = predictor.point([two_layers()], DEVICE, metric)[0]
        assert whole == (each.max() if metric is Metric.INTERVAL_CYCLES else each.sum())


# --- the contract ------------------------------------------------------------------------------------------------


def test_a_batch_equals_its_parts() -> None:
    whole = fitted().predict(unseen(), DEVICE)
    parts = [fitted().predict([graph], DEVICE) for graph in unseen()]
    np.testing.assert_array_equal(whole.value, np.concatenate([p.value for p in parts]))
    np.testing.assert_array_equal(whole.upper, np.concatenate([p.upper for p in parts]))


def test_order_of_operators_does_not_matter() -> None:
    a, b = layer("dense 16 8 8 32"), layer("dense 24 8 8 48")
    ordered = []
    for first, second in ((a, b), (b, a)):
        n, other = len(first.operators), 0 if first is a else 1
        ops = [
            *(dataclasses.replace(op, inputs=_moved(op.inputs, 0, other)) for op in first.operators),
            *(dataclasses.replace(op, inputs=_moved(op.inputs, n, 1 - other)) for op in second.operators),
        ]
        inputs = (*a.inputs, TensorSpec("x2", b.inputs[0].shape, "float", 32))
        ends = (*first.output_edges, *((p + n, s) for p, s in second.output_edges))
        ordered.append(OperatorGraph("pair", tuple(ops), inputs, (), ends))
    one, two = ordered
    assert one.digest == two.digest
    said = fitted().predict(ordered, DEVICE).value
    np.testing.assert_array_equal(said[0], said[1])


def _moved(inputs: tuple[tuple[int, int], ...], by: int, graph_input: int) -> tuple[tuple[int, int], ...]:
    return tuple((p + by, s) if p >= 0 else (-1, graph_input) for p, s in inputs)


def test_a_wider_level_contains_a_narrower_one() -> None:
    narrow, wide = fitted().predict(unseen(), DEVICE, 0.5), fitted().predict(unseen(), DEVICE, 0.9)
    assert (wide.lower <= narrow.lower).all()
    assert (narrow.lower <= narrow.value).all()
    assert (narrow.value <= narrow.upper).all()
    assert (narrow.upper <= wide.upper).all()
    assert (wide.lower >= 0).all()


def test_what_was_not_calibrated_has_no_interval() -> None:
    """Three shapes with three widths are nine unrolled layers: they support 90 %, not 95 %; networks support none."""
    unrolled = layer("dense 24 16 8 1")
    assert np.isfinite(fitted().predict([unrolled], DEVICE, 0.9).upper).all()
    assert np.isnan(fitted().predict([unrolled], DEVICE, 0.95).upper).all()
    network = fitted().predict([two_layers()], DEVICE, 0.5)
    assert np.isnan(network.upper).all()
    assert np.isnan(network.lower).all()
    assert np.isfinite(network.value).all()


def test_save_and_load_give_the_same_answers(tmp_path: Path) -> None:
    inner = fitted().predictor
    assert isinstance(inner, Hls4mlPredictor)
    tried = [layer(f"dense 64 {n} 8 1") for n in (8, 16, 64, 96)]
    inner.fit_feasibility(tried, DEVICE, [True, True, False, False])
    persist.save_predictor(fitted(), tmp_path / "p")
    loaded = persist.load_saved(tmp_path / "p")
    before, after = fitted().predict(unseen(), DEVICE), loaded.predict(unseen(), DEVICE)
    np.testing.assert_array_equal(before.value, after.value)
    np.testing.assert_allclose(before.upper, after.upper, rtol=1e-4)
    assert isinstance(loaded, CountConformal)
    np.testing.assert_array_equal(inner.feasibility(tried, DEVICE), loaded.inner.feasibility(tried, DEVICE))
    assert not [f for f in (tmp_path / "p").rglob("*") if f.suffix in {".pkl", ".joblib", ".skops"}]


def test_same_seed_same_answer() -> None:
    first, second = (Hls4mlPredictor(3).fit(table().select(metric=Metric.LUT)) for _ in range(2))
    np.testing.assert_array_equal(*(p.point(unseen(), DEVICE, Metric.LUT) for p in (first, second)))


def test_an_answer_needs_neither_torch_nor_scikit_learn(tmp_path: Path) -> None:
    persist.save_predictor(fitted(), tmp_path / "p")
    script = f"""
import sys
from hardsight.datasets.sources._hls4ml import layer
from hardsight.predictors import persist
persist.KINDS |= {{"Hls4mlPredictor": "hardsight.predictors.hls4ml",
                   "CountConformal": "hardsight.predictors._hls4ml_conformal"}}
from pathlib import Path
persist.load_saved(Path({str(tmp_path / "p")!r})).predict([layer("dense 16 24 8 32")], {DEVICE!r})
print(*({{"torch", "sklearn", "pandas", "scipy"}} & {{name.split(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- what it refuses ---------------------------------------------------------------------------------------------


def test_an_operator_without_a_rule_is_named() -> None:
    base = layer("dense 16 8 8 32")
    last = base.operators[-1]
    odd = dataclasses.replace(last, name="odd", op_type="Softmax", inputs=((len(base.operators) - 1, 0),))
    graph = OperatorGraph("odd", (*base.operators, odd), base.inputs, base.outputs)
    with pytest.raises(NotSupportedError, match="'odd' has operators Softmax; the hls4ml predictor covers"):
        fitted().predict([graph], DEVICE)


def test_a_kind_of_layer_without_labels_is_refused() -> None:
    with pytest.raises(NotSupportedError, match="has no labels of conv/folded layers; it has some of: dense"):
        fitted().predict([layer("conv1d 4 8 16 8 4")], DEVICE)


def test_a_device_of_another_tool_is_refused() -> None:
    rows = table().rows.assign(device="lab/onnxruntime/fp32-t1")
    with pytest.raises(NotSupportedError, match="'lab/onnxruntime/fp32-t1' is no device of hls4ml"):
        Hls4mlPredictor().fit(MeasurementTable(rows, table().graphs))


def test_it_is_fitted_to_single_layers() -> None:
    graph = two_layers()
    labels = [Measurement(graph.digest, DEVICE, Metric.LUT, 100.0, 0.0, 1)]
    with pytest.raises(NotSupportedError, match="'two' has 2 layers"):
        Hls4mlPredictor().fit(MeasurementTable.from_measurements(labels, {graph.digest: graph}))


def test_seconds_per_layer_are_refused() -> None:
    with pytest.raises(NotSupportedError, match="predicted in cycles"):
        fitted().layer_costs(unseen()[0], DEVICE)


def test_conformalize_before_fit_is_refused() -> None:
    with pytest.raises(NotSupportedError, match="call fit before conformalize"):
        CountConformal(Hls4mlPredictor()).conformalize(table())


# --- feasibility -------------------------------------------------------------------------------------------------


def test_feasibility_counts_both_sides_of_the_limit() -> None:
    """Ten unrolled layers below 4096 weights, of which nine were built; four beyond, of which none was."""
    small = [layer(f"dense 32 {n} 8 1") for n in range(8, 88, 8)]
    large = [layer(f"dense 64 {n} 8 1") for n in (64, 72, 80, 88)]
    succeeded = [True] * 9 + [False] * 5
    predictor = Hls4mlPredictor().fit_feasibility([*small, *large], DEVICE, succeeded)
    said = predictor.feasibility([layer("dense 24 24 8 1"), layer("dense 96 96 8 1")], DEVICE)
    np.testing.assert_allclose(said, [10 / 12, 1 / 6])  # Laplace: (9 + 1) / (10 + 2), (0 + 1) / (4 + 2)
    network = two_layers("dense 16 24 8 1", "dense 24 8 8 1")
    np.testing.assert_allclose(predictor.feasibility([network], DEVICE), [(10 / 12) ** 2])


def test_feasibility_without_failures_is_refused() -> None:
    with pytest.raises(NotSupportedError, match="call fit_feasibility first"):
        Hls4mlPredictor().feasibility(unseen(), DEVICE)
