"""The Parquet files of a data set: their columns, what a row may hold, and reading and writing them whole.

Every file states the version of this schema. Rows are checked when they are written and when they are read,
column by column, so that a hundred thousand of them cost a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardsight.errors import DataError, StorageError
from hardsight.measurement import COLUMNS, MAY_BE_ZERO, PROVENANCES
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import pyarrow as pa

Mask = np.ndarray[Any, np.dtype[np.bool_]]

VERSION = 2
GRAPHS = "graphs.parquet"
ROWS = "measurements.parquet"
FAILURES = "failures.parquet"

_CONTENT = {GRAPHS: "graphs", ROWS: "measurements", FAILURES: "failed cells"}
_VERSION_KEY = b"hardsight_schema"
_NUMBERS = {"value": "double", "spread": "double", "repeats": "int64"}
_LEVEL = 12  # of zstd: 19 is a sixth smaller and takes ten times as long


@cache
def schemas() -> Mapping[str, pa.Schema]:
    """Columns of each file; texts that repeat are kept as a dictionary."""
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    return {
        GRAPHS: pa.schema(
            [
                ("digest", pa.string()),
                ("family", text),
                ("twin", pa.string()),
                ("macs", pa.int64()),
                ("precision", text),
                ("onnx", pa.binary()),
            ]
        ),
        ROWS: pa.schema([(name, _NUMBERS.get(name, text)) for name in COLUMNS]),
        FAILURES: pa.schema([("digest", text), ("device", text), ("reason", text)]),
    }


def as_table(name: str, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Columns as a table of one of the files.

    Raises:
        DataError: naming the column that has another type.
    """
    import pyarrow as pa

    schema, arrays = schemas()[name], []
    for field in schema:
        try:
            plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            arrays.append(pa.array(columns[field.name], plain, from_pandas=True).cast(field.type))
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise DataError(f"column '{field.name}' does not hold {field.type}: {error}") from error
    return pa.Table.from_arrays(arrays, schema=schema)


def write(table: pa.Table, path: Path, *, row_group_size: int | None = None) -> None:
    """Write a table as one of the files, in full; `OSError` and no file when the disk is full."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f.name for f in table.schema if pa.types.is_dictionary(f.type)]
    split = {f.name: "BYTE_STREAM_SPLIT" for f in table.schema if pa.types.is_floating(f.type)}
    try:
        pq.write_table(
            table.replace_schema_metadata({_VERSION_KEY: str(VERSION)}),
            path,
            compression="zstd",
            compression_level=_LEVEL,
            row_group_size=row_group_size,
            use_dictionary=texts,
            column_encoding=split or None,
        )
    except OSError:
        path.unlink(missing_ok=True)
        raise


def read(source: Any, path: Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one of the files, or some of its columns.

    Args:
        source: what Parquet is read from: the path, or its bytes in a buffer.
        path: which file it is.
        columns: names; None means all.

    Raises:
        StorageError: when it is missing, torn, or of another schema, with the way to convert it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = schemas()[path.name]
    names = list(columns or schema.names)
    try:
        with pq.ParquetFile(source) as file:
            _check_version(file.schema_arrow, path)
            table = file.read(columns=names)
    except StorageError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot read {_CONTENT[path.name]} from {path}: {error}") from error
    wanted = pa.schema([schema.field(n) for n in names])
    if not table.schema.equals(wanted):
        raise StorageError(
            f"{path} has other columns than version {VERSION} of a data set; "
            "build it again with 'hardsight dataset build'"
        )
    return table.unify_dictionaries().combine_chunks()


def version_of(schema: pa.Schema) -> str:
    """The version that a file states; ``"?"`` when it states none."""
    found: bytes = (schema.metadata or {}).get(_VERSION_KEY, b"?")
    return found.decode()


def _check_version(schema: pa.Schema, path: Path) -> None:
    version = version_of(schema)
    if version == str(VERSION):
        return
    if version.isdigit() and int(version) < VERSION:
        way = f"convert it with 'hardsight dataset convert {path.parent}'"
    elif version.isdigit():
        way = "install the Hardsight that wrote it, or a newer one"
    else:
        way = "build it again with 'hardsight dataset build'"
    raise StorageError(f"{path} has schema {version}, and this version reads {VERSION}; {way}")


def check_rows(table: pa.Table, digests: Collection[str], source: str) -> None:
    """Check measurements.

    Args:
        table: of `ROWS`.
        digests: of the graphs there are.
        source: where the rows are from, for messages.

    Raises:
        DataError: naming the first row that is wrong, and how.
    """
    _check_texts(table, digests, source)
    may_be_zero = _Texts(table, "metric").rows(lambda v: v in MAY_BE_ZERO)
    value, spread, repeats = (table[name].to_numpy() for name in ("value", "spread", "repeats"))
    fine = np.isfinite(value) & ((value > 0) | (may_be_zero & (value == 0)))
    _refuse(table, source, ~fine, "a label must be finite and positive")
    _refuse(table, source, ~(np.isfinite(spread) & (spread >= 0)), "a spread must be finite and not negative")
    _refuse(table, source, repeats < 1, "a label has at least one repeat")
    _refuse(
        table,
        source,
        _repeated(table, ("digest", "device", "metric", "time")),
        "another row is of the same time",
    )


def check_failures(table: pa.Table, digests: Collection[str], source: str) -> None:
    """Check failed cells: each of a graph that there is, with a reason, once per device.

    Raises:
        DataError: naming the first row that is wrong, and how.
    """
    _check_texts(table, digests, source)
    _refuse(table, source, _Texts(table, "reason").rows("".__eq__), "a failed cell needs a reason")
    _refuse(table, source, _repeated(table, ("digest", "device")), "another row is of the same cell")


class _Texts:
    """A column of texts as numpy sees it: the different ``values``, and per row the ``codes`` into them."""

    def __init__(self, table: pa.Table, name: str) -> None:
        column = table[name].combine_chunks()
        self.values = np.array(column.dictionary.to_pylist(), dtype=object)
        self.codes = column.indices.to_numpy(zero_copy_only=False)

    def rows(self, wrong: Callable[[str], bool]) -> Mask:
        """Rows ``(n,)`` whose text is wrong; each different text is asked about once."""
        found: Mask = np.array([wrong(v) for v in self.values], dtype=bool)[self.codes]
        return found


def _check_texts(table: pa.Table, digests: Collection[str], source: str) -> None:
    for field in table.schema:
        if table[field.name].null_count:
            raise DataError(f"{source}: column '{field.name}' has {table[field.name].null_count} empty cells")
    known = {
        "digest": (digests, "no graph here has that digest"),
        "metric": ([str(m) for m in Metric], "no such metric"),
        "provenance": (PROVENANCES, f"provenance is one of {', '.join(PROVENANCES)}"),
    }
    for name, (choices, fault) in known.items():
        if name in table.schema.names:
            allowed = frozenset(choices)
            _refuse(table, source, ~_Texts(table, name).rows(allowed.__contains__), fault)
    _refuse(table, source, _Texts(table, "device").rows("".__eq__), "the device has no name")


def _repeated(table: pa.Table, names: Sequence[str]) -> Mask:
    """Which rows ``(n,)`` repeat an earlier one in these columns."""
    key = np.zeros(table.num_rows, dtype=np.int64)
    for name in names:
        column = _Texts(table, name)
        # Numbered anew each time, or the product of the counts would overflow.
        _, key = np.unique(key * max(1, len(column.values)) + column.codes, return_inverse=True)
    first = np.zeros(table.num_rows, dtype=bool)
    first[np.unique(key, return_index=True)[1]] = True
    return ~first


def _refuse(table: pa.Table, source: str, wrong: Mask, fault: str) -> None:
    if not wrong.any():
        return
    row = int(np.argmax(wrong))
    cell = {name: table[name][row].as_py() for name in table.schema.names}
    label = (
        f"{cell['metric']} = {cell['value']:g} ± {cell['spread']:g}" if "metric" in cell else "a failed cell"
    )
    raise DataError(
        f"{source}, row {row}: {label} of {cell['digest'][:8] or '?'} on {cell['device'] or '?'} "
        f"({cell.get('provenance') or cell.get('reason')}): {fault}"
        + (f"; {int(wrong.sum())} rows are like that" if wrong.sum() > 1 else "")
    )
