"""The long jobs behind the command line: build a data set, train and evaluate predictors, search."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from hardsight.api import HERE, check_device_name, check_same_mode
from hardsight.device import HOST, get_device
from hardsight.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

    from hardsight.datasets.agreement import Agreement
    from hardsight.datasets.build import Recipe
    from hardsight.datasets.kit import Kit
    from hardsight.datasets.summary import DeviceCoverage, GraphCount, LabelSummary
    from hardsight.measurement import MeasurementTable
    from hardsight.nas.report import SearchReport
    from hardsight.predictors.training import TrainResult
    from hardsight.progress import Progress


@dataclass(frozen=True)
class BuiltDataset:
    """What `build_dataset` did.

    Args:
        table: the data set, as read back.
        complete: False when the time was up before the last network.
        failures: reasons for missing labels, with counts.
    """

    table: MeasurementTable
    complete: bool
    failures: Mapping[str, int]


def build_dataset(
    folder: Path,
    recipe: Recipe,
    *,
    devices: Sequence[str] = (HERE,),
    name: str | None = None,
    repeats: int = 50,
    n_jobs: int = -1,
    backend: str = "loky",
    time_limit_s: float = float("inf"),
    progress: Progress | None = None,
) -> BuiltDataset:
    """Generate networks, label them and write the data set; resumable.

    Args:
        folder: of the data set.
        recipe: what it holds.
        devices: modes of this machine, which are timed in turn, and simulated or synthesised devices, which
            fan out over processes after that.
        name: hardware name to write instead of ``host``.
        repeats: networks timed a second time at the end, to state how well labels repeat; 0 for none.
        n_jobs: processes for simulators and synthesis; -1 means one per core.
        backend: joblib's, for those: ``loky``, ``dask`` or ``ray``.
        time_limit_s: stop labelling after that.
        progress: called after each network.

    Raises:
        InputError: the folder was begun with another recipe or is being built by another process; ``n_jobs``.
        BackendError: a device cannot be labelled here.
        StorageError: the folder cannot be written.
    """
    from hardsight.datasets.build import Builder, only_builder
    from hardsight.datasets.profilers import get_profiler

    if n_jobs < 1 and n_jobs != -1:
        raise InputError(f"jobs is {n_jobs}; give a number of processes, or -1 for one per core")
    begin = time.monotonic()
    targets = [get_device(device) for device in devices]
    rename = {d.name: f"{name}/{d.runtime}/{d.mode}" for d in targets if d.hardware == HOST and name}
    for new in rename.values():
        check_device_name(new)
    for device in targets:
        get_profiler(device).check()  # a refused device leaves no folder behind
    builder = Builder(folder, recipe)
    timed, fanned = [], defaultdict(list)
    for device in targets:
        profiler = get_profiler(device, builder.cache)
        if profiler.anywhere:
            fanned[device.runtime].append(device)
        else:
            timed.append((profiler, device))
    with only_builder(folder):
        builder.generate(progress)
        complete = builder.measure(timed, time_limit_s=time_limit_s, progress=progress)
        if complete and repeats:
            graphs = builder.stored()
            left_s = time_limit_s - (time.monotonic() - begin)
            some = graphs[:: max(1, len(graphs) // repeats)][:repeats]
            complete = builder.measure(timed, graphs=some, again=True, time_limit_s=left_s, progress=progress)
        for group in fanned.values():
            left_s = time_limit_s - (time.monotonic() - begin)
            complete &= builder.fan_out(
                group, n_jobs=n_jobs, backend=backend, time_limit_s=left_s, progress=progress
            )
        return BuiltDataset(builder.pack(rename=rename), complete, builder.failures())


def load_dataset(folder: Path | None = None) -> MeasurementTable:
    """The data set in a folder, or the one that comes with the package."""
    from hardsight.datasets.store import load_shipped, load_table

    return load_shipped() if folder is None else load_table(folder)


def describe_dataset(table: MeasurementTable) -> list[LabelSummary]:
    """One summary per device and metric."""
    from hardsight.datasets.summary import summarise_labels

    return summarise_labels(table)


class DatasetSummary(NamedTuple):
    """What a data set holds.

    Args:
        labels: one summary per device and metric.
        devices: one per device, with what is missing and why.
        graphs: how many of each family and precision.
        total: of ``graphs``, ``families``, ``devices``, ``labels`` and ``missing`` cells.
    """

    labels: list[LabelSummary]
    devices: list[DeviceCoverage]
    graphs: list[GraphCount]
    total: dict[str, int]


def summarise_dataset(folder: Path | None = None) -> DatasetSummary:
    """Everything that ``hardsight dataset info`` prints, of a folder or of the package's data set."""
    from hardsight.datasets import store, summary

    table = load_dataset(folder)
    where = folder or store.shipped_folder()
    labels = summary.summarise_labels(table)
    devices = summary.summarise_devices(table, store.load_failures(where))
    graphs = summary.count_graphs(store.load_facts(where))
    total = {
        "graphs": len(table.graphs),
        "families": len({g.family for g in graphs}),
        "devices": len(devices),
        "labels": len(table),
        "missing": sum(d.failed + d.untried for d in devices),
    }
    return DatasetSummary(labels, devices, graphs, total)


def plot_dataset(out: Path, folder: Path | None = None) -> list[Path]:
    """Pictures of what a data set covers, as PNG files in ``out``."""
    from hardsight.datasets.plots import save_plots
    from hardsight.datasets.store import load_facts, shipped_folder

    return save_plots(out, load_dataset(folder), load_facts(folder or shipped_folder()))


def compare_labels(a: Path, b: Path) -> list[Agreement]:
    """How far two sets of labels agree on the graphs that both have.

    Args:
        a: folder of a data set, or file of measurements (of networks of the package).
        b: as ``a``, taken independently.

    Raises:
        DataError: they have no label in common, or cannot be read.
    """
    from hardsight.datasets import agreement

    return agreement.compare_labels(_labels_in(a), _labels_in(b))


def _labels_in(path: Path) -> MeasurementTable:
    from hardsight.predictors.measured import read_measured

    return load_dataset(path) if path.is_dir() else read_measured(path, load_dataset().graphs).table


class Imported(NamedTuple):
    """What `import_measurements` did.

    Args:
        device: name that the labels got.
        labels: new ones.
        repeated: labels that were there already.
        failed: new cells with a reason instead of a label.
    """

    device: str
    labels: int
    repeated: int
    failed: int


def import_measurements(
    file: Path, *, data: Path | None = None, out: Path | None = None, name: str | None = None
) -> Imported:
    """Add measurements taken elsewhere to a data set.

    Args:
        file: results of a kit, or lines of ``hardsight measure --json``, of networks of the data set.
        data: folder of the data set to add to; None means the one of the package.
        out: folder to write; ``data`` by default.
        name: device name to write; by default the one in the file.

    Raises:
        InputError: there is neither ``data`` nor ``out``; the device has no name of its own.
        DataError: the file does not match the data set.
        StorageError: a folder cannot be read or written.
    """
    from hardsight.datasets.store import add_labels, shipped_folder
    from hardsight.predictors.measured import read_measured

    if out is None and data is None:
        raise InputError("the data set of the package is not changed; give --out FOLDER, or --data FOLDER")
    if name is not None:
        check_device_name(name)
    base = data or shipped_folder()
    measured = read_measured(file, load_dataset(data).graphs)
    (found,) = measured.table.devices
    device = name or found
    check_same_mode(device, found)
    if device.startswith(f"{HOST}/"):
        raise InputError(
            f"{file} is of '{device}', which means another machine everywhere; give --name NEW, for example "
            f"--name my-board/{device.split('/', 1)[1]}"
        )
    rows = measured.table.rows.assign(device=device)
    failures = {(digest, device): reason for (digest, _), reason in measured.failures.items()}
    new = add_labels(base, out or base, rows, failures)
    return Imported(device, new, len(rows) - new, len(failures))


def convert_dataset(folder: Path) -> bool:
    """Rewrite a data set of an older schema in the present one, in place; False when it was of that already."""
    from hardsight.datasets.convert import convert

    return convert(folder)


def build_kit(device: str, out: Path, *, networks: int = 14, progress: Progress | None = None) -> Kit:
    """Pack reference networks and a script that measures them where Hardsight is not installed.

    Args:
        device: name that the measured machine shall have, for example ``my-phone/onnxruntime/fp32-t1``.
        out: zip file to write.
        networks: how many.
        progress: called after each.

    Raises:
        InputError: no kit can be made for such a device.
        BackendError: a tool that the networks' format needs is not here.
        StorageError: the file cannot be written.
    """
    from hardsight.datasets.kit import kit_device, write_kit
    from hardsight.predictors.adapt import reference_networks

    check_device_name(device)
    if device.startswith(f"{HOST}/"):
        raise InputError(
            f"a kit is for another machine, and '{device}' means this one; name that machine, for example "
            f"my-board/{device.split('/', 1)[1]}, or run 'hardsight adapt --here'"
        )
    target = kit_device(device)
    chosen = reference_networks(target, networks, only_float=target.runtime != "onnxruntime")
    return write_kit(out, target, chosen, progress=progress)


@dataclass(frozen=True)
class Trained:
    """What `train` did.

    Args:
        result: predictors, scores and choice.
        model_uri: by which MLflow loads the predictor; empty when the run is not tracked.
    """

    result: TrainResult
    model_uri: str


def train(
    out: Path,
    *,
    data: Path | None = None,
    predictors: Sequence[str] | None = None,
    folds: int = 7,
    track: bool = True,
    progress: Progress | None = None,
) -> Trained:
    """Compare predictors on held-out families, fit the best of each metric on everything, write it.

    Args:
        out: folder to write.
        data: folder of the data set; None means the one of the package.
        predictors: names to compare; None means all.
        folds: groups of families to hold out in turn.
        track: log run and predictor to MLflow.
        progress: called after each fold.

    Raises:
        UnknownNameError: no such predictor.
        DataError, StorageError: data that cannot be used, a folder that cannot be written.
    """
    from hardsight import tracking
    from hardsight.predictors.persist import META
    from hardsight.predictors.training import save
    from hardsight.predictors.training import train as fit

    table = load_dataset(data)
    names = _known_predictors(predictors)
    params = {"predictors": ", ".join(names), "folds": folds, "data": str(data or "shipped"), **_seeds(names)}
    tags = {"data_digest": table.labels_digest}
    with tracking.track("hardsight-train", out.name, params, tags, enabled=track) as run:
        result = fit(table, names, folds=folds, progress=progress)
        save(result, table, out)
        for row in score_records(result.table):
            prefix = f"{row['predictor']}/{row['device']}/{row['metric']}"
            run.metrics({f"{prefix}/{k}": v for k, v in row.items() if isinstance(v, int | float)})
        for (kind, metric), chosen in result.chosen.items():
            run.tag(f"chosen.{kind}.{metric}", chosen)
        with TemporaryDirectory() as scratch:
            scores = Path(scratch) / "scores.parquet"
            result.table.to_parquet(scores)
            run.artifact(scores)
        run.artifact(out / META)
        return Trained(result, tracking.log_predictor(run, out, table.devices[0]))


def _seeds(names: Sequence[str]) -> dict[str, int]:
    """``seed.NAME`` of the predictors that draw numbers."""
    from hardsight.predictors import make_predictor

    fresh = {name: make_predictor(name) for name in names}
    seeds = {name: getattr(getattr(p, "config", p), "seed", None) for name, p in fresh.items()}
    return {f"seed.{name}": seed for name, seed in seeds.items() if seed is not None}


def evaluate(
    *,
    data: Path | None = None,
    predictors: Sequence[str] | None = None,
    folds: int = 7,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Scores of predictors on families held out whole; see `hardsight.predictors.evaluation.summary`."""
    from hardsight.predictors.training import compare

    return compare(load_dataset(data), _known_predictors(predictors), folds=folds, progress=progress)[0]


def _known_predictors(names: Sequence[str] | None) -> list[str]:
    """Refuse a misspelt name now, not after the folds of the names before it."""
    from hardsight.predictors import PREDICTORS

    for name in names or ():
        if name not in PREDICTORS:
            raise UnknownNameError("predictor", name, PREDICTORS)
    return list(names or PREDICTORS)


def score_records(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a score table; what could not be computed is None."""
    return [
        {str(k): None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()}
        for record in scores.to_dict(orient="records")
    ]


def search(
    job_file: Path,
    out: Path | None = None,
    *,
    resume: bool = False,
    refine: bool = False,
    workers: int = 1,
    track: bool = True,
    log_to: Path | None = None,
    progress: Progress | None = None,
) -> SearchReport:
    """Run the search of a job file, tracked; see `hardsight.nas.search.run_search`.

    Args:
        job_file: YAML.
        out: folder of the study; the job's ``output`` by default.
        resume: go on in a folder that holds this job's study.
        refine: adapt the predictor with the front's measurements and search on.
        workers: processes that try candidates.
        track: log to MLflow; a search that is resumed goes on in its run.
        log_to: folder of ``mlflow.db``; the current one by default.
        progress: called after each trial.
    """
    from hardsight import tracking
    from hardsight.nas import search as nas
    from hardsight.nas.job import flat, load_job

    job = load_job(job_file)

    def tracked(setting: nas.Setting, folder: Path) -> AbstractContextManager[tracking.Run]:
        return tracking.track(
            "hardsight-search",
            job_file.stem,
            flat(job.public().resolved()),
            {"data_digest": setting.data.digest},
            folder=log_to,
            note=folder / "mlflow_run.json",
            enabled=track,
        )

    return nas.run_search(job, out, resume, refine=refine, workers=workers, progress=progress, track=tracked)
