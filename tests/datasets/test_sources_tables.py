"""Accel-NASBench, EC-NAS, timm and PerfCastDB; and what every public table has to keep to."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardsight.datasets.sources import SOURCES, Source, accel_nasbench, ecnas, get_source, timm_throughput
from hardsight.datasets.sources._base import published
from hardsight.datasets.sources._graphs import lazy_graphs
from hardsight.datasets.sources._graphs_blocks import to_onnx
from hardsight.errors import DataError, NotSupportedError, UnknownNameError
from hardsight.graph import OperatorGraph
from hardsight.ingest import read_onnx
from hardsight.metrics import Metric

DATA = Path(os.environ.get("HARDSIGHT_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()
needs_data = pytest.mark.skipif(
    not (DATA / "accel-nasbench").is_dir(), reason=f"the public tables are not in {DATA}"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def batch_norm_parameters(graph: OperatorGraph) -> float:
    """Trainable parameters with batch normalisation: one more per channel of a convolution than when folded."""
    weights = sum(np.prod(shape) for op in graph.operators for shape in op.weight_shapes if op.macs)
    convolutions = (op for op in graph.operators if op.op_type == "Conv" and op.input_shapes[0][2] > 1)
    return float(weights + sum(op.output_shapes[0][1] for op in convolutions))


# --- every source --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_says_where_it_is_from(name: str) -> None:
    source = get_source(name)
    assert source.name == name
    assert source.licence
    assert source.citation
    assert source.rows > 0
    assert source.folder
    assert source.plain
    assert source.files
    assert len({file.name for file in source.files}) == len(source.files)
    for file in source.files:
        assert file.url.startswith("https://")
        assert re.search(r"[0-9a-f]{40}", file.url), f"{file.url} is pinned to no commit"
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_is_not_here_says_how_to_get_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARDSIGHT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"hardsight dataset fetch {name}"):
        get_source(name).load()
    with pytest.raises(DataError, match="nowhere"):
        get_source(name).find(tmp_path / "nowhere")


@needs_data
@pytest.mark.parametrize("name", SOURCES)
def test_the_copy_of_a_source_is_found_and_has_its_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDSIGHT_DATA", str(DATA))
    source = get_source(name)
    assert len(source.table(source.find())) > 0.5 * source.rows


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_a_source_gives_labels_or_says_why_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDSIGHT_DATA", str(DATA))
    source = get_source(name)
    try:
        table = source.load()
    except NotSupportedError as reason:
        assert name in str(reason)
        return
    assert set(table.rows["provenance"]) == {"published"}
    assert np.isfinite(table.rows["value"]).all()
    assert set(table.devices) <= {device.name for device in source.devices}
    assert set(table.digests) <= set(table.graphs)
    assert not table.rows.duplicated(["digest", "device", "metric"]).any()
    assert set(table.digests) <= set(table.families)
    for digest in table.digests[:3]:
        assert table.graphs[digest].digest == digest


def test_an_unknown_source_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="accel-nasbench, "):
        get_source("imagenet")


# --- what sources share --------------------------------------------------------------------------------------


def test_a_gap_is_no_label_and_nonsense_is_refused() -> None:
    rows = published(["a", "b"], "x/y/z", Metric.LATENCY, [0.5, np.nan])
    assert rows["digest"].tolist() == ["a"]
    assert rows[["spread", "repeats"]].iloc[0].tolist() == [0, 1]
    assert published(["a"], "x/y/z", Metric.DSP, [0])["value"].tolist() == [0]
    rows = published(["a", "b", "a", "a"], "x/y/z", Metric.ENERGY, [1, 8, 2, 4], spread=0.1, repeats=5)
    assert rows["digest"].tolist() == ["a", "b"]
    assert rows[["value", "spread", "repeats"]].to_numpy().tolist() == [
        [2, 0.75, 15],
        [8, 0.1, 5],
    ]  # 0.75: 1 to 4
    assert published(["a", "a"], "x/y/z", Metric.DSP, [0, 0])["spread"].tolist() == [0]
    for nonsense in (0.0, -1.0, np.inf):
        with pytest.raises(DataError, match="1 published values of latency_s"):
            published(["a", "b"], "x/y/z", Metric.LATENCY, [nonsense, 1.0])


def cell(key: str) -> OperatorGraph:
    built.append(key)
    return ecnas.network(key)


built: list[str] = []


def test_digests_are_computed_once_and_graphs_when_asked_for(home: Path) -> None:
    keys = ["-1 0 -2|010 001 000", "-1 1 -2|010 001 000", "-1 0 -2|010 001 000"]
    built.clear()
    seen: list[tuple[str, int, int]] = []
    digests, graphs = lazy_graphs("toy", keys, cell, lambda *report: seen.append(report))
    assert built == keys[:2]
    assert seen[-1] == ("graphs of toy", 2, 2)
    assert digests[0] == digests[2] != digests[1]
    assert len(graphs) == 2
    built.clear()
    again, graphs = lazy_graphs("toy", keys, cell)
    assert (again, built) == (digests, [])
    assert graphs[digests[1]].digest == digests[1]
    assert built == [keys[1]]
    (file,) = (home / "cache" / "digests").iterdir()
    file.write_text(file.read_text()[:-5])  # killed while writing
    assert lazy_graphs("toy", keys, cell)[0] == digests


# --- Accel-NASBench ------------------------------------------------------------------------------------------

# e, k, l, se of the seven blocks of the first published network, whose "macs" are 415.361072 and "params" 2.50116 M
FIRST = "1 6 3 1 0 4 5 2 0 6 3 3 0 6 5 3 0 6 5 2 0 1 3 2 0 1 3 2 0"


def test_accel_nasbench_networks_have_the_published_parameters() -> None:
    graph = accel_nasbench.network(FIRST)
    assert batch_norm_parameters(graph) == 2_501_160
    # thop counts 4 per element of a batch normalisation, and the mean over 1280 maps of 7 x 7 and one division each
    normalised = sum(np.prod(op.output_shapes[0]) for op in graph.operators if op.op_type == "Conv")
    assert graph.macs + 4 * normalised + 1280 * (49 + 1) == 415_361_072


@pytest.mark.parametrize("key", [FIRST, "6" + FIRST[1:], "2" + " 4 5 2 1" * 7])
def test_accel_nasbench_networks_are_what_their_onnx_is(key: str) -> None:
    graph = accel_nasbench.network(key)
    assert read_onnx(to_onnx(accel_nasbench.describe, key)).digest == graph.digest
    assert graph.inputs[0].shape == (int(key[0]), 3, 224, 224)
    assert graph.outputs[0].shape == (int(key[0]), 1000)


def result(blocks: dict[str, Any], latency: float | None) -> dict[str, Any]:
    performance = {} if latency is None else {"latency_zcu102": {"latency_mean": latency}}
    return {
        "architecture": blocks,
        "metrics": {"val_top1": 60.5, "val_top5": 80.5, "train_time": 10.0},
        "model_info": {"macs": 415.0, "params": 2.5},
        "platform_perf": {
            **performance,
            "throughput_a100": {"throughput_mean": 7000.0, "throughput_std": 7.5},
        },
    }


def archive(path: Path, files: dict[str, Any]) -> None:
    with tarfile.open(path, "w:gz") as out:
        for name, content in files.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


def test_accel_nasbench_converts_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = dict(zip(accel_nasbench._BLOCKS, FIRST.split()[1:], strict=True))
    blocks.update(
        {name: ("True", "False")[value == "0"] for name, value in blocks.items() if name.endswith("se")}
    )
    archive(
        tmp_path / "anb_dataset_jsons.tar.gz",
        {
            "json/result_7.json": result(blocks, 5.0),
            "json/result_2.json": result(blocks, None),
            "../../evil.txt": {"never": "unpacked"},
        },
    )
    for split, paths in {"train": ["../x/result_7.json"], "val": [], "test": []}.items():
        (tmp_path / f"{split}_paths.json").write_text(json.dumps(paths))
    source = accel_nasbench.AccelNasBench()
    with pytest.raises(DataError, match="2 networks, not 5138"):
        source.convert(tmp_path, tmp_path)
    monkeypatch.setattr(accel_nasbench.AccelNasBench, "rows", 2)
    source.convert(tmp_path, tmp_path)
    assert not (tmp_path.parents[1] / "evil.txt").exists()
    frame = source.table(tmp_path)
    assert frame["id"].tolist() == [2, 7]
    assert frame["throughput_a100_std"].tolist() == [7.5, 7.5]
    assert frame["default_split"].fillna("").tolist() == ["", "train"]
    table = source.process(tmp_path)
    assert len(table) == 1  # one of two networks has a latency, on one of two boards
    assert table.rows["value"].tolist() == [5e-3]
    assert table.graphs[table.digests[0]].digest == accel_nasbench.network(FIRST).digest


@needs_data
def test_accel_nasbench_agrees_with_the_published_lines(tmp_path: Path) -> None:
    lines = (DATA / "accel-nasbench/accel_nasbench.csv").read_text().splitlines()
    (tmp_path / "accel_nasbench.csv").write_text("\n".join(lines[:4]) + "\n")
    table = get_source("accel-nasbench").process(tmp_path)
    # 0,6,3,1,False,...: latency_zcu102_mean 5.023423633627983 ms, latency_vck190_mean 3.500556157640189 ms
    zcu102 = table.select(device="zcu102/vitis-ai-2.5/int8").rows
    assert zcu102["value"].iloc[0] == pytest.approx(5.023423633627983e-3)
    assert zcu102["digest"].iloc[0] == accel_nasbench.network(FIRST).digest
    vck190 = table.select(device="vck190/vitis-ai-2.5/int8").rows
    assert vck190["value"].iloc[0] == pytest.approx(3.500556157640189e-3)
    assert vck190["digest"].iloc[0] == accel_nasbench.network("6" + FIRST[1:]).digest


@needs_data
def test_rebuilt_accel_nasbench_networks_have_the_published_parameters() -> None:
    frame = get_source("accel-nasbench").table(DATA / "accel-nasbench")
    for row in range(0, len(frame), 250):
        code = " ".join(str(int(x)) for x in frame[accel_nasbench._BLOCKS].iloc[row])
        graph = accel_nasbench.network(f"1 {code}")
        assert batch_norm_parameters(graph) == pytest.approx(1e6 * frame["params"].iloc[row], abs=0.5)


# --- EC-NAS --------------------------------------------------------------------------------------------------


def test_channels_of_vertices_follow_nas_bench_101() -> None:
    # 1 and 3 reach the output and share its 5 channels, the first gets the odd one; 2 feeds 3 only
    matrix = np.array([[0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0] * 5])
    assert ecnas.vertex_channels(5, matrix) == [0, 3, 2, 2, 5]
    assert ecnas.vertex_channels(8, np.array([[0, 1], [0, 0]])) == [0, 8]


CELLS = (
    "-1 -2|01 00",
    "-1 0 -2|010 001 000",
    "-1 2 2 -2|0110 0001 0001 0000",
    "-1 0 1 2 -2|01101 00111 00011 00001 00000",
)


@pytest.mark.parametrize("key", CELLS)
def test_nas_bench_101_networks_are_what_their_onnx_is(key: str) -> None:
    graph = ecnas.network(key)
    assert read_onnx(to_onnx(ecnas.describe, key)).digest == graph.digest
    assert graph.outputs[0].shape == (1, 10)


@needs_data
def test_rebuilt_nas_bench_101_networks_have_the_published_parameters() -> None:
    frame = get_source("ec-nas").table(DATA / "ecnas-energy")
    for row in range(0, len(frame), 100):
        graph = ecnas.network(f"{frame['labels'].iloc[row]}|{frame['adjacency_rows'].iloc[row]}")
        assert batch_norm_parameters(graph) == frame["trainable_params"].iloc[row]


def run(row: dict[str, str]) -> dict[str, Any]:
    """A result file as upstream writes it, from a row of the plain table."""

    def power(part: str) -> dict[str, Any]:
        return {
            "avg_power_usages (W)": [[float(x) for x in row[f"{part}_power_w"].split(";")]],
            "avg_energy_usages (J)": [[float(x) for x in row[f"{part}_energy_j"].split(";")]],
            "devices": row[f"{part}_devices"].replace(";", "; ").split(";"),
        }

    epochs = [epoch for epoch in ecnas._EPOCHS if row[f"ep{epoch}_train_acc"]]
    results = [
        {"epochs": float(epoch)}
        | {key: float(row[f"ep{epoch}_{column}"]) for column, key in ecnas._AT_EPOCH.items()}
        for epoch in sorted(epochs)
    ]
    totals = {key: float(row[column]) for column, key in ecnas._TOTALS.items()}
    totals["trainable_params"] = int(row["trainable_params"])
    return totals | {
        "avg_power_usages:": {"gpu": power("gpu"), "cpu": power("cpu")},
        "evaluation_results": results,
    }


def ecnas_archive(path: Path, rows: list[dict[str, str]]) -> None:
    root = "EC-NAS-Bench-1a82/ecnas/vendors/ec_nasbench/nasbench/data"
    graphs: dict[str, dict[str, Any]] = {}
    files: dict[str, Any] = {}
    for row in rows:
        space, model = row["space"], row["model_hash"]
        matrix = [[int(bit) for bit in line] for line in row["adjacency_rows"].split()]
        graphs.setdefault(space, {})[model] = [matrix, [int(label) for label in row["labels"].split()]]
        folder = f"train_model_results/energy/{space}/4_epochs/{model[:2]}/{model}/repeat_{row['repeat']}"
        files[f"{root}/{folder}/results.json"] = run(row)
    files |= {f"{root}/graphs/generated_graphs_{s}.json": g for s, g in graphs.items()}
    archive(path, files)


def test_ec_nas_converts_its_archive_and_sums_joules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = dict.fromkeys(ecnas._COLUMNS, "") | dict.fromkeys(ecnas._TOTALS, "7.5")
    row = columns | {
        "space": "4V9E",
        "model_hash": "ab12",
        "repeat": "1",
        "labels": "-1 0 -2",
        "adjacency_rows": "010 001 000",
        "trainable_params": "10",
        "gpu_power_w": "150.5",
        "gpu_energy_j": "1000.0",
        "gpu_devices": "GPU",
        "cpu_power_w": "50.0;60.0",
        "cpu_energy_j": "200.0;300.0",
        "cpu_devices": "cpu:0;cpu:1",
    }
    row |= {f"ep{epoch}_{name}": "0.5" for epoch in (0, 1, 4) for name in ecnas._AT_EPOCH}
    second = row | {"repeat": "2", "gpu_energy_j": "1100.0"}
    ecnas_archive(tmp_path / "ec-nas-bench.tar.gz", [row, second])
    source = ecnas.EcNas()
    with pytest.raises(DataError, match="2 runs, not 2805"):
        source.convert(tmp_path, tmp_path)
    monkeypatch.setattr(ecnas.EcNas, "rows", 2)
    source.convert(tmp_path, tmp_path)
    written = list(csv.DictReader((tmp_path / "nb101_4v5v_energy_measured.csv").open()))
    assert written == [row, second]
    table = source.process(tmp_path)
    assert table.rows[["value", "repeats"]].to_numpy().tolist() == [[1550, 2]]  # two runs of one network
    assert table.digests == [ecnas.network("-1 0 -2|010 001 000").digest]


@needs_data
def test_ec_nas_agrees_with_the_published_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "nb101_4v5v_energy_measured.csv"
    lines = (DATA / "ecnas-energy" / name).read_text().splitlines()[:4]
    rows = list(csv.DictReader(lines))
    monkeypatch.setattr(ecnas.EcNas, "rows", len(rows))
    ecnas_archive(tmp_path / "ec-nas-bench.tar.gz", rows)
    source = ecnas.EcNas()
    source.convert(tmp_path, tmp_path)
    assert (tmp_path / name).read_text().splitlines() == lines
    # 4V9E,001a6fcc...,1: 23312.340142 J of the GPU, 8384.552668144901 and 10673.9976116748 J of the processors
    (tmp_path / name).write_text("\n".join(lines[:2]))
    joules = 23312.340142 + 8384.552668144901 + 10673.9976116748
    assert source.process(tmp_path).rows["value"].tolist() == pytest.approx([joules])


def test_ec_nas_7v_reads_tensors_and_gives_no_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="the original is a file of torch's")
    matrix = torch.zeros(1, 7, 7)
    matrix[0, 0, 1] = matrix[0, 1, 2] = 1
    nodes = torch.tensor([[1, 3, 5, 0, 0, 0, 0]])
    torch.save((matrix, nodes, torch.tensor([0.25]), torch.tensor([8992394.0])), tmp_path / "7v_data.pt")
    monkeypatch.setattr(ecnas.EcNas7v, "rows", 1)
    source = ecnas.EcNas7v()
    source.convert(tmp_path, tmp_path)
    assert source.table(tmp_path).iloc[0].tolist() == [
        "1 3 5 0 0 0 0",
        "0100000 0010000" + " 0000000" * 5,
        0.25,
        8992394,
    ]
    with pytest.raises(NotSupportedError, match="does not say what the kilowatt-hours"):
        source.process(tmp_path)


# --- timm and PerfCastDB -------------------------------------------------------------------------------------


def test_timm_stacks_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, one in enumerate(timm_throughput._RUNS):
        values = f"resnet50,{1000 + i}.50,20.0,1024,224,4.11,11.11,25.56"
        (tmp_path / one.file).write_text(f"{','.join(timm_throughput._VALUES)}\n{values}\n")
    (tmp_path / "results-imagenet.csv").write_text(
        "model,img_size,top1,top5,param_count\nresnet50,224,80.1,94.9,25.56\n"
    )
    source = timm_throughput.TimmThroughput()
    with pytest.raises(DataError, match="20 rows, not 28768"):
        source.convert(tmp_path, tmp_path)
    monkeypatch.setattr(timm_throughput.TimmThroughput, "rows", 20)
    source.convert(tmp_path, tmp_path)
    first = (tmp_path / "timm_infer_benchmarks.csv").read_text().splitlines()[1]
    assert first == "amp,nchw,113,cu117,rtx3090,0,resnet50,1000.50,20.0,1024,224,4.11,11.11,25.56"
    frame = source.table(tmp_path)
    assert frame[["samples_per_s", "step_time_s", "macs"]].iloc[0].tolist() == pytest.approx(
        [1000.5, 0.02, 4.11e9]
    )
    assert frame["dynamo"].sum() == 9
    assert source.accuracies(tmp_path)["top1"].tolist() == [80.1]
    with pytest.raises(NotSupportedError, match="name models and hold no graph"):
        source.process(tmp_path)


@needs_data
def test_timm_has_the_runs_that_the_originals_names_tell() -> None:
    frame = get_source("timm").table(DATA / "timm-throughput")
    runs = frame.assign(dynamo=frame["dynamo"].astype(int))[list(timm_throughput._RUN)].drop_duplicates()
    assert {timm_throughput._Run(*row) for row in runs.itertuples(index=False)} == set(timm_throughput._RUNS)
    # amp,nchw,113,cu117,rtx3090,0,tinynet_e,49277.65,20.77,1024,106,0.03,0.69,2.04
    assert frame[["model", "samples_per_s", "step_time_s"]].iloc[0].tolist() == [
        "tinynet_e",
        49277.65,
        0.02077,
    ]


@needs_data
@pytest.mark.parametrize("name", ["timm", "perfcastdb"])
def test_pinned_checksums_are_those_of_the_unchanged_copies(name: str) -> None:
    source: Source = get_source(name)
    copies = [path for path in (DATA / source.folder).glob("*.csv") if "benchmarks" not in path.name]
    found = {(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size) for path in copies}
    assert found == {(file.sha256, file.size) for file in source.files if file.sha256}


def test_perfcastdb_is_a_table_of_scores(tmp_path: Path) -> None:
    header = "RESULT.WorkloadName,RESULT.TestName,RESULT.Value,SVR.CPU.CPU Model\n"
    (tmp_path / "train_data.csv").write_text(header + "HPCG,Score(GFLOPS),121.5,Xeon\n")
    (tmp_path / "test_data.csv").write_text(header + "Stream,Triad,9.5,Xeon\n")
    source = get_source("perfcastdb")
    source.convert(tmp_path, tmp_path)
    frame = source.table(tmp_path)
    assert frame[["RESULT.Value", "split"]].to_numpy().tolist() == [[121.5, "train"], [9.5, "test"]]
    with pytest.raises(NotSupportedError, match="no neural network"):
        source.process(tmp_path)


@needs_data
def test_perfcastdb_agrees_with_the_published_lines() -> None:
    frame = get_source("perfcastdb").table(DATA / "perfcastdb-sample")
    assert len(frame) == 280
    first = frame[frame["split"] == "test"].iloc[0]
    assert first["RESULT.TestName"] == "Score(GFLOPS)"
    assert first["RESULT.Value"] == 121.23999786376952
