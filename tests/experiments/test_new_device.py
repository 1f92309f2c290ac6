"""Own devices held out with their kin: what is trained on, what is asked, what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from worlds import world

from hardsight.errors import InputError
from hardsight.experiments.new_device import __main__ as experiment
from hardsight.experiments.new_device import evaluate as evaluation
from hardsight.experiments.new_device.evaluate import evaluate, groups, kin, scores, timing
from hardsight.experiments.new_device.tables import device_table, samples_table
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors import Predictor, make_predictor

ONE, TWO, OTHER = "lab-64/onnxruntime/fp32-t1", "lab-128/onnxruntime/fp32-t1", "shed/onnxruntime/fp32-t1"


def table() -> MeasurementTable:
    """Two sizes of one machine and another, which is three times slower at everything."""
    parts = [world(40, device=ONE), world(40, device=TWO, scale=0.5), world(40, device=OTHER, scale=3.0)]
    rows = pd.concat([part.rows for part in parts], ignore_index=True)
    return MeasurementTable(rows, parts[0].graphs, parts[0].families)


def test_sizes_of_a_line_and_modes_of_a_machine_are_held_out_together() -> None:
    assert kin("ethos-u55-128/vela/int8") == "ethos-u55/vela"
    assert kin("epyc-zen5/onnxruntime/fp32-t2") == kin("epyc-zen5/onnxruntime/int8-t1")
    assert kin("xeon-amx/openvino/fp32-t1") != kin("xeon-amx/onnxruntime/fp32-t1")
    assert groups(table()) == {"lab/onnxruntime": [TWO, ONE], "shed/onnxruntime": [OTHER]}


def test_a_source_has_seen_none_of_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[MeasurementTable] = []

    class Watched:
        def __init__(self, config: object) -> None:
            self.inside = make_predictor("ridge")

        def fit(self, rows: MeasurementTable) -> Predictor:
            seen.append(rows)
            return self.inside.fit(rows)

    monkeypatch.setattr(evaluation, "GraphNetPredictor", Watched)
    for _ in range(2):  # the second time it is loaded
        source = evaluation.source_without(table(), [ONE, TWO], tmp_path / "source", 1)
        assert {device for device, _ in source.targets} == {OTHER}
    assert [rows.devices for rows in seen] == [[OTHER]]
    assert seen[0].metrics == [Metric.LATENCY]  # memory does not say how to time


def test_a_device_is_known_after_a_few_labels_and_not_asked_about_them() -> None:
    whole = table()
    source = make_predictor("ridge").fit(whole.select(device=OTHER))
    frame = pd.DataFrame(evaluate(source, whole, ONE))
    assert timing(whole, ONE) is Metric.LATENCY
    for samples, rows in frame.groupby("samples"):
        assert len(rows) == 40 - samples
        assert rows["digest"].is_unique
    assert np.median(np.abs(frame["value"] / frame["label"] - 1)) < 0.5
    before = source.point([whole.graphs[d] for d in frame["digest"]], OTHER, Metric.LATENCY)
    assert np.median(before / frame["label"]) > 2  # what the other device would have said


def test_tables_and_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardsight import jobs

    asked: list[str] = []

    def answers(source: object, rows: object, device: str, told: object) -> list[dict[str, object]]:
        asked.append(device)
        base = {"kin": kin(device), "device": device, "metric": "latency_s", "family": "f"}
        return [
            base | {"samples": 16, "digest": str(i), "label": 1.0 + i, "value": (1.0 + i) * 1.2}
            for i in range(5)
        ]

    monkeypatch.setattr(jobs, "load_dataset", lambda _: table())
    monkeypatch.setattr(experiment, "evaluate", answers)
    monkeypatch.setattr(experiment, "source_without", lambda *_: None)
    readme = tmp_path / "README.md"
    readme.write_text("".join(f"<!-- table: {p} -->\n<!-- end -->\n" for p in ("samples", "devices")))
    for _ in range(2):
        experiment.main(["cpu"], tmp_path / "runs", readme)
    assert asked == [TWO, ONE, OTHER]
    text = readme.read_text()
    assert "| cpu | 16 | 3 | 1.000 | 20.0% | 20.0% | 0% |" in text
    assert f"| shed/onnxruntime | `{OTHER}` | 5 | 1.000 | 20.0% | 20.0% | 0% |" in text
    with pytest.raises(InputError, match="'tpu' is not among"):
        experiment.main(["tpu"], tmp_path / "runs", readme)


def test_scores_and_means_over_devices() -> None:
    label = np.array([1.0, 2.0, 4.0])
    assert scores(label, label * np.array([1.05, 0.5, 1.0]))["within_10"] == pytest.approx(2 / 3)
    rows = pd.DataFrame(
        {"kind": "cpu", "kin": "k", "device": ["a"] * 3 + ["b"] * 3, "samples": 8, "label": [*label, *label]}
    )
    rows["value"] = rows["label"] * [1.1, 1.1, 1.1, 1.3, 1.3, 1.3]
    assert "| cpu | 8 | 2 | 1.000 | 20.0% |" in samples_table(rows)
    assert len(device_table(rows, 8).splitlines()) == 4
