"""A data set on disk: weightless graphs and their labels, two Parquet files in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from hardsight.errors import DataError, StorageError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable

GRAPHS = "graphs.parquet"
ROWS = "measurements.parquet"


class StoredGraph(NamedTuple):
    """A graph as stored.

    Args:
        digest: identity of the graph.
        family: generator it came from; a quantized twin keeps the family of its float original.
        twin: digest of the float original, for a quantized graph; empty otherwise.
        onnx: the weightless model.
    """

    digest: str
    family: str
    twin: str
    onnx: bytes


class GraphStore(Mapping[str, OperatorGraph]):
    """Digest to graph; a model is parsed when it is first asked for."""

    def __init__(self, stored: Mapping[str, StoredGraph]) -> None:
        self.stored = stored
        self._parsed: dict[str, OperatorGraph] = {}

    def __getitem__(self, digest: str) -> OperatorGraph:
        if digest not in self._parsed:
            from hardsight.ingest import read_onnx

            self._parsed[digest] = read_onnx(self.stored[digest].onnx, name=digest[:8])
        return self._parsed[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def save_table(folder: Path, graphs: list[StoredGraph], table: MeasurementTable) -> None:
    """Write graphs and rows; each file whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = folder / (GRAPHS + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        columns = {name: [getattr(g, name) for g in graphs] for name in StoredGraph._fields}
        pq.write_table(pa.table(columns), part, compression="zstd", compression_level=19)
        part.replace(folder / GRAPHS)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"cannot write the data set to {folder}: {error}") from error
    MeasurementTable.write_rows(table.rows, folder / ROWS)


def load_table(folder: Path) -> MeasurementTable:
    """Read a data set written by `save_table`.

    Raises:
        DataError: when the folder is no data set.
        StorageError: when a file is torn or of another schema, or its graphs are missing.
    """
    import pyarrow
    import pyarrow.parquet as pq

    if not (folder / ROWS).exists():
        raise DataError(
            f"'{folder}' is no data set: it has no {ROWS}; give a folder that 'hardsight dataset build' wrote"
        )
    rows = MeasurementTable.read_rows(folder / ROWS)
    try:
        records = pq.read_table(folder / GRAPHS, columns=list(StoredGraph._fields)).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise StorageError(f"cannot read graphs from {folder / GRAPHS}: {error}") from error
    stored = {r["digest"]: StoredGraph(**r) for r in records}
    families = {d: g.family for d, g in stored.items()}
    return MeasurementTable(rows, GraphStore(stored), families)


def shipped_folder() -> Path:
    """Folder of the data set that comes with the package."""
    return Path(str(resources.files("hardsight.datasets"))) / "shipped"


@cache
def load_shipped() -> MeasurementTable:
    """The data set that comes with the package."""
    return load_table(shipped_folder())
