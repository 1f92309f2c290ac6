"""The accuracy experiment: who is held out, what is kept, what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardsight.datasets.families import TEACHING
from hardsight.datasets.store import GraphStore, load_shipped
from hardsight.errors import InputError
from hardsight.experiments.accuracy import __main__ as accuracy
from hardsight.experiments.accuracy.protocols import networks
from hardsight.experiments.accuracy.tables import device_table, own_cost_table, pooled_table
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors import BASELINES, PREDICTORS
from hardsight.predictors.conformal import family_folds
from hardsight.predictors.training import FOLDS

DEVICE = "xeon-amx/onnxruntime/fp32-t1"


def test_a_network_and_its_twin_are_held_out_together() -> None:
    table = load_shipped()
    graphs = table.graphs
    assert isinstance(graphs, GraphStore)
    grouped = networks(table.select(device=DEVICE))
    teaching = 0
    for digest in grouped.digests:
        family = grouped.families[digest]
        if table.families[digest] in TEACHING:
            assert family in TEACHING
            teaching += 1
            continue
        assert family.startswith("group ")
        twin = graphs.facts[digest].twin
        if twin in grouped.families:
            assert grouped.families[twin] == family
    assert teaching
    folds = family_folds(grouped, FOLDS)
    assert len(folds) == FOLDS
    assert all(len(fold) == 1 for fold in folds)


def test_tables_are_made_of_kept_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardsight.predictors import training

    calls: list[tuple[str, ...]] = []

    def compare(
        table: MeasurementTable, names: tuple[str, ...], **_: object
    ) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
        calls.append(names)
        rows = table.select(device=table.devices[0], metric=Metric.LATENCY).rows.head(20)
        label = rows["value"].to_numpy()
        frame = pd.DataFrame(
            {
                "device": rows["device"].to_numpy(),
                "metric": str(Metric.LATENCY),
                "digest": rows["digest"].to_numpy(),
                "family": "f",
                "fold": np.arange(len(rows)) % 2,
                "label": label,
                "value": label * (1.1 if names[0] == "graphnet" else 1.5),
                "doubt": 0.1,
                "lower": label * 0.9,
                "upper": label * 1.2,
            }
        )
        return pd.DataFrame(), {names[0]: frame}

    monkeypatch.setattr(training, "compare", compare)
    readme = tmp_path / "README.md"
    places = ("networks-npu", "networks-npu-devices")
    readme.write_text("".join(f"<!-- table: {p} -->\n<!-- end -->\n" for p in places))
    for _ in range(2):
        accuracy.main(["npu", "networks"], tmp_path / "runs", readme)
    assert len(calls) == len(PREDICTORS) + len(BASELINES)  # each once; the second time all is kept
    lines = readme.read_text().splitlines()
    best = next(line for line in lines if "| graphnet |" in line)
    assert "10.0%" in best
    assert "100.0%" in best  # all inside their intervals
    assert any(line.startswith("| `ethos-u") and "graphnet" in line for line in lines)


def test_pooled_error_states_the_range_over_devices() -> None:
    scores = pd.DataFrame(
        [
            {"device": d, "metric": "cycles", "predictor": "ridge", "n": 10, "mape": e, "within_10": 0.5,
             "smape": 0.1, "r2": float("nan"), "spearman": 0.9, "coverage": 0.9, "width": 0.4}
            for d, e in (("a", 0.1), ("b", 0.3))
        ]
    )  # fmt: skip
    seeds = pd.DataFrame([{"metric": "cycles", "least": 0.21, "most": 0.24, "predictor": "ridge"}])
    rest = "50.0% | 10.0% | – | 0.900 | 90.0% | 0.40 |"
    for of, said in ((seeds, "21.0% to 24.0%"), (seeds[:0], "–")):
        assert f"| 20 | 20.0% (10.0% to 30.0%) | {said} | {rest}" in pooled_table(scores, of)
    assert len(device_table(scores).splitlines()) == 4


def cost_table(labels: list[float], costs: list[float], device: str = "xcup/da4ml/lc5") -> MeasurementTable:
    return MeasurementTable.from_measurements(
        [
            Measurement(
                str(i),
                device,
                metric,
                label,
                0.0,
                1,
                versions={"da4ml_cost": str(cost)},
                provenance="synthesised",
            )
            for i, (label, cost) in enumerate(zip(labels, costs, strict=True))
            for metric in (Metric.LOGIC_CELLS, Metric.FF)
        ],
        {},
    )


def test_da4ml_own_cost_is_scaled_by_one_factor() -> None:
    table = cost_table([50.0, 100.0, 400.0], [100.0, 200.0, 400.0])  # half, half, as much
    other = cost_table([1.0], [1e6], "ecp5/nextpnr/lc5")
    line = own_cost_table(table + other).splitlines()[-1]
    # A half of each: 50, 100, 200; so (0 + 0 + 2 · 200 / 600) / 3, and 1 − 200² / 71,667.
    assert line == "| `logic_cells` | da4ml's own cost | 3 | 22.2% | 0.442 |"


def test_da4ml_own_cost_is_written_with_the_tables_of_fpgas(tmp_path: Path) -> None:
    frame = pd.DataFrame({"family": ["f"], "label": [1.0], "value": [1.0], "lower": [1.0], "upper": [1.0]})
    frame = frame.assign(device="d", metric="lut")
    places = ("networks-fpga", "networks-fpga-devices", "fpga-own-cost")
    readme = tmp_path / "README.md"
    readme.write_text("".join(f"<!-- table: {p} -->\n<!-- end -->\n" for p in places))
    frames = {"ridge": frame}
    table = cost_table([1.0, 2.0], [1.0, 2.0])
    accuracy._write(readme, "networks-fpga", table, frames, accuracy._scores(frames))
    assert "| da4ml's own cost | 2 | 0.0% | 1.000 |" in readme.read_text()


def test_every_kind_of_device_may_be_chosen(tmp_path: Path) -> None:
    accuracy.main(["gpu"], tmp_path / "runs", tmp_path / "README.md")  # has no labels yet
    assert not (tmp_path / "runs").exists()


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(InputError, match="'tpu' is neither a kind of device"):
        accuracy.main(["tpu"])
