"""Measurements and tables of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hardsight.errors import DataError
from hardsight.graph import OperatorGraph
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("digest", "device", "metric", "value", "spread", "repeats", "time", "versions", "provenance")
PROVENANCES = ("measured", "simulated", "synthesised", "published")
MAY_BE_ZERO = frozenset(m for m in Metric if m.integer or m is Metric.ACCURACY)
"""Metrics of which zero is a label: a design without DSP blocks has none; nothing runs in no time."""


@dataclass(frozen=True)
class Measurement:
    """One label.

    Args:
        digest: of the graph as given (before any conversion the device's mode makes).
        device: name of the device.
        metric: what was measured, in its SI unit.
        value: median over the repeats; finite, and above zero unless the metric is in `MAY_BE_ZERO`.
        spread: relative half-width of the 95 % confidence interval of the median.
        repeats: how many runs the median is over.
        time: ISO 8601, UTC.
        versions: runtime and hardware as found, for example ``{"onnxruntime": "1.31.1", "cpu": …}``.
        provenance: measured, simulated, synthesised or published.
    """

    digest: str
    device: str
    metric: Metric
    value: float
    spread: float
    repeats: int
    time: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    provenance: str = "measured"

    def __post_init__(self) -> None:
        floor_ok = self.value >= 0 if self.metric in MAY_BE_ZERO else self.value > 0
        if not (math.isfinite(self.value) and floor_ok):
            raise DataError(
                f"{self.metric} of {self.digest[:8]} on {self.device} is {self.value}; "
                "a label must be finite and positive"
            )
        if self.provenance not in PROVENANCES:
            raise DataError(f"provenance '{self.provenance}' is not one of {', '.join(PROVENANCES)}")


class MeasurementTable:
    """Measurements and the graphs they belong to.

    Args:
        rows: a frame with the columns `COLUMNS`.
        graphs: digest to graph, for every digest in ``rows`` (a lazy mapping will do).
        families: digest to family name; splits by family need it.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        graphs: Mapping[str, OperatorGraph],
        families: Mapping[str, str] | None = None,
    ) -> None:
        missing = [c for c in COLUMNS if c not in rows.columns]
        if missing:
            raise DataError(
                f"a measurement table needs the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}"
            )
        self.rows = rows
        self.graphs = graphs
        self.families = families or {}

    @classmethod
    def from_measurements(
        cls,
        measurements: Iterable[Measurement],
        graphs: Mapping[str, OperatorGraph],
        families: Mapping[str, str] | None = None,
    ) -> MeasurementTable:
        """Build a table from single measurements."""
        import pandas as pd

        records: list[dict[str, Any]] = []
        for m in measurements:
            record = asdict(m)
            record["metric"] = str(m.metric)
            record["versions"] = json.dumps(dict(m.versions), sort_keys=True)
            records.append(record)
        return cls(pd.DataFrame(records, columns=list(COLUMNS)), graphs, families)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def devices(self) -> list[str]:
        return sorted(self.rows["device"].unique())

    @property
    def metrics(self) -> list[Metric]:
        return [Metric(m) for m in sorted(self.rows["metric"].unique())]

    @property
    def digests(self) -> list[str]:
        """Every digest with a row, in order of first appearance."""
        return list(dict.fromkeys(self.rows["digest"]))

    @property
    def labels_digest(self) -> str:
        """SHA-256 over the labels (32 hex digits), whatever their order."""
        columns = self.rows[["digest", "device", "metric", "value"]].itertuples(index=False)
        return hashlib.sha256("\n".join(sorted(repr(tuple(row)) for row in columns)).encode()).hexdigest()[
            :32
        ]

    def select(
        self,
        *,
        device: str | None = None,
        metric: Metric | None = None,
        digests: Iterable[str] | None = None,
    ) -> MeasurementTable:
        """The rows that match everything given."""
        rows = self.rows
        if device is not None:
            rows = rows[rows["device"] == device]
        if metric is not None:
            rows = rows[rows["metric"] == str(metric)]
        if digests is not None:
            rows = rows[rows["digest"].isin(set(digests))]
        return MeasurementTable(rows, self.graphs, self.families)

    def of(self, targets: Iterable[tuple[str, Metric]]) -> MeasurementTable:
        """The rows of these devices and metrics."""
        import pandas as pd

        wanted = pd.MultiIndex.from_tuples([(d, str(m)) for d, m in targets], names=["device", "metric"])
        rows = self.rows[pd.MultiIndex.from_frame(self.rows[["device", "metric"]]).isin(wanted)]
        return MeasurementTable(rows, self.graphs, self.families)

    def labelled(self, device: str, metric: Metric) -> tuple[list[OperatorGraph], FloatArray]:
        """Graphs with that label and its values ``(n,)``; repeated rows of a graph give their median."""
        values = (
            self.select(device=device, metric=metric).rows.groupby("digest", sort=False)["value"].median()
        )
        return [self.graphs[d] for d in values.index], values.to_numpy(dtype=np.float64)

    def labelled_above_zero(self, device: str, metric: Metric) -> tuple[list[OperatorGraph], FloatArray]:
        """As `labelled`, without labels of zero: of those no logarithm can be learned."""
        graphs, values = self.labelled(device, metric)
        return [g for g, value in zip(graphs, values, strict=True) if value > 0], values[values > 0]

    def families_of(self, graphs: Sequence[OperatorGraph]) -> list[str]:
        """Family name of each graph; a graph without one is a family of its own."""
        return [self.families.get(g.digest, g.digest) for g in graphs]

    def __add__(self, other: MeasurementTable) -> MeasurementTable:
        from collections import ChainMap

        import pandas as pd

        rows = pd.concat([self.rows, other.rows], ignore_index=True)
        # Chained, not copied: a lazy mapping parses only the graphs that someone asks for.
        graphs = ChainMap(
            cast("dict[str, OperatorGraph]", self.graphs), cast("dict[str, OperatorGraph]", other.graphs)
        )
        return MeasurementTable(rows, graphs, {**self.families, **other.families})
