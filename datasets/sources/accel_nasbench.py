"""Accel-NASBench: MnasNet-like ImageNet networks on two FPGA boards, two TPUs and two GPUs.

The tables' networks are rebuilt from the authors' description (models/accelbenchnet.py of their repository
ANB-DatasetCollection): ReLU, squeeze-excite with a hard sigmoid, batch normalisation folded into convolutions.
Only the latencies become labels: on the ZCU102 at batch 1, on the VCK190 at batch 6, its smallest. Throughputs
were taken at other batch sizes, partly unstated, with several in flight; `AccelNasBench.table` has them.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.sources._base import Source, github, published, read_csv
from hardsight.datasets.sources._graphs import lazy_graphs
from hardsight.datasets.sources._graphs_blocks import Network, to_graph
from hardsight.device import Device
from hardsight.errors import DataError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

_REPOSITORY = "afzalxo/Accel-NASBench"
_COMMIT = "42603572d530310e6bac7191d00cf45625a6b197"
_SPLITS = ("train", "val", "test")
_DEVICES = ("a100", "3090", "tpuv2", "tpuv3", "zcu102", "vck190")

_BLOCKS = [f"block{i}_{part}" for i in range(7) for part in ("e", "k", "l", "se")]
_VALUES = [
    *("latency_zcu102_mean", "latency_vck190_mean"),
    *(f"throughput_{d}_{s}" for d in _DEVICES[:4] for s in ("mean", "std")),
    *("throughput_zcu102_mean", "throughput_vck190_mean"),
]
_COLUMNS = [
    *("id", *_BLOCKS, "val_top1", "val_top5", "train_time", "macs", "params"),
    *_VALUES,
    "default_split",
]

_STEM, _HEAD, _CLASSES = 32, 1280, 1000
_CHANNELS = (16, 24, 40, 80, 112, 192, 320)
_STRIDES = (1, 2, 2, 2, 1, 2, 1)


class AccelNasBench(Source):
    """5,138 networks of the MnasNet space (Ahmad et al., "Accel-NASBench", DATE 2024)."""

    name = "accel-nasbench"
    folder = "accel-nasbench"
    files = (
        github(_REPOSITORY, _COMMIT, "anb_dataset/anb_dataset_jsons.tar.gz"),
        *(
            github(_REPOSITORY, _COMMIT, f"configs/data_splits/default_split/{split}_paths.json")
            for split in _SPLITS
        ),
    )
    plain = ("accel_nasbench.csv",)
    licence = "Apache-2.0"
    citation = (
        "A. Ahmad et al.: Accel-NASBench: Sustainable Benchmarking for Accelerator-Aware NAS, DATE 2024"
    )
    rows = 5138
    devices = (
        Device(
            name="zcu102/vitis-ai-2.5/int8",
            kind="fpga",
            description="DPUCZDX8G B4096 on a Zynq UltraScale+ ZCU102, one thread, batch 1",
            runtime_version="2.5",
            precisions=("int8",),
            provenance="published",
        ),
        Device(
            name="vck190/vitis-ai-2.5/int8",
            kind="fpga",
            description="DPUCVDX8G C32B3 on a Versal VCK190, one thread, batch 6",
            runtime_version="2.5",
            precisions=("int8",),
            provenance="published",
        ),
    )

    def convert(self, raw: Path, out: Path) -> None:
        import pandas as pd

        splits: dict[str, str] = {}
        for split in _SPLITS:
            paths = json.loads((raw / f"{split}_paths.json").read_text())
            splits.update((Path(path).name, split) for path in paths)
        records = [
            _record(int(name.removeprefix("result_").removesuffix(".json")), result, splits.get(name, ""))
            for name, result in _results(raw / "anb_dataset_jsons.tar.gz")
        ]
        if len(records) != self.rows:
            raise DataError(f"the archive of '{self.name}' holds {len(records)} networks, not {self.rows}")
        frame = pd.DataFrame(records, columns=_COLUMNS).sort_values("id")
        frame.to_csv(out / self.plain[0], index=False)

    def table(self, folder: Path) -> pd.DataFrame:
        return read_csv(folder / self.plain[0], _COLUMNS)

    def process(self, folder: Path) -> MeasurementTable:
        import pandas as pd

        frame = self.table(folder)
        codes = [" ".join(map(str, map(int, row))) for row in frame[_BLOCKS].to_numpy()]
        batches = {"zcu102": 1, "vck190": 6}
        keys = [f"{batch} {code}" for batch in batches.values() for code in codes]
        digests, graphs = lazy_graphs(self.name, keys, network, self.progress)
        rows = [
            published(
                digests[i * len(codes) : (i + 1) * len(codes)],
                device.name,
                Metric.LATENCY,
                frame[f"latency_{device.hardware}_mean"] * 1e-3,
                versions={"source": self.name, "vitis-ai": "2.5", "unit": "ms, inferred from the magnitude"},
            )
            for i, device in enumerate(self.devices)
        ]
        families = dict.fromkeys(graphs, self.name)
        return MeasurementTable(pd.concat(rows, ignore_index=True), graphs, families)


def network(key: str) -> OperatorGraph:
    """The network of a line ``batch e k l se e k l se …``: four numbers for each of seven stages."""
    return to_graph(describe, key)


def describe(net: Network, key: str) -> None:
    """Add stem, seven stages of inverted bottlenecks (MnasNet, Tan et al. 2019), head and classifier."""
    batch, *code = map(int, key.split())
    x = net.block(_stem, net.input("image", (batch, 3, 224, 224)))
    for i, (channels, stride) in enumerate(zip(_CHANNELS, _STRIDES, strict=True)):
        expansion, kernel, layers, excite = code[4 * i : 4 * i + 4]
        settings = {"channels": channels, "expansion": expansion, "kernel": kernel, "excite": excite != 0}
        for layer in range(layers):
            x = net.block(_bottleneck, x, stride=1 if layer else stride, **settings)
    net.output(net.block(_head, x))


def _stem(net: OnnxBuilder, x: str) -> str:
    return net.relu(net.conv(x, _STEM, 3, stride=2))


def _bottleneck(
    net: OnnxBuilder, x: str, *, channels: int, expansion: int, kernel: int, stride: int, excite: bool
) -> str:
    before = net.channels(x)
    wide = before * expansion
    y = net.relu(net.conv(x, wide, 1)) if expansion > 1 else x
    y = net.relu(net.conv(y, wide, kernel, stride=stride, groups=wide))
    if excite:
        gate = net.relu(net.conv(net.global_average_pool(y), before // 4, 1))
        gate = net.node("HardSigmoid", net.conv(gate, wide, 1), alpha=1 / 6, beta=0.5)
        y = net.mul(gate, y)
    y = net.conv(y, channels, 1)
    return net.add(y, x) if stride == 1 and before == channels else y


def _head(net: OnnxBuilder, x: str) -> str:
    x = net.global_average_pool(net.relu(net.conv(x, _HEAD, 1)))
    return net.linear(net.flatten(x), _CLASSES)


def _results(archive: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and content of every result in the archive; nothing is unpacked to disk.

    Raises:
        DataError: the archive is torn, or a result is no JSON.
    """
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                name = Path(member.name).name
                if not (member.isfile() and name.startswith("result_") and name.endswith(".json")):
                    continue
                file = members.extractfile(member)
                assert file is not None  # a regular file
                yield name, json.load(file)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{archive} cannot be read: {error}; delete it and fetch it again") from error


def _record(number: int, result: Mapping[str, Any], split: str) -> dict[str, Any]:
    """One row; a device that was not measured leaves its cells empty."""
    try:
        architecture, metrics, info = result["architecture"], result["metrics"], result["model_info"]
        row: dict[str, Any] = {"id": number, "default_split": split}
        row.update((block, _value(architecture[block])) for block in _BLOCKS)
        row.update((name, metrics[name]) for name in ("val_top1", "val_top5", "train_time"))
        row.update((name, info[name]) for name in ("macs", "params"))
    except (KeyError, TypeError) as error:
        raise DataError(f"result {number} lacks {error}; the archive is not the one expected") from error
    performance = result.get("platform_perf") or {}
    for column in _VALUES:
        quantity, device, statistic = column.split("_")
        row[column] = (performance.get(f"{quantity}_{device}") or {}).get(f"{quantity}_{statistic}")
    return row


def _value(value: Any) -> Any:
    """Upstream writes flags as text in some files."""
    return {"True": True, "False": False}.get(value, value) if isinstance(value, str) else value
