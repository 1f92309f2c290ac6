"""Optuna's storages: a journal file, a database, the gRPC proxy; heartbeats and patience for all three."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

# Optuna has heartbeats for databases only, and no public name for what a storage needs to have them.
from optuna.storages._heartbeat import BaseHeartbeat

from hardsight.errors import BackendError, JobError, StorageError

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

HEARTBEAT_S = 10
"""A worker says so often that it is alive."""
GRACE_S = 120
"""A trial whose worker was silent for so long is given to another."""
MAX_RETRIES = 2
"""A trial whose worker died more often has failed: it may have taken all the memory."""
RETRY_DELAYS_S = (1, 2, 4, 8, 15, 30)
"""How long to wait before each new try when a database or a proxy does not answer: a minute in all."""

_QUEUED = "fixed_params"  # where Optuna keeps what `enqueue_trial` was given
_KEPT = (_QUEUED, "failed_trial", "retry_history")  # Optuna's own notes that a retried trial needs
_GRPC = "grpc://"


def open_storage(where: str | Path) -> BaseStorage:
    """The storage behind a file or a URL, whose running trials have heartbeats.

    A database or a proxy that is away for less than a minute is not noticed. A journal's write is not tried again,
    since half of it may stand in the file.

    Args:
        where: path of a journal file; ``postgresql+psycopg://…`` or another URL of SQLAlchemy; ``grpc://HOST:PORT``.

    Raises:
        JobError: a URL that is none.
        BackendError: a package that it needs is missing.
        StorageError: a database that cannot be opened.
    """
    import optuna.storages
    from sqlalchemy.exc import ArgumentError

    if isinstance(where, Path):
        from optuna.storages.journal import JournalFileBackend

        _mend(where)
        journal = JournalFileBackend(str(where), _journal_lock(where))
        return cast("BaseStorage", _with_heartbeats(optuna.storages.JournalStorage)(journal))
    try:
        if where.startswith(_GRPC):
            storage = _proxy(where)
        else:
            storage = optuna.storages.get_storage(_database(where))
    except ImportError as error:
        extra = "grpc" if where.startswith(_GRPC) else "postgres"
        raise BackendError(
            f"storage '{_scheme(where)}' needs a package that is not installed ({error}); for PostgreSQL and the "
            f"gRPC proxy: pip install 'hardsight[{extra}]'"
        ) from error
    except ArgumentError as error:
        raise JobError(
            f"'storage' is no URL that Optuna knows: {error}; for example "
            "postgresql+psycopg://me@host/optuna or grpc://host:13000"
        ) from error
    return storage if where.startswith("sqlite") else _patient(storage)


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a dead worker's trial again with its parameters, without what that worker noted; `MAX_RETRIES` times."""
    from optuna.storages import RetryHeartbeatStaleTrialCallback

    lost = copy.deepcopy(trial)
    lost.user_attrs = {}
    lost.system_attrs = {key: value for key, value in lost.system_attrs.items() if key in _KEPT}
    RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)(study, lost)


def queued_params(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial will be, or was, tried with: its parameters and those that it was queued with."""
    return {**trial.system_attrs.get(_QUEUED, {}), **trial.params}


def last_beat(trial: FrozenTrial) -> float:
    """When a running trial's worker was last heard of, in seconds since 1970."""
    started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    return float(trial.system_attrs.get("heartbeat", started))


class _Heartbeats(BaseHeartbeat):
    """Optuna's heartbeat, kept as an attribute of the trial, so that every storage can have it.

    That of `optuna.storages.RDBStorage` is not seen through the proxy, and never ends a trial whose worker died before
    its first beat. The machines' clocks have to agree within `GRACE_S`.
    """

    def record_heartbeat(self, trial_id: int) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self.set_trial_system_attr(trial_id, "heartbeat", time.time())  # type: ignore[attr-defined]
        except UpdateFinishedTrialError:
            pass  # it was given to another: the worker will notice when it is done
        except Exception as error:
            if not _transient(error):
                raise  # else the next beat makes up for it

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        from optuna.trial import TrialState

        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))  # type: ignore[attr-defined]
        return [trial._trial_id for trial in running if time.time() - last_beat(trial) > GRACE_S]

    def get_heartbeat_interval(self) -> int:
        return HEARTBEAT_S

    def get_heartbeat_stale_trial_callback(self) -> Callable[[optuna.Study, FrozenTrial], None]:
        return retry


@functools.cache
def _with_heartbeats(kind: type[Any]) -> Callable[..., Any]:
    return type(f"Beating{kind.__name__}", (_Heartbeats, kind), {})


def _database(url: str) -> Any:
    import optuna.storages

    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("postgresql"):
        options["connect_args"] = {"connect_timeout": 10}
    return _with_heartbeats(optuna.storages.RDBStorage)(url, engine_kwargs=options)


def _proxy(url: str) -> Any:
    import optuna.storages

    host, _, port = url.removeprefix(_GRPC).rpartition(":")
    if not host or not port.isdecimal():
        raise JobError(
            f"storage '{url}' is not of the form grpc://HOST:PORT, for example grpc://10.0.0.7:13000"
        )
    proxy = _with_heartbeats(optuna.storages.GrpcStorageProxy)(host=host, port=int(port))
    try:
        proxy.wait_server_ready(timeout=10)
    except ConnectionError as error:
        raise StorageError(f"no gRPC proxy answers at '{url}'; start it, then go on with --resume") from error
    return proxy


def _journal_lock(path: Path) -> Any:
    from optuna.storages.journal import JournalFileOpenLock

    return JournalFileOpenLock(str(path))


def _mend(journal: Path) -> None:
    """Cut off a last line that a full disk or a power cut left unfinished: the next one would be joined to it."""
    if not journal.exists():
        return
    with journal.open("rb") as file:
        file.seek(0, 2)
        if file.tell() == 0:
            return
        file.seek(-1, 2)
        if file.read() == b"\n":
            return
    lock = _journal_lock(journal)
    lock.acquire()
    try:
        content = journal.read_bytes()
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _patient(storage: BaseStorage) -> BaseStorage:
    """The same storage, whose operations are tried again while it does not answer."""
    from optuna.storages import BaseStorage

    for name in (*BaseStorage.__abstractmethods__, "_get_stale_trial_ids"):
        setattr(storage, name, _retried(getattr(storage, name)))
    return storage


def _retried(operation: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(operation)
    def patient(*args: Any, **kwargs: Any) -> Any:
        for delay_s in RETRY_DELAYS_S:
            try:
                return operation(*args, **kwargs)
            except Exception as error:
                if not _transient(error):
                    raise
                time.sleep(delay_s)
        return operation(*args, **kwargs)

    return patient


def _transient(error: BaseException) -> bool:
    """Whether a storage that does not answer may be behind it."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import InterfaceError, OperationalError

    if isinstance(error, StorageInternalError):
        return error.__cause__ is not None and _transient(error.__cause__)
    return isinstance(error, OperationalError | InterfaceError) or _of_grpc(error)


def _of_grpc(error: BaseException) -> bool:
    """Whether it is gRPC's; asked by name, since the package need not be there."""
    return any(f"{kind.__module__}.{kind.__name__}" == "grpc.RpcError" for kind in type(error).__mro__)


def _scheme(url: str) -> str:
    return url.split("://", 1)[0] + "://…"


@contextlib.contextmanager
def storage_errors(path: Path | str) -> Iterator[None]:
    """Turn what a disk or a database throws into a StorageError that says how to go on.

    Args:
        path: folder or name of the search.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        torn = isinstance(cause, json.JSONDecodeError) or (
            isinstance(cause, DatabaseError) and not isinstance(cause, OperationalError)
        )
        known = isinstance(cause, OSError | SQLAlchemyError | StorageInternalError | EOFError)
        if not (known or torn or _of_grpc(cause)):
            raise
        first_line = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        if torn:
            advice = "bring a copy of the database back, or search in another folder"
        elif isinstance(cause, OSError):
            advice = "free space or fix the permissions, then go on with --resume"
        else:
            advice = "see that it runs and has space, then go on with --resume; finished trials are kept"
        raise StorageError(
            f"the search in '{path}' cannot read or write its files: {first_line}; {advice}"
        ) from error


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """No log line per trial and no notices about experimental samplers; put back afterwards."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
