"""A search's folder: an Optuna study in a journal file, the job, weights, the front, the report."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hardsight.candidate import Candidate
from hardsight.errors import JobError, StorageError
from hardsight.nas.job import Job, parse_job
from hardsight.nas.storage import (
    MAX_RETRIES,
    open_storage,
    queued_params,
    quiet_optuna,
    storage_errors,
)
from hardsight.prediction import Estimate

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


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
        self.journal = path / "study.journal"
        self.weights = path / "weights"
        self.front = path / "front"
        self.front_file = path / "front.json"
        self.trials_file = path / "trials.parquet"
        self.plot_file = path / "front.png"
        self.page_file = path / "report.html"
        self.lock_file = path / ".lock"

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
            write_text(self.name_file, f"{new_name()}\n")
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

    def open(self, job: Job, name: str | None = None) -> optuna.Study:
        """The study, or another of a given name; made on first use.

        Raises:
            StorageError: when the journal or the database is torn or out of reach.
        """
        import optuna

        with quiet_optuna(), storage_errors(self.path):
            return optuna.create_study(
                storage=open_storage(self._where(job)),
                study_name=name or self.study_name,
                directions=["minimize"] * len(job.objectives),
                load_if_exists=True,
            )

    def load(self, job: Job) -> optuna.Study:
        """The study, which must be there: looking makes none.

        Raises:
            StorageError: when the journal or the database holds none of that name, is torn or out of reach.
        """
        where = self._where(job)
        if isinstance(where, Path) and not where.exists():
            raise StorageError(f"folder '{self.path}' has a job but no study; start again with --resume")
        with storage_errors(self.path):
            return load_study(where, self.study_name)

    def _where(self, job: Job) -> str | Path:
        if job.storage is None and not self.journal.exists() and (self.path / "study.db").exists():
            raise StorageError(
                f"'{self.path}' holds a 'study.db', which an older Hardsight wrote and this one does not read; name "
                "another folder as 'output'"
            )
        return job.storage or self.journal

    @property
    def study_name(self) -> str:
        """By which the storage knows the study."""
        return self.name_file.read_text().strip()

    @property
    def predictor(self) -> Path:
        """Folder of the study's refined predictor, if there is one."""
        return self.predictor_of(self.study_name)

    def predictor_of(self, name: str) -> Path:
        """That of the study of this name: a refined study and its predictor become the folder's together."""
        return self.path / "predictor" / name

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
            held = self.lock_file.open("w")
        with held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StorageError(
                    f"another process is searching in '{self.path}'; wait for it or stop it"
                ) from error
            yield

    @property
    def locked(self) -> bool:
        """Whether a search writes here; False also on Windows, where that is not known."""
        try:
            import fcntl
        except ImportError:
            return False
        try:
            with self.lock_file.open() as asked:
                fcntl.flock(
                    asked, fcntl.LOCK_SH | fcntl.LOCK_NB
                )  # shared: two that look do not see each other
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


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
        """Why a trial counts as done without a result; None also for one that was interrupted."""
        if self.trial.state.name != "FAIL":
            return None
        value = self.trial.user_attrs.get("failure")
        deaths = 1 + len(self.trial.system_attrs.get("retry_history", ()))
        if value is None and deaths > MAX_RETRIES:
            return f"its worker died {deaths} times"
        return None if value is None else str(value)

    @property
    def worker(self) -> str | None:
        """Machine and process that works or worked on it."""
        return self.trial.user_attrs.get("worker")

    @property
    def counts(self) -> bool:
        """Whether it is one of the trials that the job asked for: finished, or it will be."""
        return self.trial.state.name != "FAIL" or self.failure is not None

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


def new_name() -> str:
    """For a study: unique in whatever storage."""
    return f"search-{uuid.uuid4().hex[:12]}"


def record_violations(trial: optuna.Trial | FrozenTrial, violations: Mapping[str, float]) -> None:
    """The one place where a trial tells Optuna's samplers what it breaks; above 0 is broken."""
    for name, violation in violations.items():
        trial.set_constraint(name, violation)


def finished(study: optuna.Study) -> list[TrialRecord]:
    """Trials that count as done: completed, or failed by themselves."""
    from optuna.trial import TrialState

    found = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    records = [TrialRecord(t) for t in found]
    return [r for r in records if r.complete or r.failure is not None]


def give_up(study: optuna.Study, number: int) -> FrozenTrial | None:
    """End a running trial whose worker is gone, to be counted for nothing; None where another was faster."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    try:
        return study.tell(number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):
        return None


def recover(study: optuna.Study) -> int:
    """Put trials that were interrupted (Ctrl-C, disk full) back into the queue; returns how many."""
    trials = study.get_trials(deepcopy=False)
    retried = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
    waiting = [
        t
        for t in trials
        if queued_params(t)
        and not TrialRecord(t).counts
        and t.number not in retried
        and not any(o.number > t.number and queued_params(o) == queued_params(t) for o in trials)
    ]
    for trial in waiting:
        study.enqueue_trial(queued_params(trial))
    return len(waiting)


def load_study(where: str | Path, name: str) -> optuna.Study:
    """A study that must be there.

    Raises:
        StorageError: when the storage holds none of that name.
    """
    import optuna

    with quiet_optuna():
        try:
            return optuna.load_study(storage=open_storage(where), study_name=name)
        except KeyError as error:
            raise StorageError(
                f"'{where}' does not hold the study '{name}'; bring the old storage back, or start again "
                "with --resume"
            ) from error


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
