"""HELP, NAS-Bench-201's accuracies and zero-cost proxies, NAS-Bench-Macro: readers and converters."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from hardsight.datasets.sources import _graphs_fbnet, _graphs_nas_bench_macro, _graphs_nb201, get_source
from hardsight.datasets.sources.help import HelpFbnet, HelpNb201, HelpOfa, HelpSpace, Task, target
from hardsight.datasets.sources.nas_bench_macro import NasBenchMacro
from hardsight.datasets.sources.nb201_accuracy import Nb201Accuracy, Nb201ZeroCost, cell_of
from hardsight.device import shipped_devices
from hardsight.errors import DataError, NotSupportedError, UnknownNameError
from hardsight.metrics import Metric

DATA = Path(os.environ.get("HARDSIGHT_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()
needs_data = pytest.mark.skipif(
    not (DATA / "help-latency").is_dir(), reason=f"the public tables are not in {DATA}"
)
SPACES = (HelpNb201, HelpFbnet, HelpOfa)
CELLS = (
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))


def write_latencies(folder: Path, space: str, columns: list[str], milliseconds: list[list[float]]) -> None:
    np.savez(folder / f"{space}_latency.npz", devices=np.array(columns), latency=np.array(milliseconds))


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    rows = "".join(f"{index},{cell}\n" for index, cell in enumerate(CELLS))
    (tmp_path / "nb201_archs.csv").write_text("index,arch_str\n" + rows)
    columns = ["1080ti_1", "1080ti_32", "pixel2", "fpga"]
    write_latencies(tmp_path, "nb201", columns, [[4.5, 5.5, 10.0, 1.25], [6.5, 7.5, 20.0, 2.5]])
    splits = {
        "HELP": {"nb201": {"meta_train": ["1080ti_1"], "meta_valid": ["1080ti_32"], "meta_test": ["fpga"]}},
        "NASFLAT": {"nb201": {"ND": {"source": ["1080ti_1", "pixel2"], "target": ["fpga"]}}},
    }
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    (tmp_path / "reference_indices.json").write_text(json.dumps({"nb201": [1, 0]}))
    return tmp_path


# --- HELP ----------------------------------------------------------------------------------------------------


def test_a_help_name_is_a_device_and_a_batch() -> None:
    assert [target(name)[1] for name in ("1080ti_1", "titan_rtx_256", "essential_ph_1", "gold_6226")] == [
        1,
        256,
        1,
        1,
    ]
    assert target("1080ti_1")[0] is target("1080ti_32")[0]
    assert target("titan_xp_64")[0] is target("titanxp_1")[0]
    assert target("pixel3")[0].name == "pixel3/help/fp32"
    kinds = {name: target(name)[0].kind for name in ("eyeriss", "fpga", "raspi4", "silver_4210r", "v100_1")}
    assert kinds == {
        "eyeriss": "asic",
        "fpga": "fpga",
        "raspi4": "cpu",
        "silver_4210r": "cpu",
        "v100_1": "gpu",
    }
    with pytest.raises(UnknownNameError, match="gold_6226"):
        target("gold_6227")


@pytest.mark.parametrize("space", SPACES)
def test_devices_of_published_tables_stay_with_their_source(space: type[HelpSpace]) -> None:
    names = [device.name for device in space.devices]
    assert len(names) == len(set(names)) == {"nb201": 17, "fbnet": 17, "ofa": 4}[space.space]
    assert not set(names) & set(shipped_devices())
    assert {device.provenance for device in space.devices} == {"published"}
    assert set(sum(space.task, ())) <= set(space.columns)


def test_latencies_are_seconds_of_the_graph_at_their_batch(cells: Path) -> None:
    table = HelpNb201().process(cells)
    assert len(table) == 8
    assert len(table.graphs) == 4  # two cells at two batch sizes
    assert set(table.rows["provenance"]) == {"published"}
    graphs, values = table.labelled("gtx-1080-ti/help/fp32", Metric.LATENCY)
    assert values == pytest.approx([0.0045, 0.0065, 0.0055, 0.0075], rel=1e-12)
    assert [graph.inputs[0].shape[0] for graph in graphs] == [1, 1, 32, 32]
    assert graphs[1].digest == _graphs_nb201.graph(_graphs_nb201.encode(CELLS[1])).digest
    assert set(table.families_of(graphs)) == {"nasbench201"}


def test_whole_milliseconds_have_the_spread_of_rounding(cells: Path) -> None:
    rows = HelpNb201().process(cells).rows
    assert rows.loc[rows["device"] == "pixel2/help/fp32", "spread"].tolist() == [0.05, 0.025]
    assert rows.loc[rows["device"] == "fpga/help/as-published", "spread"].tolist() == [0.0, 0.0]


def test_a_column_keeps_helps_order(cells: Path) -> None:
    source = HelpNb201()
    digests, seconds = source.column(cells, "1080ti_32")
    assert seconds.tolist() == [0.0055, 0.0075]
    rows = source.process(cells).select(device="gtx-1080-ti/help/fp32", digests=digests).rows
    assert rows["value"].tolist() == [0.0055, 0.0075]
    with pytest.raises(UnknownNameError, match="nb201 device 'titanx_1'"):
        source.column(cells, "titanx_1")


def test_splits_and_references_are_there(cells: Path) -> None:
    source = HelpNb201()
    assert source.tasks(cells) == {
        "HELP": Task(("1080ti_1",), ("1080ti_32",), ("fpga",)),
        "ND": Task(("1080ti_1", "pixel2"), (), ("fpga",)),
    }
    assert source.references(cells) == [1, 0]
    (cells / "splits.json").write_text("{}")
    with pytest.raises(DataError, match="lacks 'HELP'"):
        source.tasks(cells)


def test_a_table_of_another_shape_is_refused(cells: Path) -> None:
    write_latencies(cells, "nb201", ["1080ti_1"], [[1.0, 2.0]])
    with pytest.raises(DataError, match=r"shape \(1, 2\) for 1 devices"):
        HelpNb201().process(cells)
    (cells / "nb201_latency.npz").write_bytes(b"torn")
    with pytest.raises(DataError, match="fetch 'help-nb201' again"):
        HelpNb201().table(cells)


@pytest.mark.parametrize("numbers", [list, np.array], ids=["list", "array"])
def test_helps_originals_convert(numbers: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="writes the originals' format")
    ofa = [
        {"r": [160], "d": [2, 3, 4, 2, 3], "ks": [3] * 20, "e": [4] * 20},
        {"r": [224], "d": [4] * 5, "ks": [7] * 20, "e": [6] * 20},
    ]
    contents = {
        HelpNb201: {"str_arch2idx.pt": {CELLS[1]: 1, CELLS[0]: 0}},
        HelpFbnet: {"metainfo.pt": {"arch": [{"op_idx_list": [i] * 22} for i in (3, 8)]}},
        HelpOfa: {"ofa_archs.pt": {"arch": ofa}},
    }
    expected = {
        HelpNb201: [_graphs_nb201.encode(cell, batch=32) for cell in CELLS],
        HelpFbnet: [_graphs_fbnet.encode([i] * 22, batch=32) for i in (3, 8)],
    }
    for space, files in contents.items():
        monkeypatch.setattr(space, "rows", 2)
        raw, out = tmp_path / space.name / "raw", tmp_path / space.name / "out"
        (raw / "latency").mkdir(parents=True)
        out.mkdir()
        for name, content in {**files, "hardware_embedding_index.pt": [1, 0]}.items():
            torch.save(content, raw / name)
        for column in space.columns:
            torch.save(numbers([1.5, 2.5]), raw / "latency" / f"{column}.pt")
        assert {str(path.relative_to(raw)) for path in raw.rglob("*.pt")} == {
            file.name for file in space.files
        }
        source = space()
        source.convert(raw, out)
        assert source.find(out) == out
        assert source.references(out) == [1, 0]
        assert source.tasks(out) == {"HELP": space.task}
        assert source.table(out)[list(space.columns)].to_numpy().tolist() == [
            [1.5] * len(space.columns),
            [2.5] * len(space.columns),
        ]
        if space in expected:
            assert source.encodings(out, 32) == expected[space]
    assert json.loads(source.encodings(out, 64)[0])["blocks"][0] == [[3, 4], [3, 4]]
    torch.save([1.0], raw / "latency" / "v100_1.pt")
    with pytest.raises(DataError, match="1 latencies; expected 2"):
        source.convert(raw, out)


@needs_data
def test_values_are_those_of_the_published_tables() -> None:
    for space, column, index, milliseconds in (
        (HelpNb201(), "1080ti_1", 0, 10.75437068939209),
        (HelpNb201(), "samsung_a50", 1, 33.0),
        (HelpNb201(), "fpga", 15624, 3.19376),
        (HelpFbnet(), "1080ti_1", 0, 10.615349732488394),
        (HelpOfa(), "titan_rtx_64", 4999, 17.49560832977295),
    ):
        frame = space.table(DATA / "help-latency")
        assert len(frame) == space.rows
        assert frame[column][index] == milliseconds


@needs_data
@pytest.mark.parametrize("space", SPACES)
def test_the_splits_in_the_code_are_those_of_the_data(space: type[HelpSpace]) -> None:
    source = space()
    folder = DATA / "help-latency"
    tasks = source.tasks(folder)
    assert tasks["HELP"] == space.task
    assert set(source._read(folder)[0]) == set(space.columns)
    expected = {"nb201": ["ND", "N1", "N2", "N3", "N4", "NA"], "fbnet": ["FD", "F1", "F2", "F3", "F4", "FA"]}
    assert [*tasks][1:] == expected.get(space.space, [])
    assert len(source.references(folder)) == 10


@needs_data
def test_every_published_architecture_has_a_graph() -> None:
    folder = DATA / "help-latency"
    for space in SPACES:
        source = space()
        encodings = source.encodings(folder, 1)
        assert len(encodings) == source.rows
        assert space.build(encodings[-1]).macs > 0
    assert len(set(HelpNb201().encodings(folder, 1))) == 15625


@needs_data
@pytest.mark.slow
def test_multiply_accumulates_rank_like_the_published_flops() -> None:
    """HELP, table 3: Spearman of FLOPs and latency over the middle 80 % of architectures 900 to 1899."""
    source, folder = HelpNb201(), DATA / "help-latency"
    macs = np.array([source.build(line).macs for line in source.encodings(folder, 1)[900:1900]])
    table = source.table(folder)[900:1900]
    for device, published in (
        ("titan_rtx_256", 0.950),
        ("gold_6226", 0.826),
        ("pixel2", 0.765),
        ("fpga", 0.900),
    ):
        middle = np.argsort(table[device].to_numpy())[100:900]
        rank = spearmanr(macs[middle], table[device].to_numpy()[middle]).statistic
        assert rank == pytest.approx(published, abs=0.01)


# --- NAS-Bench-201 accuracies --------------------------------------------------------------------------------


def accuracy_csv(cells: bool) -> str:
    lines = [
        "index,cifar10_test,cifar100_test,imagenet16_120_test,unique_class" + (",arch_str" if cells else "")
    ]
    for index, (cell, values) in enumerate(zip(CELLS, ("85.5,52.5,26.5", "93.75,70.25,44.0"), strict=True)):
        lines.append(f"{index},{values},{index}" + (f",{cell}" if cells else ""))
    return "\n".join(lines)


@pytest.mark.parametrize("inside", [True, False], ids=["cells inside", "cells beside"])
def test_accuracies_are_shares_of_the_graph_for_their_data_set(cells: Path, inside: bool) -> None:
    folder = cells / "nb201-accuracy"
    folder.mkdir()
    (folder / "nb201_accuracy.csv").write_text(accuracy_csv(inside))
    if not inside:
        (cells / "help-latency").mkdir()
        (cells / "nb201_archs.csv").rename(cells / "help-latency" / "nb201_archs.csv")
    table = Nb201Accuracy().process(folder)
    graphs, shares = table.labelled("cifar10/nats-bench/200-epochs", Metric.ACCURACY)
    assert shares.tolist() == [0.855, 0.9375]
    assert [graph.outputs[0].shape for graph in graphs] == [(1, 10)] * 2
    small, _ = table.labelled("imagenet16_120/nats-bench/200-epochs", Metric.ACCURACY)
    assert (small[0].inputs[0].shape, small[0].outputs[0].shape) == ((1, 3, 16, 16), (1, 120))
    hundred, _ = table.labelled("cifar100/nats-bench/200-epochs", Metric.ACCURACY)
    assert (
        hundred[0].digest == _graphs_nb201.graph(_graphs_nb201.encode(CELLS[0])).digest
    )  # as in HELP's table


def test_the_accuracy_export_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [f"{data}TestAccuracy200Epochs" for data in ("CIFAR10", "CIFAR100", "ImageNet")]
    header = ",".join([*columns, "ArchitectureString", "UniqueString"])
    rows = [f"85.86333333333334,52.9,26.6,{CELLS[0]},a", f"93.66000000000001,70.2,44.0,{CELLS[1]},a"]
    (tmp_path / "nats_bench.csv").write_text("\n".join([header, *rows]))
    source = Nb201Accuracy()
    with pytest.raises(DataError, match="holds 2 cells; expected 15625"):
        source.convert(tmp_path, tmp_path)
    monkeypatch.setattr(Nb201Accuracy, "rows", 2)
    source.convert(tmp_path, tmp_path)
    with (tmp_path / "nb201_accuracy.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first["cifar10_test"] == "85.86333333333334"  # the number's text is kept
    assert (second["index"], second["arch_str"], second["unique_class"]) == ("1", CELLS[1], "0")


SCORES = {"idx": "534", "arch": "(0, 2, 3, 2, 3, 1)", "val_accuracy": 86.06}


def test_zero_cost_proxies_convert_to_a_table(tmp_path: Path) -> None:
    proxies = (
        "flops",
        "params",
        "synflow",
        "grasp",
        "fisher",
        "grad_norm",
        "l2_norm",
        "plain",
        "nwot",
        "epe_nas",
        "jacov",
        "snip",
    )
    scores = SCORES | {proxy: {"score": 1.5, "time": 0.25} for proxy in proxies}
    (tmp_path / "zc_nasbench201.json").write_text(json.dumps({"cifar10": {SCORES["arch"]: scores}}))
    source = Nb201ZeroCost()
    source.convert(tmp_path, tmp_path)
    (row,) = source.table(tmp_path).to_dict("records")
    assert (row["naslib_idx"], row["jacov"], row["jacov_time_s"], row["val_accuracy"]) == (
        534,
        1.5,
        0.25,
        86.06,
    )
    assert row["arch_str"] == (
        "|skip_connect~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_1x1~0|nor_conv_1x1~1|none~2|"
    )
    with pytest.raises(NotSupportedError, match="nb201-zero-cost"):
        source.process(tmp_path)
    with pytest.raises(DataError, match="six numbers"):
        cell_of("(0, 1, 2)")


@needs_data
def test_cells_of_both_tables_are_the_same_networks() -> None:
    """NASLib counted the parameters of 725 cells: exactly those of the graphs."""
    frame = Nb201ZeroCost().table(DATA / "nb201-zero-cost-sample")
    assert len(frame) == 2174
    cells = Nb201Accuracy().table(DATA / "nb201-accuracy").set_index("arch_str")["index"]
    assert (frame["arch_str"].map(cells) == frame["nb201_index"]).all()
    for row in frame[frame["dataset"] == "cifar10"][::12].to_dict("records"):
        graph = _graphs_nb201.graph(_graphs_nb201.encode(row["arch_str"], classes=10))
        convolutions = [op.weight_shapes for op in graph.operators if op.op_type == "Conv"]
        weights = sum(int(np.prod(shapes[0])) for shapes in convolutions)
        norms = sum(2 * shapes[1][0] for shapes in convolutions if len(shapes) == 2) + 2 * 64
        assert weights + norms + 64 * 10 + 10 == round(row["params"] * 1e6)


@needs_data
def test_accuracies_are_those_of_the_published_table() -> None:
    frame = Nb201Accuracy().table(DATA / "nb201-accuracy")
    assert len(frame) == 15625
    assert frame.loc[0, ["cifar10_test", "arch_str"]].tolist() == [85.86333333333334, CELLS[0]]
    assert frame["unique_class"].nunique() == 6466


# --- NAS-Bench-Macro -----------------------------------------------------------------------------------------


def test_macro_converts_and_gives_the_median_of_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {"test_acc": [90.0, 91.0, 92.0], "mean_acc": 91.0, "std": 0.8, "params": 890666, "flops": 47327744}
    (tmp_path / "nas-bench-macro_cifar10.json").write_text(json.dumps({"02012100": run}))
    source = NasBenchMacro()
    with pytest.raises(DataError, match="holds 1 networks; expected 6561"):
        source.convert(tmp_path, tmp_path)
    monkeypatch.setattr(NasBenchMacro, "rows", 1)
    source.convert(tmp_path, tmp_path)
    table = source.process(tmp_path)
    (row,) = table.rows.to_dict("records")
    assert (row["value"], row["repeats"], row["metric"]) == (0.91, 3, "accuracy")
    assert row["spread"] == pytest.approx(4.303 * 1 / np.sqrt(3) / 91)  # sample deviation 1
    assert table.graphs[row["digest"]].macs == 47327744
    (tmp_path / "nas-bench-macro_cifar10.json").write_text("[]")
    with pytest.raises(DataError, match="fetch it again"):
        source.convert(tmp_path, tmp_path)


@needs_data
def test_every_hundredth_macro_network_has_the_published_macs() -> None:
    source = NasBenchMacro()
    frame = source.table(DATA / "nas-bench-macro")
    assert len(frame) == 6561
    some = frame[::100]
    assert [_graphs_nas_bench_macro.graph(arch).macs for arch in some["arch"]] == some["flops"].tolist()


def test_all_are_registered() -> None:
    for source in (*SPACES, Nb201Accuracy, Nb201ZeroCost, NasBenchMacro):
        assert type(get_source(source.name)) is source
