"""The workers of one machine: processes on one study, which this one starts, watches and replaces."""

from __future__ import annotations

import multiprocessing
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

from hardsight.errors import BackendError, HardsightError
from hardsight.nas.job import Job
from hardsight.nas.storage import quiet_optuna, storage_errors
from hardsight.nas.study import StudyFolder, finished
from hardsight.nas.worker import POLL_S, rescue, trials_left, work
from hardsight.progress import Progress

if TYPE_CHECKING:
    import optuna

    from hardsight.device import Device
    from hardsight.nas.costs import CostPredictor
    from hardsight.nas.evaluators import AccuracyEvaluator

REPLACED = 3
"""So many dead workers are replaced for each that was asked for."""


@dataclass(frozen=True)
class Plan:
    """What a worker process needs to begin; travels to it pickled.

    Args:
        job: to work on.
        folder: of the study.
        predictor: instead of the device's own.
        evaluator: instead of the job's.
        device: of the job's name, where this machine does not know it.
    """

    job: Job
    folder: Path
    predictor: CostPredictor | None = None
    evaluator: AccuracyEvaluator | None = None
    device: Device | None = None


def run_workers(plan: Plan, study: optuna.Study, workers: int, progress: Progress | None = None) -> None:
    """Work on a study with processes until nothing is left to do.

    One that is killed is replaced, and its trial is tried again; one that fails ends them all.

    Args:
        plan: of each.
        study: which they work on.
        workers: how many at a time.
        progress: called every now and then.

    Raises:
        BackendError: workers die again and again.
        HardsightError: what a worker raised.
    """
    pool = _Pool(plan)
    try:
        for _ in range(workers):
            pool.start()
        while pool.active():
            time.sleep(POLL_S)
            died = pool.reap()  # first: until then a dead process still has its number
            rescue(study)
            if progress:
                progress("search", min(len(finished(study)), plan.job.trials), plan.job.trials)
            if died and trials_left(study):
                if max(died) > 0 or pool.started > workers * (1 + REPLACED):
                    raise BackendError(
                        f"of {pool.started} workers that were started the last ended with exit code {died[-1]} (a "
                        "negative number is a signal; -9 is often a lack of memory); give fewer --workers, then go "
                        "on with --resume"
                    )
                for _ in died:
                    pool.start()
    finally:
        pool.end()
    rescue(study)


class _Pool:
    """Worker processes by their connections, on which one that fails says why."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._running: list[tuple[SpawnProcess, Connection]] = []
        self.started = 0

    def start(self) -> None:
        self.started += 1
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(self._plan, self.started, theirs))
        process.start()
        theirs.close()
        self._running.append((process, ours))

    def active(self) -> bool:
        return bool(self._running)

    def reap(self) -> list[int]:
        """Forget the processes that ended; the exit codes of those that died. Raises what one raised."""
        ended = [(p, c) for p, c in self._running if not p.is_alive()]
        self._running = [(p, c) for p, c in self._running if p.is_alive()]
        for _, connection in ended:
            try:
                raise connection.recv()
            except EOFError:
                pass  # it had nothing to say
        return [process.exitcode for process, _ in ended if process.exitcode]

    def end(self) -> None:
        for process, _ in self._running:
            process.terminate()
        for process, _ in self._running:
            process.join()


def _work(plan: Plan, number: int, failed: Connection) -> None:
    """What a worker process does."""
    from hardsight.nas.refine import load_refined
    from hardsight.nas.search import prepare

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches the parent too, which says so
    folder = StudyFolder(plan.folder)
    try:
        with storage_errors(folder.path), quiet_optuna():
            setting = prepare(
                plan.job, plan.predictor, plan.evaluator, plan.device, refined=load_refined(folder)
            )
            setting.evaluator.begin(folder.path)
            work(setting, folder.load(plan.job), folder.weights, number, parallel=True)
    except Exception as error:
        known = isinstance(error, HardsightError)  # others may not survive pickling
        failed.send(error if known else RuntimeError(f"{type(error).__name__}: {error}"))
        raise SystemExit(1) from None
