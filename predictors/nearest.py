"""Which known device a new one resembles: candidates by name, the one to correct by how well it explains the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hardsight.device import Device, kind_of
from hardsight.errors import NotSupportedError
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors._base import Predictor
from hardsight.predictors.adapted import AdaptedPredictor

_BY_LATENCY = (Metric.LATENCY,)


def known_devices(predictor: Predictor, device: Device, metrics: Sequence[Metric] = _BY_LATENCY) -> list[str]:
    """Every device of the same kind whose latency is known, or CPUs where there is none.

    Where latency is not among the metrics, any of them will do: some accelerators state no clock.
    """
    wanted = _BY_LATENCY if Metric.LATENCY in metrics else metrics
    known = list(dict.fromkeys(name for name, metric in predictor.targets if metric in wanted))
    return [n for n in known if kind_of(n) == device.kind] or [n for n in known if kind_of(n) == "cpu"]


def source_devices(
    predictor: Predictor, device: Device, metrics: Sequence[Metric] = _BY_LATENCY
) -> list[str]:
    """Known devices to start from: of the same runtime and precision, else of the same precision, else all.

    Raises:
        NotSupportedError: when none resembles it.
    """
    known = known_devices(predictor, device, metrics)
    same_precision = [n for n in known if _precision(n) == _precision(device.name)]
    same = [n for n in same_precision if n.split("/")[1:2] == device.name.split("/")[1:2]]
    found = same or same_precision or known
    if not found:
        raise NotSupportedError(f"no known device to adapt '{device.name}' from")
    return found


def _precision(name: str) -> str:
    return name.split("/")[-1].split("-")[0]


def best_fits(
    source: Predictor, name: str, table: MeasurementTable, devices: Sequence[str]
) -> dict[Metric, AdaptedPredictor]:
    """For each metric measured, the correction of the known device that explains it best.

    No device need know all: another may lend its memory.

    Args:
        source: knows the devices.
        name: of the new device, as in the table.
        table: its labels.
        devices: from `source_devices`.

    Raises:
        NotSupportedError: when none knows any of the metrics.
    """
    return best_of([AdaptedPredictor(source.only(d), name, d) for d in devices], table)


def best_of(
    candidates: Sequence[AdaptedPredictor], table: MeasurementTable
) -> dict[Metric, AdaptedPredictor]:
    """As `best_fits`, of corrections that are yet to be fitted, or to be fitted anew."""
    fits: list[AdaptedPredictor] = []
    refused: NotSupportedError | None = None
    for candidate in candidates:
        try:
            fits.append(candidate.fit(table))
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
    residual = predictor.fitted[metric].residual
    return residual if np.isfinite(residual) else float("inf")
