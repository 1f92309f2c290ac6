"""Predictions of families held out: kept fold by fold, and the members of an ensemble beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import pandas as pd
import pytest
from worlds import world

from hardsight.errors import DataError
from hardsight.measurement import MeasurementTable
from hardsight.predictors import evaluation
from hardsight.predictors.conformal import family_folds
from hardsight.predictors.evaluation import out_of_family, over_seeds
from hardsight.predictors.graphnet import GraphNetConfig, GraphNetPredictor
from hardsight.predictors.linear import RidgePredictor


class Counted(RidgePredictor):
    """Counts how often it is fitted, and breaks when it is told to."""

    fits = 0
    breaks_at = -1

    def fit(self, table: MeasurementTable) -> Self:
        if Counted.fits == Counted.breaks_at:
            raise DataError("the power went")
        Counted.fits += 1
        return super().fit(table)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> MeasurementTable:
    monkeypatch.setattr(Counted, "fits", 0)
    monkeypatch.setattr(Counted, "breaks_at", -1)
    return world()


def test_a_run_that_was_cut_off_fits_only_what_is_left(
    table: MeasurementTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = family_folds(table, 4)
    whole = out_of_family(RidgePredictor, table, folds)
    monkeypatch.setattr(Counted, "breaks_at", 2)
    with pytest.raises(DataError, match="the power went"):
        out_of_family(Counted, table, folds, keep=tmp_path)
    assert Counted.fits == 2
    monkeypatch.setattr(Counted, "breaks_at", -1)
    told: list[int] = []
    resumed = out_of_family(Counted, table, folds, lambda *at: told.append(at[1]), keep=tmp_path)
    assert Counted.fits == len(folds) == 4
    assert told == [1, 2, 3, 4]
    pd.testing.assert_frame_equal(resumed, whole)
    assert not list(tmp_path.glob("*.part"))


def test_folds_of_other_labels_or_other_features_are_made_anew(
    table: MeasurementTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = family_folds(table, 4)
    out_of_family(Counted, table, folds, keep=tmp_path)
    rows = table.rows.assign(value=table.rows["value"].where(table.rows.index > 0, 1.0))
    out_of_family(Counted, MeasurementTable(rows, table.graphs, table.families), folds, keep=tmp_path)
    assert Counted.fits == 8
    monkeypatch.setattr(evaluation, "SCHEMA", "another")
    out_of_family(Counted, table, folds, keep=tmp_path)
    assert Counted.fits == 12
    out_of_family(Counted, table, [fold[::-1] for fold in folds[:2]], keep=tmp_path)
    assert Counted.fits == 12  # the same networks are held out


def test_members_of_an_ensemble_stand_beside_their_mean(table: MeasurementTable) -> None:
    def make() -> GraphNetPredictor:
        return GraphNetPredictor(GraphNetConfig(hidden=8, layers=1, members=2, epochs=2, least_steps=20))

    frame = out_of_family(make, table, family_folds(table, 2))
    members = frame[["seed 0", "seed 1"]]
    assert (members.min(axis=1) <= frame["value"] * (1 + 1e-9)).all()
    assert (members.max(axis=1) >= frame["value"] * (1 - 1e-9)).all()
    assert (members["seed 0"] != members["seed 1"]).any()


def test_the_range_over_seeds() -> None:
    frame = pd.DataFrame(
        {
            "device": ["a", "a", "b", "b"],
            "metric": "cycles",
            "label": [10.0, 20.0, 10.0, 0.0],
            "seed 0": [11.0, 22.0, 12.0, 5.0],  # off by 10 % on a, by 20 % on b; a label of zero has no share
            "seed 1": [12.0, 20.0, 14.0, 5.0],  # 10 % and 40 %
        }
    )
    (row,) = over_seeds(frame).to_dict(orient="records")
    assert row == {"metric": "cycles", "least": pytest.approx(0.15), "most": pytest.approx(0.25)}
    assert over_seeds(frame.drop(columns=["seed 0", "seed 1"])).empty


def test_one_family_cannot_be_held_out_of_itself() -> None:
    table = world(10)
    with pytest.raises(DataError, match="two families"):
        out_of_family(RidgePredictor, table, [["plain"]])
