"""The search: an Optuna study over a space, with predicted costs and trained accuracies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hardsight.candidate import Candidate
from hardsight.device import Device, get_device
from hardsight.errors import InputError, JobError, StorageError
from hardsight.measurement import Measurement
from hardsight.nas.costs import CostModel, CostPredictor, violations
from hardsight.nas.data import LabelledData, load_data
from hardsight.nas.evaluators import AccuracyEvaluator, Evaluation, TrialFailure, get_evaluator
from hardsight.nas.job import ERROR, Job
from hardsight.nas.pareto import non_dominated
from hardsight.nas.samplers import make_sampler
from hardsight.nas.spaces import SPACES, SearchSpace, Task, get_space
from hardsight.nas.study import (
    StudyFolder,
    TrialRecord,
    finished,
    quiet_optuna,
    record_violations,
    recover,
    storage_errors,
)
from hardsight.progress import Progress

if TYPE_CHECKING:
    import optuna

    from hardsight.nas.report import SearchReport
    from hardsight.nas.screening import CostFunction, Known

SCREENED = 200
"""Candidates that sampler ``screening`` compares for each trial: predicting one takes up to 20 ms, training seconds."""

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
    """

    job: Job
    device: Device
    data: LabelledData
    space: SearchSpace
    costs: CostModel
    evaluator: AccuracyEvaluator


Track = Callable[[Setting, Path], AbstractContextManager[Tracker]]
"""Opens a run for a search that can start, with what it searches in and its folder."""


def prepare(
    job: Job, predictor: CostPredictor | None = None, evaluator: AccuracyEvaluator | None = None
) -> Setting:
    """Load what the job names and fail now rather than in the middle.

    Args:
        job: to prepare.
        predictor: instead of the device's own.
        evaluator: instead of the one that the job names.

    Raises:
        InputError: data, space, device or job that cannot be used.
        NotCalibratedError: this machine, before ``hardsight adapt --here``.
        NotSupportedError: an objective or constraint that is not predicted.
    """
    import optuna

    device = get_device(job.device)
    if device.mode.startswith("int8"):
        raise JobError(
            f"device '{job.device}' quantizes a float model by itself, but a search chooses the "
            "precision of each block; "
            f"name '{job.device.replace('/int8', '/fp32')}', which runs a model as it is given"
        )
    space_class = get_space(job.space.name)
    data = load_data(job.data, job.seed)
    precisions = tuple(p.split("-")[0] for p in device.precisions)
    if data.kind != space_class.samples:
        raise JobError(
            f"space '{job.space.name}' is for {space_class.samples}, and the data set '{data.name}' holds {data.kind}; "
            "name another space, or say with the keys of 'data' how to read it (docs/job.md)"
        )
    if space_class.fixed_point != (device.kind == "fpga"):
        fitting = [name for name, space in SPACES.items() if space.fixed_point != space_class.fixed_point]
        raise JobError(
            f"space '{job.space.name}' is {'for FPGAs' if space_class.fixed_point else 'not for FPGAs'}, and "
            f"'{job.device}' is of kind {device.kind}; name another device, or one of the spaces "
            f"{', '.join(fitting)}"
        )
    if space_class.fixed_point:
        from hardsight.datasets.profilers import get_profiler

        get_profiler(device).check()  # its tools also run the front
    task = Task(data.shape, len(data.classes), precisions, data.signed)
    space = space_class.for_task(task, **job.space.options)
    if predictor is None:
        from hardsight.predictors import load_predictor

        predictor = load_predictor(job.device)
    costs = CostModel(space, predictor, job)
    for parameters in space.anchors()[:1]:
        costs.verdicts(costs(space.suggest(optuna.trial.FixedTrial(dict(parameters)))))
    if evaluator is None:
        evaluator = get_evaluator(job.evaluator.name).for_job(space, data, job)
    return Setting(job, device, data, space, costs, evaluator)


def run_search(
    job: Job,
    out_dir: Path | None = None,
    resume: bool = False,
    *,
    progress: Progress | None = None,
    predictor: CostPredictor | None = None,
    evaluator: AccuracyEvaluator | None = None,
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
        progress: called with what is done, how much of it, and how much there is.
        predictor: instead of the device's own.
        evaluator: instead of the one that the job names.
        measure: instead of this machine's profiler.
        track: opens the experiment tracker's run, once nothing is left to refuse the job for.

    Returns:
        the report, also written to the folder as ``report.html``, ``front.png`` and ``trials.parquet``.

    Raises:
        InputError: a job or data that cannot be used.
        StorageError: a folder that holds another search, a full disk, a torn database.
    """
    from hardsight.nas.report import write_report
    from hardsight.nas.verify import verify_front

    folder = StudyFolder(Path(out_dir or job.output or "search"))
    if folder.exists and resume:
        folder.check_same(job)
    elif folder.exists:
        folder.create(job)  # refuses
    setting = prepare(job, predictor, evaluator)
    if not folder.exists:
        folder.create(job)
    with folder.lock(), storage_errors(folder.path), quiet_optuna():
        folder.keep(job)
        study = _open(setting, folder)
        report = None
        try:
            with track(setting, folder.path) if track else nullcontext() as run:
                _optimize(setting, folder, study, progress)
                verify_front(setting, folder, front(finished(study)), measure, progress)
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


def _open(setting: Setting, folder: StudyFolder) -> optuna.Study:
    study = folder.open(setting.job)
    digest = study.user_attrs.get("data_sha256")
    if digest not in (None, setting.data.digest):
        raise InputError(
            f"the data set '{setting.data.name}' has changed since the search in '{folder.path}' began; "
            "bring the old data back, or name another folder as 'output'"
        )
    recover(study)
    # a resumed search must not draw the numbers of its first trials again; screening draws by trial number
    drawn = 0 if setting.job.sampler == "screening" else len(study.get_trials(deepcopy=False))
    seed = (setting.job.seed + 1_000_003 * drawn) % 2**31
    study.sampler = make_sampler(
        setting.job.sampler, seed, setting.job.trials, _free_costs(setting), SCREENED
    )
    if digest is None:
        for parameters in setting.space.anchors():
            study.enqueue_trial(dict(parameters), skip_if_exists=True)
        facts = {
            "data_name": setting.data.name,
            "data_shape": list(setting.data.shape),
            "data_classes": list(setting.data.classes),
            "data_samples": {part: len(chosen) for part, chosen in setting.data.parts.items()},
            "data_sha256": setting.data.digest,
        }
        for key, value in facts.items():
            study.set_user_attr(key, value)
    return study


def _free_costs(setting: Setting) -> CostFunction:
    """What a sampler may know of a candidate before it is trained."""

    def known(params: Mapping[str, Any]) -> Known:
        import optuna

        from hardsight.nas.screening import Known

        candidate = setting.space.suggest(optuna.trial.FixedTrial(dict(params)))
        costs = setting.costs(candidate)
        values = tuple(None if name == ERROR else costs[name].value for name in setting.job.objectives)
        broken = violations(setting.costs.verdicts(costs))
        return Known(values, tuple(broken.values()), candidate.digest)

    return known


def _optimize(setting: Setting, folder: StudyFolder, study: optuna.Study, progress: Progress | None) -> None:
    total = setting.job.trials
    done = len(finished(study))

    def tell(study: optuna.Study, trial: Any) -> None:
        nonlocal done
        done += 1
        if progress:
            progress("search", done, total)

    if progress:
        progress("search", done, total)
    if done >= total:
        return
    study.optimize(
        _Objective(setting, folder, study),
        n_trials=total - done,
        timeout=setting.job.timeout,
        catch=(TrialFailure,),
        callbacks=[tell],
    )


class _Objective:
    """Cost first: only what may keep the budget, and was not seen before, is trained."""

    def __init__(self, setting: Setting, folder: StudyFolder, study: optuna.Study) -> None:
        self._setting = setting
        self._folder = folder
        self._study = study

    def __call__(self, trial: optuna.Trial) -> list[float]:
        setting = self._setting
        candidate = setting.space.suggest(trial)
        trial.set_user_attr("candidate", candidate.to_json())
        costs = setting.costs(candidate)
        trial.set_user_attr("costs", {name: list(estimate) for name, estimate in costs.items()})
        broken = violations(setting.costs.verdicts(costs))
        record_violations(trial, broken)
        if any(v > 0 for v in broken.values()):
            error = 1 - 1 / len(setting.data.classes)  # that of guessing: the network was not trained
        else:
            error = 1 - self._accuracy(trial, candidate)
        known = {ERROR: error, **{name: estimate.value for name, estimate in costs.items()}}
        return [known[name] for name in setting.job.objectives]

    def _accuracy(self, trial: optuna.Trial, candidate: Candidate) -> float:
        accuracy = self._seen(candidate)
        trial.set_user_attr("reused", accuracy is not None)
        if accuracy is None:
            evaluation = self._train(trial, candidate)
            evaluation.save(self._folder.weights / f"{candidate.digest}.safetensors")
            accuracy = evaluation.accuracy
            trial.set_user_attr("train_s", evaluation.duration_s)
        trial.set_user_attr("accuracy", accuracy)
        return accuracy

    def _train(self, trial: optuna.Trial, candidate: Candidate) -> Evaluation:
        try:
            return self._setting.evaluator.evaluate(candidate, self._setting.job.seed)
        except TrialFailure as failure:
            trial.set_user_attr("failure", str(failure))
            raise

    def _seen(self, candidate: Candidate) -> float | None:
        for record in finished(self._study):
            if (
                record.complete
                and record.accuracy is not None
                and record.candidate.digest == candidate.digest
            ):
                return record.accuracy
        return None


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
