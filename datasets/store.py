"""A data set on disk: weightless graphs, their labels, and the cells that failed; three Parquet files in a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hardsight.datasets import schema
from hardsight.datasets.schema import FAILURES, GRAPHS, ROWS
from hardsight.errors import DataError, HardsightError, StorageError
from hardsight.graph import OperatorGraph
from hardsight.measurement import COLUMNS, MeasurementTable

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_GROUP = 32  # graphs read together: more compress better, fewer are faster to pick one from
_GROUPS_KEPT = 64


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


class GraphFacts(NamedTuple):
    """What is known of a stored graph without parsing it.

    Args:
        family: as in `StoredGraph`.
        twin: as in `StoredGraph`.
        macs: multiply-accumulate operations of one inference.
        precision: of the operators that do most of the work, for example ``"fp32"`` or ``"int8"``.
    """

    family: str
    twin: str
    macs: int
    precision: str


class GraphStore(Mapping[str, OperatorGraph]):
    """Digest to graph; a model is decompressed and parsed when it is first asked for.

    Args:
        stored: digest to stored graph.
        facts: digest to what is known without parsing.
    """

    def __init__(self, stored: Mapping[str, StoredGraph], facts: Mapping[str, GraphFacts]) -> None:
        self.stored = stored
        self.facts = facts
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


class _PackedGraphs(Mapping[str, StoredGraph]):
    """Digest to stored graph, out of a graphs file that is held compressed.

    The file's bytes are held, not its name: another process may replace the file at any time.
    """

    def __init__(self, data: bytes, path: Path, facts: Mapping[str, GraphFacts]) -> None:
        self._data, self._path, self._facts = data, path, facts
        self._place = {digest: divmod(i, _GROUP) for i, digest in enumerate(facts)}
        self._group = lru_cache(_GROUPS_KEPT)(self._read_group)

    def __getitem__(self, digest: str) -> StoredGraph:
        group, offset = self._place[digest]
        facts = self._facts[digest]
        return StoredGraph(digest, facts.family, facts.twin, self._group(group)[offset])

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def __getstate__(self) -> dict[str, Any]:
        return {"_data": self._data, "_path": self._path, "_facts": self._facts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state.values())  # type: ignore[misc]

    def _read_group(self, index: int) -> list[bytes]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            group = pq.ParquetFile(pa.BufferReader(self._data)).read_row_group(index, columns=["onnx"])
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"cannot read graphs from {self._path}: {error}") from error
        found: list[bytes] = group["onnx"].to_pylist()
        return found


def save_table(
    folder: Path,
    graphs: Sequence[StoredGraph],
    table: MeasurementTable,
    failures: Mapping[tuple[str, str], str] | None = None,
) -> None:
    """Write a data set: checked and written in full beside the old files, which are then replaced.

    The measurements are replaced last. Killed between two replacements, the folder holds the old labels and the
    new graphs: still a data set whenever graphs were only added, and refused as one otherwise.

    Args:
        folder: to write; made when it is not there.
        graphs: each digest once, and at least those of the rows and of the failures.
        table: labels; of its graphs only the rows' digests matter.
        failures: ``(digest, device)`` to the reason why that cell has no label.

    Raises:
        DataError: a row that no data set may hold, with the reason; nothing is written.
        StorageError: when the folder cannot be written; an older data set is then untouched.
    """
    digests = {g.digest for g in graphs}
    if len(digests) != len(graphs):
        raise DataError(f"{len(graphs) - len(digests)} graphs are given twice; give each digest once")
    checked = _checked(table.rows, failures or {}, digests)

    def write_graphs(part: Path) -> None:
        schema.write(_graph_table(graphs, _known_facts(folder, table)), part, row_group_size=_GROUP)

    _replace(folder, {GRAPHS: write_graphs, **checked})


def _checked(
    rows: pd.DataFrame, failures: Mapping[tuple[str, str], str], digests: Collection[str]
) -> dict[str, Callable[[Path], None]]:
    """Writers of the measurements and the failed cells, once those are found to be good."""
    cells = [(digest, device, reason) for (digest, device), reason in failures.items()]
    names = schema.schemas()[FAILURES].names
    good = schema.as_table(ROWS, {name: rows[name] for name in COLUMNS})
    failed = schema.as_table(FAILURES, {name: [cell[i] for cell in cells] for i, name in enumerate(names)})
    schema.check_rows(good, digests, "the measurements given")
    schema.check_failures(failed, digests, "the failed cells given")
    return {FAILURES: partial(schema.write, failed), ROWS: partial(schema.write, good)}


def _replace(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Write files in full beside the old ones, then put them in their places, in order."""
    parts = {name: folder / (name + ".part") for name in writers}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in writers.items():
            write(parts[name])
        for name, part in parts.items():
            part.replace(folder / name)
    except OSError as error:
        if isinstance(error, HardsightError):
            raise
        raise StorageError(f"cannot write the data set to {folder}: {error.strerror or error}") from error
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _graph_table(graphs: Sequence[StoredGraph], known: Mapping[str, GraphFacts]) -> pa.Table:
    from hardsight.ingest import read_onnx

    columns: dict[str, list[Any]] = {name: [] for name in schema.schemas()[GRAPHS].names}
    for stored in graphs:
        facts = known.get(stored.digest)
        if facts is None:
            parsed = read_onnx(stored.onnx, name=stored.digest[:8])
            facts = GraphFacts(stored.family, stored.twin, parsed.macs, precision_of(parsed))
        row = {**facts._asdict(), **stored._asdict()}
        for name, cells in columns.items():
            cells.append(row[name])
    return schema.as_table(GRAPHS, columns)


def _known_facts(folder: Path, table: MeasurementTable) -> Mapping[str, GraphFacts]:
    """Facts of graphs that were stored before, so that a growing data set parses each graph once."""
    if isinstance(table.graphs, GraphStore):
        return table.graphs.facts
    try:
        return load_facts(folder)
    except HardsightError:
        return {}


def precision_of(graph: OperatorGraph) -> str:
    """Precision of the operators that do most of the work: ``"fp32"`` (or wider), ``"fp16"``, ``"int8"``…"""
    work: Counter[int] = Counter()
    for op in graph.operators:
        work[op.weight_bits or op.input_bits] += (op.macs or 1) * op.repeats
    bits = work.most_common(1)[0][0] if work else 32
    return f"fp{min(bits, 32)}" if bits >= 16 else f"int{bits}"


def load_table(folder: Path) -> MeasurementTable:
    """Read a data set written by `save_table`.

    Raises:
        DataError: when the folder is no data set, or holds a row that no data set may hold.
        StorageError: when a file is torn, missing or of another schema, with the way to convert it.
    """
    path = folder / ROWS
    if not path.exists():
        raise DataError(
            f"'{folder}' is no data set: it has no {ROWS}; give a folder that 'hardsight dataset build' wrote"
        )
    rows = schema.read(path, path)
    data, facts = _read_graphs(folder)
    schema.check_rows(rows, facts, str(path))
    families = {digest: f.family for digest, f in facts.items()}
    graphs = GraphStore(_PackedGraphs(data, folder / GRAPHS, facts), facts)
    return MeasurementTable(_plain(rows), graphs, families)


def add_labels(base: Path, out: Path, rows: pd.DataFrame, failures: Mapping[tuple[str, str], str]) -> int:
    """Write a data set with more labels.

    Args:
        base: folder of a data set.
        out: folder to write; may be ``base``.
        rows: labels of graphs of the data set, with the columns `COLUMNS`.
        failures: ``(digest, device)`` to the reason why that cell has no label.

    Returns:
        How many labels were not there yet.

    Raises:
        DataError: a label contradicts one of the same time, or is of an unknown graph.
        StorageError: when a folder cannot be read or written.
    """
    import pandas as pd

    table, known = load_table(base), load_failures(base)
    reasons = dict(zip(zip(known["digest"], known["device"], strict=True), known["reason"], strict=True))
    both = pd.concat([table.rows, rows], ignore_index=True)
    both = both[~both.duplicated(["digest", "device", "metric", "time", "value"])]
    checked = _checked(both, {**reasons, **failures}, table.graphs)
    graphs = (base / GRAPHS).read_bytes()
    _replace(out, {GRAPHS: lambda part: part.write_bytes(graphs), **checked})
    return len(both) - len(table)


def load_facts(folder: Path) -> Mapping[str, GraphFacts]:
    """Digest to what is known of each graph, without reading the graphs.

    Raises:
        StorageError: when the graphs file is torn, missing or of another schema.
    """
    return _read_graphs(folder)[1]


def _read_graphs(folder: Path) -> tuple[bytes, dict[str, GraphFacts]]:
    import pyarrow as pa

    path = folder / GRAPHS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read graphs from {path}: {error.strerror or error}") from error
    index = schema.read(pa.BufferReader(data), path, columns=("digest", *GraphFacts._fields))
    columns = [index[name].to_pylist() for name in GraphFacts._fields]
    return data, dict(zip(index["digest"].to_pylist(), map(GraphFacts, *columns), strict=True))


def load_failures(folder: Path) -> pd.DataFrame:
    """Cells of a data set that have no label, with the columns ``digest``, ``device``, ``reason``.

    Raises:
        StorageError: when the file is torn, missing or of another schema.
        DataError: when it holds a cell twice, of an unknown graph, or without a reason.
    """
    path = folder / FAILURES
    table = schema.read(path, path)
    schema.check_failures(table, load_facts(folder), str(path))
    return _plain(table)


def _plain(table: pa.Table) -> pd.DataFrame:
    """A frame whose texts are texts, not categories: those would behave differently when grouped or joined."""
    import pyarrow as pa

    fields = [(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(fields)).to_pandas()


def shipped_folder() -> Path:
    """Folder of the data set that comes with the package."""
    return Path(str(resources.files("hardsight.datasets"))) / "shipped"


@cache
def load_shipped() -> MeasurementTable:
    """The data set that comes with the package."""
    return load_table(shipped_folder())
