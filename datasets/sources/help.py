"""HELP: latencies of three search spaces on up to 27 devices, and the splits that few-shot papers use.

A source per space. HELP calls a column by device and batch size (``1080ti_32``) and counts each as a device of
its own; here the batch is in the graph, so three columns are one device, and `HelpSpace.column` gives one back.
Unit upstream: milliseconds. ``pixel3``, ``raspi4``, ``eyeriss`` and ``fpga`` probably come from HW-NAS-Bench: the
first two ran TFLite, which prunes what the graph computes in vain; the last two are modelled, not timed.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from hardsight.datasets.sources import _graphs_fbnet, _graphs_nb201, _graphs_ofa
from hardsight.datasets.sources._base import Source, github, published, read_csv
from hardsight.datasets.sources._graphs import LazyGraphs, lazy_graphs
from hardsight.datasets.sources._pickles import read_torch
from hardsight.device import Device
from hardsight.errors import DataError, UnknownNameError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray

if TYPE_CHECKING:
    import pandas as pd

_REPOSITORY, _COMMIT = "HayeonLee/HELP", "45f70eb92d0d735970a33b608d1544ad3c52f285"
_SPLITS, _REFERENCES = "splits.json", "reference_indices.json"


def _device(name: str, kind: Any, description: str, mode: str = "fp32") -> Device:
    return Device(name=f"{name}/help/{mode}", kind=kind, description=description, provenance="published")


_GPUS = {
    "1080ti": _device("gtx-1080-ti", "gpu", "NVIDIA GeForce GTX 1080 Ti"),
    "2080ti": _device("rtx-2080-ti", "gpu", "NVIDIA GeForce RTX 2080 Ti"),
    "titanx": _device("titan-x", "gpu", "NVIDIA Titan X"),
    "titanxp": _device("titan-xp", "gpu", "NVIDIA Titan Xp"),
    "titan_rtx": _device("titan-rtx", "gpu", "NVIDIA Titan RTX"),
    "v100": _device("v100", "gpu", "NVIDIA Tesla V100"),
}
_GPUS["titan_xp"] = _GPUS["titanxp"]  # as the OFA tables spell it
_WHOLE = "; whole milliseconds"
_OTHERS = {
    "silver_4114": _device("xeon-silver-4114", "cpu", "Intel Xeon Silver 4114"),
    "silver_4210r": _device("xeon-silver-4210r", "cpu", "Intel Xeon Silver 4210R"),
    "gold_6226": _device("xeon-gold-6226", "cpu", "Intel Xeon Gold 6226"),
    "gold_6240": _device("xeon-gold-6240", "cpu", "Intel Xeon Gold 6240"),
    "samsung_a50": _device("galaxy-a50", "cpu", "Samsung Galaxy A50" + _WHOLE),
    "samsung_s7": _device("galaxy-s7", "cpu", "Samsung Galaxy S7" + _WHOLE),
    "essential_ph_1": _device("essential-ph-1", "cpu", "Essential PH-1" + _WHOLE),
    "pixel2": _device("pixel2", "cpu", "Google Pixel 2" + _WHOLE),
    "pixel3": _device("pixel3", "cpu", "Google Pixel 3, probably HW-NAS-Bench's"),
    "raspi4": _device("raspberry-pi-4", "cpu", "Raspberry Pi 4, probably HW-NAS-Bench's"),
    "eyeriss": _device(
        "eyeriss", "asic", "Eyeriss, probably HW-NAS-Bench's model of it, not timed", "as-published"
    ),
    "fpga": _device(
        "fpga", "fpga", "an FPGA, probably HW-NAS-Bench's model of it, not timed", "as-published"
    ),
}


def target(column: str) -> tuple[Device, int]:
    """The device and the batch size that one of HELP's device names stands for.

    Raises:
        UnknownNameError: HELP has no device of that name.
    """
    if column in _OTHERS:
        return _OTHERS[column], 1
    name, _, batch = column.rpartition("_")
    if name not in _GPUS or not batch.isdigit():
        raise UnknownNameError("HELP device", column, [*_OTHERS, *(f"{gpu}_1" for gpu in _GPUS)])
    return _GPUS[name], int(batch)


class Task(NamedTuple):
    """Devices to learn from and to be tested on, by HELP's names; NASFLAT has some that HELP does not."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]


class HelpSpace(Source):
    """What HELP's three tables have in common.

    Attributes:
        space: key of the splits: nb201, fbnet or ofa.
        columns: HELP's device names.
        family: of the graphs.
        task: HELP's own split of the devices.
    """

    folder = "help-latency"
    licence = "MIT"
    citation = (
        "H. Lee, S. Lee, S. Chong, S. J. Hwang: HELP: Hardware-Adaptive Efficient Latency Prediction for NAS via "
        "Meta-Learning, NeurIPS 2021"
    )
    space: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    family: ClassVar[str]
    task: ClassVar[Task]

    @staticmethod
    @abstractmethod
    def build(encoding: str) -> OperatorGraph:
        """The graph of one of `encodings`."""

    @abstractmethod
    def encodings(self, folder: Path, batch: int) -> list[str]:
        """Every architecture at that batch size, as one line each, in upstream's order."""

    @property
    def _latencies(self) -> str:
        return f"{self.space}_latency.npz"

    @property
    def _archs(self) -> str:
        return f"{self.space}_archs.csv"

    def table(self, folder: Path) -> pd.DataFrame:
        """Architectures as upstream encodes them, and a column of milliseconds per device."""
        import pandas as pd

        archs = read_csv(folder / self._archs, self._arch_columns())
        columns, milliseconds = self._read(folder)
        return pd.concat([archs, pd.DataFrame(milliseconds, columns=columns)], axis=1)

    def process(self, folder: Path) -> MeasurementTable:
        import pandas as pd

        columns, milliseconds = self._read(folder)
        digests, graphs = self._graphs(folder, sorted({target(column)[1] for column in columns}))
        rows = []
        for column, values in zip(columns, milliseconds.T, strict=True):
            device, batch = target(column)
            versions = {"source": self.name, "column": column}
            rows.append(
                published(
                    digests[batch],
                    device.name,
                    Metric.LATENCY,
                    values * 1e-3,
                    spread=_rounding(values),
                    versions=versions,
                )
            )
        return MeasurementTable(
            pd.concat(rows, ignore_index=True), graphs, dict.fromkeys(graphs, self.family)
        )

    def column(self, folder: Path, name: str) -> tuple[list[str], FloatArray]:
        """Digests and latencies in seconds ``(n,)`` under one of HELP's names, in the order of its indices."""
        columns, milliseconds = self._read(folder)
        if name not in columns:
            raise UnknownNameError(f"{self.space} device", name, columns)
        batch = target(name)[1]
        return self._graphs(folder, [batch])[0][batch], milliseconds[:, columns.index(name)] * 1e-3

    def tasks(self, folder: Path) -> dict[str, Task]:
        """Published device splits by name: ``HELP``, and where the copy has them NASFLAT's, such as ``ND``.

        Raises:
            DataError: the file that holds them is missing or no JSON.
        """
        splits = _read_json(folder / _SPLITS)
        try:
            own = splits["HELP"][self.space]
            found = {"HELP": Task(*(tuple(own[f"meta_{part}"]) for part in ("train", "valid", "test")))}
            for name, given in splits.get("NASFLAT", {}).get(self.space, {}).items():
                found[name] = Task(tuple(given["source"]), (), tuple(given["target"]))
        except (KeyError, TypeError) as error:
            raise DataError(f"{folder / _SPLITS} lacks {error}; fetch '{self.name}' again") from error
        return found

    def references(self, folder: Path) -> list[int]:
        """Indices of the ten architectures whose latencies HELP describes a device with."""
        return [int(index) for index in _read_json(folder / _REFERENCES)[self.space]]

    def convert(self, raw: Path, out: Path) -> None:
        self._convert_archs(raw).to_csv(out / self._archs, index_label="index")
        latency = np.stack([self._numbers(raw / f"latency/{column}.pt") for column in self.columns], axis=1)
        np.savez_compressed(out / self._latencies, devices=np.array(self.columns), latency=latency)
        references = [int(i) for i in self._content(raw / "hardware_embedding_index.pt")]
        (out / _REFERENCES).write_text(json.dumps({self.space: references}))
        train, valid, test = self.task
        splits = {"meta_train": train, "meta_valid": valid, "meta_test": test}
        (out / _SPLITS).write_text(json.dumps({"HELP": {self.space: splits}}))

    @abstractmethod
    def _convert_archs(self, raw: Path) -> pd.DataFrame:
        """Upstream's list of architectures as the plain table has it."""

    @abstractmethod
    def _arch_columns(self) -> list[str]: ...

    def _graphs(self, folder: Path, batches: Sequence[int]) -> tuple[dict[int, list[str]], LazyGraphs]:
        lines = [line for batch in batches for line in self.encodings(folder, batch)]
        found, graphs = lazy_graphs(self.family, lines, type(self).build, self.progress)
        size = len(lines) // len(batches)
        return {b: found[i * size : (i + 1) * size] for i, b in enumerate(batches)}, graphs

    def _read(self, folder: Path) -> tuple[list[str], FloatArray]:
        """Device names ``(m,)`` and milliseconds ``(n, m)``."""
        path = folder / self._latencies
        try:
            with np.load(path, allow_pickle=False) as file:
                columns, values = [str(name) for name in file["devices"]], file["latency"].astype(np.float64)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"cannot read {path}: {error}; fetch '{self.name}' again") from error
        if values.ndim != 2 or values.shape[1] != len(columns):
            raise DataError(f"{path} holds latencies of shape {values.shape} for {len(columns)} devices")
        return columns, values

    def _content(self, path: Path) -> Any:
        return read_torch(path)

    def _numbers(self, path: Path) -> FloatArray:
        values = np.asarray(self._content(path), dtype=np.float64).reshape(-1)
        if len(values) != self.rows:
            raise DataError(f"{path} holds {len(values)} latencies; expected {self.rows}")
        return values


def _files(folder: str, columns: Sequence[str], *others: str) -> tuple[Any, ...]:
    names = [*(f"latency/{column}.pt" for column in columns), "hardware_embedding_index.pt", *others]
    return tuple(github(_REPOSITORY, _COMMIT, f"data/{folder}/{name}", name=name) for name in names)


def _devices(columns: Sequence[str]) -> tuple[Device, ...]:
    return tuple({device.name: device for device, _ in map(target, columns)}.values())


_BATCHED = ("1080ti", "2080ti", "titan_rtx", "titanx", "titanxp")
_NB201 = (*(f"{gpu}_{batch}" for gpu in _BATCHED for batch in (1, 32, 256)), *_OTHERS)
_FBNET = (*(f"{gpu}_{batch}" for gpu in _BATCHED for batch in (1, 32, 64)), *_OTHERS)
_OFA = tuple(f"{gpu}_{batch}" for gpu in ("2080ti", "titan_rtx", "titan_xp", "v100") for batch in (1, 32, 64))
_MANY = ("silver_4114", "silver_4210r", "samsung_a50", "pixel3", "essential_ph_1", "samsung_s7")


class HelpNb201(HelpSpace):
    """15,625 NAS-Bench-201 cells on 27 devices; the graphs have CIFAR-100's classes."""

    name = "help-nb201"
    files = _files("nasbench201", _NB201, "str_arch2idx.pt")
    plain = ("nb201_archs.csv", "nb201_latency.npz")
    rows = 15625
    devices = _devices(_NB201)
    space = "nb201"
    columns = _NB201
    family = "nasbench201"
    task = Task(
        ("1080ti_1", "1080ti_32", "1080ti_256", *_MANY),
        ("titanx_1", "titanx_32", "titanx_256", "gold_6240"),
        ("titan_rtx_256", "gold_6226", "fpga", "pixel2", "raspi4", "eyeriss"),
    )
    build = staticmethod(_graphs_nb201.graph)

    def encodings(self, folder: Path, batch: int) -> list[str]:
        cells = read_csv(folder / self._archs, self._arch_columns())["arch_str"]
        return [_graphs_nb201.encode(cell, batch=batch) for cell in cells]

    def _arch_columns(self) -> list[str]:
        return ["index", "arch_str"]

    def _convert_archs(self, raw: Path) -> pd.DataFrame:
        import pandas as pd

        index: Mapping[str, int] = self._content(raw / "str_arch2idx.pt")
        cells = sorted(index, key=lambda cell: int(index[cell]))
        edges = np.array([_graphs_nb201.parse_cell(cell) for cell in cells])
        names = ("op_0_1", "op_0_2", "op_1_2", "op_0_3", "op_1_3", "op_2_3")
        return pd.DataFrame({"arch_str": cells, **dict(zip(names, edges.T, strict=True))})


class HelpFbnet(HelpSpace):
    """5,000 FBNets on 27 devices, in their CIFAR-100 form."""

    name = "help-fbnet"
    files = _files("fbnet", _FBNET, "metainfo.pt")
    plain = ("fbnet_archs.csv", "fbnet_latency.npz")
    rows = 5000
    devices = _devices(_FBNET)
    space = "fbnet"
    columns = _FBNET
    family = "fbnet"
    task = Task(
        ("1080ti_1", "1080ti_32", "1080ti_64", *_MANY),
        ("titanx_1", "titanx_32", "titanx_64", "gold_6240"),
        ("fpga", "raspi4", "eyeriss"),
    )
    build = staticmethod(_graphs_fbnet.graph)

    def encodings(self, folder: Path, batch: int) -> list[str]:
        choices = read_csv(folder / self._archs, self._arch_columns())[self._arch_columns()[1:]].to_numpy()
        return [_graphs_fbnet.encode([int(c) for c in row], batch=batch) for row in choices]

    def _arch_columns(self) -> list[str]:
        return ["index", *(f"op_{layer}" for layer in range(_graphs_fbnet.LAYERS))]

    def _convert_archs(self, raw: Path) -> pd.DataFrame:
        import pandas as pd

        archs = self._content(raw / "metainfo.pt")["arch"]
        return pd.DataFrame([arch["op_idx_list"] for arch in archs], columns=self._arch_columns()[1:])


class HelpOfa(HelpSpace):
    """5,000 subnetworks of the once-for-all MobileNetV3 on four GPUs."""

    name = "help-ofa"
    files = _files("ofa", _OFA, "ofa_archs.pt")
    plain = ("ofa_archs.csv", "ofa_latency.npz")
    rows = 5000
    devices = _devices(_OFA)
    space = "ofa"
    columns = _OFA
    family = "ofa"
    task = Task(
        tuple(f"{gpu}_{batch}" for gpu in ("2080ti", "titan_xp", "v100") for batch in (1, 32, 64)),
        ("titan_rtx_1", "titan_rtx_32"),
        ("titan_rtx_64",),
    )
    build = staticmethod(_graphs_ofa.graph)

    def encodings(self, folder: Path, batch: int) -> list[str]:
        numbers = read_csv(folder / self._archs, self._arch_columns())[self._arch_columns()[1:]].to_numpy()
        rows = (list(map(int, row)) for row in numbers)
        return [_graphs_ofa.encode(r[0], r[1:6], r[6:26], r[26:], batch=batch) for r in rows]

    def _arch_columns(self) -> list[str]:
        blocks = [f"{part}_{i}" for part in ("ks", "expand") for i in range(20)]
        return ["index", "resolution", *(f"depth_{i}" for i in range(5)), *blocks]

    def _convert_archs(self, raw: Path) -> pd.DataFrame:
        import pandas as pd

        archs = self._content(raw / "ofa_archs.pt")["arch"]
        rows = [[*np.atleast_1d(arch["r"])[:1], *arch["d"], *arch["ks"], *arch["e"]] for arch in archs]
        return pd.DataFrame(rows, columns=self._arch_columns()[1:], dtype=np.int64)


def _rounding(milliseconds: FloatArray) -> FloatArray:
    """Relative half-width that rounding to whole milliseconds leaves; 0 for columns with fractions."""
    whole = bool(np.all(milliseconds == np.round(milliseconds)))
    return 0.5 / milliseconds if whole else np.zeros_like(milliseconds)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; fetch it again") from error
