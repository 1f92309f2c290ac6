"""Adapting to a new device: choose networks, measure them, correct the nearest known device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardsight.device import Device, device_folder, get_device, kind_of
from hardsight.errors import BackendError, DataError, NotSupportedError, StorageError
from hardsight.graph import OperatorGraph
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors._base import Predictor
from hardsight.predictors.adapted import GROUPS, AdaptedPredictor, work_groups
from hardsight.predictors.joined import Joined
from hardsight.predictors.measured import read_measurements
from hardsight.predictors.persist import made_folder, save_predictor

if TYPE_CHECKING:
    import onnx

__all__ = [
    "AdaptReport",
    "adapt_here",
    "adapt_to",
    "choose_references",
    "read_measurements",
    "reference_networks",
]

Progress = Callable[[str, int, int], None]

MIN_SAMPLES, MAX_SAMPLES = 1, 50
_MAX_LABEL_OFF = 50.0
_MAX_LATENCY_S = 0.02
_MAX_WEIGHT_BYTES = 30e6
_BUDGET_S = 2.0


@dataclass(frozen=True)
class AdaptReport:
    """What an adaptation did.

    Args:
        device: name the predictor answers to.
        source_device: known device whose latency it corrects.
        samples: graphs measured.
        scale: how many times the source's cost this device has, per metric.
        residual: leave-one-out relative error (root mean square, log space) per metric.
        notes: sentences for the user.
        folder: where it is saved.
        sources: known device that is corrected, per metric.
    """

    device: str
    source_device: str
    samples: int
    scale: Mapping[str, float]
    residual: Mapping[str, float]
    notes: tuple[str, ...]
    folder: Path
    sources: Mapping[str, str]


def adapt_here(
    name: str, samples: int = 14, *, save_as: str | None = None, progress: Progress | None = None
) -> AdaptReport:
    """Measure reference networks on this machine and save a predictor for it.

    Args:
        name: a ``host/…`` device.
        samples: graphs to measure (1 to 50).
        save_as: name of the result; the device's own by default.
        progress: called with what is done, how much of it, and how much there is.

    Raises:
        DataError: when ``samples`` is out of range.
        NotSupportedError: when the device is not this machine.
        BackendError: when none of the networks could be measured.
    """
    from hardsight.datasets.profilers import get_profiler
    from hardsight.datasets.store import load_shipped

    device = get_device(name)
    profiler = get_profiler(device)
    profiler.check()
    chosen = reference_networks(device, samples)
    labels: list[Measurement] = []
    failed: list[str] = []
    for i, model in enumerate(chosen.values()):
        if progress:
            progress("measuring reference networks", i, len(chosen))
        try:
            labels += profiler.measure(model, device, budget_s=_BUDGET_S)
        except BackendError as error:  # one network that fails here does not cost the others
            failed.append(str(error))
    if progress:
        progress("measuring reference networks", len(chosen), len(chosen))
    if not labels:
        raise BackendError(
            f"none of the {len(chosen)} reference networks ran here; the first says: {failed[0]}"
        )
    notes = [f"{metric} is not covered: {reason}" for metric, reason in profiler.unavailable().items()]
    notes += [f"left out: {reason}" for reason in failed]
    return adapt_to(
        MeasurementTable.from_measurements(labels, load_shipped().graphs),
        device,
        save_as or name,
        notes=notes,
    )


def reference_networks(
    device: Device, samples: int, *, only_float: bool = False
) -> dict[str, onnx.ModelProto]:
    """Networks to measure on a new device, weightless, by digest: what `choose_references` finds in the package's data.

    Args:
        device: to be measured.
        samples: how many (1 to 50).
        only_float: leave out those that are quantized already, for a runtime that quantizes its own way.

    Raises:
        DataError: when ``samples`` is out of range.
        NotSupportedError: when no known device resembles it.
    """
    import onnx

    from hardsight.datasets.store import GraphStore, load_shipped
    from hardsight.predictors import load_shipped_predictor

    if not MIN_SAMPLES <= samples <= MAX_SAMPLES:
        raise DataError(f"samples is {samples}; expected {MIN_SAMPLES} to {MAX_SAMPLES}")
    predictor, table = load_shipped_predictor(), load_shipped()
    graphs = table.graphs
    assert isinstance(graphs, GraphStore)
    if only_float:
        table = table.select(digests=[d for d, facts in graphs.facts.items() if not facts.twin])
    source = _source_devices(predictor, device)[0]
    chosen = choose_references(predictor, source, table, samples)
    return {digest: onnx.load_from_string(graphs.stored[digest].onnx) for digest in chosen}


def adapt_to(
    table: MeasurementTable, device: Device, save_as: str, *, notes: Sequence[str] = ()
) -> AdaptReport:
    """Fit and save a predictor for a device from its measurements.

    Args:
        table: labels of ``device``.
        device: what was measured.
        save_as: name of the result.
        notes: sentences to pass on.

    Raises:
        DataError: when the labels are contradictory or of a wrong unit.
        NotSupportedError: when no known device resembles it.
        StorageError: when the result cannot be written.
    """
    from hardsight.predictors import load_shipped_predictor

    renamed = table.rows.assign(device=save_as)
    table = MeasurementTable(renamed, table.graphs, table.families)
    said = [*notes, *_check(table)]
    source = load_shipped_predictor()
    best = _best_fits(source, save_as, table, _source_devices(source, device))
    for metric, fit in best.items():
        _refuse_outliers(fit, table, metric)
    samples = len(table.digests)
    counted = f"{samples} measurement{'s' * (samples != 1)}"
    if samples < 5:
        said.append(
            f"{counted} {'is' if samples == 1 else 'are'} too few for an interval (5 or more give one)"
        )
    folder = device_folder(save_as)
    settings = {"name": save_as, "description": f"adapted from {counted}"}
    saved = Device.model_validate({**device.model_dump(), **settings})
    joined = Joined({(save_as, metric): fit for metric, fit in best.items()})
    _save(folder, joined, saved, table.digests)
    return AdaptReport(
        save_as,
        best.get(Metric.LATENCY, next(iter(best.values()))).source_device,
        samples,
        {str(m): float(np.exp(f.fitted[m].theta[0])) for m, f in best.items()},
        {str(m): f.fitted[m].residual for m, f in best.items()},
        tuple(said),
        folder,
        {str(m): f.source_device for m, f in best.items()},
    )


def choose_references(predictor: Predictor, device: str, table: MeasurementTable, k: int) -> list[str]:
    """Digests of ``k`` networks that tell most about a new device, cheap ones only.

    Greedy D-optimal design: each next network is the one that adds most to the determinant of the information
    matrix over [1, share of each group of operators, log latency], as the correction sees them. Networks over
    20 ms or 30 MB of weights are left out. The same table gives the same choice.
    """
    rows = table.select(device=device, metric=Metric.LATENCY).rows
    rows = rows[rows["value"] < _MAX_LATENCY_S].sort_values("digest")
    digests = list(dict.fromkeys(rows["digest"]))
    # A sample is enough to choose from, and parsing all graphs would take longer than measuring ten.
    pool = [digests[i] for i in np.random.default_rng(0).permutation(len(digests))[: 3 * k + 30]]
    pool = [d for d in pool if table.graphs[d].weight_bytes < _MAX_WEIGHT_BYTES and len(table.graphs[d])]
    design = np.stack([_design_row(predictor, device, table.graphs[d]) for d in pool])
    information = 1e-2 * np.eye(design.shape[1])
    chosen: list[int] = []
    for _ in range(min(k, len(pool))):
        inverse = np.linalg.inv(information)
        gain = np.einsum("ni,ij,nj->n", design, inverse, design)
        gain[chosen] = -1
        best = int(np.argmax(gain))
        chosen.append(best)
        information += np.outer(design[best], design[best])
    return [pool[i] for i in chosen]


def _design_row(
    predictor: Predictor, device: str, graph: OperatorGraph
) -> np.ndarray[Any, np.dtype[np.float64]]:
    costs = predictor.layer_costs(graph, device)
    shares = np.bincount(work_groups(graph), weights=costs, minlength=len(GROUPS)) / costs.sum()
    return np.concatenate([[1.0], shares, [(np.log10(costs.sum()) + 3) / 2]])


def _check(table: MeasurementTable) -> list[str]:
    """Refuse contradictions, warn of noise."""
    notes = []
    for (digest, metric), rows in table.rows.groupby(["digest", "metric"]):
        if len(rows) > 1 and rows["value"].max() > 1.5 * rows["value"].min():
            raise DataError(
                f"graph {str(digest)[:8]} has contradictory values of {metric}: "
                f"{rows['value'].min():.4g} and {rows['value'].max():.4g}; remove one"
            )
    latency = table.select(metric=Metric.LATENCY).rows["value"]
    if len(latency) > 2 and latency.nunique() == 1:
        raise DataError(
            f"all {len(latency)} latencies are {latency.iloc[0]:.4g} s; different networks cannot all cost the same"
        )
    repeats = table.rows[table.rows.duplicated(["digest", "metric"])]["metric"].value_counts()
    if len(repeats):
        count = int(repeats.max())
        notes.append(
            "1 line repeats a network; its median is used"
            if count == 1
            else f"{count} lines repeat a network; their median is used"
        )
    timings = table.rows[table.rows["metric"] != str(Metric.PEAK_MEMORY)]
    noisy = int((timings["spread"] > 0.1).sum())
    if noisy:
        notes.append(
            f"{noisy} of {len(timings)} timings have a spread above 10 %: the machine was busy; "
            "measure again for a better fit"
        )
    return notes


def _source_devices(predictor: Predictor, device: Device) -> list[str]:
    """Known devices to start from: of the same runtime and precision, else of the same precision, else all.

    Only those of the same kind, or CPUs where none is.
    """
    all_known = [name for name, metric in predictor.targets if metric is Metric.LATENCY]
    known = [n for n in all_known if kind_of(n) == device.kind]
    known = known or [n for n in all_known if kind_of(n) == "cpu"]
    precision = device.mode.split("-")[0]
    same_precision = [n for n in known if n.split("/")[2].split("-")[0] == precision]
    same = [n for n in same_precision if n.split("/")[1] == device.runtime]
    found = same or same_precision or known
    if not found:
        raise NotSupportedError(f"no known device to adapt '{device.name}' from")
    return found


def _best_fits(
    source: Predictor, name: str, table: MeasurementTable, devices: Sequence[str]
) -> dict[Metric, AdaptedPredictor]:
    """For each metric measured, the correction of the known device that explains it best.

    No device need know all: another may lend its memory.

    Raises:
        NotSupportedError: when none knows any of the metrics.
    """
    fits: list[AdaptedPredictor] = []
    refused: NotSupportedError | None = None
    for device in devices:
        try:
            fits.append(AdaptedPredictor(source.only(device), name, device).fit(table))
        except NotSupportedError as error:
            refused = error
    if not fits and refused is not None:
        raise refused
    metrics = [m for m in table.metrics if any(m in fit.fitted for fit in fits)]
    return {
        m: min((f for f in fits if m in f.fitted), key=lambda f, m=m: _badness(f, m))  # type: ignore[misc]
        for m in metrics
    }


def _badness(predictor: AdaptedPredictor, metric: Metric) -> float:
    fitted = predictor.fitted.get(metric)
    return fitted.residual if fitted and np.isfinite(fitted.residual) else float("inf")


def _refuse_outliers(fit: AdaptedPredictor, table: MeasurementTable, metric: Metric) -> None:
    """Refuse a label that no device explains; the fit itself is robust against one."""
    graphs, label = table.labelled(fit.device, metric)
    ratio = label / fit.point(graphs, fit.device, metric)
    worst = int(np.argmax(np.abs(np.log(ratio))))
    if not 1 / _MAX_LABEL_OFF < ratio[worst] < _MAX_LABEL_OFF:
        raise DataError(
            f"{metric} of graph {graphs[worst].digest} is {label[worst]:.4g} {metric.unit}, {ratio[worst]:.3g} "
            "times what the other networks let expect; check its unit, measure it again or remove it"
        )


def _save(folder: Path, predictor: Predictor, device: Device, digests: Sequence[str]) -> None:
    """Write predictor and description: both, or on a full disk neither."""
    import yaml

    path = folder / "device.yaml"
    part = folder / "device.yaml.part"
    try:
        with made_folder(folder):
            try:
                part.write_text(
                    yaml.safe_dump(device.model_dump(exclude_defaults=True, mode="json"), sort_keys=False)
                )
                save_predictor(predictor, folder / "predictor", {"device": device.name, "digests": digests})
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; free space or set HARDSIGHT_HOME"
        ) from error
