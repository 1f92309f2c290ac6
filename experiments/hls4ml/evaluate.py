"""Predictions for layers of shapes that a model never saw."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardsight.datasets.sources import Source, get_source
from hardsight.datasets.sources._base import DATA
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors import Predictor
from hardsight.predictors.evaluation import out_of_family, with_intervals
from hardsight.predictors.hls4ml import Hls4mlPredictor
from hardsight.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_DATA = Path("../shared/data")
SOURCES = ("wa-hls4ml", "ntorc")
SEEDS = (0, 1, 2)
FOLDS = 5
LEVEL = 0.9
OURS = Hls4mlPredictor.name

SHAPE, SIZE = "shape", "size"
"""What is held out together: a shape, or every length of a layer with those inputs and outputs."""


def find(name: str) -> tuple[Source, Path]:
    """A source and its plain copy: below ``HARDSIGHT_DATA``, else ``../shared/data``, else where it was fetched to.

    Raises:
        DataError: it is in none of them; says how to fetch it.
    """
    source = get_source(name)
    nearby = DEFAULT_DATA / source.folder
    return source, source.find(nearby if DATA not in os.environ and nearby.is_dir() else None)


def predictors(seed: int) -> dict[str, Callable[[], Predictor]]:
    """Name to maker: the predictor, and what it is compared with."""
    from hardsight.experiments.hls4ml import baselines

    return {
        OURS: partial(Hls4mlPredictor, seed),
        "rule terms": partial(Hls4mlPredictor, seed, (("linear", "none"),)),
        "rules": partial(baselines.Rules, seed),
        "forest": partial(baselines.RawForest, seed),
        "ridge": partial(baselines.TotalsRidge, seed),
    }


def predict_all(progress: Progress | None = None) -> pd.DataFrame:
    """Every label by every predictor, from models that saw nothing of its group.

    Returns:
        One row per label, predictor, seed and grouping: ``grouping, predictor, seed, device, metric, digest, family,
        fold, label, value, doubt, stratum, bits, lower, upper``; intervals of the predictor only.
    """
    import pandas as pd

    parts = []
    work = list(_work())
    for done, (table, grouping, seed, name, make) in enumerate(work, 1):
        frame = out_of_family(make, table, folds_of(table, seed))
        frame = frame.merge(_kinds(table), on="digest")
        if name == OURS:
            frame = with_intervals(frame, LEVEL, by=("device", "metric", "stratum"))
        parts.append(frame.assign(grouping=grouping, predictor=name, seed=seed))
        if progress:
            progress("hls4ml layers", done, len(work))
    return pd.concat(parts, ignore_index=True)


def _work() -> Iterator[tuple[MeasurementTable, str, int, str, Callable[[], Predictor]]]:
    for source in SOURCES:
        for table in device_tables(*find(source)):
            groupings = {SHAPE: table}
            if source == "ntorc":  # its shapes have a length
                groupings[SIZE] = by_size(table)
            for grouping, grouped in groupings.items():
                for seed in SEEDS:
                    for name, make in predictors(seed).items():
                        if grouping == SHAPE or name == OURS:
                            yield grouped, grouping, seed, name, make


def device_tables(source: Source, folder: Path) -> list[MeasurementTable]:
    """One table per device, without URAM, which is always 0, and without kinds of code of which there is one shape."""
    whole = source.process(folder)
    tables = []
    for device in whole.devices:
        table = whole.select(device=device)
        kinds = _kinds(table).set_index("digest")["stratum"]
        shapes = {kind: {table.families[d] for d in kinds.index[kinds == kind]} for kind in set(kinds)}
        kept = [d for d in table.digests if len(shapes[kinds[d]]) > 1]
        rows = table.select(digests=kept).rows
        tables.append(
            MeasurementTable(rows[rows["metric"] != str(Metric.URAM)], whole.graphs, whole.families)
        )
    return tables


def by_size(table: MeasurementTable) -> MeasurementTable:
    """The same labels, with all lengths of a layer in one family: ``ntorc conv1d 16 32`` of ``… 128``."""
    families = {digest: " ".join(name.split()[:4]) for digest, name in table.families.items()}
    return MeasurementTable(table.rows, table.graphs, families)


def folds_of(table: MeasurementTable, seed: int) -> list[list[str]]:
    """Families dealt into folds, kinds of code one after the other, so that none is left out as a whole."""
    kinds = _kinds(table).set_index("digest")["stratum"]
    signature: dict[str, str] = {}
    for digest in table.digests:
        family = table.families[digest]
        signature[family] = max(signature.get(family, ""), str(kinds[digest]))
    names = sorted(signature)
    np.random.default_rng(seed).shuffle(names)
    names.sort(key=signature.__getitem__)
    folds = [names[i::FOLDS] for i in range(FOLDS)]
    return [fold for fold in folds if fold]


def _kinds(table: MeasurementTable) -> pd.DataFrame:
    """``digest, stratum, bits`` of the graphs of a table of one device."""
    import pandas as pd

    from hardsight.predictors._hls4ml_rules import layers_of, strategy_of

    (device,) = table.devices
    strategy = strategy_of(device)
    rows = []
    for digest in table.digests:
        (layer,) = layers_of(table.graphs[digest], strategy)
        rows.append((digest, layer.stratum, layer.bits))
    return pd.DataFrame(rows, columns=["digest", "stratum", "bits"])
