"""Adapting to a new device: choose networks, measure them, correct the nearest known device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hardsight.device import Device, device_folder, get_device, kind_of
from hardsight.errors import BackendError, DataError, StorageError
from hardsight.graph import OperatorGraph
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors._base import Predictor
from hardsight.predictors.adapt_checks import check_fits, check_labels, check_units
from hardsight.predictors.adapted import AdaptedPredictor
from hardsight.predictors.joined import Joined
from hardsight.predictors.measured import read_measurements
from hardsight.predictors.nearest import best_fits, known_devices, source_devices
from hardsight.predictors.persist import made_folder, save_predictor
from hardsight.predictors.references import (
    WORTH,
    Enough,
    Network,
    choose_references,
    described,
    reference_networks,
    why,
)
from hardsight.progress import Progress

if TYPE_CHECKING:
    import onnx

    from hardsight.datasets.profilers import Profiler

__all__ = [
    "AdaptReport",
    "adapt_here",
    "adapt_to",
    "adapted",
    "choose_references",
    "read_measurements",
    "reference_networks",
]

_BUDGET_S = 2.0
_PANEL = 20


@dataclass(frozen=True)
class AdaptReport:
    """What an adaptation did.

    Args:
        device: name the predictor answers to.
        source_device: known device whose latency it corrects.
        samples: graphs measured.
        scale: how many times the source's cost this device has, per metric.
        residual: leave-one-out relative error (root mean square, log space) per metric.
        expected_error: the same, to expect on other networks, per metric.
        notes: sentences for the user.
        folder: where it is saved.
        sources: known device that is corrected, per metric.
        networks: that were measured, in order.
    """

    device: str
    source_device: str
    samples: int
    scale: Mapping[str, float]
    residual: Mapping[str, float]
    expected_error: Mapping[str, float]
    notes: tuple[str, ...]
    folder: Path
    sources: Mapping[str, str]
    networks: tuple[Network, ...]


class Adapted(NamedTuple):
    """What was fitted, and sentences for the user."""

    fits: Mapping[Metric, AdaptedPredictor]
    notes: list[str]

    @property
    def predictor(self) -> Predictor:
        return Joined({(fit.device, metric): fit for metric, fit in self.fits.items()})

    @property
    def source_device(self) -> str:
        """The known device whose latency is corrected, or what else was measured of it."""
        return self.fits.get(Metric.LATENCY, next(iter(self.fits.values()))).source_device


def adapted(
    source: Predictor,
    table: MeasurementTable,
    device: Device | None = None,
    *,
    trust_units: bool = False,
) -> Adapted:
    """Correct a known device's predictions by the measurements of a new one.

    Args:
        source: knows the devices to start from.
        table: labels of one device.
        device: what was measured; by default a CPU of the name in the table.
        trust_units: values that are sixty times or more off those of every known device are meant.

    Raises:
        DataError: when the labels are of no device or of several, contradictory, constant, or of a wrong unit.
        NotSupportedError: when no known device resembles it.
    """
    if len(table.devices) != 1:
        raise DataError(f"the measurements are of {len(table.devices)} devices; give those of one")
    name = table.devices[0]
    device = device or Device.model_construct(name=name, kind=kind_of(name))
    notes = check_labels(table)
    notes += check_units(
        source, known_devices(source, device, table.metrics), table, name, trusted=trust_units
    )
    fits = best_fits(source, name, table, source_devices(source, device, table.metrics))
    return Adapted(fits, [*notes, *check_fits(fits, table)])


def adapt_here(
    name: str,
    samples: int = 14,
    *,
    save_as: str | None = None,
    measure_all: bool = False,
    progress: Progress | None = None,
) -> AdaptReport:
    """Measure reference networks on this machine and save a predictor for it.

    Args:
        name: a ``host/…`` device.
        samples: graphs to measure at most (1 to 50).
        save_as: name of the result; the device's own by default.
        measure_all: go on when more would not help.
        progress: called with what is done, how much of it, and how much there is.

    Raises:
        DataError: when ``samples`` is out of range.
        NotSupportedError: when the device is not this machine.
        BackendError: when none of the networks could be measured.
    """
    from hardsight.datasets.profilers import get_profiler
    from hardsight.datasets.store import load_shipped
    from hardsight.predictors import load_shipped_predictor

    device = get_device(name)
    profiler = get_profiler(device)
    profiler.check()
    chosen = reference_networks(device, samples)
    shipped, source = load_shipped(), load_shipped_predictor()
    sources = source_devices(source, device)
    graphs = [shipped.graphs[digest] for digest in chosen]
    enough = None if measure_all else Enough(source, sources, name, graphs)
    labels, failed = _measured(profiler, device, chosen, graphs, enough, progress)
    table = MeasurementTable.from_measurements(labels, shipped.graphs, shipped.families)
    done = table.digests
    notes = [why(source, sources[0], [shipped.graphs[d] for d in done], shipped.families)]
    left = len(chosen) - len(done) - len(failed)
    if left:
        notes.append(
            f"stopped after {len(done)} of {len(chosen)} networks: more would lower the expected error by "
            f"less than {100 * WORTH:.0f} %; --all measures them too"
        )
    notes += [f"{metric} is not covered: {reason}" for metric, reason in profiler.unavailable().items()]
    notes += [f"left out: {reason}" for reason in failed]
    return adapt_to(table, device, save_as or name, notes=notes, trust_units=True)


def _measured(
    profiler: Profiler,
    device: Device,
    chosen: Mapping[str, onnx.ModelProto],
    graphs: Sequence[OperatorGraph],
    enough: Enough | None,
    progress: Progress | None,
) -> tuple[list[Measurement], list[str]]:
    """Labels of the networks in turn, until there are enough, and why some have none."""
    labels: list[Measurement] = []
    failed: list[str] = []
    what = "measuring reference networks"
    for done, model in enumerate(chosen.values(), 1):
        if progress:
            progress(what, done - 1, len(chosen))
        try:
            labels += profiler.measure(model, device, budget_s=_BUDGET_S)
        except BackendError as error:  # one network that fails here does not cost the others
            failed.append(str(error))
            continue
        table = MeasurementTable.from_measurements(labels, dict(zip(chosen, graphs, strict=True)))
        if enough and enough.reached(table, graphs[done:]):
            break
    if progress:
        progress(what, done, done)
    if not labels:
        raise BackendError(
            f"none of the {len(chosen)} reference networks ran here; the first says: {failed[0]}"
        )
    return labels, failed


def adapt_to(
    table: MeasurementTable,
    device: Device,
    save_as: str,
    *,
    notes: Sequence[str] = (),
    trust_units: bool = False,
) -> AdaptReport:
    """Fit and save a predictor for a device from its measurements.

    Args:
        table: labels of ``device``.
        device: what was measured.
        save_as: name of the result.
        notes: sentences to pass on.
        trust_units: as in `adapted`.

    Raises:
        DataError: as in `adapted`.
        NotSupportedError: when no known device resembles it.
        StorageError: when the result cannot be written.
    """
    from hardsight.predictors import load_shipped_predictor

    renamed = table.rows.assign(device=save_as)
    table = MeasurementTable(renamed, table.graphs, table.families)
    source = load_shipped_predictor()
    made = adapted(source, table, device, trust_units=trust_units)
    fits, samples = made.fits, len(table.digests)
    graphs = [table.graphs[d] for d in table.digests]
    others = _panel(source, made.source_device) or graphs
    folder = device_folder(save_as)
    counted = f"{samples} measurement{'s' * (samples != 1)}"
    settings = {"name": save_as, "description": f"adapted from {counted}"}
    saved = Device.model_validate({**device.model_dump(), **settings})
    _save(folder, made.predictor, saved, table.digests)
    return AdaptReport(
        save_as,
        made.source_device,
        samples,
        {str(m): float(np.exp(f.fitted[m].theta[0])) for m, f in fits.items()},
        {str(m): f.fitted[m].residual for m, f in fits.items()},
        {str(m): f.expected_error(others, m) for m, f in fits.items()},
        (*notes, *made.notes),
        folder,
        {str(m): f.source_device for m, f in fits.items()},
        described(source, made.source_device, graphs, table.families),
    )


def _panel(source: Predictor, device: str) -> list[OperatorGraph]:
    """Diverse networks, to say what error to expect: those measured may all be alike."""
    from hardsight.datasets.store import load_shipped

    shipped = load_shipped()
    return [shipped.graphs[d] for d in choose_references(source, device, shipped, _PANEL)]


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
