"""How far a search is, and how it is told to stop."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from hardsight.nas.refine import WANTED
from hardsight.nas.report import load_report
from hardsight.nas.storage import GRACE_S, last_beat, quiet_optuna, storage_errors
from hardsight.nas.study import StudyFolder, TrialRecord
from hardsight.nas.worker import DEADLINE, STOP, has_died, is_orphaned

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_RECENT = 20  # finished trials that the speed is told from
_LEAST = 3  # of them that were trained: others take milliseconds


class SeenWorker(NamedTuple):
    """A worker that was heard of in the last minutes.

    Args:
        name: machine and process.
        finished: trials.
        running: whether it is at one.
        seen_s: since it was last heard of.
    """

    name: str
    finished: int
    running: bool
    seen_s: float


@dataclass(frozen=True)
class SearchStatus:
    """How far a search is.

    Args:
        folder: of the study.
        study: by which its storage knows it; ``hardsight search worker --study`` takes that.
        wanted: trials that the job asks for.
        trials: by state: ``finished``, ``failed`` among them by themselves, ``running``, ``waiting``, ``lost``
            with their worker and, if they may be, tried again.
        best_error: least validation error of a candidate that keeps the constraints; None before there is one.
        hypervolume: share of the objective space that the front dominates.
        working: whether a process searches or verifies: the one that began, or a worker with a trial.
        per_hour: trials that the workers finish at the speed of late; None where nobody works, and before three
            trials were trained.
        left_s: until the last trial at that speed, or the job's end of time if that is earlier; None where that is
            not known, or the search was told to stop.
        stopped: whether it was told to stop.
        verified: whether the front of all finished trials was trained finally and measured.
        verified_after: finished trials when a front was verified last; None where it was not, or an older Hardsight
            did it.
        workers: alive, and heard of lately.
    """

    folder: Path
    study: str
    wanted: int
    trials: Mapping[str, int]
    best_error: float | None
    hypervolume: float
    working: bool
    per_hour: float | None
    left_s: float | None
    stopped: bool
    verified: bool
    verified_after: int | None
    workers: Sequence[SeenWorker]

    @property
    def complete(self) -> bool:
        """Whether all trials are finished."""
        return self.trials["finished"] >= self.wanted


def search_status(folder: Path) -> SearchStatus:
    """Look at a search, whether it runs or not.

    Raises:
        StorageError: there is no search in the folder, or its storage cannot be read.
    """
    report, kept = load_report(folder), StudyFolder(folder)
    with quiet_optuna(), storage_errors(folder):
        study = kept.load(report.job)
        trials = [TrialRecord(t) for t in study.get_trials(deepcopy=False)]
        said = study.user_attrs
    done = len(report.records)
    states = Counter(t.trial.state.name for t in trials)
    orphaned = sum(t.trial.state.name == "RUNNING" and is_orphaned(t.trial) for t in trials)
    workers = _workers(trials)
    working = kept.locked or states["RUNNING"] > orphaned
    stopped = bool(said.get(STOP))
    per_hour = _per_hour(report.records, max(1, len(workers))) if working else None
    wanted = said.get(WANTED, report.job.trials)
    left = max(0, wanted - done)
    ends = [3600 * left / per_hour] if per_hour else []
    if said.get(DEADLINE) is not None:
        ends.append(max(0.0, said[DEADLINE] - time.time()))
    errors = [1 - r.accuracy for r in report.judged if r.feasible and r.accuracy is not None]
    return SearchStatus(
        folder=report.folder,
        study=kept.study_name,
        wanted=wanted,
        trials={
            "finished": done,
            "failed": sum(r.failure is not None for r in report.records),
            "running": states["RUNNING"] - orphaned,
            "waiting": states["WAITING"],
            "lost": orphaned
            + sum(not t.counts and t.worker is not None and bool(t.trial.params) for t in trials),
        },
        best_error=min(errors, default=None),
        hypervolume=report.hypervolumes[-1] if report.records else 0.0,
        working=working,
        per_hour=per_hour,
        left_s=(min(ends, default=None) if working and not stopped else None) if left else 0.0,
        stopped=stopped,
        verified=report.verified and report.verified_after in (None, done),
        verified_after=report.verified_after,
        workers=workers,
    )


def stop_search(folder: Path) -> None:
    """Let the workers of a search end after the trials they are at; ``--resume`` goes on.

    Raises:
        StorageError: there is no search in the folder, or its storage cannot be written.
    """
    kept = StudyFolder(folder)
    with quiet_optuna(), storage_errors(folder):
        kept.load(kept.job()).set_user_attr(STOP, True)


def _per_hour(records: Sequence[TrialRecord], workers: int) -> float | None:
    """From how long trials took, so that pauses between runs do not count; only a share of them is trained."""
    recent = sorted(records, key=lambda r: _heard(r.trial))[-_RECENT:]
    trained = [
        r.trial.duration.total_seconds()
        for r in recent
        if r.trial.duration is not None and r.accuracy is not None and not r.reused
    ]
    if len(trained) < _LEAST or not median(trained):
        return None
    return workers * 3600 * len(recent) / (len(trained) * median(trained))


def _workers(trials: Sequence[TrialRecord]) -> list[SeenWorker]:
    named: dict[str, list[TrialRecord]] = {}
    for record in trials:
        if record.worker is not None:
            named.setdefault(record.worker, []).append(record)
    seen = [
        SeenWorker(
            name,
            sum(r.trial.state.is_finished() and r.counts for r in own),
            any(r.trial.state.name == "RUNNING" for r in own),
            max(0.0, time.time() - max(_heard(r.trial) for r in own)),
        )
        for name, own in named.items()
    ]
    return [worker for worker in seen if worker.seen_s < GRACE_S and not has_died(worker.name)]


def _heard(trial: FrozenTrial) -> float:
    return trial.datetime_complete.timestamp() if trial.datetime_complete else last_beat(trial)
