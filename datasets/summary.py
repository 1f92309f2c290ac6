"""What a data set holds, in numbers: labels, missing cells with their reasons, graphs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from hardsight.datasets.store import GraphFacts
from hardsight.measurement import MeasurementTable

if TYPE_CHECKING:
    import pandas as pd

_PARTICULARS = re.compile(r"'[^']*'|\b[0-9a-f]{8,}\b|\S*/\S*|-?\d[\d.,]*(e[-+]?\d+)?")


class LabelSummary(NamedTuple):
    """Labels of one metric on one device, in SI units.

    Args:
        device: name.
        metric: name.
        labels: how many.
        smallest: value.
        median: value.
        largest: value.
        spread: median of the relative spreads.
        spread_90: a tenth of the spreads are larger.
        provenance: measured, simulated, synthesised or published; several are joined by ``" + "``.
    """

    device: str
    metric: str
    labels: int
    smallest: float
    median: float
    largest: float
    spread: float
    spread_90: float
    provenance: str


class DeviceCoverage(NamedTuple):
    """Cells of one device.

    Args:
        device: name.
        labelled: graphs with a label of any metric.
        failed: graphs that lack a label, with a reason; they may have one of another metric.
        untried: graphs without a label, and without a reason.
        reasons: reason and how often, the most frequent first; reasons that differ in names and numbers alone
            are counted together, under the first of them.
    """

    device: str
    labelled: int
    failed: int
    untried: int
    reasons: tuple[tuple[str, int], ...]


class GraphCount(NamedTuple):
    """Graphs of one family and precision."""

    family: str
    precision: str
    graphs: int


def summarise_labels(table: MeasurementTable) -> list[LabelSummary]:
    """One summary per device and metric."""
    return [
        LabelSummary(
            str(device),
            str(metric),
            len(rows),
            float(rows["value"].min()),
            float(rows["value"].median()),
            float(rows["value"].max()),
            float(rows["spread"].median()),
            float(rows["spread"].quantile(0.9)),
            " + ".join(sorted(rows["provenance"].unique())),
        )
        for (device, metric), rows in table.rows.groupby(["device", "metric"])
    ]


def summarise_devices(table: MeasurementTable, failures: pd.DataFrame) -> list[DeviceCoverage]:
    """One summary per device that has a label or a failed cell.

    Args:
        table: with all its graphs.
        failures: as `load_failures` reads them.
    """
    graphs = len(table.graphs)
    labelled = {str(d): set(rows) for d, rows in table.rows.groupby("device")["digest"]}
    failed = {str(d): rows for d, rows in failures.groupby("device")}
    found = []
    for device in sorted({*labelled, *failed}):
        have = labelled.get(device, set())
        missing = failed[device] if device in failed else failures[:0]
        lacking = set(missing["digest"])
        found.append(
            DeviceCoverage(
                device,
                len(have),
                len(lacking),
                graphs - len(have | lacking),
                _reasons(missing["reason"]),
            )
        )
    return found


def _reasons(texts: Iterable[str]) -> tuple[tuple[str, int], ...]:
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for text in texts:
        kind = _PARTICULARS.sub("…", text)
        first.setdefault(kind, text)
        counts[kind] += 1
    return tuple((first[kind], count) for kind, count in counts.most_common())


def count_graphs(facts: Mapping[str, GraphFacts]) -> list[GraphCount]:
    """Graphs per family and precision, by name."""
    counts = Counter((f.family, f.precision) for f in facts.values())
    return [GraphCount(*key, counts[key]) for key in sorted(counts)]
