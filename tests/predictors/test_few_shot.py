"""Few-shot methods on made-up tables, through the command that users have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from hardsight.cli._app import app
from hardsight.errors import DataError, InputError, UnknownNameError
from hardsight.predictors.few_shot import METHODS, Space, make_method
from hardsight.predictors.few_shot.gaussian import GaussianProcess, _as_logarithm, rounding_sd
from hardsight.predictors.few_shot.scoring import run
from hardsight.predictors.few_shot.tables import Tables

LAYERS, CHOICES, N = 6, 4, 400


def write(folder: Path, *, missing: float = 0.0, whole: bool = False) -> Path:
    """Costs that add up over layers: what a choice costs on a device is its work by the device's speed at its kind."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, CHOICES, (N, LAYERS))
    work = np.outer(np.linspace(1, 3, LAYERS), [0.2, 1, 2.5, 4])
    devices = ["fast", "slow", "odd", "other", "new", "newer"]
    speeds = rng.lognormal(0, 0.4, (len(devices), CHOICES))
    costs = np.stack(
        [sum(work[i, codes[:, i]] * s[codes[:, i]] for i in range(LAYERS)) + 2 for s in speeds], axis=1
    )
    costs = costs * rng.lognormal(0, 0.01, costs.shape)
    if whole:
        costs = np.round(costs)
    costs[rng.random(costs.shape) < missing] = np.nan
    frame = pd.DataFrame(codes, columns=[f"op_{i}" for i in range(LAYERS)])
    frame.insert(0, "name", [f"net-{i}" for i in range(N)])
    frame.to_csv(folder / "toy_archs.csv", index_label="index")
    np.savez(folder / "toy_latency.npz", devices=np.array(devices), latency=costs)
    split = {"source": [*devices[:4], "absent"], "target": devices[4:]}
    (folder / "splits.json").write_text(json.dumps({"ANY": {"protocol": "words", "toy": {"T1": split}}}))
    return folder


def ask(folder: Path, *more: str) -> list[dict[str, Any]]:
    words = [
        "experiments",
        "run",
        "few-shot",
        "--tables",
        str(folder),
        "--task",
        "T1",
        "--draws",
        "2",
        "--json",
    ]
    done = CliRunner().invoke(app, [*words, *more])
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_one_line_of_json_for_each_method(tmp_path: Path) -> None:
    rows = ask(write(tmp_path))
    assert [row["method"] for row in rows] == list(METHODS)
    scores = {row["method"]: row["mean"] for row in rows}
    assert scores["ours"] > 0.97
    assert scores["ours"] >= max(scores.values()) - 0.005
    first = rows[0]
    assert set(first["spearman"]) == {"new", "newer"}
    assert first["samples"] == 20
    assert first["mape_median"] < 0.05


@pytest.mark.parametrize("whole", [False, True])
def test_missing_cells_need_no_code(tmp_path: Path, whole: bool) -> None:
    (row,) = ask(write(tmp_path, missing=0.2, whole=whole), "--method", "ours")
    assert row["mean"] > (0.9 if whole else 0.95)


def test_the_same_seed_gives_the_same_answer(tmp_path: Path) -> None:
    write(tmp_path)
    assert ask(tmp_path, "--method", "ours", "--seed", "3") == ask(
        tmp_path, "--method", "ours", "--seed", "3"
    )


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("k", [1, 2, 5])
def test_very_few_measurements(tmp_path: Path, method: str, k: int) -> None:
    tables = Tables(write(tmp_path))
    scores = run(tables, tables.task("T1"), method, k, draws=1)
    assert all(np.isfinite(score.mape).all() for score in scores.values())


def test_what_the_posterior_says_of_its_error_is_true(tmp_path: Path) -> None:
    tables = Tables(write(tmp_path))
    task = tables.task("T1")
    space, truth = tables.space(task), tables.costs(task, "new")
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(5):
        chosen = rng.choice(len(space), 15, replace=False)
        found = GaussianProcess().posterior(space, chosen, truth[chosen])
        off = np.abs(np.log(truth) - found.mean) / np.hypot(found.sd, found.noise)
        inside.append(float(np.mean(off < 1.645)))
        assert (found.sd[chosen] < np.median(found.sd)).all()
    assert 0.75 < np.mean(inside) <= 1


def test_chosen_architectures_are_different_and_allowed() -> None:
    rng = np.random.default_rng(0)
    space = Space(
        rng.integers(0, 3, (50, 2)),
        ("op_0", "op_1"),
        (("a", "b", "c"),) * 2,
        rng.lognormal(size=(50, 2)),
    )
    allowed = np.arange(10, 40)
    for name in METHODS:
        chosen = make_method(name).choose(space, allowed, 8, np.random.default_rng(1))
        assert len(set(chosen.tolist())) == 8
        assert set(chosen.tolist()) <= set(allowed.tolist())


def test_values_of_one_kind_are_counted_together() -> None:
    space = Space(np.array([[0, 1], [1, 1]]), ("op_0", "op_1"), (("a", "b"), ("a", "b")), np.ones((2, 1)))
    assert space.counts.tolist() == [[1, 1], [0, 2]]


def test_rounding_is_noticed() -> None:
    assert (rounding_sd(np.array([1.5, 2, 3, 4, 5])) == 0).all()
    assert rounding_sd(np.array([10.0, 20, 30, 40, 50]))[0] == pytest.approx(1 / (10 * 12**0.5))


def test_wrong_names_and_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"splits\.json"):
        Tables(tmp_path)
    tables = Tables(write(tmp_path))
    with pytest.raises(UnknownNameError, match="T2"):
        tables.task("T2")
    with pytest.raises(UnknownNameError, match="hours"):
        make_method("hours")
    np.savez(tmp_path / "toy_latency.npz", devices=np.array(["new"]), latency=np.ones((3, 1)))
    with pytest.raises(DataError, match="shape"):
        Tables(tmp_path).task("T1")


def rewrite(folder: Path, change: Any) -> Tables:
    with np.load(folder / "toy_latency.npz") as file:
        devices, latency = list(file["devices"]), file["latency"].copy()
    devices, latency = change(devices, latency)
    np.savez(folder / "toy_latency.npz", devices=np.array(devices), latency=latency)
    return Tables(folder)


def test_rows_may_come_in_any_order_where_an_index_says_it(tmp_path: Path) -> None:
    tables = Tables(write(tmp_path))
    archs = pd.read_csv(tmp_path / "toy_archs.csv")
    archs.iloc[::-1].to_csv(tmp_path / "toy_archs.csv", index=False)
    task = tables.task("T1")
    np.testing.assert_array_equal(Tables(tmp_path).space(task).codes, tables.space(task).codes)
    archs.assign(index=7).to_csv(tmp_path / "toy_archs.csv", index=False)
    with pytest.raises(DataError, match="index"):
        Tables(tmp_path).task("T1")


def test_what_cannot_be_a_cost_was_not_measured(tmp_path: Path) -> None:
    def spoil(devices: list[str], costs: Any) -> Any:
        costs[3:, 0] = np.nan
        costs[5, 1:] = np.inf
        costs[6, 1:] = -1
        return devices, costs

    write(tmp_path)
    tables = rewrite(tmp_path, spoil)
    task = tables.task("T1")
    assert np.isnan(tables.costs(task, "new")[[5, 6]]).all()
    for method in ("ours", "sources"):
        assert run(tables, task, method, 10, draws=1)["new"].spearman[0] > 0.95

    def empty(devices: list[str], costs: Any) -> Any:
        costs[:, 0] = np.nan
        return devices, costs

    assert rewrite(tmp_path, empty).task("T1").sources == task.sources[1:]
    with pytest.raises(DataError, match="twice"):
        rewrite(tmp_path, lambda devices, costs: ([*devices[:-1], devices[0]], costs)).task("T1")
    (tmp_path / "toy_latency.npz").write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="cannot read"):
        Tables(tmp_path).task("T1")


def test_a_device_to_learn_is_not_known(tmp_path: Path) -> None:
    splits = json.loads((write(tmp_path) / "splits.json").read_text())
    splits["ANY"]["toy"]["T1"]["source"].append("new")
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(DataError, match="'new' is a source and a target"):
        Tables(tmp_path).task("T1")


def test_too_many_samples_say_how_many_would_do(tmp_path: Path) -> None:
    tables = Tables(write(tmp_path))
    with pytest.raises(InputError, match=f"at most {N - 3}"):
        run(tables, tables.task("T1"), "counts", N, draws=1)
    assert ask(tmp_path, "--method", "counts", "--draws", "1")[0]["sd"] is None


def test_predictions_below_the_cheapest_keep_their_order_and_stay_above_zero() -> None:
    mean = np.array([-1e9, -10.0, 0.0, 0.1, 1.0, 5.0])
    found = _as_logarithm(mean, np.ones(6), 0.1, 1.0, 1.0).mean
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()
    assert found[-1] == pytest.approx(np.log(5))
