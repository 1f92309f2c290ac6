"""The worked job: the whole of ``hardsight search`` on a device of a public table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hardsight.datasets.sources.help import HelpNb201, target
from hardsight.device import Device
from hardsight.errors import BackendError
from hardsight.experiments.nb201_search.device import TableDevice
from hardsight.ingest import read_onnx
from hardsight.measurement import Measurement
from hardsight.metrics import Metric
from hardsight.nas.job import load_job
from hardsight.nas.report import SearchReport
from hardsight.nas.search import run_search
from hardsight.predictors.few_shot.predictor import FewShotPredictor
from hardsight.predictors.few_shot.tables import Tables
from hardsight.progress import progress_bars

JOB = Path("experiments/nb201_search/job.yaml")
OUT = Path("runs/nb201_search/job")
COLUMN = "pixel2"
BUDGET = 20
_MS = 1e-3


def run_job(path: Path = JOB, out: Path = OUT) -> SearchReport:
    """Learn the device from what the front's verification leaves of its twenty measurements, search, verify.

    A finished search is read again, not made again.

    Args:
        path: of the job file.
        out: folder of the study.

    Raises:
        InputError: a job that cannot be used, a public table that is missing.
    """
    job = load_job(path)
    source = HelpNb201()
    folder = source.find()
    tables = Tables(folder)
    task = tables.task("HELP/nb201")
    device, _ = target(COLUMN)
    digests, _ = source.column(folder, COLUMN)
    known = TableDevice(tables.space(task), tables.costs(task, COLUMN), BUDGET)
    known.learn(BUDGET - job.front_size, np.random.default_rng(job.seed))
    predictor = FewShotPredictor(device.name, digests, known.posterior(), unit=_MS)
    place = {digest: i for i, digest in enumerate(digests)}

    def look_up(model: Path, on: Device) -> list[Measurement]:
        digest = read_onnx(model).digest
        if digest not in place:
            raise BackendError(f"the table of '{on.name}' has no network {digest[:8]}")
        seconds = known.measure(place[digest]) * _MS
        return [Measurement(digest, on.name, Metric.LATENCY, seconds, 0.0, 1, provenance="published")]

    with progress_bars() as progress:
        return run_search(
            job, out, resume=True, predictor=predictor, device=device, measure=look_up, progress=progress
        )
