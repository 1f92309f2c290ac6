"""Devices held out with their kin, then known from a few measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.datasets.families import TEACHING
from hardsight.device import Device, kind_of
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors import Predictor
from hardsight.predictors.adapt import adapted, choose_references
from hardsight.predictors.graphnet import GraphNetConfig, GraphNetPredictor
from hardsight.predictors.nearest import source_devices
from hardsight.predictors.persist import load_saved, save_predictor

SAMPLES = (4, 8, 16, 32)
_TIMINGS = (Metric.LATENCY, Metric.CYCLES)

Row = dict[str, Any]
"""``kin``, ``device``, ``metric``, ``samples``, ``digest``, ``family``, ``label``, ``value``."""


def kin(device: str) -> str:
    """What is held out together: modes of a runtime on one machine, sizes of one accelerator."""
    machine, runtime, _ = device.split("/")
    line, _, size = machine.rpartition("-")
    return f"{line if size.isdigit() else machine}/{runtime}"


def groups(table: MeasurementTable) -> dict[str, list[str]]:
    """Devices of one kind by their kin."""
    found: dict[str, list[str]] = {}
    for device in table.devices:
        found.setdefault(kin(device), []).append(device)
    return found


def source_without(table: MeasurementTable, devices: list[str], folder: Path, members: int) -> Predictor:
    """A graph network that has seen no label of these devices; fitted once and kept in the folder."""
    if folder.exists():
        return load_saved(folder)
    rows = table.rows[
        ~table.rows["device"].isin(devices) & table.rows["metric"].isin([str(m) for m in _TIMINGS])
    ]
    rest = MeasurementTable(rows, table.graphs, table.families)
    made = GraphNetPredictor(GraphNetConfig(members=members)).fit(rest)
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_predictor(made, folder, {})
    return made


def timing(table: MeasurementTable, device: str) -> Metric:
    """Latency, or cycles of an accelerator without a clock."""
    have = table.select(device=device).metrics
    return next(metric for metric in _TIMINGS if metric in have)


def evaluate(
    source: Predictor, table: MeasurementTable, device: str, told: Callable[[str], None] = lambda _: None
) -> Iterator[Row]:
    """Adapt with more and more labels; predict every network that was not among them.

    Args:
        source: has not seen the device.
        table: of the device's kind.
        device: to be adapted to.
        told: called before each adaptation.
    """
    metric = timing(table, device)
    own = table.select(device=device, metric=metric)
    networks = [d for d in own.digests if table.families.get(d, "") not in TEACHING]
    on_both = table.select(digests=own.digests)
    for samples in SAMPLES:
        told(f"{device}, {samples} measurements")
        start = source_devices(source, Device.model_construct(name=device, kind=kind_of(device)))[0]
        chosen = choose_references(source, start, on_both, samples)
        fit = adapted(source, own.select(digests=chosen)).fits[metric]
        asked = sorted(set(networks) - set(chosen))
        graphs, label = own.select(digests=asked).labelled(device, metric)
        value = fit.point(graphs, device, metric)
        for graph, truth, answer in zip(graphs, label, value, strict=True):
            yield {
                "kin": kin(device),
                "device": device,
                "metric": str(metric),
                "samples": len(chosen),
                "digest": graph.digest,
                "family": table.families.get(graph.digest, ""),
                "label": float(truth),
                "value": float(answer),
            }


def scores(label: np.ndarray[Any, Any], value: np.ndarray[Any, Any]) -> dict[str, float]:
    """Rank correlation, mean relative error, share within 10 %."""
    from scipy.stats import spearmanr

    off = np.abs(value - label) / label
    return {
        "spearman": float(spearmanr(value, label).statistic),
        "mape": float(off.mean()),
        "median": float(np.median(off)),
        "within_10": float((off < 0.1).mean()),
    }
