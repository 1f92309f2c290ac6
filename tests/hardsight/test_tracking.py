from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from hardsight import tracking
from hardsight.errors import StorageError
from hardsight.metrics import Metric

HERE = "host/onnxruntime/fp32-t1"


def test_off_keeps_nothing_and_loads_nothing(home: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom hardsight import tracking\n"
        "with tracking.track('e', 'r', enabled=False) as run:\n"
        "    run.metrics({'a': 1.0}); run.artifact(Path('x')); run.tag('k', 'v')\n"
        "    assert tracking.log_predictor(run, Path('x'), 'd') == ''\n"
        "assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert not (home / "mlflow.db").exists()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose database is made once; that takes mlflow seconds."""
    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with tracking.track("made", "first", folder=folder):
            pass
    return folder


@pytest.fixture(autouse=True)
def _no_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_run_keeps_params_metrics_artifacts_and_versions(store: Path, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("hello")
    params = {"seed": 3, "long": "x" * 10_000}
    with tracking.track("exp", "name", params, {"data_digest": "abc"}, folder=store) as run:
        for step in range(3):
            run.metrics({"loss": 1.0 / (step + 1)}, step)
        run.artifact(note)
    assert run.client is not None
    kept = run.client.get_run(run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params["seed"] == "3"
    assert kept.data.metrics["loss"] == pytest.approx(1 / 3)
    assert [m.step for m in run.client.get_metric_history(run.run_id, "loss")] == [0, 1, 2]
    assert kept.data.tags["data_digest"] == "abc"
    assert all(kept.data.tags[f"version.{name}"] for name in ("hardsight", "torch", "brevitas", "mlflow"))
    assert [f.path for f in run.client.list_artifacts(run.run_id)] == ["note.txt"]
    assert (store / "mlartifacts").exists()


def test_metrics_go_in_batches(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking.track("exp", "many", folder=store) as run:
        sent: list[int] = []
        assert run.client is not None
        monkeypatch.setattr(run.client, "log_batch", lambda run_id, metrics: sent.append(len(metrics)))
        for step in range(1200):
            run.metrics({"a": 1.0}, step)
    assert sent == [500, 500, 200]


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_failing_run_says_so(store: Path, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), tracking.track("exp", "bad", folder=store) as run:
        run.metrics({"before": 1.0})
        raise error
    assert run.client is not None
    kept = run.client.get_run(run.run_id)
    assert kept.info.status == status
    assert kept.data.metrics == {"before": 1.0}


def test_the_environment_names_the_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{store / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    with tracking.track("made", "second") as run:
        assert run.uri == uri
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="--no-track"),
        tracking.track("e", "r", folder=tmp_path / "file" / "x"),
    ):
        pass


@pytest.mark.parametrize("kind", ["torn", "folder"])
def test_a_database_that_cannot_be_written_is_refused_before_mlflow_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import mlflow

    database = tmp_path / "mlflow.db"
    if kind == "torn":
        database.write_text("no database " * 100)
    else:
        database.mkdir()
    before = [p.stat().st_size for p in tmp_path.iterdir()]
    monkeypatch.setattr(mlflow, "MlflowClient", lambda **_: pytest.fail("asked mlflow"))
    with pytest.raises(StorageError, match="--no-track"), tracking.track("e", "r", folder=tmp_path):
        pass
    assert [p.stat().st_size for p in tmp_path.iterdir()] == before


def test_a_database_half_made_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    def fill(tracking_uri: str) -> None:
        database = Path(tracking_uri.removeprefix("sqlite:///"))
        database.write_text("half")
        database.with_name("mlflow.db-journal").write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(mlflow, "MlflowClient", fill)
    with pytest.raises(StorageError, match="disk full"), tracking.track("e", "r", folder=tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_there_survives_a_failed_opening(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    def fail(tracking_uri: str) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "MlflowClient", fail)
        with pytest.raises(StorageError), tracking.track("exp", "r", folder=store):
            pass
    with tracking.track("exp", "again", folder=store):
        pass


def _full(*_: object, **__: object) -> None:
    from mlflow.exceptions import MlflowException

    raise MlflowException("database or disk is full\n[SQL: INSERT INTO metrics]")


@pytest.mark.parametrize(
    "method", ["log_batch", "set_tag", "log_artifact", "log_artifacts", "set_terminated"]
)
def test_an_error_while_logging_is_a_storage_error_without_sql(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="disk is full") as caught,
        tracking.track("exp", "r", folder=store) as run,
    ):
        monkeypatch.setattr(run.client, method, _full)
        run.metrics({"a": 1.0})
        run.tag("k", "v")
        run.artifact(tmp_path / "file")
        run.artifact(tmp_path)
    assert "SQL:" not in str(caught.value)
    if method != "set_terminated":
        assert run.client is not None
        assert run.client.get_run(run.run_id).info.status == "FAILED"


def test_the_first_error_wins(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="mine"), tracking.track("exp", "r", folder=store) as run:
        monkeypatch.setattr(run.client, "log_batch", _full)
        monkeypatch.setattr(run.client, "set_terminated", _full)
        run.metrics({"a": 1.0})
        raise ValueError("mine")


def test_a_folder_is_kept_under_its_own_name(store: Path, tmp_path: Path) -> None:
    (tmp_path / "front").mkdir()
    (tmp_path / "front" / "a.onnx").write_text("")
    with tracking.track("exp", "folder", folder=store) as run:
        run.artifact(tmp_path / "front")
        run.tag("k", "v")
    assert run.client is not None
    assert [f.path for f in run.client.list_artifacts(run.run_id, "front")] == ["front/a.onnx"]
    assert run.client.get_run(run.run_id).data.tags["k"] == "v"


def test_a_noted_run_is_continued_while_the_store_has_it(store: Path, tmp_path: Path) -> None:
    note = tmp_path / "run.json"

    def once(**params: object) -> tracking.Run:
        with tracking.track("exp", "noted", params, folder=store, note=note) as run:
            pass
        return run

    first = once(output="a")
    assert once(output="b").run_id == first.run_id
    assert first.client is not None
    assert first.client.get_run(first.run_id).info.status == "FINISHED"
    first.client.delete_run(first.run_id)
    second = once()
    assert second.run_id != first.run_id
    for text in ("torn", f'{{"uri": "{second.uri}", "run_id": "unknown"}}', '{"uri": "x", "run_id": "y"}'):
        note.write_text(text)
        assert once().run_id not in (first.run_id, second.run_id)


def test_a_password_is_not_shown() -> None:
    assert tracking._public("https://me:secret@host/x") == "https://***@host/x"


def test_logging_is_left_as_it_was(store: Path) -> None:
    before = logging.getLogger("mlflow").level, logging.getLogger("alembic").level
    with tracking.track("exp", "quiet", folder=store):
        pass
    assert (logging.getLogger("mlflow").level, logging.getLogger("alembic").level) == before


def test_the_predictor_answers_from_mlflow_in_a_fresh_process(store: Path, model: Path) -> None:
    import numpy as np

    from hardsight.ingest import read_onnx
    from hardsight.measurement import Measurement, MeasurementTable
    from hardsight.predictors import make_predictor
    from hardsight.predictors.persist import save_predictor

    graphs = [read_onnx(model, shapes={"x": (n, 8)}) for n in range(1, 40)]
    noise = np.random.default_rng(0).normal(1, 0.01, len(graphs))
    labels = [
        Measurement(g.digest, HERE, Metric.LATENCY, 1e-6 * (1 + g.macs) * e, 0.01, 10)
        for g, e in zip(graphs, noise, strict=True)
    ]
    table = MeasurementTable.from_measurements(labels, {g.digest: g for g in graphs})
    folder = store / "fitted"
    save_predictor(make_predictor("roofline").fit(table), folder)
    with tracking.track("exp", "model", folder=store) as run:
        uri = tracking.log_predictor(run, folder, HERE)
    assert not list((store / "mlartifacts").rglob("*.pkl"))
    script = f"""
import base64, mlflow
from pathlib import Path
mlflow.set_tracking_uri({run.uri!r})
model = mlflow.pyfunc.load_model({uri!r})
assert model.metadata.signature.inputs is not None
data = base64.b64encode(Path({str(model)!r}).read_bytes()).decode()
answers = model.predict([{{"path": {str(model)!r}}}, {{"onnx": data}}])
assert len(answers) == 2, answers
first, second = (a.model_dump() for a in answers)
assert first == second
assert first["digest"] == {read_onnx(model).digest!r}
assert first["predictions"][0]["metric"] == "latency_s"
assert first["predictions"][0]["value"] > 0
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
