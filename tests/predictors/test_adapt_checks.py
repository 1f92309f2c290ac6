"""Measurements that cannot be right are refused, and dubious ones named: in one sentence, never silently fitted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from worlds import world

from hardsight.device import Device
from hardsight.errors import DataError
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors.adapt import adapted
from hardsight.predictors.adapt_checks import check_labels
from hardsight.predictors.conformal import Conformal, family_folds
from hardsight.predictors.evaluation import out_of_family, scores_of
from hardsight.predictors.linear import RidgePredictor

SLOWER = 1.3
NEW = "board/onnxruntime/fp32-t1"


@pytest.fixture(scope="module")
def source() -> Conformal:
    """Knows two devices, one of them a third slower."""
    table = world(80) + world(80, device="slow/onnxruntime/fp32-t1", scale=SLOWER)
    frame = out_of_family(RidgePredictor, table, family_folds(table, 4))
    return Conformal(RidgePredictor().fit(table), scores_of(frame))


def changed(
    table: MeasurementTable, metric: Metric, change: Callable[[pd.Series], object]
) -> MeasurementTable:
    rows = table.rows.copy()
    of = rows["metric"] == str(metric)
    rows.loc[of, "value"] = np.asarray(change(rows.loc[of, "value"]), dtype=np.float64)
    return MeasurementTable(rows, table.graphs, table.families)


@pytest.mark.parametrize(
    ("metric", "factor", "said"),
    [
        (
            Metric.LATENCY,
            1e3,
            "0 times those of every known device: are they in milliseconds, a factor of 1,000?",
        ),
        (Metric.LATENCY, 1e6, "are they in microseconds, a factor of 1,000,000?"),
        (Metric.LATENCY, 1e-3, "about 1/1,000 of those of every known device: expected s;"),
        (Metric.LATENCY, 2e13, "000,000,000 times those of every known device: expected s;"),
        (Metric.PEAK_MEMORY, 1e-6, "are they in megabytes, a factor of 1,000,000?"),
    ],
)
def test_a_wrong_unit_is_named_and_may_be_insisted_on(
    source: Conformal, metric: Metric, factor: float, said: str
) -> None:
    wrong = changed(world(8, 3, device=NEW), metric, lambda value: value * factor)
    with pytest.raises(DataError) as caught:
        source.adapt(wrong)
    assert said in str(caught.value)
    assert "--trust-units" in str(caught.value)
    made = adapted(source, wrong, Device(name=NEW, kind="cpu"), trust_units=True)
    assert any(f"{metric} are at " in note and "taken as they are" in note for note in made.notes)
    assert made.fits[metric].fitted[metric].k == 8


def test_one_known_device_that_is_near_enough_decides(source: Conformal) -> None:
    table = world(8, 3, device=NEW, scale=60 * (1 + SLOWER) / 2)  # over 60 times the faster one
    assert adapted(source, table).fits


def test_contradictory_rows_are_refused(source: Conformal) -> None:
    table = world(6, device=NEW)
    doubled = table + changed(table, Metric.LATENCY, lambda value: value * 3)
    with pytest.raises(DataError, match="contradictory values of latency_s"):
        source.adapt(doubled)


def test_repeated_lines_are_said() -> None:
    table = world(8, device=NEW)
    once = table.select(digests=table.digests[:1])
    assert check_labels(table + once) == ["1 line repeats a network; its median is used"]
    assert check_labels(table + once + once) == ["2 lines repeat a network; their median is used"]


def test_one_time_for_all_networks_is_refused_and_one_count_is_named() -> None:
    table = world(8, device=NEW)
    with pytest.raises(DataError, match=r"all 8 values of latency_s are 0.002; different networks cannot"):
        check_labels(changed(table, Metric.LATENCY, lambda value: 0 * value + 2e-3))
    repeated = changed(
        table.select(digests=table.digests[:1]), Metric.LATENCY, lambda value: 0 * value + 2e-3
    )
    assert check_labels(repeated + repeated + repeated)  # of one network, the same value is no wonder
    arena = changed(table, Metric.PEAK_MEMORY, lambda value: 0 * value + 1e6)
    assert check_labels(arena) == [
        "all 8 values of peak_memory_bytes are 1e+06: what other networks need is a guess"
    ]


def test_zeros_are_not_fitted(source: Conformal) -> None:
    table = world(8, device=NEW)
    some = changed(table, Metric.PEAK_MEMORY, lambda value: np.r_[0, 0, value.to_numpy()[2:]])
    made = adapted(source, some)
    assert "2 of 8 values of peak_memory_bytes are 0 and not used" in made.notes
    assert made.fits[Metric.PEAK_MEMORY].fitted[Metric.PEAK_MEMORY].k == 6
    with pytest.raises(DataError, match="every value of peak_memory_bytes is 0"):
        source.adapt(changed(table, Metric.PEAK_MEMORY, lambda value: 0 * value))


def test_networks_that_are_all_alike_are_named() -> None:
    table = world(20, device=NEW)
    thin = table.select(digests=[d for d in table.digests if table.families[d] == "thin"])
    assert check_labels(thin)[0].startswith("all 5 networks are of one family (thin): the error on other")
    unknown = MeasurementTable(thin.rows, thin.graphs)
    assert check_labels(unknown)[0].startswith("all 5 networks are made of the same operators: the error")
    assert check_labels(table) == []


def test_values_that_fit_no_device_are_named(source: Conformal) -> None:
    """Half of them in another unit, or mixed up: no single one is an outlier."""
    table = world(10, device=NEW)
    mixed = changed(table, Metric.LATENCY, lambda value: value * np.resize([1.0, 20.0], len(value)))
    notes = adapted(source, mixed).notes
    assert any("latency_s fit no known device well" in note for note in notes)
    assert not any("no known device" in note for note in adapted(source, table).notes)
