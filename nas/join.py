"""A worker that joins a search from any machine that reaches its storage."""

from __future__ import annotations

import math
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hardsight.errors import InputError, JobError, StorageError
from hardsight.nas.job import Job, parse_job, shared
from hardsight.nas.refine import load_refined
from hardsight.nas.search import Setting, check_data, first_costs, prepare
from hardsight.nas.storage import quiet_optuna, storage_errors
from hardsight.nas.study import StudyFolder, TrialRecord, finished, load_study
from hardsight.nas.worker import JOB, work, worker_name
from hardsight.progress import Progress

if TYPE_CHECKING:
    import optuna

    from hardsight.nas.costs import CostPredictor
    from hardsight.nas.evaluators import AccuracyEvaluator

_SAME = 1e-3  # relative; other processors round differently


def join_search(
    folder: Path | None = None,
    *,
    study: str | None = None,
    storage: str | None = None,
    data: str | None = None,
    progress: Progress | None = None,
    predictor: CostPredictor | None = None,
    evaluator: AccuracyEvaluator | None = None,
) -> int:
    """Work on a search that another process has begun, until it is done.

    Args:
        folder: of the search, where this machine sees it.
        study: otherwise its name, and
        storage: the URL, or the path of the journal file, that holds it.
        data: where this machine has the data; by default where the search's machine has them.
        progress: called after each trial.
        predictor: instead of the device's own.
        evaluator: instead of the job's.

    Returns:
        how many trials this worker finished.

    Raises:
        InputError: neither a folder nor a study with its storage; other data than the search's.
        JobError: the folder's job is not the study's, or this machine predicts something else for its device.
        StorageError: there is no such study, or it has not begun.
    """
    if (folder is None) == (study is None or storage is None):
        raise InputError("which search? Give its folder, or the name of its study and the URL of its storage")
    with quiet_optuna(), storage_errors(folder or str(study)):
        if folder is not None:
            kept = StudyFolder(folder)
            found, weights, name = kept.load(kept.job()), kept.weights, str(folder)
            refined = load_refined(kept)
        else:
            assert study is not None and storage is not None
            found = load_study(storage if "://" in storage else Path(storage), study)
            weights, name, refined = None, study, None
        job = _job(found, name)
        if folder is not None and (changed := job.difference(parse_job(shared(kept.job())))):
            raise JobError(
                f"the job in '{folder}' differs from the one that its study was started with: "
                f"{'; '.join(changed)}; put the old values back"
            )
        if data is not None:
            job = job.model_copy(update={"data": job.data.model_copy(update={"source": data})})
        setting = prepare(job, predictor, evaluator, refined=refined)
        check_data(setting, found, name)
        _check_predictions(setting, found)
        before = _own(found)
        with TemporaryDirectory(prefix="hardsight-") as own:
            setting.evaluator.begin(folder or Path(own), progress)
            work(setting, found, weights, uuid.uuid4().int % 2**20, parallel=True, progress=progress)
        return _own(found) - before


def _job(study: optuna.Study, name: str) -> Job:
    if JOB not in study.user_attrs:
        raise StorageError(f"the search '{name}' has not begun; wait until it runs its first trial")
    return parse_job(study.user_attrs[JOB], f"the job of study '{name}'")


def _check_predictions(setting: Setting, study: optuna.Study) -> None:
    here = first_costs(setting)
    for name, value in study.user_attrs["first_costs"].items():
        if name not in here or not math.isclose(here[name], value, rel_tol=_SAME):
            raise JobError(
                f"for device '{setting.job.device}' this machine predicts {name} {here.get(name)} where the search's "
                f"predicts {value}: 'host' means another machine here, or the predictor was trained otherwise; bring "
                "the search's predictor here (hardsight devices says where it is)"
            )


def _own(study: optuna.Study) -> int:
    return sum(_by(record, worker_name()) for record in finished(study))


def _by(record: TrialRecord, worker: str) -> bool:
    return record.worker == worker
