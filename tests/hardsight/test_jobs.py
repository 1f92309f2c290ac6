from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hardsight import jobs
from hardsight.cli import main
from hardsight.datasets.store import StoredGraph, save_table
from hardsight.errors import HardsightError, UnknownNameError
from hardsight.ingest import read_onnx
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors.persist import load_saved, read_meta

DEVICE = "cpu/onnxruntime/fp32-t1"


def perceptron(batch: int, width: int, family: int) -> bytes:
    """A MatMul between ``family`` element-wise operators."""
    from onnx import parser

    tail = "\n".join(f"t{i + 1} = Sigmoid(t{i})" for i in range(family))
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[{batch}, {width}] x, float[{width}, {width}] w) => (float[{batch}, {width}] t{family})
        {{ t0 = MatMul(x, w) {tail} }}"""
    )
    return model.SerializeToString()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty small graphs of eight families, a nanosecond for each MAC and for each byte."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    stored, labels, graphs = [], [], {}
    for family in range(8):
        for _ in range(10):
            content = perceptron(int(rng.integers(1, 64)), int(rng.integers(8, 256)), family)
            graph = read_onnx(content)
            graphs[graph.digest] = graph
            cost = 1e-9 * (graph.macs + sum(op.bytes for op in graph.operators))
            stored.append(StoredGraph(graph.digest, f"family{family}", "", content))
            labels.append(
                Measurement(graph.digest, DEVICE, Metric.LATENCY, cost, 0.01, 10, versions={"a": "1"})
            )
    save_table(folder, stored, MeasurementTable.from_measurements(labels, graphs))
    return folder


def test_describe(data: Path) -> None:
    (row,) = jobs.describe_dataset(jobs.load_dataset(data))
    values = jobs.load_dataset(data).rows["value"]
    assert (row.device, row.metric, row.labels) == (DEVICE, "latency_s", 80)
    assert (row.smallest, row.median, row.largest) == (values.min(), values.median(), values.max())


def test_digest_of_a_table_ignores_the_order_of_rows(data: Path) -> None:
    table = jobs.load_dataset(data)
    shuffled = MeasurementTable(table.rows.sample(frac=1, random_state=0), table.graphs)
    assert table.labels_digest == shuffled.labels_digest
    assert table.labels_digest != MeasurementTable(table.rows[1:], table.graphs).labels_digest


def test_info_on_the_command_line(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "info", "--data", str(data)]) == 0
    assert "80 networks of 8 families" in capsys.readouterr().out
    assert main(["dataset", "info", "--data", str(data), "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["kind"] for r in records] == ["labels", "device", *["graphs"] * 8, "total"]
    assert records[0]["labels"] == records[1]["labelled"] == 80
    assert records[-1] == {
        "kind": "total", "graphs": 80, "families": 8, "devices": 1, "labels": 80, "missing": 0
    }  # fmt: skip


def test_evaluate_on_the_command_line(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "evaluate",
        "--data",
        str(data),
        "--predictor",
        "roofline",
        "--predictor",
        "ridge",
        "--folds",
        "4",
    ]
    assert main([*words, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["predictor"] for row in rows] == ["roofline", "ridge"]
    assert all(row["n"] == 80 for row in rows)
    assert rows[0]["mape"] < 0.5


def test_train_writes_a_predictor_and_its_run(
    data: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = home / "fitted"
    words = ["train", "--data", str(data), "--out", str(out), "--predictor", "roofline", "--folds", "4"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "kept roofline" in output
    assert "Model: models:/" in output
    predictor = load_saved(out)
    graph = read_onnx(perceptron(8, 64, 2))
    answer = predictor.predict([graph], DEVICE).row(0)["latency_s"]
    assert answer.lower is not None
    assert answer.upper is not None
    assert answer.lower < answer.value < answer.upper
    assert read_meta(out)["info"]["graphs"] == 80

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("hardsight-train")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["data_digest"] == jobs.load_dataset(data).labels_digest
    assert run.data.metrics[f"roofline/{DEVICE}/latency_s/mape"] < 0.5
    assert run.data.tags["chosen.cpu.latency_s"] == "roofline"
    files = {f.path for f in client.list_artifacts(run.info.run_id)}
    assert {"scores.parquet", "meta.json"} <= files


def test_seeds_of_the_predictors_that_have_one() -> None:
    assert jobs._seeds(["roofline", "forest", "graphnet"]) == {"seed.forest": 0, "seed.graphnet": 0}


def test_a_search_logs_its_job_flat_and_notes_its_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardsight import tracking
    from hardsight.nas import search

    opened: list[tuple[Any, ...]] = []

    @contextmanager
    def track(*given: Any, **options: Any) -> Iterator[tracking.Run]:
        opened.append((*given, options))
        yield tracking.Run()

    def run_search(job: Any, out: Path, *_: Any, track: Any, **__: Any) -> None:
        with track(SimpleNamespace(data=SimpleNamespace(digest="abc")), out):
            pass

    monkeypatch.setattr(tracking, "track", track)
    monkeypatch.setattr(search, "run_search", run_search)
    (home / "job.yaml").write_text("data: digits\nseed: 7\nstorage: mysql://me:secret@host/db\n")
    jobs.search(home / "job.yaml", home / "study")
    ((experiment, name, params, tags, options),) = opened
    assert (experiment, name, tags) == ("hardsight-search", "job", {"data_digest": "abc"})
    assert (params["data.source"], params["space.name"], params["seed"]) == ("digits", "quant_cnn", 7)
    assert "secret" not in str(params)
    assert options == {"folder": None, "note": home / "study" / "mlflow_run.json", "enabled": True}


@pytest.mark.parametrize("job", ["data: nowhere", "device: nothing/of/this", "{space: {name: nope}}", "[]"])
def test_a_refused_job_leaves_nothing(home: Path, job: str) -> None:
    (home / "job.yaml").write_text(job)
    before = sorted(home.rglob("*"))
    with pytest.raises(HardsightError):
        jobs.search(home / "job.yaml", home / "study")
    assert sorted(home.rglob("*")) == before


def test_a_misspelt_predictor_is_refused_first(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'forest'"):
        jobs.train(tmp_path / "out", data=data, predictors=["roofline", "forrest"], track=False)
    assert not (tmp_path / "out").exists()


def test_score_records_have_no_nan() -> None:
    frame = pd.DataFrame({"predictor": ["a"], "spearman": [float("nan")], "n": [3]})
    assert jobs.score_records(frame) == [{"predictor": "a", "spearman": None, "n": 3}]
