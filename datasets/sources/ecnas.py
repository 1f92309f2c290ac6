"""EC-NAS: measured energy of training NAS-Bench-101 cells on CIFAR-10.

A network is the cell three times in each of three stages (Ying et al., "NAS-Bench-101", ICML 2019). Its label is the
energy that one GPU and the processors drew over a whole training run of four epochs: the device's name says so.
Upstream's kilowatt-hours contain a data centre's overhead as well and are no labels.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.sources._base import RemoteFile, Source, github, published, read_csv
from hardsight.datasets.sources._graphs import lazy_graphs
from hardsight.datasets.sources._graphs_blocks import Network, to_graph
from hardsight.datasets.sources._pickles import read_torch
from hardsight.device import Device
from hardsight.errors import DataError, NotSupportedError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

IntArray = npt.NDArray[np.int64]

_MEASURED = "nb101_4v5v_energy_measured.csv"
_SEVEN = "nb101_7v_energy.csv"
_COMMIT = "1a82fdde59bf61cb6a2b9d41bc984c3edbd2b2bf"
_DEVICE = "quadro-rtx-6000/tensorflow/train-cifar10-4-epochs"

_EPOCHS = (0, 1, 4, 2)
_AT_EPOCH = {
    "train_time_s": "training_time",
    "train_acc": "train_accuracy",
    "val_acc": "validation_accuracy",
    "test_acc": "test_accuracy",
    "predict_time_s": "predict_time",
    "energy_kwh_cum": "energy (kWh)",
}
_TOTALS = {
    "trainable_params": "trainable_params",
    "total_time_s": "total_time",
    "total_energy_kwh": "total_energy (kWh)",
    "total_co2eq_g": "total_co2eq (g)",
    "carbon_intensity_g_per_kwh": "avg_intensity (gCO2/kWh)",
}
_POWER = {"power_w": "avg_power_usages (W)", "energy_j": "avg_energy_usages (J)"}
_COLUMNS = [
    *("space", "model_hash", "repeat", "labels", "adjacency_rows", *_TOTALS),
    *(f"{part}_{name}" for part in ("gpu", "cpu") for name in (*_POWER, "devices")),
    *(f"ep{epoch}_{name}" for epoch in _EPOCHS for name in _AT_EPOCH),
]

_INPUT, _OUTPUT, _CONV3, _CONV1, _POOL = "-1", "-2", "0", "1", "2"
_STEM, _STACKS, _CELLS, _CLASSES = 128, 3, 3, 10


class EcNas(Source):
    """2,805 training runs of 2,623 cells with four or five vertices (Bakhtiarifard et al., "EC-NAS", ICASSP 2024)."""

    name = "ec-nas"
    folder = "ecnas-energy"
    files = (
        RemoteFile(
            "ec-nas-bench.tar.gz", f"https://codeload.github.com/PedramBakh/EC-NAS-Bench/tar.gz/{_COMMIT}"
        ),
    )
    plain = (_MEASURED,)
    licence = "MIT"
    citation = (
        "P. Bakhtiarifard, C. Igel, R. Selvan: EC-NAS: Energy Consumption Aware Tabular Benchmarks for Neural "
        "Architecture Search, ICASSP 2024"
    )
    rows = 2805
    devices = (
        Device(
            name=_DEVICE,
            kind="gpu",
            description="NVIDIA Quadro RTX 6000 and two processors, training for four epochs with evaluations",
            provenance="published",
        ),
    )

    def convert(self, raw: Path, out: Path) -> None:
        import pandas as pd

        graphs: dict[str, Mapping[str, Any]] = {}
        runs: dict[tuple[str, str, int], Mapping[str, Any]] = {}
        for path, content in _json_files(raw / self.files[0].name):
            if path[-2] == "graphs":
                graphs[path[-1].removeprefix("generated_graphs_").removesuffix(".json")] = content
            else:
                space, model, repeat = path[-6], path[-3], int(path[-2].removeprefix("repeat_"))
                runs[space, model, repeat] = content
        if len(runs) != self.rows:
            raise DataError(f"the archive of '{self.name}' holds {len(runs)} runs, not {self.rows}")
        records = []
        for (space, model, repeat), run in sorted(runs.items()):
            matrix, labels = graphs[space][model]
            cell = [space, model, repeat, _words(labels), _matrix_text(matrix)]
            records.append([*cell, *_numbers(run)])
        pd.DataFrame(records, columns=_COLUMNS).to_csv(out / _MEASURED, index=False)

    def table(self, folder: Path) -> pd.DataFrame:
        text = dict.fromkeys(("labels", "adjacency_rows", "gpu_energy_j", "cpu_energy_j"), str)
        return read_csv(folder / _MEASURED, _COLUMNS, dtype=text)

    def process(self, folder: Path) -> MeasurementTable:
        frame = self.table(folder)
        keys = [
            f"{labels}|{rows}" for labels, rows in zip(frame["labels"], frame["adjacency_rows"], strict=True)
        ]
        digests, graphs = lazy_graphs(self.name, keys, network, self.progress)
        joules = frame["gpu_energy_j"].map(_joules) + frame["cpu_energy_j"].map(_joules)
        rows = published(
            digests, _DEVICE, Metric.ENERGY, joules, versions={"source": self.name, "epochs": "4"}
        )
        return MeasurementTable(rows, graphs, dict.fromkeys(graphs, self.name))


class EcNas7v(Source):
    """4,310 cells with up to seven vertices that upstream's energy surrogate was trained on."""

    name = "ec-nas-7v"
    folder = "ecnas-energy"
    files = (
        github("raghavian/surrogate-ec-nasbench", "a5141f04124ca76aecd2529ae39680e3925b6bab", "7v_data.pt"),
    )
    plain = (_SEVEN,)
    licence = "MIT"
    citation = EcNas.citation
    rows = 4310

    def convert(self, raw: Path, out: Path) -> None:
        import pandas as pd

        content = read_torch(raw / "7v_data.pt")
        try:
            matrices, nodes, energy, params = (part.numpy() for part in content)
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(f"7v_data.pt of '{self.name}' does not hold four tensors: {error}") from error
        if len(energy) != self.rows:
            raise DataError(f"7v_data.pt of '{self.name}' holds {len(energy)} cells, not {self.rows}")
        frame = pd.DataFrame(
            {
                "labels": [_words(map(int, row)) for row in nodes],
                "adjacency_rows": [_matrix_text(matrix.astype(int)) for matrix in matrices],
                "energy_kwh": energy.reshape(-1).astype(np.float64),
                "trainable_params": params.reshape(-1).astype(np.int64),
            }
        )
        frame.to_csv(out / _SEVEN, index=False)

    def table(self, folder: Path) -> pd.DataFrame:
        columns = ("labels", "adjacency_rows", "energy_kwh", "trainable_params")
        return read_csv(folder / _SEVEN, columns, dtype={"labels": str, "adjacency_rows": str})

    def process(self, folder: Path) -> MeasurementTable:
        raise NotSupportedError(
            f"upstream does not say what the kilowatt-hours of '{self.name}' contain (epochs, data-centre overhead), "
            "so they are no labels; read them with table()"
        )


def network(key: str) -> OperatorGraph:
    """The network of a line ``labels|rows of the adjacency matrix``, as in the plain table."""
    return to_graph(describe, key)


def describe(net: Network, key: str) -> None:
    """Add stem, three stacks of three cells with doubling channels, pooling and classifier."""
    labels, _, rows = key.partition("|")
    matrix = np.array([[int(bit) for bit in row] for row in rows.split()])
    x = net.block(_conv, net.input("image", (1, 3, 32, 32)), channels=_STEM, kernel=3)
    for stack in range(_STACKS):
        if stack:
            x = net.block(_halved, x)
        for _ in range(_CELLS):
            x = _cell(net, x, _STEM * 2**stack, labels.split(), matrix)
    net.output(net.block(_head, x))


def _cell(net: Network, x: str, channels: int, labels: Sequence[str], matrix: IntArray) -> str:
    """One cell: inner vertices sum their inputs; those that reach the output are joined along the channels."""
    end = len(labels) - 1
    widths = vertex_channels(channels, matrix)
    made: dict[int, str] = {}
    for vertex in range(1, end):
        terms = [
            net.block(_first_channels, made[before], channels=widths[vertex])
            for before in range(1, vertex)
            if matrix[before, vertex]
        ]
        if matrix[0, vertex]:
            terms.append(net.block(_conv, x, channels=widths[vertex], kernel=1))
        y = net.block(_total, *terms)
        if labels[vertex] == _POOL:
            made[vertex] = net.block(_pool, y)
        else:
            kernel = {_CONV3: 3, _CONV1: 1}[labels[vertex]]
            made[vertex] = net.block(_conv, y, channels=widths[vertex], kernel=kernel)
    joined = [made[vertex] for vertex in range(1, end) if matrix[vertex, end]]
    results = [net.block(_joined, *joined)] if joined else []
    if matrix[0, end]:
        results.append(net.block(_conv, x, channels=channels, kernel=1))
    return net.block(_total, *results)


def _conv(net: OnnxBuilder, x: str, *, channels: int, kernel: int) -> str:
    return net.relu(net.conv(x, channels, kernel))


def _pool(net: OnnxBuilder, x: str) -> str:
    return net.max_pool(x, 3, stride=1, padding=1)


def _halved(net: OnnxBuilder, x: str) -> str:
    return net.max_pool(x, 2, stride=2)


def _first_channels(net: OnnxBuilder, x: str, *, channels: int) -> str:
    return x if net.channels(x) == channels else net.slice(x, 0, channels, axis=1)


def _total(net: OnnxBuilder, first: str, *others: str) -> str:
    for other in others:
        first = net.add(first, other)
    return first


def _joined(net: OnnxBuilder, *tensors: str) -> str:
    return net.concat(tensors) if len(tensors) > 1 else tensors[0]


def _head(net: OnnxBuilder, x: str) -> str:
    return net.linear(net.flatten(net.global_average_pool(x)), _CLASSES)


def vertex_channels(channels: int, matrix: IntArray) -> list[int]:
    """Channels of each vertex: the output's are shared by those that reach it, others feed the widest they reach."""
    end = len(matrix) - 1
    widths = [0] * end + [channels]
    direct = [v for v in range(1, end) if matrix[v, end]]
    for rank, vertex in enumerate(direct):
        share, rest = divmod(channels, len(direct))
        widths[vertex] = share + (rank < rest)
    for vertex in range(end - 2, 0, -1):
        if not matrix[vertex, end]:
            widths[vertex] = max(widths[v] for v in range(vertex + 1, end) if matrix[vertex, v])
    return widths


def _json_files(archive: Path) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and content of the archive's graph lists and results; nothing is unpacked to disk.

    Raises:
        DataError: the archive is torn, or a file is no JSON.
    """
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                path = Path(member.name).parts
                wanted = path[-1] == "results.json" or path[-1].startswith("generated_graphs_")
                if member.isfile() and wanted and "ec_nasbench" in path:
                    file = members.extractfile(member)
                    assert file is not None  # a regular file
                    yield path, json.load(file)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{archive} cannot be read: {error}; delete it and fetch it again") from error


def _numbers(run: Mapping[str, Any]) -> list[Any]:
    """Cells of a run from its totals to its last epoch."""
    power = run["avg_power_usages:"]
    cells = [run[key] for key in _TOTALS.values()]
    for part in ("gpu", "cpu"):
        cells += [";".join(map(str, power[part][key][0])) for key in _POWER.values()]
        cells.append(";".join(name.strip() for name in power[part]["devices"]))
    epochs = {round(result["epochs"]): result for result in run["evaluation_results"]}
    for epoch in _EPOCHS:
        cells += [epochs.get(epoch, {}).get(key) for key in _AT_EPOCH.values()]
    return cells


def _words(values: Any) -> str:
    return " ".join(map(str, values))


def _matrix_text(matrix: Any) -> str:
    return " ".join("".join(map(str, row)) for row in matrix)


def _joules(values: str) -> float:
    """Total of the numbers of several devices, written with semicolons."""
    return sum(map(float, values.split(";")))
