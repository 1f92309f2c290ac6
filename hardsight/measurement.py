"""Measurements and tables of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardsight.errors import DataError, StorageError
from hardsight.graph import OperatorGraph
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
COLUMNS = ("digest", "device", "metric", "value", "spread", "repeats", "time", "versions", "provenance")
PROVENANCES = ("measured", "simulated", "synthesised", "published")


@dataclass(frozen=True)
class Measurement:
    """One label.

    Args:
        digest: of the graph as given (before any conversion the device's mode makes).
        device: name of the device.
        metric: what was measured, in its SI unit.
        value: median over the repeats; finite and, except accuracy, above zero.
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
        floor_ok = (
            self.value >= 0 if self.metric is Metric.ACCURACY or self.metric.integer else self.value > 0
        )
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

    def labelled(self, device: str, metric: Metric) -> tuple[list[OperatorGraph], FloatArray]:
        """Graphs with that label and its values ``(n,)``; repeated rows of a graph give their median."""
        values = (
            self.select(device=device, metric=metric).rows.groupby("digest", sort=False)["value"].median()
        )
        return [self.graphs[d] for d in values.index], values.to_numpy(dtype=np.float64)

    def families_of(self, graphs: Sequence[OperatorGraph]) -> list[str]:
        """Family name of each graph; a graph without one is a family of its own."""
        return [self.families.get(g.digest, g.digest) for g in graphs]

    def __add__(self, other: MeasurementTable) -> MeasurementTable:
        from collections import ChainMap

        import pandas as pd

        rows = pd.concat([self.rows, other.rows], ignore_index=True)
        graphs: Mapping[str, OperatorGraph] = ChainMap(dict(self.graphs), dict(other.graphs))
        return MeasurementTable(rows, graphs, {**self.families, **other.families})

    @classmethod
    def read_rows(cls, path: Path) -> pd.DataFrame:
        """Read a Parquet file of rows and check its schema version.

        Raises:
            StorageError: when the file is missing, torn, or of another schema.
        """
        import pyarrow
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except (OSError, pyarrow.ArrowException) as error:
            raise StorageError(f"cannot read measurements from {path}: {error}") from error
        version = (table.schema.metadata or {}).get(b"hardsight_schema", b"?").decode()
        if version != str(SCHEMA_VERSION):
            raise StorageError(
                f"{path} has measurement schema {version}; this version reads {SCHEMA_VERSION}. "
                "Rebuild it with 'hardsight dataset build'."
            )
        return table.to_pandas()

    @staticmethod
    def write_rows(rows: pd.DataFrame, path: Path) -> None:
        """Write rows as Parquet, whole or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(rows[list(COLUMNS)], preserve_index=False)
        table = table.replace_schema_metadata({"hardsight_schema": str(SCHEMA_VERSION)})
        temporary = path.with_suffix(".part")
        try:
            pq.write_table(table, temporary, compression="zstd")
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StorageError(f"cannot write {path}: {error}") from error
