"""Adapting a known device's predictor to a new one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from worlds import DEVICE, world

from hardsight.errors import DataError
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors.adapt import _check, choose_references
from hardsight.predictors.adapted import AdaptedPredictor
from hardsight.predictors.conformal import Conformal, family_folds, quantile
from hardsight.predictors.evaluation import out_of_family, scores_of, summary, with_intervals
from hardsight.predictors.linear import RidgePredictor
from hardsight.predictors.persist import load_saved, save_predictor

NEW = "board/onnxruntime/fp32-t1"


@pytest.fixture(scope="module")
def source() -> Conformal:
    table = world(80)
    frame = out_of_family(RidgePredictor, table, family_folds(table, 4))
    return Conformal(RidgePredictor().fit(table), scores_of(frame))


def new_device(n: int, seed: int = 3, noise: float = 0.02) -> MeasurementTable:
    """2.5 x slower in arithmetic, 5 x slower in memory."""
    return world(n, seed, noise, NEW, macs_per_s=1.6e10, bytes_per_s=1.6e9)


@pytest.mark.parametrize(("k", "worst"), [(1, 0.6), (8, 0.2), (16, 0.12)])
def test_more_measurements_bring_it_closer(source: Conformal, k: int, worst: float) -> None:
    adapted = AdaptedPredictor(source, NEW, DEVICE).fit(new_device(k))
    graphs, label = new_device(60, seed=8, noise=0.0).labelled(NEW, Metric.LATENCY)
    error = np.abs(adapted.point(graphs, NEW, Metric.LATENCY) / label - 1)
    assert np.median(error) < worst
    unadapted = np.abs(source.point(graphs, DEVICE, Metric.LATENCY) / label - 1)
    assert np.median(error) < np.median(unadapted)


def test_the_interval_covers_the_new_device(source: Conformal) -> None:
    inside = []
    for seed in range(8):
        adapted = AdaptedPredictor(source, NEW, DEVICE).fit(new_device(12, seed))
        graphs, label = new_device(40, 100 + seed).labelled(NEW, Metric.LATENCY)
        answer = adapted.predict(graphs, NEW, 0.9)["latency_s"]
        inside.append(((answer.lower[:, 0] <= label) & (label <= answer.upper[:, 0])).mean())
    assert np.mean(inside) > 0.85


def test_four_measurements_give_a_value_but_no_interval(source: Conformal) -> None:
    answer = (
        AdaptedPredictor(source, NEW, DEVICE)
        .fit(new_device(4))
        .predict(list(new_device(3).graphs.values()), NEW)
    )
    assert np.isfinite(answer.value).all()
    assert np.isnan(answer.lower).all()


def test_layers_sum_to_the_adapted_total(source: Conformal) -> None:
    adapted = AdaptedPredictor(source, NEW, DEVICE).fit(new_device(10))
    graph = next(iter(new_device(3).graphs.values()))
    total = adapted.point([graph], NEW, Metric.LATENCY)[0]
    np.testing.assert_allclose(adapted.layer_costs(graph, NEW).sum(), total, rtol=1e-6)


def test_milliseconds_for_seconds_are_named(source: Conformal) -> None:
    table = new_device(8)
    wrong = table.rows.assign(
        value=table.rows["value"] * np.where(table.rows["metric"] == "latency_s", 1000, 1)
    )
    with pytest.raises(DataError, match="check the unit"):
        AdaptedPredictor(source, NEW, DEVICE).fit(MeasurementTable(wrong, table.graphs))


def test_contradictory_rows_are_refused() -> None:
    table = new_device(3)
    doubled = table + MeasurementTable(table.rows.assign(value=table.rows["value"] * 3), table.graphs)
    with pytest.raises(DataError, match="contradictory"):
        _check(doubled)


def test_saved_and_loaded_it_answers_the_same(source: Conformal, tmp_path: Path) -> None:
    adapted = AdaptedPredictor(source, NEW, DEVICE).fit(new_device(10))
    save_predictor(adapted, tmp_path / "p")
    graphs = list(new_device(5, seed=11).graphs.values())
    before, after = adapted.predict(graphs, NEW), load_saved(tmp_path / "p").predict(graphs, NEW)
    np.testing.assert_allclose(before.value, after.value, rtol=1e-9)
    np.testing.assert_allclose(before.upper, after.upper, rtol=1e-4)


def test_references_are_distinct_cheap_and_repeatable(source: Conformal) -> None:
    table = world(80)
    chosen = choose_references(source, DEVICE, table, 10)
    assert chosen == choose_references(source, DEVICE, table, 10)
    assert len(set(chosen)) == 10
    rows = table.select(device=DEVICE, metric=Metric.LATENCY, digests=chosen).rows
    assert (rows["value"] < 0.02).all()


def test_held_out_families_are_never_trained_on() -> None:
    table = world(40)
    seen: list[set[str]] = []

    class Spy(RidgePredictor):
        def fit(self, table: MeasurementTable) -> Spy:
            seen.append({table.families[d] for d in table.digests})
            super().fit(table)
            return self

    folds = family_folds(table, 2)
    frame = out_of_family(Spy, table, folds)
    for i, fold in enumerate(folds):
        assert not seen[i] & set(fold)
        assert set(frame[frame["fold"] == i]["family"]) == set(fold)
    assert len(frame) == len(table)  # every label predicted exactly once


def test_intervals_of_known_noise_cover_as_promised() -> None:
    table = world(200, noise=0.1)
    frame = with_intervals(out_of_family(RidgePredictor, table, family_folds(table, 4)), 0.9)
    rows = summary(frame).set_index("metric").loc["latency_s"]
    assert 0.8 < rows["coverage"] <= 1.0
    assert rows["mape"] < 0.25


def test_quantile_is_the_conformal_rank() -> None:
    scores = np.arange(1.0, 10.0)  # n = 9: ceil(10 * 0.9) = 9 → the largest
    assert quantile(scores, 0.9) == 9.0
    assert quantile(scores, 0.5) == 5.0
    assert np.isnan(quantile(scores, 0.95))
