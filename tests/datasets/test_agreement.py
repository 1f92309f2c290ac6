"""How far two measurements agree, worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hardsight.cli import main
from hardsight.datasets.agreement import compare_labels
from hardsight.datasets.store import load_shipped
from hardsight.errors import DataError
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric

DEVICE = "board/onnxruntime/fp32-t1"


def table(
    values: dict[str, float], spread: float = 0.03, device: str = DEVICE, metric: Metric = Metric.LATENCY
) -> MeasurementTable:
    return MeasurementTable.from_measurements(
        [Measurement(digest, device, metric, value, spread, 20) for digest, value in values.items()], {}
    )


def test_by_hand() -> None:
    a = table({"a": 1.0, "b": 2.0, "c": 4.0, "only here": 9.0}, spread=0.03)
    b = table({"a": 1.0, "b": 2.1, "c": 4.4, "only there": 9.0}, spread=0.04)
    (found,) = compare_labels(a, b)
    # |2.1 - 2| / 2.05 = 0.0488; |4.4 - 4| / 4.2 = 0.0952; hypot(0.03, 0.04) = 0.05
    assert (found.device, found.metric, found.graphs) == (DEVICE, "latency_s", 3)
    assert found.median_difference == pytest.approx(0.1 / 2.05)
    assert found.shift == pytest.approx(0.1 / 2.05)
    assert found.difference_90 == pytest.approx(0.8 * 0.4 / 4.2 + 0.2 * 0.1 / 2.05)
    assert found.stated == pytest.approx(0.05)
    assert found.within == pytest.approx(2 / 3)
    (back,) = compare_labels(b, a)
    assert back.median_difference == found.median_difference
    assert back.shift == -found.shift


def test_zero_equals_zero_and_differs_from_one_wholly() -> None:
    dsp = {"a": 0.0, "b": 0.0, "c": 0.0}
    (found,) = compare_labels(
        table(dsp, 0.0, metric=Metric.DSP), table({**dsp, "b": 1.0}, 0.0, metric=Metric.DSP)
    )
    assert (found.median_difference, found.within) == (0.0, pytest.approx(2 / 3))
    (found,) = compare_labels(table({"a": 0.0}, metric=Metric.DSP), table({"a": 5.0}, metric=Metric.DSP))
    assert found.median_difference == 2.0


def test_repeated_rows_count_as_their_median() -> None:
    twice = table({"a": 1.0}) + table({"a": 3.0})
    (found,) = compare_labels(twice, table({"a": 2.0}))
    assert (found.graphs, found.median_difference) == (1, 0.0)


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(
        DataError, match=f"nothing to compare.*1 graphs on {DEVICE}, the other 1 graphs on b/b/b"
    ):
        compare_labels(table({"a": 1.0}), table({"a": 1.0}, device="b/b/b"))


def test_spreads_that_tell_the_truth_cover_nineteen_in_twenty() -> None:
    """Normal noise whose 95 % half-width is the stated spread; the share lies in its binomial band."""
    rng = np.random.default_rng(0)
    names = [str(i) for i in range(2000)]
    sides = [
        table(dict(zip(names, np.exp(rng.normal(0, 0.02 / 1.96, 2000)), strict=True)), 0.02) for _ in "ab"
    ]
    (found,) = compare_labels(*sides)
    assert abs(found.within - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)
    assert found.median_difference == pytest.approx(0.6745 * np.sqrt(2) * 0.02 / 1.96, rel=0.1)


def test_on_the_command_line_files_and_folders_mix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = load_shipped()
    device = "xeon-amx/onnxruntime/fp32-t1"
    rows = shipped.select(device=device, metric=Metric.LATENCY).rows.head(5)
    lines = [
        json.dumps(
            {"digest": r.digest, "device": device, "measurements": {"latency_s": {"value": 1.1 * r.value}}}
        )
        for r in rows.itertuples()
    ]
    (tmp_path / "again.jsonl").write_text("\n".join(lines))
    from hardsight.datasets.store import shipped_folder

    words = ["dataset", "agreement", str(shipped_folder()), str(tmp_path / "again.jsonl")]
    assert main(words) == 0
    assert "9.5 %" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["graphs"] == 5
    assert record["shift"] == pytest.approx(0.1 / 1.05)
