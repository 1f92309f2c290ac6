"""The search: an Optuna study over a space, with predicted costs and trained accuracies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from hardsight.device import Device, get_device
from hardsight.errors import BackendError, DataError, InputError, JobError, StorageError
from hardsight.measurement import Measurement
from hardsight.nas.costs import CostModel, CostPredictor
from hardsight.nas.data import LabelledData
from hardsight.nas.evaluators import AccuracyEvaluator, get_evaluator
from hardsight.nas.job import Job, shared
from hardsight.nas.pareto import non_dominated
from hardsight.nas.pool import Plan, run_workers
from hardsight.nas.refine import WANTED, Refined, check_refinable, load_refined, next_round
from hardsight.nas.spaces import SPACES, SearchSpace, Task, get_space
from hardsight.nas.storage import quiet_optuna, storage_errors
from hardsight.nas.study import StudyFolder, TrialRecord, finished, give_up, recover
from hardsight.nas.worker import (
    DEADLINE,
    JOB,
    STOP,
    rescue,
    trials_left,
    wait_for_others,
    work,
    worker_name,
)
from hardsight.progress import Progress

if TYPE_CHECKING:
    import optuna

    from hardsight.nas.report import SearchReport

Measure = Callable[[Path, Device], list[Measurement]]
"""Measures an ONNX file on a device of this machine."""


class Tracker(Protocol):
    """What a search tells an experiment tracker; `hardsight.tracking` has one for MLflow."""

    def metrics(self, values: dict[str, float], step: int | None = None) -> None: ...

    def artifact(self, path: Path) -> None: ...

    def tag(self, key: str, value: str) -> None: ...

    def flush(self) -> None: ...


@dataclass(frozen=True)
class Setting:
    """Everything a job file names, loaded and checked against each other.

    Args:
        job: as given.
        device: that the networks are for.
        data: with its split.
        space: to search.
        costs: predicts candidates.
        evaluator: gives accuracies.
        unrefined: predicts as before the search was refined; None where it was not.
    """

    job: Job
    device: Device
    data: LabelledData
    space: SearchSpace
    costs: CostModel
    evaluator: AccuracyEvaluator
    unrefined: CostModel | None = None


Track = Callable[[Setting, Path], AbstractContextManager[Tracker]]
"""Opens a run for a search that can start, with what it searches in and its folder."""


def prepare(
    job: Job,
    predictor: CostPredictor | None = None,
    evaluator: AccuracyEvaluator | None = None,
    device: Device | None = None,
    refined: Refined | None = None,
) -> Setting:
    """Load what the job names and fail now rather than in the middle.

    Args:
        job: to prepare.
        predictor: instead of the device's own.
        evaluator: instead of the one that the job names.
        device: of the job's name, where this machine does not know it: one of a public table.
        refined: predictor of a search that was refined (`hardsight.nas.refine`).

    Raises:
        InputError: data, space, device or job that cannot be used.
        NotCalibratedError: this machine, before ``hardsight adapt --here``.
        NotSupportedError: an objective or constraint that is not predicted.
    """
    if device is None:
        device = get_device(job.device)
    elif device.name != job.device:
        raise InputError(f"device '{device.name}' was given for a job that names '{job.device}'")
    if device.mode.startswith("int8") and device.kind != "npu":
        raise JobError(
            f"device '{job.device}' quantizes a float model by itself, but a search chooses the "
            "precision of each block; "
            f"name '{job.device.replace('/int8', '/fp32')}', which runs a model as it is given"
        )
    space_class = get_space(job.space.name)
    data = (evaluator or get_evaluator(job.evaluator.name)).load_data(job)
    precisions = tuple(p.split("-")[0] for p in device.precisions)
    if data.kind != space_class.samples:
        raise JobError(
            f"space '{job.space.name}' is for {space_class.samples}, and the data set '{data.name}' holds {data.kind}; "
            "name another space, or say with the keys of 'data' how to read it (docs/job.md)"
        )
    if space_class.fixed_point not in (None, device.kind == "fpga"):
        fitting = [name for name, space in SPACES.items() if space.fixed_point != space_class.fixed_point]
        raise JobError(
            f"space '{job.space.name}' is {'for FPGAs' if space_class.fixed_point else 'not for FPGAs'}, and "
            f"'{job.device}' is of kind {device.kind}; name another device, or one of the spaces "
            f"{', '.join(fitting)}"
        )
    if space_class.fixed_point or device.kind == "npu":
        from hardsight.datasets.profilers import get_profiler

        get_profiler(device).check()  # its tools also run the front
    task = Task(data.shape, len(data.classes), precisions, data.signed)
    space = space_class.for_task(task, **job.space.options)
    if predictor is None:
        from hardsight.predictors import load_predictor

        predictor = load_predictor(job.device)
    floating = device.mode.startswith("int8")
    costs = CostModel(space, predictor, job, floating=floating)
    for parameters in space.anchors()[:1]:
        costs.verdicts(costs(space.at(parameters)))
    if evaluator is None:
        evaluator = get_evaluator(job.evaluator.name).for_job(space, data, job)
    if refined is None:
        return Setting(job, device, data, space, costs, evaluator)
    learned = CostModel(space, refined.predictor, job, refined.measured, floating)
    return Setting(job, device, data, space, learned, evaluator, unrefined=costs)


def run_search(
    job: Job,
    out_dir: Path | None = None,
    resume: bool = False,
    *,
    refine: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
    predictor: CostPredictor | None = None,
    evaluator: AccuracyEvaluator | None = None,
    device: Device | None = None,
    measure: Measure | None = None,
    track: Track | None = None,
) -> SearchReport:
    """Search, train the front finally, export, verify and measure it, write the report.

    A killed search goes on with ``resume``: finished trials stay, those that were running are tried again.
    With the same job and one worker, the same candidates come out. How long and how far it goes
    (`hardsight.nas.job.EFFORT`) may change on resuming, nothing else.

    Args:
        job: what to search for.
        out_dir: folder of the study; the job's ``output`` by default.
        resume: go on in a folder that holds this job's study; a folder without one is started.
        refine: adapt the predictor with the front's measurements, and search and verify for another round
            (`hardsight.nas.refine`); of a search that was stopped in such a round, finish that.
        workers: processes on this machine that try candidates; others may join (`hardsight.nas.join.join_search`).
        progress: called with what is done, how much of it, and how much there is.
        predictor: instead of the device's own; with several workers one that can be pickled.
        evaluator: as the predictor, instead of the one that the job names.
        device: of the job's name, where this machine does not know it.
        measure: instead of this machine's profiler.
        track: opens the experiment tracker's run, once nothing is left to refuse the job for.

    Returns:
        the report, also written to the folder as ``report.html``, ``front.png`` and ``trials.parquet``.

    Raises:
        InputError: a job or data that cannot be used.
        StorageError: a folder that holds another search, a full disk, a torn journal, a database that is away.
        BackendError: workers that die again and again.
        NotSupportedError: to refine for a device that cannot be measured here.
    """
    from hardsight.nas.report import write_report
    from hardsight.nas.verify import Row, verify_front

    if workers < 1:
        raise InputError(f"{workers} workers cannot search; give 1 or more")
    folder = StudyFolder(Path(out_dir or job.output or "search"))
    if folder.exists and resume:
        folder.check_same(job)
    elif folder.exists:
        folder.create(job)  # refuses
    setting = prepare(job, predictor, evaluator, device, load_refined(folder))
    if refine:
        check_refinable(setting, measure)
    if not folder.exists:
        if measure is None:
            _check_compiles(setting)
        folder.create(job)
    with folder.lock(), storage_errors(folder.path), quiet_optuna():
        folder.keep(job)
        setting, study = _open(setting, folder)
        begun = WANTED in study.user_attrs and trials_left(study) > 0  # the round that was asked for
        report = None

        def search_and_verify(known: Sequence[Row] = ()) -> list[Row]:
            if workers == 1:
                work(setting, study, folder.weights, progress=progress)
            else:
                plan = Plan(setting.job, folder.path, predictor, evaluator, device)
                run_workers(plan, study, workers, progress)
            wait_for_others(study)
            done = finished(study)
            return verify_front(setting, folder, front(done), len(done), measure, progress, known)

        try:
            setting.evaluator.begin(folder.path, progress)
            with track(setting, folder.path) if track else nullcontext() as run:
                rows = search_and_verify()
                report = write_report(folder.path)
                if refine and not begun and rows and not study.user_attrs[STOP]:
                    try:
                        refined = next_round(setting, folder, study, rows, measure)
                    except DataError as error:  # what was found so far is still worth reporting
                        report = replace(report, notes=(*report.notes, f"Not refined: {error}"))
                    else:
                        setting, study = _open(refined, folder)
                        search_and_verify(rows)
                        report = write_report(folder.path)
                if run is not None:
                    _track(report, folder, run)
        except StorageError as error:
            if report is None:
                raise
            # hours of search are not lost for a log, nor for its end
            note = f"Results are in '{folder.path}'; the MLflow run is incomplete: {error}"
            report = replace(report, notes=(*report.notes, note))
    return report


def front(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Feasible, trained and non-dominated, one trial per candidate, in the order of the objectives."""
    usable = [r for r in records if r.complete and r.feasible and r.accuracy is not None]
    unique = list({r.candidate.digest: r for r in reversed(usable)}.values())
    if not unique:
        return []
    kept = non_dominated(np.array([r.trial.values for r in unique], np.float64))
    return sorted(
        (r for r, keep in zip(unique, kept, strict=True) if keep), key=lambda r: (r.trial.values, r.number)
    )


def check_data(setting: Setting, study: optuna.Study, name: str) -> None:
    """Refuse to go on with other data than those that the search began with.

    Args:
        setting: with the data.
        study: that has begun.
        name: of the study, for the message.

    Raises:
        InputError: they differ.
    """
    if study.user_attrs["data_sha256"] != setting.data.digest:
        raise InputError(
            f"the data set '{setting.data.name}' has changed since the search '{name}' began; "
            "bring the old data back, or name another folder as 'output'"
        )


def first_costs(setting: Setting) -> dict[str, float]:
    """What is predicted for the space's first anchor: another machine has to predict the same."""
    found = [setting.costs(setting.space.at(parameters)) for parameters in setting.space.anchors()[:1]]
    return {name: estimate.value for costs in found for name, estimate in costs.items()}


def _check_compiles(setting: Setting) -> None:
    """Have an NPU's compiler try the space's first network: what it leaves to the CPU has no price.

    Raises:
        BackendError: it leaves operators, or cannot compile it.
    """
    if setting.device.kind != "npu":
        return
    from hardsight.datasets.profilers import get_profiler
    from hardsight.datasets.weights import fill_weights

    for parameters in setting.space.anchors()[:1]:
        model = fill_weights(setting.space.to_onnx(setting.space.at(parameters)))
        try:
            get_profiler(setting.device).measure(model, setting.device)
        except BackendError as error:
            raise BackendError(
                f"space '{setting.job.space.name}' is not for '{setting.device.name}': {error}; name another space, "
                "such as quant_cnn or resnet"
            ) from error


def _open(setting: Setting, folder: StudyFolder) -> tuple[Setting, optuna.Study]:
    """The study, ready for workers: with what they need to know, and whatever was interrupted in its queue.

    Returns:
        also the setting, with as many trials as a refined study wants.
    """
    from optuna.trial import TrialState

    study = folder.open(setting.job)
    trials = max(setting.job.trials, study.user_attrs.get(WANTED, 0))
    job = setting.job.model_copy(update={"trials": trials})
    setting = replace(setting, job=job)
    begun = "data_sha256" in study.user_attrs
    if begun:
        check_data(setting, study, str(folder.path))
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if TrialRecord(trial).worker in (
            None,
            worker_name(),
        ):  # killed as it began; left behind by this process
            give_up(study, trial.number)
    rescue(study)
    recover(study)
    facts = {JOB: shared(job), STOP: False, DEADLINE: time.time() + job.timeout if job.timeout else None}
    if not begun:
        for parameters in setting.space.anchors():
            study.enqueue_trial(dict(parameters), skip_if_exists=True)
        facts |= {
            "first_costs": first_costs(setting),
            "data_name": setting.data.name,
            "data_shape": list(setting.data.shape),
            "data_classes": list(setting.data.classes),
            "data_samples": {part: len(chosen) for part, chosen in setting.data.parts.items()},
            "data_sha256": setting.data.digest,
        }
    for key, value in facts.items():
        study.set_user_attr(key, value)
    return setting, study


def _track(report: SearchReport, folder: StudyFolder, run: Tracker) -> None:
    run.tag("data_digest", str(report.data["sha256"]))
    for step, (error, volume) in enumerate(zip(report.best_error, report.hypervolumes, strict=True)):
        run.metrics({"best_validation_error": error, "hypervolume": volume}, step)
    run.metrics(report.summary_metrics())
    files = [folder.trials_file, folder.front_file, folder.plot_file, folder.page_file, folder.front]
    if report.job.public() == report.job:  # else the file holds a password; the page shows the job without it
        files.insert(0, folder.job_file)
    for path in files:
        run.artifact(path)
    run.flush()
