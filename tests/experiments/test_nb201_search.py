"""Twenty measurements, counted: what is delivered was measured and keeps its limit. On made-up tables."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from hardsight.errors import InputError, UnknownNameError
from hardsight.experiments.nb201_search import __main__ as experiment
from hardsight.experiments.nb201_search import tables
from hardsight.experiments.nb201_search.delivery import deliver
from hardsight.experiments.nb201_search.device import TableDevice
from hardsight.experiments.nb201_search.rows import CANDIDATES, EVERYTHING, Plan, World, answer
from hardsight.experiments.nb201_search.searching import search
from hardsight.predictors.few_shot import Space
from hardsight.predictors.few_shot.tables import Tables

DATA = Path(os.environ.get("HARDSIGHT_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()
CODES = np.array(list(itertools.product(range(3), repeat=5)))
COST = 1 + CODES @ np.array([1.0, 2.0, 1.5, 0.5, 3.0])
ACCURACY = 40 + CODES @ np.array([3.0, 5.0, 1.0, 2.0, 4.0])


def a_space() -> Space:
    rng = np.random.default_rng(0)
    sources = np.stack(
        [COST * scale * np.exp(rng.normal(0, 0.03, len(COST))) for scale in (0.5, 2.0)], axis=1
    )
    return Space(CODES, tuple(f"op_{i}" for i in range(5)), (("a", "b", "c"),) * 5, sources)


def truth() -> np.ndarray:  # type: ignore[type-arg]
    return COST * np.exp(np.random.default_rng(1).normal(0, 0.05, len(COST)))


def test_measurements_are_counted_and_not_exceeded() -> None:
    device = TableDevice(a_space(), truth(), 6)
    device.learn(5, np.random.default_rng(0))
    assert device.left == 1
    first = int(device.indices[0])
    assert device.measure(first) == device.measure(first)  # once measured, free
    assert device.left == 1
    fresh = next(i for i in range(len(COST)) if i not in device.measured)
    device.measure(fresh)
    with pytest.raises(InputError, match="all 6 measurements are spent"):
        device.measure(next(i for i in range(len(COST)) if i not in device.measured))


def test_a_gap_in_the_table_is_no_measurement() -> None:
    costs = truth()
    costs[7] = np.nan
    device = TableDevice(a_space(), costs, 6)
    device.learn(5, np.random.default_rng(0))
    assert 7 not in device.measured
    with pytest.raises(InputError, match="no cost of architecture 7"):
        device.measure(7)


@pytest.mark.parametrize("draw", range(3))
def test_what_is_delivered_was_measured_keeps_its_limit_and_is_nearly_best(draw: int) -> None:
    costs, limits = truth(), np.array([5.0, 8.0, 11.0])
    device = TableDevice(a_space(), costs, 20)
    device.learn(5, np.random.default_rng(draw))
    delivered = deliver(device, np.tile(ACCURACY, (3, 1)), limits)
    assert len(device.measured) <= 20
    for i, limit in zip(delivered, limits, strict=True):
        assert i is not None
        assert i in device.measured
        assert costs[i] <= limit
        assert ACCURACY[costs <= limit].max() - ACCURACY[i] <= 2.0


def test_only_evaluated_architectures_are_delivered_and_no_limit_is_bent() -> None:
    device = TableDevice(a_space(), truth(), 20)
    device.learn(5, np.random.default_rng(0))
    known = np.full((2, len(COST)), np.nan)
    known[0, [100, 200]] = ACCURACY[[100, 200]]
    known[1, :] = ACCURACY
    delivered = deliver(device, known, np.array([100.0, 0.1]))
    assert delivered[0] == max((100, 200), key=lambda i: ACCURACY[i])
    assert delivered[1] is None


@pytest.mark.parametrize("sampler", ["random", "nsga2", "screening"])
def test_a_search_evaluates_only_what_is_predicted_to_keep_the_limit(sampler: str) -> None:
    found = search(a_space(), 1 - ACCURACY / 100, COST / 8 - 1, sampler, 12, 0)
    assert len(set(found)) == 12
    assert (COST[found] <= 8).all()
    again = search(a_space(), 1 - ACCURACY / 100, COST / 8 - 1, sampler, 12, 0)
    assert list(found) == list(again)


def test_a_search_that_finds_nothing_ends() -> None:
    assert not len(search(a_space(), 1 - ACCURACY / 100, np.ones(len(COST)), "random", 4, 0))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A table with two known devices and the five of HELP's Table 4."""
    rng = np.random.default_rng(2)
    devices = ["known_a", "known_b", "titan_rtx_256", "gold_6226", "pixel2", "eyeriss", "fpga"]
    scales = np.array([1.0, 1.0, 2.0, 1.0, 2.0, 0.7, 0.4])
    costs = COST[:, None] * scales * np.exp(rng.normal(0, 0.03, (len(COST), len(devices))))
    np.savez(tmp_path / "nb201_latency.npz", devices=np.array(devices), latency=costs)
    lines = ["index,op_0,op_1,op_2,op_3,op_4"]
    lines += [f"{i},{','.join('abc'[c] for c in row)}" for i, row in enumerate(CODES)]
    (tmp_path / "nb201_archs.csv").write_text("\n".join(lines))
    split = {"HELP": {"nb201": {"meta_train": devices[:2], "meta_valid": [], "meta_test": devices[2:]}}}
    (tmp_path / "splits.json").write_text(json.dumps(split))
    return World(Tables(tmp_path), ACCURACY, np.arange(0, len(COST), 4))


@pytest.mark.parametrize("sampler", [EVERYTHING, CANDIDATES, "random"])
def test_an_answer_spends_no_more_than_its_plan(world: World, sampler: str) -> None:
    plan = Plan(evaluations=20)
    rows = answer(world, world.tables.task("HELP/nb201"), "pixel2", [10.0, 20.0], sampler, 0, plan)
    assert [row["limit_ms"] for row in rows] == [10.0, 20.0]
    for row in rows:
        assert row["measurements"] <= 20
        assert row["evaluations"] == {EVERYTHING: len(COST), CANDIDATES: 61}.get(sampler, 20)
        assert row["latency_ms"] <= row["limit_ms"]
        assert row["accuracy"] <= row["best"]


def test_the_readme_is_filled_and_nothing_is_made_again(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "load", lambda: world)
    monkeypatch.setattr(experiment, "_track", lambda *_: None)
    monkeypatch.setattr(experiment, "Plan", lambda: Plan(budget=9))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table: summary -->\n<!-- end -->\n<!-- table: rows -->\n<!-- end -->\n")
    experiment.main([EVERYTHING], 1, tmp_path / "runs", readme)
    text = readme.read_text()
    assert "15 of 15" in text  # every limit kept
    assert text.count("kept 1 of 1") == 15
    assert (tmp_path / "gaps.png").read_bytes().startswith(b"\x89PNG")
    kept = (tmp_path / "runs" / f"{EVERYTHING}.jsonl").read_text()
    monkeypatch.setattr(experiment, "answer", lambda *_: pytest.fail("made again"))
    experiment.main([EVERYTHING], 1, tmp_path / "runs", readme)
    assert (tmp_path / "runs" / f"{EVERYTHING}.jsonl").read_text() == kept
    with pytest.raises(UnknownNameError, match="screening"):
        experiment.main(["screning"], 1, tmp_path / "runs", readme)
    with pytest.raises(InputError, match="0 draws"):
        experiment.main([], 0, tmp_path / "runs", readme)


def test_headline_numbers_by_hand() -> None:
    places = tables.places()
    optima = {place: (75.0, place[1]) for place in places}
    rows = [
        {
            "device": device,
            "draw": 0,
            "sampler": "toy",
            "limit_ms": limit,
            "latency_ms": limit if i else limit + 1,  # the first is broken
            "accuracy": found.accuracy + (0.06 if i % 2 else -0.06),
            "best": 75.0,
            "evaluations": 10,
            "measurements": 20,
        }
        for i, ((device, limit), found) in enumerate(places.items())
    ]
    numbers = tables.summaries(rows, optima)["toy"]
    assert (numbers["kept"], numbers["answers"], numbers["rows_help_kept"]) == (14, 15, 10)
    fair = [i for i, (place, found) in enumerate(places.items()) if found.latency_ms <= place[1]]
    assert numbers["rows_not_below_help"] == sum(i % 2 for i in fair)
    mean = np.mean([75 - row["accuracy"] for row in rows])
    assert numbers["gap"] == pytest.approx(mean)


@pytest.mark.slow
def test_the_worked_job_spends_twenty_look_ups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow where the digests of all cells are not kept yet."""
    from hardsight.experiments.nb201_search import worked

    if not (DATA / "help-latency" / "nb201_latency.npz").exists():
        pytest.skip("the public tables are not here")
    monkeypatch.setenv("HARDSIGHT_DATA", str(DATA))
    path = tmp_path / "job.yaml"
    given = (Path(worked.__file__).parent / "job.yaml").read_text()
    path.write_text(given.replace("trials: 60", "trials: 8").replace("screening", "random"))
    report = worked.run_job(path, tmp_path / "study")
    assert report.rows
    assert len(report.rows) <= 6
    assert report.measured_on == "pixel2/help/fp32"
    for row in report.rows:  # the table's whole milliseconds
        assert row.measured["latency_s"][0] * 1e3 == pytest.approx(round(row.measured["latency_s"][0] * 1e3))
