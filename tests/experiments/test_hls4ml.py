"""The experiment on hls4ml layers: its scores by hand, its folds, and what it says without data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardsight.cli._boundary import guard
from hardsight.datasets.sources import get_source
from hardsight.datasets.sources._base import DATA
from hardsight.errors import DataError
from hardsight.experiments.hls4ml import __main__ as experiment
from hardsight.experiments.hls4ml import evaluate, feasibility, tables
from hardsight.experiments.hls4ml.scores import score, scores
from hardsight.predictors.evaluation import with_intervals

HEADER = (
    "d_in,d_out,prec,rf,strategy,hls_synth_success,WorstLatency_hls,IntervalMax_hls,LUT_hls,FF_hls,DSP_hls,"
    "BRAM_18K_hls,URAM_hls"
)
README = Path(__file__).parents[2] / "experiments" / "hls4ml" / "README.md"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """wa-hls4ml in the published layout with a law of its own: six shapes, three of them too large to unroll."""
    monkeypatch.setenv(DATA, str(tmp_path))
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))
    lines = [HEADER]
    for n_in, n_out in ((16, 16), (16, 32), (32, 16), (64, 64), (64, 96), (96, 64)):
        for bits in (4, 8):
            for reuse in (1, 2 * n_in):
                small = n_in * n_out < 4096
                products = n_in * n_out // reuse
                counts = [
                    reuse + 2,
                    reuse,
                    "",
                    "",
                    products * (bits > 4),
                    "",
                    0,
                ]  # few metrics: fewer trees to grow
                done = small or reuse > 1
                row = [
                    n_in,
                    n_out,
                    bits,
                    reuse,
                    "resource",
                    str(done).upper(),
                    *(counts if done else [""] * 7),
                ]
                lines.append(",".join(map(str, row)))
    folder = tmp_path / "wa-hls4ml-dense"
    folder.mkdir()
    (folder / "dense_shapes_train.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(evaluate, "SOURCES", ("wa-hls4ml",))
    monkeypatch.setattr(evaluate, "SEEDS", (0,))
    monkeypatch.setattr(evaluate, "FOLDS", 3)
    return folder


# --- scores ------------------------------------------------------------------------------------------------------


def frame(label: list[float], value: list[float], **more: object) -> pd.DataFrame:
    columns = {"label": label, "value": value, "lower": np.nan, "upper": np.nan, "seed": 0}
    return pd.DataFrame({**columns, **more})


def test_scores_by_hand() -> None:
    said = score(frame([0.0, 10, 20], [0.0, 10.4, 17], lower=[0.0, 9, 16], upper=[0.0, 11, 18]))
    assert said["r2"] == pytest.approx(1 - (0.4**2 + 3**2) / 200)  # mean 10: 100 + 0 + 100
    assert said["smape"] == pytest.approx((0 + 0.8 / 20.4 + 6 / 37) / 3)  # nothing for nothing is no error
    assert said["exact"] == pytest.approx(2 / 3)
    assert said["within_2"] == pytest.approx(2 / 3)
    assert said["coverage"] == pytest.approx(2 / 3)  # 20 is above 18
    assert said["width"] == pytest.approx(2 / 17)  # of 0, 2 / 10.4 and 2 / 17


def test_equal_labels_have_no_r_squared_and_missing_intervals_no_coverage() -> None:
    said = score(frame([3.0, 3], [3.0, 4]))
    assert np.isnan(said["r2"])
    assert np.isnan(said["coverage"])
    assert said["exact"] == 0.5


def test_seeds_are_scored_one_by_one() -> None:
    two = pd.concat([frame([0.0, 2], [0.0, 2], kind="a"), frame([0.0, 2], [1.0, 1], kind="a").assign(seed=1)])
    (row,) = scores(two, ("kind",)).to_dict(orient="records")
    assert (row["n"], row["r2"], row["r2_sd"]) == (2, 0.5, 0.5)  # 1 and 0


def test_intervals_come_from_the_other_folds_of_the_same_kind() -> None:
    errors = np.arange(1, 21) / 10  # of log(1 + count), alternating between two folds
    rows = pd.DataFrame(
        {
            "device": "d", "metric": "lut", "stratum": "dense/folded", "fold": [0, 1] * 10, "doubt": 1.0,
            "value": 9.0, "label": 10 * np.exp(errors) - 1,
        }
    )  # fmt: skip
    other = rows.assign(stratum="dense/unrolled", label=9.0)
    said = with_intervals(pd.concat([rows, other], ignore_index=True), 0.9, ("device", "metric", "stratum"))
    first = said[(said["stratum"] == "dense/folded") & (said["fold"] == 0)]
    np.testing.assert_allclose(first["upper"], 10 * np.exp(2.0) - 1)  # the 10th of fold 1's ten errors
    np.testing.assert_allclose(said.loc[said["stratum"] == "dense/unrolled", "upper"], 9.0)


# --- protocol ----------------------------------------------------------------------------------------------------


def test_a_shape_is_predicted_by_models_that_never_saw_it(data: Path) -> None:
    (table,) = evaluate.device_tables(*evaluate.find("wa-hls4ml"))
    assert "uram" not in table.metrics
    folds = evaluate.folds_of(table, 0)
    families = [family for fold in folds for family in fold]
    assert sorted(families) == sorted(set(table.families.values()))  # each in one fold
    assert folds != evaluate.folds_of(table, 1)
    unrolled = {"wa-hls4ml 16x16", "wa-hls4ml 16x32", "wa-hls4ml 32x16"}
    assert all(not unrolled <= set(fold) for fold in folds)  # no kind of code is left out as a whole


def test_every_label_is_predicted_once_by_every_predictor(data: Path) -> None:
    said = evaluate.predict_all()
    per_label = said.groupby(["predictor", "metric"])["digest"].agg(["size", "nunique"])
    assert (per_label["size"] == per_label["nunique"]).all()
    sizes = per_label["size"].unstack()
    assert set(sizes.index) == {"hls4ml", "rule terms", "rules", "forest", "ridge"}
    assert set(sizes.loc["hls4ml"]) == {18}  # 6 shapes x 2 widths folded, 3 x 2 unrolled
    ours = said[said["predictor"] == "hls4ml"]
    folded = ours[ours["stratum"] == "dense/folded"]
    cycles = folded[folded["metric"] == "cycles"]
    assert (cycles["value"] == cycles["label"]).all()
    assert said.loc[said["predictor"] != "hls4ml", "lower"].isna().all()


def test_every_synthesis_gets_a_chance(data: Path) -> None:
    said = feasibility.predict_success()
    rule = said[said["predictor"] == "rule"]
    assert len(rule) == 24 * len(feasibility.SEEDS)
    assert (rule["chance"] == rule["succeeded"]).all()
    assert said["chance"].between(0, 1).all()
    shown = feasibility.success_scores(said).set_index("predictor")
    assert shown.loc["rule", "accuracy"] == 1
    assert shown.loc["hls4ml", "auc"] == 1


def test_lengths_of_a_layer_are_one_family() -> None:
    table = pd.DataFrame({"digest": ["a", "b", "c"]})
    families = {"a": "ntorc conv1d 16 32 64", "b": "ntorc conv1d 16 32 128", "c": "ntorc dense 16 32"}
    columns = ("device", "metric", "value", "spread", "repeats", "time", "versions", "provenance")
    whole = evaluate.MeasurementTable(table.assign(**dict.fromkeys(columns, "")), {}, families)
    assert len(set(evaluate.by_size(whole).families.values())) == 2


# --- the command -------------------------------------------------------------------------------------------------


def test_without_data_one_sentence_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DATA, str(tmp_path))
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))
    code = guard(lambda: experiment.main(tmp_path / "runs", tmp_path / "README.md"))
    assert code == DataError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert "the public table 'wa-hls4ml' is not in" in line
    assert "hardsight dataset fetch wa-hls4ml" in line
    assert not (tmp_path / "runs").exists()


def test_the_readme_has_a_place_for_every_table(monkeypatch: pytest.MonkeyPatch) -> None:
    makers = [name for name in vars(tables) if name.endswith("_table") and not name.startswith("_")]
    places = [line.split()[2] for line in README.read_text().splitlines() if line.startswith("<!-- table: ")]
    assert sorted(f"{place}_table" for place in places) == sorted(makers)


@pytest.mark.skipif(
    DATA not in os.environ and not evaluate.DEFAULT_DATA.is_dir(), reason="no public tables here"
)
def test_the_data_are_found_without_setting_anything() -> None:
    for name in ("wa-hls4ml", "ntorc"):
        source, folder = evaluate.find(name)
        assert source.name == get_source(name).name
        assert all((folder / file).is_file() for file in source.plain)
