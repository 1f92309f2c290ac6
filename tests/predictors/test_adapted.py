"""Adapting a known device's predictor to a new one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from worlds import DEVICE, conv, world

from hardsight import predictors
from hardsight.device import Device, device_folder, get_device
from hardsight.errors import DataError, StorageError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors.adapt import adapt_to
from hardsight.predictors.adapted import GROUPS, AdaptedPredictor, work_groups
from hardsight.predictors.conformal import Conformal, family_folds, quantile
from hardsight.predictors.evaluation import out_of_family, scores_of, summary, with_intervals
from hardsight.predictors.joined import Joined
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


def test_the_error_to_expect_is_about_what_it_is_on_other_networks(source: Conformal) -> None:
    said, found = [], []
    graphs, label = new_device(60, 99).labelled(NEW, Metric.LATENCY)
    for seed in range(8):
        adapted = AdaptedPredictor(source, NEW, DEVICE).fit(new_device(8, seed))
        said.append(adapted.expected_error(graphs, Metric.LATENCY))
        off = np.log(adapted.point(graphs, NEW, Metric.LATENCY) / label)
        found.append(np.sqrt(np.mean(off**2)))
    assert np.mean(found) / 1.5 < np.mean(said) < 2.5 * np.mean(found)


def test_more_measurements_would_lower_the_error_to_expect(source: Conformal) -> None:
    table = new_device(24)
    graphs = [table.graphs[d] for d in table.digests]
    adapted = AdaptedPredictor(source, NEW, DEVICE).fit(table.select(digests=table.digests[:8]))
    now, then, later = (adapted.expected_error(graphs, Metric.LATENCY, also=graphs[8:n]) for n in (8, 12, 24))
    own = adapted.expected_error(graphs, Metric.LATENCY, also=graphs * 100)  # the source's: that stays
    assert now > then > later > own > 0.5 * now


def test_any_predictor_adapts_to_the_device_of_a_table_and_stays_as_it_is(source: Conformal) -> None:
    before = source.targets
    graphs, label = new_device(40, seed=8, noise=0.0).labelled(NEW, Metric.LATENCY)
    for known in (source, Joined(dict.fromkeys(source.targets, source))):
        answer = known.adapt(new_device(12)).predict(graphs, NEW)["latency_s"]
        assert np.median(np.abs(answer.value[:, 0] / label - 1)) < 0.15
        assert np.isfinite(answer.upper).all()
    assert source.targets == before


def test_adapting_warns_and_wants_one_device(source: Conformal) -> None:
    with pytest.warns(UserWarning, match="4 measurements are too few for an interval"):
        answer = source.adapt(new_device(4)).predict(list(new_device(3).graphs.values()), NEW)
    assert np.isnan(answer.lower).all()
    with pytest.raises(DataError, match="of 2 devices; give those of one"):
        source.adapt(new_device(4) + world(4))
    with pytest.raises(DataError, match="of 0 devices"):
        source.adapt(new_device(4).select(digests=[]))


@pytest.mark.parametrize("k", [1, 2, 4, 5, 49, 50])
def test_any_number_of_networks_from_1_to_50(source: Conformal, k: int) -> None:
    adapted = AdaptedPredictor(source, NEW, DEVICE).fit(new_device(k))
    answer = adapted.predict(list(new_device(3).graphs.values()), NEW)["latency_s"]
    assert np.isfinite(answer.value).all()
    assert np.isfinite(answer.upper).all() == (k >= 5)
    assert np.isfinite(adapted.expected_error(list(new_device(3).graphs.values()), Metric.LATENCY))


def test_layers_sum_to_the_adapted_total(source: Conformal) -> None:
    adapted = AdaptedPredictor(source, NEW, DEVICE).fit(new_device(10))
    graph = next(iter(new_device(3).graphs.values()))
    total = adapted.point([graph], NEW, Metric.LATENCY)[0]
    np.testing.assert_allclose(adapted.layer_costs(graph, NEW).sum(), total, rtol=1e-6)


@pytest.fixture
def shipped(source: Conformal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home for adapted devices, and the world's predictor in place of the package's."""
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(predictors, "load_shipped_predictor", lambda: source)
    return tmp_path


def test_one_label_far_off_is_refused_by_name(shipped: Path) -> None:
    table = new_device(10)
    digest = table.digests[4]
    odd = (table.rows["digest"] == digest) & (table.rows["metric"] == "latency_s")
    wrong = table.rows.assign(value=table.rows["value"].where(~odd, table.rows["value"] * 1000))
    with pytest.raises(DataError, match=f"{digest}.* times what the other networks let expect"):
        adapt_to(MeasurementTable(wrong, table.graphs), Device(name=NEW, kind="cpu"), NEW)
    assert not (shipped / "home").exists()


def test_an_adapted_device_says_what_it_rests_on_and_replaces_a_damaged_one(shipped: Path) -> None:
    file = device_folder(NEW) / "device.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("kind: [")
    report = adapt_to(new_device(1), Device(name=DEVICE, kind="cpu", description="this machine"), NEW)
    assert get_device(NEW).description == "adapted from 1 measurement"
    assert "1 measurement is too few for an interval (5 or more give one)" in report.notes


@pytest.mark.parametrize("culprit", ["write_text", "replace"])
def test_a_full_disk_leaves_no_folder(shipped: Path, monkeypatch: pytest.MonkeyPatch, culprit: str) -> None:
    def full(self: Path, *args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, culprit, full)
    with pytest.raises(StorageError, match="No space left on device"):
        adapt_to(new_device(6), Device(name=NEW, kind="cpu"), NEW)
    with pytest.raises(StorageError, match="No space left on device"):
        save_predictor(RidgePredictor().fit(world(20)), shipped / "home" / "a" / "predictor")
    assert not (shipped / "home").exists()


def test_arrays_that_cannot_be_written_or_read_are_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    save_predictor(RidgePredictor().fit(world(20)), tmp_path / "p")
    monkeypatch.setattr(RidgePredictor, "load_state", full)
    with pytest.raises(StorageError, match="is damaged"):
        load_saved(tmp_path / "p")
    monkeypatch.setattr(RidgePredictor, "save_state", full)
    with pytest.raises(StorageError, match="No space left on device"):
        save_predictor(RidgePredictor().fit(world(20)), tmp_path / "a" / "q")
    assert not (tmp_path / "a").exists()


def test_saved_and_loaded_it_answers_the_same(source: Conformal, tmp_path: Path) -> None:
    adapted = AdaptedPredictor(source, NEW, DEVICE).fit(new_device(10))
    save_predictor(adapted, tmp_path / "p")
    graphs = list(new_device(5, seed=11).graphs.values())
    before, after = adapted.predict(graphs, NEW), load_saved(tmp_path / "p").predict(graphs, NEW)
    np.testing.assert_allclose(before.value, after.value, rtol=1e-9)
    np.testing.assert_allclose(before.upper, after.upper, rtol=1e-4)


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


def test_an_operator_with_less_work_than_its_call_takes_is_overhead() -> None:
    tiny, large = (conv("c", -1, 4, 4, side) for side in (4, 64))
    for op, group in ((tiny, "overhead"), (large, "conv")):
        graph = OperatorGraph("g", (op,), (), (), ((0, 0),))
        assert [GROUPS[i] for i in work_groups(graph)] == [group]


def test_cycles_are_adapted_by_kind_of_work() -> None:
    """One device multiplies four times slower, and moves memory as fast: one factor for all would not do."""

    def in_cycles(table: MeasurementTable) -> MeasurementTable:
        rows = table.rows[table.rows["metric"] == str(Metric.LATENCY)]
        return MeasurementTable(
            rows.assign(metric=str(Metric.CYCLES), value=(rows["value"] * 1e9).round()),
            table.graphs,
            table.families,
        )

    known = in_cycles(world(80))
    slow = in_cycles(world(40, seed=5, device=NEW, macs_per_s=1e10))
    adapted = AdaptedPredictor(RidgePredictor().fit(known), NEW, DEVICE).fit(
        slow.select(digests=slow.digests[:14])
    )
    graphs, label = slow.select(digests=slow.digests[14:]).labelled(NEW, Metric.CYCLES)
    value = adapted.point(graphs, NEW, Metric.CYCLES)
    assert np.median(np.abs(value / label - 1)) < 0.25
    layers = adapted.layer_costs(graphs[0], NEW, Metric.CYCLES)
    assert layers.sum() == pytest.approx(value[0], rel=0.01)
    theta = adapted.fitted[Metric.CYCLES].theta[1:]
    assert theta[GROUPS.index("conv")] > theta[GROUPS.index("memory-bound")]
