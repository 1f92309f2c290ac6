"""Experiment tracking with MLflow: one run per training or search.

Without ``MLFLOW_TRACKING_URI`` the runs go into ``mlflow.db`` (SQLite) and ``mlartifacts/`` of the current
folder. mlflow is imported when the first run begins, not before.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardsight.errors import StorageError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_VERSIONS = (
    "hardsight",
    "torch",
    "torch-geometric",
    "scikit-learn",
    "optuna",
    "brevitas",
    "mlflow",
    "onnx",
    "onnxruntime",
    "numpy",
)
_BATCH = 500
_MAX_PARAM = 500
_CHATTER = ("mlflow", "alembic")
_SQLITE = "sqlite:///"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a measuring tool does not report its use to a third party unasked
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server out of reach is known in seconds, not in minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass
class Run:
    """One run. Without a client, of a run that is not tracked, everything is accepted and nothing kept.

    Every method raises a StorageError when the store cannot be written.

    Args:
        uri: of the tracking store.
        run_id: given by MLflow.
        client: connected to the store; None when tracking is off.
    """

    uri: str = ""
    run_id: str = ""
    client: MlflowClient | None = None
    _waiting: list[Any] = field(default_factory=list)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers; they are sent in batches, the last when the run ends."""
        if self.client is None:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(key, float(value), now, step or 0) for key, value in values.items()]
        if len(self._waiting) >= _BATCH:
            self.flush()

    def artifact(self, path: Path) -> None:
        """Keep a copy of a file or folder."""
        if self.client is None:
            return
        with _talking(self.uri):
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), path.name)
            else:
                self.client.log_artifact(self.run_id, str(path))

    def tag(self, key: str, value: str) -> None:
        """Add or replace a tag."""
        if self.client is not None:
            with _talking(self.uri):
                self.client.set_tag(self.run_id, key, value)

    def flush(self) -> None:
        """Send the numbers that wait."""
        waiting, self._waiting = self._waiting, []
        if self.client is not None and waiting:
            with _talking(self.uri):
                for start in range(0, len(waiting), _BATCH):
                    self.client.log_batch(self.run_id, metrics=waiting[start : start + _BATCH])

    def end(self, status: str) -> None:
        """Say how it went, in MLflow's words."""
        if self.client is not None:
            with _talking(self.uri):
                self.client.set_terminated(self.run_id, status)


@contextmanager
def track(
    experiment: str,
    run_name: str,
    params: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    *,
    folder: Path | None = None,
    note: Path | None = None,
    enabled: bool = True,
) -> Iterator[Run]:
    """A run that ends as FINISHED, FAILED when the block raises, or KILLED when it is interrupted.

    Args:
        experiment: made when it is new.
        run_name: for people.
        params: what was asked for, the seed included.
        tags: digests of the data and the like; versions are added.
        folder: of ``mlflow.db``, where ``MLFLOW_TRACKING_URI`` is not set; the current folder by default.
        note: file to note the run in; the run it names is continued, with its own parameters, if the store
            still has it.
        enabled: False gives a run that keeps nothing and loads no mlflow.

    Raises:
        StorageError: the store cannot be opened or written; an error of the block itself comes first.
    """
    if not enabled:
        yield Run()
        return
    run = _open(experiment, run_name, params or {}, tags or {}, folder or Path(), note)
    try:
        yield run
        run.flush()
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        for last in (run.flush, lambda: run.end(status)):
            with suppress(StorageError):  # the first error is the one to tell
                last()
        raise
    run.end("FINISHED")


def log_predictor(run: Run, folder: Path, device: str) -> str:
    """Log a saved predictor as an MLflow pyfunc model; see `hardsight.pyfunc` for what it takes and gives.

    The model is logged as code and arrays, without a pickle.

    Args:
        run: to log to.
        folder: written by `hardsight.predictors.persist.save_predictor`.
        device: it answers for unless a question names another.

    Returns:
        URI to load it by; empty when the run is not tracked.
    """
    if run.client is None:
        return ""
    with _talking(run.uri):
        import mlflow

        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(run.uri)
        try:
            with mlflow.start_run(run_id=run.run_id):
                info = mlflow.pyfunc.log_model(
                    name="predictor",
                    python_model=str(Path(__file__).with_name("pyfunc.py")),
                    artifacts={"predictor": str(folder)},
                    model_config={"device": device},
                    pip_requirements=[f"hardsight=={metadata.version('hardsight')}"],
                )
        finally:
            mlflow.set_tracking_uri(before)
    return str(info.model_uri)


def _open(
    experiment: str,
    run_name: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    folder: Path,
    note: Path | None,
) -> Run:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    artifacts = None
    if not uri:
        uri = f"{_SQLITE}{folder.resolve() / 'mlflow.db'}"
        artifacts = (folder.resolve() / "mlartifacts").as_uri()
    with _talking(uri), _whole(uri):
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        client = MlflowClient(tracking_uri=uri)
        run_id = _noted(client, uri, note)
        if run_id is None:
            found = client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifacts)
            run_id = client.create_run(experiment_id, run_name=run_name).info.run_id
            texts = [Param(key, str(value)[:_MAX_PARAM]) for key, value in params.items()]
            client.log_batch(run_id, params=texts)
        client.update_run(run_id, status="RUNNING")
        versions = [RunTag(key, value) for key, value in {**_versions(), **tags}.items()]
        client.log_batch(run_id, tags=versions)
        if note is not None:
            note.write_text(json.dumps({"uri": _public(uri), "run_id": run_id}))
    return Run(uri, run_id, client)


def _public(uri: str) -> str:
    """The address without a user's name and password, to be shown and kept."""
    return re.sub(r"://[^/@]*@", "://***@", uri)


def _noted(client: MlflowClient, uri: str, note: Path | None) -> str | None:
    """The run that the file names, if it is one of this store and was not deleted."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    if note is None or not note.exists():
        return None
    try:
        noted = json.loads(note.read_text())
        if noted["uri"] != _public(uri):
            return None
        info = client.get_run(noted["run_id"]).info
    except (ValueError, TypeError, KeyError):  # torn: it is written anew
        return None
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return None
        raise
    return str(info.run_id) if info.lifecycle_stage == "active" else None


@contextmanager
def _whole(uri: str) -> Iterator[None]:
    """Leave no half-made SQLite database when opening it fails; no later run could use it."""
    if not uri.startswith(_SQLITE):
        yield
        return
    database = Path(uri.removeprefix(_SQLITE).partition("?")[0])
    existed = database.exists()
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        _check_writable(database)
        yield
    except BaseException:
        if not existed:
            for path in (database, database.with_name(f"{database.name}-journal")):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        raise


def _check_writable(database: Path) -> None:
    """Begin to write and take it back: SQLAlchemy would try again for minutes before it says the same."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("ROLLBACK")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {f"version.{name}": version for name, version in found.items()}


@contextmanager
def _talking(uri: str) -> Iterator[None]:
    """Around every use of mlflow: few words, quick to give up, and errors as StorageError."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    with _quiet():
        from alembic.util import CommandError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except StorageError:
            raise
        except (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError) as error:
            cause = str(error).partition("[SQL:")[0].strip() or type(error).__name__
            reason = _public(f"'{uri}': {cause.splitlines()[0]}")
            raise StorageError(
                f"cannot log the run to {reason}; set MLFLOW_TRACKING_URI to a place that can be written, "
                "or leave tracking out with --no-track"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back mlflow's and alembic's notes about tables they make; warnings and errors still come."""
    import mlflow  # noqa: F401  (its import sets the level of its logger)

    loggers = [logging.getLogger(name) for name in _CHATTER]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
