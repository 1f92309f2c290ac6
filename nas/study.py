"""A search's folder: an Optuna study in a database file, the job, weights, the front, the report."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hardsight.candidate import Candidate
from hardsight.errors import JobError, StorageError
from hardsight.nas.job import Job, parse_job
from hardsight.prediction import Estimate

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_QUEUED = "fixed_params"  # where Optuna keeps what `enqueue_trial` was given


class StudyFolder:
    """Names and opens what a search keeps.

    Args:
        path: of the folder.

    Raises:
        StorageError: when that is a file.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise StorageError(
                f"'{path}' is a file; expected the folder of a search or the name of a new one"
            )
        self.path = path
        self.name_file = path / "study-name"
        self.job_file = path / "job.yaml"
        self.database = path / "study.db"
        self.weights = path / "weights"
        self.front = path / "front"
        self.front_file = path / "front.json"
        self.trials_file = path / "trials.parquet"
        self.plot_file = path / "front.png"
        self.page_file = path / "report.html"

    @property
    def exists(self) -> bool:
        return self.job_file.exists()

    def create(self, job: Job) -> None:
        """Make the folder and write the resolved job into it.

        Raises:
            StorageError: when it holds a study already, or cannot be written.
        """
        if self.exists:
            raise StorageError(
                f"folder '{self.path}' already holds a search; go on with --resume, or name another "
                "folder as 'output'"
            )
        with storage_errors(self.path):
            for folder in (self.path, self.weights, self.front):
                folder.mkdir(parents=True, exist_ok=True)
            # in a storage that folders share, two of one name must not become one study
            write_text(self.name_file, f"search-{uuid.uuid4().hex[:12]}\n")
            write_text(self.job_file, job.to_yaml())

    def job(self) -> Job:
        """The job the study was started with.

        Raises:
            StorageError: when there is no study in the folder.
        """
        if not self.exists:
            raise StorageError(
                f"folder '{self.path}' holds no search; start one with 'hardsight search JOB.yaml'"
            )
        with storage_errors(self.path):
            return parse_job(yaml.safe_load(self.job_file.read_text()), str(self.job_file))

    def check_same(self, job: Job) -> None:
        """Refuse to resume with a job that would have found other networks.

        Raises:
            JobError: with the difference.
        """
        if changed := self.job().difference(job):
            raise JobError(
                f"the job differs from the one that '{self.path}' was started with: {'; '.join(changed)}; "
                "put the old values back, or name another folder as 'output'"
            )

    def keep(self, job: Job) -> None:
        """Write the job again where a resumed one goes further than the first."""
        if self.job() != job:
            write_text(self.job_file, job.to_yaml())

    def open(self, job: Job) -> optuna.Study:
        """The study, made on first use.

        Raises:
            StorageError: when the database is torn or out of reach.
        """
        import optuna

        with quiet_optuna(), storage_errors(self.path):
            return optuna.create_study(
                storage=self._url(job),
                study_name=self._name(),
                directions=["minimize"] * len(job.objectives),
                load_if_exists=True,
            )

    def load(self, job: Job) -> optuna.Study:
        """The study, which must be there: looking makes none.

        Raises:
            StorageError: when the database holds none of that name, is torn or out of reach.
        """
        import optuna

        with quiet_optuna(), storage_errors(self.path):
            try:
                return optuna.load_study(storage=self._url(job), study_name=self._name())
            except KeyError as error:
                raise StorageError(
                    f"the database of the search in '{self.path}' does not hold its study '{self._name()}'; bring "
                    "the old one back, or start again with --resume"
                ) from error

    def _url(self, job: Job) -> str:
        return job.storage or f"sqlite:///{self.database}"

    def _name(self) -> str:
        return self.name_file.read_text().strip()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held while a search writes here.

        Raises:
            StorageError: when another process holds it.
        """
        try:
            import fcntl
        except ImportError:  # Windows: two searches in one folder are not noticed there
            yield
            return
        with storage_errors(self.path):
            held = (self.path / ".lock").open("w")
        with held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StorageError(
                    f"another process is searching in '{self.path}'; wait for it or stop it"
                ) from error
            yield


@dataclass(frozen=True)
class TrialRecord:
    """What a finished trial says, read back from Optuna.

    Args:
        trial: as Optuna keeps it.
    """

    trial: FrozenTrial

    @property
    def number(self) -> int:
        return self.trial.number

    @cached_property
    def candidate(self) -> Candidate:
        return Candidate.from_json(self.trial.user_attrs["candidate"])

    @cached_property
    def costs(self) -> dict[str, Estimate]:
        """Predicted costs by name, exact ones with level 1."""
        return {name: Estimate(*numbers) for name, numbers in self.trial.user_attrs["costs"].items()}

    @property
    def accuracy(self) -> float | None:
        """On the validation part; None where the candidate was not trained."""
        value = self.trial.user_attrs.get("accuracy")
        return None if value is None else float(value)

    @property
    def reused(self) -> bool:
        """Whether an earlier trial of the same candidate gave the accuracy."""
        return bool(self.trial.user_attrs.get("reused", False))

    @property
    def pruned(self) -> bool:
        """Whether the evaluator ended its training early or did not begin it."""
        return bool(self.trial.user_attrs.get("pruned", False))

    @property
    def epochs(self) -> int:
        """It was trained for in this trial."""
        return int(self.trial.user_attrs.get("epochs", 0))

    @property
    def details(self) -> dict[str, Any]:
        """What the evaluator noted to judge later candidates by; empty where it has nothing to say."""
        return dict(self.trial.user_attrs.get("details", {})) if self.complete else {}

    @property
    def failure(self) -> str | None:
        value = self.trial.user_attrs.get("failure")
        return None if value is None else str(value)

    @property
    def violations(self) -> dict[str, float]:
        """By constraint: how far the upper end is above the limit, relative to it; at most 0 means kept."""
        return dict(self.trial.constraints)

    @property
    def feasible(self) -> bool:
        return all(v <= 0 for v in self.violations.values())

    @property
    def complete(self) -> bool:
        return self.trial.state.name == "COMPLETE"


def record_violations(trial: optuna.Trial, violations: Mapping[str, float]) -> None:
    """The one place where a trial tells Optuna's samplers what it breaks; above 0 is broken."""
    for name, violation in violations.items():
        trial.set_constraint(name, violation)


def finished(study: optuna.Study) -> list[TrialRecord]:
    """Trials that count as done: completed, or failed by themselves."""
    from optuna.trial import TrialState

    found = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    records = [TrialRecord(t) for t in found]
    return [r for r in records if r.complete or r.failure is not None]


def recover(study: optuna.Study) -> int:
    """Put trials that were interrupted (killed, disk full) back into the queue; returns how many."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials()
    lost = [t for t in trials if t.state is TrialState.FAIL and t.params and TrialRecord(t).failure is None]
    waiting = [
        t
        for t in lost
        if not any(o.number > t.number and o.system_attrs.get(_QUEUED) == t.params for o in trials)
    ]
    for trial in waiting:
        study.enqueue_trial(trial.params)
    return len(waiting)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what a disk or a database throws into a StorageError that says how to go on."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

    try:
        yield
    except StorageError:
        raise
    except (OSError, StorageInternalError, SQLAlchemyError, EOFError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        first_line = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        torn = isinstance(cause, DatabaseError) and not isinstance(cause, OperationalError)
        advice = (
            "bring a copy of the database back, or search in another folder"
            if torn
            else "free space or fix the permissions, then go on with --resume"
        )
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


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")
