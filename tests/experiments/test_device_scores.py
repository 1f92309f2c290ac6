"""The experiment on server scores: its scores by hand, its splits, and what the published sample can teach."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardsight.cli._boundary import guard
from hardsight.datasets.sources._base import DATA
from hardsight.errors import DataError
from hardsight.experiments.device_scores import __main__ as experiment
from hardsight.experiments.device_scores import evaluate, tables

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get(DATA, ROOT / "../shared/data")).resolve()
needs_data = pytest.mark.skipif(
    not (FOLDER / "perfcastdb-sample").is_dir(), reason=f"PerfCastDB's sample is not in {FOLDER}"
)


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.setenv(DATA, str(FOLDER))
    return evaluate.load()


def said(label: list[float], value: list[float], **more: object) -> pd.DataFrame:
    return pd.DataFrame({"label": label, "value": value, "seed": 0, **more})


# --- scores ------------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    found = tables.score(said([100.0, 200, 50], [102.0, 180, 54]))
    assert found["mae"] == pytest.approx((2 + 20 + 4) / 3)
    assert found["mape"] == pytest.approx((0.02 + 0.1 + 0.08) / 3)
    assert found["log_mae"] == pytest.approx((np.log(1.02) - np.log(0.9) + np.log(1.08)) / 3)
    assert [found[f"within_{share}"] for share in (3, 5, 10)] == pytest.approx([1 / 3, 1 / 3, 1])


def test_seeds_are_scored_one_by_one() -> None:
    two = pd.concat([said([100.0], [110.0], model="a"), said([100.0], [130.0], model="a").assign(seed=1)])
    (row,) = tables.scores(two, ("model",)).to_dict(orient="records")
    assert (row["n"], row["mape"], row["mape_sd"]) == pytest.approx((1, 0.2, 0.1))


def test_a_machine_is_won_by_more_than_the_noise_of_repeats() -> None:
    known = {"protocol": "machine", "machine": ["p", "q", "r"]}
    trivial = said([100.0] * 3, [120.0] * 3, model=evaluate.TRIVIAL, **known)
    ours = said([100.0] * 3, [110.0, 119.9, 130.0], model="ours", **known)
    assert tables.machines_won(pd.concat([trivial, ours]))["machine", "ours"] == 1


# --- protocol ----------------------------------------------------------------------------------------------------


def test_the_start_is_the_training_median_of_the_same_test() -> None:
    train = pd.DataFrame({"test": ["a", "a", "a", "b"], "log": [1.0, 2.0, 6.0, 9.0]})
    np.testing.assert_array_equal(evaluate.centre(train, pd.DataFrame({"test": ["b", "a"]})), [9.0, 2.0])


def test_a_test_that_nobody_else_ran_is_not_answered() -> None:
    frame = pd.DataFrame({"machine": ["p", "p", "q"], "test": ["a", "b", "a"]})
    held = [part["test"].tolist() for _, part in evaluate.folds(frame, "machine")]
    assert held == [["a"], ["a"]]


def test_caches_summed_over_cores_are_taken_apart() -> None:
    columns = (*evaluate.CACHES, "SVR.CPU.Socket(s)", "SVR.CPU.Core(s) per Socket")
    rows = [
        (48.0, 32, 2048, 107520, 2, 56),
        (4.5, 3, 192, 210, 2, 48),
    ]  # KiB each; MiB of 96 cores, two sockets
    found = evaluate.one_unit(pd.DataFrame(rows, columns=list(columns)))
    assert found[list(evaluate.CACHES)].to_numpy().tolist() == [[48, 32, 2048, 107520]] * 2


@needs_data
def test_a_machine_is_one_configuration_that_ran_one_workload(sample: pd.DataFrame) -> None:
    hardware = [name for group, names in evaluate.GROUPS.items() if group != "workload" for name in names]
    assert len(sample) == 256  # 24 of the published 280 are there twice
    assert sample["machine"].nunique() == len(sample[hardware].drop_duplicates()) == 12
    assert (sample.groupby("machine")["workload"].nunique() == 1).all()


@needs_data
@pytest.mark.parametrize("protocol", evaluate.PROTOCOLS)
def test_no_machine_is_on_both_sides(sample: pd.DataFrame, protocol: str) -> None:
    parts = list(evaluate.folds(sample, protocol))
    assert len(parts) == {"machine": 12, "processor": 7, "published": 1}[protocol]
    for train, held in parts:
        assert not set(train["machine"]) & set(held["machine"])
        assert (train.groupby("test")["machine"].nunique()[list(set(held["test"]))] == 1).all()


@needs_data
def test_the_published_training_part_shows_no_difference_between_machines(sample: pd.DataFrame) -> None:
    ((train, _),) = evaluate.folds(sample, "published")
    target = train["log"] - evaluate.centre(train, train)
    assert (train.groupby("test")["machine"].nunique() == 1).all()
    assert target.std() < 0.005  # repeats, nothing else


@needs_data
def test_every_model_answers(sample: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "SEEDS", (0,))
    found = evaluate.predict(sample, "published")
    assert (found.groupby("model").size() == 132).all()
    assert set(found["model"]) == set(evaluate.MODELS)
    assert (found["value"] > 0).all()
    median = found[found["model"] == evaluate.TRIVIAL]["value"].to_numpy()
    ours = found[found["model"] == "attention"]["value"].to_numpy()
    np.testing.assert_allclose(ours, median, rtol=0.05)  # nothing to be learned: near to what it starts from


# --- the command -------------------------------------------------------------------------------------------------


def test_without_data_one_sentence_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DATA, str(tmp_path))
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))
    code = guard(lambda: experiment.main(tmp_path / "runs", tmp_path / "README.md"))
    assert code == DataError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert "the public table 'perfcastdb' is not in" in line
    assert not (tmp_path / "runs").exists()


def test_the_readme_has_a_place_for_every_table() -> None:
    makers = [name for name in vars(tables) if name.endswith("_table")]
    text = (ROOT / "experiments/device_scores/README.md").read_text()
    places = [line.split()[2] for line in text.splitlines() if line.startswith("<!-- table: ")]
    assert sorted(f"{place}_table" for place in places) == sorted(makers)
