"""A data set on disk: what is refused on the way in and out, lazily read graphs, other schemas, growing."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import parser

from hardsight.cli import main
from hardsight.datasets import schema, store
from hardsight.datasets.convert import convert
from hardsight.datasets.store import (
    GraphStore,
    StoredGraph,
    add_labels,
    load_facts,
    load_failures,
    load_table,
    precision_of,
    save_table,
)
from hardsight.datasets.summary import count_graphs, summarise_devices, summarise_labels
from hardsight.errors import DataError, StorageError
from hardsight.ingest import read_onnx
from hardsight.measurement import COLUMNS, Measurement, MeasurementTable
from hardsight.metrics import Metric

CPU, FPGA = "board/onnxruntime/fp32-t1", "xcup/da4ml/base"


def model(width: int) -> bytes:
    """``width`` x ``width`` by ``width`` MACs."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, {width}] x, float[{width}, {width}] w) => (float[1, {width}] y) {{ y = MatMul(x, w) }}"""
    content: bytes = parser.parse_model(text).SerializeToString()
    return content


GRAPHS = [StoredGraph(read_onnx(model(w)).digest, f"family{w % 3}", "", model(w)) for w in range(2, 72)]
DIGESTS = [g.digest for g in GRAPHS]


def table() -> MeasurementTable:
    labels = [
        Measurement(
            d, CPU, Metric.LATENCY, 1e-3 * (i + 1), 0.01 * i, 20, "2026-01-01T00:00:00+00:00", {"a": "1"}
        )
        for i, d in enumerate(DIGESTS[:8])
    ]
    labels += [Measurement(d, FPGA, Metric.DSP, 0, 0, 1, provenance="synthesised") for d in DIGESTS[:4]]
    return MeasurementTable.from_measurements(labels, {})


FAILURES = {
    (DIGESTS[8], CPU): "the runtime crashed on 'net8'",
    (DIGESTS[9], CPU): "the runtime crashed on 'net9'",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_table(tmp_path / "data", GRAPHS, table(), FAILURES)
    return tmp_path / "data"


def test_what_was_written_reads_back(folder: Path) -> None:
    read = load_table(folder)
    pd.testing.assert_frame_equal(read.rows, table().rows)
    assert list(read.graphs) == DIGESTS
    assert isinstance(read.graphs, GraphStore)
    assert [read.graphs.stored[d] for d in reversed(DIGESTS)] == GRAPHS[::-1]
    assert read.graphs[DIGESTS[5]].digest == DIGESTS[5]
    assert read.families[DIGESTS[1]] == "family0"
    failures = load_failures(folder)
    assert {(f.digest, f.device): f.reason for f in failures.itertuples()} == FAILURES
    assert sorted(p.name for p in folder.iterdir()) == sorted((schema.GRAPHS, schema.ROWS, schema.FAILURES))


def test_facts_need_no_parsing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardsight.ingest.read_onnx", None)
    facts = load_facts(folder)
    assert facts[DIGESTS[3]] == ("family2", "", 25, "fp32")
    save_table(folder, GRAPHS[:20], table(), FAILURES)  # nor do those of a data set that is written again


def test_graphs_survive_pickling_and_the_file_being_replaced(folder: Path) -> None:
    read = load_table(folder)
    save_table(folder, GRAPHS[::-1], table())
    assert isinstance(read.graphs, GraphStore)
    again = pickle.loads(pickle.dumps(read.graphs))
    for graphs in (read.graphs, again):
        assert [graphs.stored[d].onnx for d in DIGESTS] == [g.onnx for g in GRAPHS]


def test_precision_is_that_of_most_of_the_work() -> None:
    text = """<ir_version: 8, opset_import: ["" : 19]>
        g (float[4, 64] x) => (float[4, 2] y)
        <float s = {0.1}, int8 z = {0}, int8[64, 64] q = {}, float[64, 2] f = {}>
        {
            a = QuantizeLinear(x, s, z)
            b = DequantizeLinear(a, s, z)
            w = DequantizeLinear(q, s, z)
            c = MatMul(b, w)
            y = MatMul(c, f)
        }"""
    text = text.replace("q = {}", "q = {" + ",".join("1" * (64 * 64)) + "}")
    text = text.replace("f = {}", "f = {" + ",".join("1" * 128) + "}")
    assert precision_of(read_onnx(parser.parse_model(text))) == "int8"
    assert precision_of(read_onnx(model(4))) == "fp32"


# -- what no data set may hold ------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"value": float("nan")}, "column 'value' has 1 empty cells"),
    ({"value": float("inf")}, "row 2: latency_s = inf .* a label must be finite and positive"),
    ({"value": 0.0}, "a label must be finite and positive"),
    ({"value": -1.0}, "a label must be finite and positive"),
    ({"spread": -0.1}, "a spread must be finite and not negative"),
    ({"repeats": 0}, "at least one repeat"),
    ({"metric": "speed"}, "no such metric"),
    ({"provenance": "guessed"}, "provenance is one of measured, simulated"),
    ({"digest": "0" * 32}, "of 00000000 on board.*no graph here has that digest"),
    ({"device": ""}, "the device has no name"),
    ({"versions": None}, "column 'versions' has 1 empty cells"),
    ({"digest": DIGESTS[0]}, "row 2: .*another row is of the same time"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_a_bad_row_is_refused_when_written(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    rows = table().rows
    for name, value in change.items():
        rows.loc[2, name] = value
    with pytest.raises(DataError, match=f"the measurements given.*{said}"):
        save_table(tmp_path / "data", GRAPHS, MeasurementTable(rows, {}))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_a_bad_row_is_refused_when_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    rows = table().rows
    for name, value in change.items():
        rows.loc[2, name] = value
    with monkeypatch.context() as careless:
        careless.setattr(schema, "check_rows", lambda *_: None)
        save_table(folder, GRAPHS, MeasurementTable(rows, {}))
    with pytest.raises(DataError, match=f"measurements.parquet.*{said}"):
        load_table(folder)


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ({(DIGESTS[0], CPU): ""}, "a failed cell needs a reason"),
        ({("0" * 32, CPU): "it crashed"}, r"on board/onnxruntime/fp32-t1 \(it crashed\): no graph here"),
    ],
)
def test_a_bad_failure_is_refused(tmp_path: Path, failures: dict[tuple[str, str], str], said: str) -> None:
    with pytest.raises(DataError, match=f"the failed cells given.*{said}"):
        save_table(tmp_path / "data", GRAPHS, table(), failures)


def test_a_wrong_type_names_its_column(tmp_path: Path) -> None:
    rows = table().rows.assign(repeats="many")
    with pytest.raises(DataError, match="column 'repeats' does not hold int64"):
        save_table(tmp_path, GRAPHS, MeasurementTable(rows, {}))


def test_a_graph_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 graphs are given twice"):
        save_table(tmp_path, [*GRAPHS, GRAPHS[0]], table())


def test_no_rows_at_all_are_a_data_set(tmp_path: Path) -> None:
    save_table(tmp_path, GRAPHS[:2], MeasurementTable(pd.DataFrame(columns=list(COLUMNS)), {}))
    assert len(load_table(tmp_path)) == 0
    assert len(load_failures(tmp_path)) == 0


# -- whole or not at all ------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_full_disk_leaves_the_old_data_set(folder: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    calls: list[Path] = []
    real = schema.write

    def full(written: pa.Table, path: Path, **more: Any) -> None:
        calls.append(path)
        if len(calls) > at:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(written, path, **more)

    monkeypatch.setattr(schema, "write", full)
    with pytest.raises(StorageError, match=r"cannot write the data set.*No space left"):
        save_table(folder, GRAPHS[:20], table())
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize("name", [schema.GRAPHS, schema.ROWS, schema.FAILURES])
@pytest.mark.parametrize("content", [b"", b"PAR1 torn", None])
def test_a_torn_or_missing_file_is_refused(folder: Path, name: str, content: bytes | None) -> None:
    path = folder / name
    path.unlink() if content is None else path.write_bytes(content)
    read: Callable[[Path], object] = load_failures if name == schema.FAILURES else load_table
    with pytest.raises((StorageError, DataError), match=name):
        read(folder)


def test_a_graphs_file_torn_in_the_middle_is_refused_where_it_is_torn(folder: Path) -> None:
    data = bytearray((folder / schema.GRAPHS).read_bytes())
    data[40:60] = bytes(20)
    (folder / schema.GRAPHS).write_bytes(data)
    with pytest.raises(StorageError, match="cannot read graphs"):
        stored = load_table(folder).graphs
        assert isinstance(stored, GraphStore)
        list(stored.stored.values())


# -- other versions -----------------------------------------------------------------------------------


def version_one(folder: Path) -> None:
    """A data set as Hardsight 0.1 wrote it."""
    folder.mkdir()
    columns = {name: [getattr(g, name) for g in GRAPHS] for name in StoredGraph._fields}
    pq.write_table(pa.table(columns), folder / schema.GRAPHS)
    rows = pa.Table.from_pandas(table().rows, preserve_index=False)
    pq.write_table(rows.replace_schema_metadata({"hardsight_schema": "1"}), folder / schema.ROWS)


def test_version_one_is_refused_and_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old"
    version_one(old)
    with pytest.raises(
        StorageError, match=f"has schema 1, .* reads 2; convert it with .*dataset convert {old}"
    ):
        load_table(old)
    assert main(["dataset", "convert", str(old)]) == 0
    assert "converted" in capsys.readouterr().out
    read = load_table(old)
    pd.testing.assert_frame_equal(read.rows, table().rows)
    assert isinstance(read.graphs, GraphStore)
    assert list(read.graphs.stored.values()) == GRAPHS
    assert len(load_failures(old)) == 0
    assert not convert(old)


def test_a_conversion_that_is_interrupted_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old"
    version_one(old)
    real = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.name == schema.ROWS:
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as dying:
        dying.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            convert(old)
    with pytest.raises(StorageError, match="dataset convert"):
        load_table(old)
    assert convert(old)
    assert len(load_table(old)) == len(table())


def test_a_conversion_refuses_what_no_data_set_may_hold(tmp_path: Path) -> None:
    old = tmp_path / "old"
    version_one(old)
    rows = pq.read_table(old / schema.ROWS).to_pandas().assign(value=0.0)
    bad = pa.Table.from_pandas(rows, preserve_index=False)
    pq.write_table(bad.replace_schema_metadata({"hardsight_schema": "1"}), old / schema.ROWS)
    before = {p.name: p.read_bytes() for p in old.iterdir()}
    with pytest.raises(DataError, match="finite and positive"):
        convert(old)
    assert {p.name: p.read_bytes() for p in old.iterdir()} == before


def test_a_newer_version_says_so(folder: Path) -> None:
    rows = pq.read_table(folder / schema.ROWS).replace_schema_metadata({"hardsight_schema": "3"})
    pq.write_table(rows, folder / schema.ROWS)
    with pytest.raises(
        StorageError, match="has schema 3, and this version reads 2; install the Hardsight that"
    ):
        load_table(folder)


def test_other_columns_of_the_same_version_are_refused(folder: Path) -> None:
    rows = pq.read_table(folder / schema.ROWS).drop_columns(["spread"])
    pq.write_table(rows.replace_schema_metadata({"hardsight_schema": "2"}), folder / schema.ROWS)
    with pytest.raises(StorageError, match="has other columns than version 2"):
        load_table(folder)


# -- growing and describing ---------------------------------------------------------------------------


def test_labels_are_added_once(folder: Path, tmp_path: Path) -> None:
    new = table().rows.head(3).assign(device="phone/onnxruntime/fp32-t1")
    failures = {(DIGESTS[3], "phone/onnxruntime/fp32-t1"): "still running"}
    assert add_labels(folder, tmp_path / "out", new, failures) == 3
    assert add_labels(tmp_path / "out", tmp_path / "out", new, failures) == 0
    assert load_table(tmp_path / "out").devices == [CPU, "phone/onnxruntime/fp32-t1", FPGA]
    assert len(load_failures(tmp_path / "out")) == 3
    assert len(load_table(folder)) == len(table())
    with pytest.raises(DataError, match="another row is of the same time"):
        add_labels(tmp_path / "out", tmp_path / "out", new.assign(value=1.0), {})


def test_summaries(folder: Path) -> None:
    read = load_table(folder)
    latency = summarise_labels(read)[0]
    assert latency[:3] == (CPU, "latency_s", 8)
    assert latency[3:6] == pytest.approx((1e-3, 4.5e-3, 8e-3))
    assert (latency.spread, latency.spread_90) == pytest.approx((0.035, 0.063))
    assert latency.provenance == "measured"
    cpu, fpga = summarise_devices(read, load_failures(folder))
    assert (cpu.labelled, cpu.failed, cpu.untried) == (8, 2, 60)
    assert cpu.reasons == (("the runtime crashed on 'net8'", 2),)  # they differ in a name alone
    assert (fpga.labelled, fpga.failed, fpga.untried, fpga.reasons) == (4, 0, 66, ())
    assert [tuple(g) for g in count_graphs(load_facts(folder))] == [
        ("family0", "fp32", 23),
        ("family1", "fp32", 23),
        ("family2", "fp32", 24),
    ]


def test_checking_many_rows_is_quick_enough_to_do_always() -> None:
    """Rows that differ in everything, and still only the different texts are looked at one by one."""
    n = 20_000
    rows = pd.DataFrame(
        {
            "digest": [DIGESTS[i % len(DIGESTS)] for i in range(n)],
            "device": CPU,
            "metric": "latency_s",
            "value": 1.0,
            "spread": 0.0,
            "repeats": 1,
            "time": [f"t{i}" for i in range(n)],
            "versions": "{}",
            "provenance": "measured",
        }
    )
    columns = {name: rows[name] for name in COLUMNS}
    schema.check_rows(schema.as_table(schema.ROWS, columns), set(DIGESTS), "rows")
    asked: list[str] = []

    class Watched(frozenset[str]):
        def __contains__(self, item: object) -> bool:
            asked.append(str(item))
            return super().__contains__(item)

    schema._Texts(schema.as_table(schema.ROWS, columns), "digest").rows(Watched(DIGESTS).__contains__)
    assert len(asked) == len(DIGESTS)


def test_the_shipped_data_set_is_of_this_version() -> None:
    shipped = store.load_shipped()
    assert isinstance(shipped.graphs, GraphStore)
    assert set(shipped.digests) <= set(shipped.graphs.facts)
    assert load_failures(store.shipped_folder()).columns.tolist() == ["digest", "device", "reason"]
