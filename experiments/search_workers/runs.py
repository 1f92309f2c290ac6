"""Searches by one worker and by several of which some are killed, and what became of their trials."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hardsight.nas.job import Job, parse_job
from hardsight.nas.search import run_search
from hardsight.nas.study import StudyFolder, TrialRecord

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

TRIALS = 24
KILLS = (4, 12)
"""After so many finished trials a worker is killed in the middle of another."""
JOB = {
    "data": {"source": "digits", "limit": 600},
    "space": {
        "name": "quant_cnn",
        "resolutions": [8],
        "max_depth": 1,
        "widths": [[8, 16], [16, 24]],
        "expansions": [1, 2],
    },
    "device": "epyc-zen5/onnxruntime/fp32-t1",
    "constraints": {"latency": "200us"},
    "epochs": 3,
    "final_epochs": 0,
    "front_size": 1,
    "trials": TRIALS,
}


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Args:
        seed: of the job.
        workers: processes.
        killed: with ``kill -9``, in mid-trial.
        finished: trials.
        lost: killed trials that nobody finished.
        doubled: finished trials beyond those that were asked for, and killed ones finished more than once.
        hypervolume: share of the space below the error of guessing and the latency limit.
    """

    seed: int
    workers: int
    killed: int
    finished: int
    lost: int
    doubled: int
    hypervolume: float


class Killer:
    """Kills a worker of this machine in mid-trial; called with a search's progress.

    Args:
        folder: of the study.
        at: numbers of finished trials, one for each kill.
    """

    def __init__(self, folder: Path, at: tuple[int, ...]) -> None:
        self.killed: list[FrozenTrial] = []
        self._folder, self._at = StudyFolder(folder), list(at)

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != "search" or not self._at or done < self._at[0]:
            return
        study = self._folder.load(self._folder.job())
        for trial in study.get_trials():
            record = TrialRecord(trial)
            new = trial.number not in [t.number for t in self.killed]
            if new and trial.state.name == "RUNNING" and record.worker and "costs" in trial.user_attrs:
                process = int(record.worker.rpartition(":")[2])
                os.kill(process, signal.SIGSTOP)  # so that it does not finish while one looks again
                if study.get_trials()[trial.number].state.name == "RUNNING":
                    os.kill(process, signal.SIGKILL)
                    self.killed.append(trial)
                    self._at.pop(0)
                    return
                os.kill(process, signal.SIGCONT)

    def retries(self) -> list[int]:
        """By killed trial, how many finished trials repeat it with its parameters."""
        trials = self._folder.load(self._folder.job()).get_trials()
        return [
            sum(
                t.state.name == "COMPLETE"
                and t.params == killed.params
                and killed.number in t.system_attrs.get("retry_history", ())
                for t in trials
            )
            for killed in self.killed
        ]


def job(seed: int, storage: str | None = None) -> Job:
    """A short search on digits, really trained."""
    return parse_job({**JOB, "seed": seed, "storage": storage})


def run(seed: int, folder: Path, workers: int = 1, storage: str | None = None) -> Outcome:
    """Search; with several workers, kill some.

    Args:
        seed: of the job.
        folder: of the study.
        workers: processes.
        storage: of the study; by default a journal file.
    """
    killer = Killer(folder, KILLS if workers > 1 else ())
    report = run_search(job(seed, storage), folder, workers=workers, progress=killer, measure=lambda *_: [])
    retries = killer.retries()
    return Outcome(
        seed=seed,
        workers=workers,
        killed=len(killer.killed),
        finished=len(report.records),
        lost=retries.count(0) + max(0, TRIALS - len(report.records)),
        doubled=sum(n > 1 for n in retries) + max(0, len(report.records) - TRIALS),
        hypervolume=report.hypervolumes[-1],
    )


def record(outcome: Outcome) -> dict[str, float]:
    """Plain values, to be kept as JSON."""
    return asdict(outcome)
