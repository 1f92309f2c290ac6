"""Converts a data set of an older schema to the one this version reads."""

from __future__ import annotations

from pathlib import Path

from hardsight.datasets import schema
from hardsight.datasets.schema import GRAPHS, ROWS
from hardsight.datasets.store import StoredGraph, load_table, save_table
from hardsight.errors import StorageError
from hardsight.measurement import MeasurementTable


def convert(folder: Path) -> bool:
    """Rewrite a data set in the present schema: whole, or not at all.

    Version 1 had neither the failed cells nor the facts about graphs; it gets an empty list of the former, and
    the latter from the graphs themselves (about 20 ms each).

    Args:
        folder: of the data set.

    Returns:
        False when it was of the present schema already.

    Raises:
        DataError: when it holds rows that no data set may hold.
        StorageError: when it cannot be read, states no known version, or cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        version = schema.version_of(pq.read_schema(folder / ROWS))
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot read measurements from {folder / ROWS}: {error}") from error
    if version != "1":
        load_table(folder)  # says what is wrong with it, if anything is
        return False
    try:
        rows = pq.read_table(folder / ROWS).to_pandas()
        graphs = pq.read_table(folder / GRAPHS, columns=list(StoredGraph._fields)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot read the data set in {folder}: {error}") from error
    save_table(folder, [StoredGraph(**g) for g in graphs], MeasurementTable(rows, {}))
    return True
