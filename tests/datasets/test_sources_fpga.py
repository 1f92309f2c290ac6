"""wa-hls4ml and N-TORC: made-up rows in the published layout, and lines of the published files checked by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hardsight.datasets.sources import get_source
from hardsight.datasets.sources._hls4ml import REUSE_FACTOR, layer
from hardsight.datasets.sources.ntorc import _FILES
from hardsight.datasets.sources.wa_hls4ml import WaHls4ml
from hardsight.errors import DataError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric

DATA = Path(os.environ.get("HARDSIGHT_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()
needs_data = pytest.mark.skipif(
    not (DATA / "wa-hls4ml-dense").is_dir(), reason=f"the public tables are not in {DATA}"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))


def head(source: str, name: str, lines: int, out: Path) -> None:
    """The first lines of a published file, so that a test need not read all of it."""
    folder = DATA / get_source(source).folder
    out.mkdir(exist_ok=True)
    (out / name).write_text("".join((folder / name).read_text().splitlines(keepends=True)[: lines + 1]))


def value(table: MeasurementTable, graph: OperatorGraph, device: str, metric: Metric) -> float:
    rows = table.select(device=device, metric=metric, digests=[graph.digest]).rows
    assert len(rows) == 1
    return float(rows["value"].iloc[0])


# --- the layers ----------------------------------------------------------------------------------------------


def test_a_dense_layer_is_in_fixed_point_and_knows_its_reuse_factor() -> None:
    graph = layer("dense 32 64 6 512")
    (gemm,) = (op for op in graph.operators if op.op_type == "Gemm")
    assert gemm.macs == 32 * 64
    assert (gemm.input_bits, gemm.weight_bits, gemm.output_bits) == (6, 6, 6)
    assert gemm.bytes_weights == (32 * 64 + 64) * 6 // 8
    assert gemm.attributes[REUSE_FACTOR] == 512
    assert not graph.unknown_ops


def test_conv1d_and_lstm_keep_their_length() -> None:
    conv = layer("conv1d 16 32 128 16 3")
    assert conv.outputs[0].shape == (1, 32, 128)
    assert conv.macs == 32 * 128 * 16 * 3  # outputs x channels x kernel
    lstm = layer("lstm 8 16 32 16 4")
    assert lstm.outputs[0].shape == (32, 1, 1, 16)
    assert lstm.macs == 32 * 4 * 16 * (8 + 16)  # steps x gates x units x (features + units)


def test_size_width_and_reuse_factor_each_make_another_graph() -> None:
    keys = ["dense 32 64 6 512", "dense 32 64 6 256", "dense 32 64 8 512", "dense 64 32 6 512"]
    assert len({layer(key).digest for key in keys}) == len(keys)
    assert layer(keys[0]).digest == layer(keys[0]).digest


# --- wa-hls4ml -----------------------------------------------------------------------------------------------

WA = """\
model_name,d_in,d_out,prec,model_file,rf,strategy,hls_synth_success,TargetClockPeriod_hls,EstimatedClockPeriod_hls,\
BestLatency_hls,WorstLatency_hls,IntervalMin_hls,IntervalMax_hls,FF_hls,LUT_hls,BRAM_18K_hls,DSP_hls,URAM_hls
a,4,8,6,a.h5,2,resource,TRUE,5,3.7,6,7,2,2,100,200,1,16,0
a,4,8,6,a.h5,4,resource,TRUE,5,3.7,8,9,4,4,90,180,1,8,0
a,4,8,6,a.h5,4,latency,TRUE,5,3.7,3,3,1,1,80,500,0,0,0
b,4,8,14,b.h5,4,latency,FALSE,,,,,,,,,,,
"""


def test_wa_hls4ml_gives_one_label_per_success_and_number(tmp_path: Path) -> None:
    (tmp_path / "dense_shapes_train.csv").write_text(WA)
    source = get_source("wa-hls4ml")
    assert len(source.table(tmp_path)) == 4
    table = source.process(tmp_path)
    assert len(table) == 3 * 7  # the failure gives none
    assert set(table.rows["provenance"]) == {"published"}
    assert set(table.families.values()) == {"wa-hls4ml 4x8"}
    twice, four = layer("dense 4 8 6 2"), layer("dense 4 8 6 4")
    resource, latency = "xcvu13p/hls4ml/resource", "xcvu13p/hls4ml/latency"
    assert value(table, twice, resource, Metric.CYCLES) == 7
    assert value(table, twice, resource, Metric.DSP) == 16
    assert value(table, four, resource, Metric.LUT) == 180
    assert value(table, four, latency, Metric.LUT) == 500
    assert value(table, four, latency, Metric.INTERVAL_CYCLES) == 1
    assert table.graphs[four.digest].digest == four.digest


def test_wa_hls4ml_converts_the_original_and_refuses_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results_format_test.csv").write_text(WA)
    with pytest.raises(DataError, match="has 4 rows, not 2687"):
        WaHls4ml().convert(tmp_path, tmp_path)
    monkeypatch.setattr(WaHls4ml, "rows", 4)
    WaHls4ml().convert(tmp_path, tmp_path)
    assert (tmp_path / "dense_shapes_train.csv").read_text() == WA


def test_a_file_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dense_shapes_train.csv").write_text("d_in,d_out\n4,8\n")
    with pytest.raises(DataError, match="lacks the columns prec, rf, strategy"):
        get_source("wa-hls4ml").process(tmp_path)


@needs_data
def test_wa_hls4ml_agrees_with_the_published_lines(tmp_path: Path) -> None:
    # dense_32_32_2b,32,32,2,...,1,latency,TRUE,5,3.705,0,0,1,1,514,7147,0,0,0,...
    head("wa-hls4ml", "dense_shapes_train.csv", 60, tmp_path)
    table = get_source("wa-hls4ml").process(tmp_path)
    graph, device = layer("dense 32 32 2 1"), "xcvu13p/hls4ml/latency"
    published = {Metric.CYCLES: 0, Metric.INTERVAL_CYCLES: 1, Metric.FF: 514, Metric.LUT: 7147, Metric.DSP: 0}
    assert {metric: value(table, graph, device, metric) for metric in published} == published


@needs_data
def test_wa_hls4ml_has_the_counts_of_its_readme() -> None:
    frame = get_source("wa-hls4ml").table(DATA / "wa-hls4ml-dense")
    assert len(frame.groupby(["d_in", "d_out"])) == 45
    done = frame[frame["hls_synth_success"]]
    assert set(done["URAM_hls"]) == {0}
    assert set(done["TargetClockPeriod_hls"]) == {5}  # what the devices' 200 MHz come from


# --- N-TORC --------------------------------------------------------------------------------------------------


def made_up(folder: Path) -> None:
    """Two designs with one dense layer each (reuse 4) and one with reuse 1; the same for the other kinds."""
    for file in _FILES:
        header = ["model_number", *file.sizes, *file.labels.values()]
        lines = [",".join(header)]
        for design, reuse, factor in ((1, 4, 1.0), (2, 4, 2.0), (3, 1, 10.0)):
            numbers = [100 * factor + i for i in range(len(file.labels))]
            lines.append(",".join(map(str, [design, 16, 8, 32, reuse, *numbers])))
        (folder / file.plain).write_text("\n".join(lines) + "\n")


def test_ntorc_makes_one_label_of_a_configurations_rows(tmp_path: Path) -> None:
    made_up(tmp_path)
    table = get_source("ntorc").process(tmp_path)
    assert len(table) == 3 * 2 * 5  # kinds x reuse factors x metrics
    assert table.devices == ["xczu7ev/hls4ml/latency", "xczu7ev/hls4ml/resource"]
    graph = layer("dense 16 8 16 4")
    assert value(table, graph, "xczu7ev/hls4ml/resource", Metric.CYCLES) == 150  # median of 100 and 200
    assert value(table, graph, "xczu7ev/hls4ml/resource", Metric.DSP) == 153  # the fourth number: 103, 203
    row = table.select(metric=Metric.CYCLES, digests=[graph.digest]).rows.iloc[0]
    assert row["repeats"] == 2
    assert row["spread"] == pytest.approx(50 / 150)
    assert json.loads(row["versions"])["vivado_hls"] == "2019.1"
    assert value(table, layer("lstm 16 8 32 16 1"), "xczu7ev/hls4ml/latency", Metric.BRAM_18K) == 1000
    assert table.families[graph.digest] == "ntorc dense 16 8"


@needs_data
def test_ntorc_agrees_with_the_published_lines(tmp_path: Path) -> None:
    # dense_resources: 19006,Not Fit,17,1,1,16,1,16,0,58131,13498,159
    # dense_latency: 19005,Not Fit,17,1,1,16,1,16,1,11,11
    for file in _FILES:
        head("ntorc", file.plain, 1, tmp_path)
    table = get_source("ntorc").process(tmp_path)
    graph, device = layer("dense 16 16 16 1"), "xczu7ev/hls4ml/latency"
    published = {Metric.BRAM_18K: 0, Metric.LUT: 58131, Metric.FF: 13498, Metric.DSP: 159, Metric.CYCLES: 11}
    assert {metric: value(table, graph, device, metric) for metric in published} == published
    # conv1d_resources: 43116,Not Fit,2,1,1,1,16,128,0,9867,2062.5,26: one channel, 16 filters, 128 long
    assert value(table, layer("conv1d 1 16 128 16 1"), device, Metric.FF) == 2062.5
    # lstm_resources: 43119,Not Fit,14,1,1,16,8,8,16,183235,39720,399: 16 features, 8 long, 8 units
    assert value(table, layer("lstm 16 8 8 16 1"), device, Metric.LUT) == 183235


@needs_data
def test_ntorc_has_the_configurations_of_its_readme_and_the_pinned_checksums() -> None:
    import hashlib

    source = get_source("ntorc")
    frame = source.table(DATA / source.folder)
    configurations = frame[frame["metric"] == "lut"].groupby("kind")[["inputs", "outputs", "length", "reuse"]]
    assert {kind: len(rows.drop_duplicates()) for kind, rows in configurations} == {
        "dense": 126,
        "conv1d": 94,
        "lstm": 184,
    }
    for file in _FILES:
        content = (DATA / source.folder / file.plain).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file.sha256, file.size)
