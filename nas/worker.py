"""One worker of a search: takes trials of a study and evaluates them until there are enough."""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardsight.candidate import Candidate
from hardsight.nas.evaluators import Details, Evaluation, TrialFailure
from hardsight.nas.job import ERROR
from hardsight.nas.samplers import hopeless_error, make_sampler
from hardsight.nas.storage import GRACE_S, last_beat, retry
from hardsight.nas.study import TrialRecord, finished, give_up, record_violations, recover
from hardsight.prediction import Estimate
from hardsight.progress import Progress

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from hardsight.nas.screening import CostFunction, Known
    from hardsight.nas.search import Setting

SCREENED = 100
"""Candidates that sampler ``screening`` compares for each trial: predicting one takes about 10 ms, training seconds."""
POLL_S = 0.5
"""How often one looks whether the last trials, which others work on, are done."""
# What the study says to its workers, wherever they are.
JOB = "job"
DEADLINE = "deadline"
STOP = "stop"


def work(
    setting: Setting,
    study: optuna.Study,
    weights: Path | None,
    number: int = 0,
    parallel: bool = False,
    progress: Progress | None = None,
) -> None:
    """Take trials until the job's number is finished, its time is up, or it is stopped.

    A trial that another worker was given, since this one was silent for too long, is dropped.

    Args:
        setting: what to search in.
        study: the search.
        weights: folder for what was trained; None keeps nothing, and the front is trained again.
        number: of this worker, which its seed is derived from.
        parallel: whether others work on the same study.
        progress: called after each trial.

    Raises:
        StorageError and what Optuna throws: the storage does not answer for a minute.
    """
    from optuna.exceptions import UpdateFinishedTrialError

    study.sampler = _sampler(setting, study, number, parallel)
    objective = _Objective(setting, study, weights)
    while True:
        if progress:
            progress("search", min(len(finished(study)), setting.job.trials), setting.job.trials)
        if not trials_left(study):
            return
        if not _room(study):
            rescue(study)
            time.sleep(POLL_S)
            continue
        try:
            study.optimize(objective, n_trials=1, catch=(TrialFailure, _Superfluous))
        except (UpdateFinishedTrialError, ValueError) as error:
            if not _is_taken(error):
                raise
        except UnboundLocalError as error:  # how Optuna stumbles when the storage is away as a trial ends
            raise error.__context__ or error from None
        except KeyboardInterrupt:
            recover(study)  # others may go on without this worker
            raise


def trials_left(study: optuna.Study) -> int:
    """How many trials are still to finish; 0 also when the search shall end before."""
    said = study.user_attrs
    parent = multiprocessing.parent_process()
    orphaned = parent is not None and not parent.is_alive()
    late = said.get(DEADLINE) is not None and time.time() > said[DEADLINE]
    if said.get(STOP) or late or orphaned:
        return 0
    return max(0, int(said[JOB]["trials"]) - len(finished(study)))


def rescue(study: optuna.Study) -> None:
    """Give the trials of dead workers to others."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if is_orphaned(trial):
            lost = give_up(study, trial.number)
            if lost is not None:
                retry(study, lost)


def is_orphaned(trial: FrozenTrial) -> bool:
    """Whether a running trial's worker is dead: of this machine by its process, of any by its heartbeat."""
    worker = TrialRecord(trial).worker
    return (worker is not None and has_died(worker)) or time.time() - last_beat(trial) > GRACE_S


def wait_for_others(study: optuna.Study) -> None:
    """Until no trial runs any more, those that are not needed apart."""
    from optuna.trial import TrialState

    asked_for = study.user_attrs[JOB]["trials"]
    while len(finished(study)) < asked_for and study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        time.sleep(POLL_S)
        rescue(study)


def worker_name() -> str:
    """Of this process: unique among all machines at one time."""
    return f"{_machine()}:{os.getpid()}"


def free_costs(setting: Setting) -> CostFunction:
    """What a sampler may know of a candidate before it is trained."""

    def known(params: Mapping[str, Any]) -> Known:
        from hardsight.nas.screening import Known

        candidate = setting.space.at(params)
        costs = setting.costs(candidate)
        values = tuple(None if name == ERROR else costs[name].value for name in setting.job.objectives)
        broken = setting.costs.violations(candidate, costs)
        return Known(values, tuple(broken.values()), candidate.digest)

    return known


class _Superfluous(Exception):
    """The trials before this one are as many as the job asks for."""


class _Objective:
    """Cost first: only what may keep the budget, and was not seen before, is trained."""

    def __init__(self, setting: Setting, study: optuna.Study, weights: Path | None) -> None:
        self._setting = setting
        self._study = study
        self._weights = weights

    def __call__(self, trial: optuna.Trial) -> list[float]:
        setting = self._setting
        trial.set_user_attr("worker", worker_name())
        self._claim(trial)
        candidate = setting.space.suggest(trial)
        trial.set_user_attr("candidate", candidate.to_json())
        costs = setting.costs(candidate)
        trial.set_user_attr("costs", {name: list(estimate) for name, estimate in costs.items()})
        broken = setting.costs.violations(candidate, costs)
        record_violations(trial, broken)
        if any(v > 0 for v in broken.values()):
            error = 1 - 1 / len(setting.data.classes)  # that of guessing: the network was not trained
        else:
            error = 1 - self._accuracy(trial, candidate, costs)
        known = {ERROR: error, **{name: estimate.value for name, estimate in costs.items()}}
        return [known[name] for name in setting.job.objectives]

    def _claim(self, trial: optuna.Trial) -> None:
        """The storage numbers trials in one order for all workers: of two that want the last, the second gets none."""
        records = map(TrialRecord, self._study.get_trials(deepcopy=False))
        place = sum(record.counts for record in records if record.number <= trial.number)
        if place > self._study.user_attrs[JOB]["trials"]:
            raise _Superfluous

    def _accuracy(self, trial: optuna.Trial, candidate: Candidate, costs: Mapping[str, Estimate]) -> float:
        accuracy = self._seen(candidate)
        trial.set_user_attr("reused", accuracy is not None)
        if accuracy is None:
            evaluation = self._train(trial, candidate, self._rivals(costs))
            if self._weights is not None:
                evaluation.save(self._weights / f"{candidate.digest}.safetensors")
            accuracy = evaluation.accuracy
            trial.set_user_attr("train_s", evaluation.duration_s)
            trial.set_user_attr("epochs", evaluation.epochs)
            trial.set_user_attr("pruned", evaluation.pruned)
            trial.set_user_attr("details", dict(evaluation.details))
        trial.set_user_attr("accuracy", accuracy)
        return accuracy

    def _train(self, trial: optuna.Trial, candidate: Candidate, rivals: Sequence[Details]) -> Evaluation:
        try:
            return self._setting.evaluator.evaluate_among(candidate, self._setting.job.seed, rivals)
        except TrialFailure as failure:
            trial.set_user_attr("failure", str(failure))
            raise

    def _rivals(self, costs: Mapping[str, Estimate]) -> list[Details]:
        """What the evaluator noted of candidates that cost no more in any objective, in order."""
        objectives = [name for name in self._setting.job.objectives if name != ERROR]
        return [
            record.details
            for record in finished(self._study)
            if record.details and all(record.costs[name].value <= costs[name].value for name in objectives)
        ]

    def _seen(self, candidate: Candidate) -> float | None:
        for record in finished(self._study):
            if (
                record.complete
                and record.accuracy is not None
                and record.candidate.digest == candidate.digest
            ):
                return record.accuracy
        return None


def _sampler(
    setting: Setting, study: optuna.Study, number: int, parallel: bool
) -> optuna.samplers.BaseSampler:
    job = setting.job
    # a resumed search must not draw the numbers of its first trials again; screening draws by trial number
    drawn = 0 if job.sampler == "screening" else len(finished(study))
    seed = (job.seed + 1_000_003 * drawn + 7_919 * number) % 2**31
    return make_sampler(
        job.sampler,
        seed,
        job.trials,
        free_costs(setting),
        SCREENED,
        hopeless_error(len(setting.data.classes)),
        parallel,
    )


def _room(study: optuna.Study) -> bool:
    """Whether a trial waits, or a new one may begin."""
    trials = study.get_trials(deepcopy=False)
    asked_for = study.user_attrs[JOB]["trials"]
    return any(t.state.name == "WAITING" for t in trials) or (
        sum(TrialRecord(t).counts for t in trials) < asked_for
    )


def _is_taken(error: Exception) -> bool:
    """Whether Optuna refuses a result since the trial has ended already."""
    from optuna.exceptions import UpdateFinishedTrialError

    return isinstance(error, UpdateFinishedTrialError) or str(error).startswith("Cannot tell a ")


def _machine() -> str:
    """This machine; of a container, whose processes have numbers of their own, also that."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return platform.node()
    return f"{platform.node()}/{namespace}"


def has_died(worker: str) -> bool:
    """Whether that is a process of this machine that is no longer there."""
    machine, _, process = worker.rpartition(":")
    if sys.platform == "win32" or machine != _machine():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
