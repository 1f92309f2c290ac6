"""Experiment tracking with MLflow: one run per training or search.

Without ``MLFLOW_TRACKING_URI`` the runs go into ``mlflow.db`` (SQLite) and ``mlartifacts/`` of the current
folder. mlflow is imported when the first run begins, not before.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    "onnx",
    "onnxruntime",
    "numpy",
)
_BATCH = 500
_MAX_PARAM = 500
_CHATTER = ("mlflow", "alembic")


@dataclass
class Run:
    """One run. Without a client, of a run that is not tracked, everything is accepted and nothing kept.

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
        with _quiet():
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), path.name)
            else:
                self.client.log_artifact(self.run_id, str(path))

    def tag(self, key: str, value: str) -> None:
        """Add or replace a tag."""
        if self.client is not None:
            self.client.set_tag(self.run_id, key, value)

    def flush(self) -> None:
        """Send the numbers that wait."""
        if self.client is not None:
            for start in range(0, len(self._waiting), _BATCH):
                self.client.log_batch(self.run_id, metrics=self._waiting[start : start + _BATCH])
        self._waiting.clear()


@contextmanager
def track(
    experiment: str,
    run_name: str,
    params: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    *,
    folder: Path | None = None,
    enabled: bool = True,
) -> Iterator[Run]:
    """A run that ends as FINISHED, FAILED when the block raises, or KILLED when it is interrupted.

    Args:
        experiment: made when it is new.
        run_name: for people.
        params: what was asked for, the seed included.
        tags: digests of the data and the like; versions are added.
        folder: of ``mlflow.db``, where ``MLFLOW_TRACKING_URI`` is not set; the current folder by default.
        enabled: False gives a run that keeps nothing and loads no mlflow.

    Raises:
        StorageError: the store cannot be opened.
    """
    if not enabled:
        yield Run()
        return
    run = _open(experiment, run_name, params or {}, tags or {}, folder or Path())
    assert run.client is not None
    status = "FINISHED"
    try:
        yield run
    except Exception:
        status = "FAILED"
        raise
    except BaseException:
        status = "KILLED"
        raise
    finally:
        with _quiet():
            run.flush()
            run.client.set_terminated(run.run_id, status)


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
    with _quiet():
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
    experiment: str, run_name: str, params: Mapping[str, object], tags: Mapping[str, str], folder: Path
) -> Run:
    # A measuring tool does not report its use to a third party unasked.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with _quiet():
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag
        from mlflow.exceptions import MlflowException

        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        artifacts = None
        if not uri:
            uri = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
            artifacts = (folder.resolve() / "mlartifacts").as_uri()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            client = MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifacts)
            run_id = client.create_run(experiment_id, run_name=run_name).info.run_id
            client.log_batch(
                run_id,
                params=[Param(key, str(value)[:_MAX_PARAM]) for key, value in params.items()],
                tags=[RunTag(key, value) for key, value in {**_versions(), **tags}.items()],
            )
        except (MlflowException, OSError, _database_error()) as error:
            raise StorageError(
                f"cannot log the run to '{uri}': {error}; set MLFLOW_TRACKING_URI to a place that can be "
                "written, or leave tracking out with --no-track"
            ) from error
    return Run(uri, run_id, client)


def _database_error() -> type[Exception]:
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {f"version.{name}": version for name, version in found.items()}


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
