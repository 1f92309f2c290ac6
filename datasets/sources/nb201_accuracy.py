"""NAS-Bench-201's test accuracies, and zero-cost proxies of some of its cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardsight.datasets.sources import _graphs_nb201
from hardsight.datasets.sources._base import Source, github, published, read_csv
from hardsight.datasets.sources._graphs import lazy_graphs
from hardsight.device import Device
from hardsight.errors import DataError, NotSupportedError
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

_SETTINGS = {"cifar10": (10, 32), "cifar100": (100, 32), "imagenet16_120": (120, 16)}
"""Classes and side of the image of each data set."""
_CELLS = 15625
_PROXIES = (
    *("flops", "params", "synflow", "grasp", "fisher", "grad_norm", "l2_norm", "plain", "nwot", "epe_nas"),
    *("jacov", "snip"),
)
_NASLIB_OPS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")


class Nb201Accuracy(Source):
    """Test accuracy of 15,625 cells on three data sets after 200 epochs, the mean over upstream's seeds.

    The label's device is the data set: ``cifar100/nats-bench/200-epochs``. Graphs have its classes and image
    size, so those for CIFAR-100 are the ones of `HelpNb201` at batch 1.
    """

    name = "nb201-accuracy"
    folder = "nb201-accuracy"
    files = (
        github("v-tao/nats-bench-landscape", "b307ae5fe6e8d7043cd4fe7d1c3532288271adb7", "nats_bench.csv"),
    )
    plain = ("nb201_accuracy.csv",)
    licence = "MIT (NATS-Bench; the export states none of its own)"
    citation = (
        "X. Dong, L. Liu, K. Musial, B. Gabrys: NATS-Bench: Benchmarking NAS Algorithms for Architecture Topology "
        "and Size, TPAMI 2021"
    )
    rows = _CELLS
    devices = tuple(
        Device(
            name=f"{data}/nats-bench/200-epochs",
            kind="gpu",
            description=f"test accuracy on {data} after 200 epochs; no cost of any hardware",
            provenance="published",
        )
        for data in _SETTINGS
    )

    def convert(self, raw: Path, out: Path) -> None:
        columns = {
            "CIFAR10TestAccuracy200Epochs": "cifar10_test",
            "CIFAR100TestAccuracy200Epochs": "cifar100_test",
            "ImageNetTestAccuracy200Epochs": "imagenet16_120_test",
        }
        given = read_csv(raw / "nats_bench.csv", [*columns, "ArchitectureString", "UniqueString"], dtype=str)
        if len(given) != self.rows:
            raise DataError(f"nats_bench.csv holds {len(given)} cells; expected {self.rows}")
        frame = given[[*columns]].rename(columns=columns)
        frame.insert(0, "arch_str", given["ArchitectureString"])
        frame["unique_class"] = given.index.to_series().groupby(given["UniqueString"]).transform("min")
        frame.to_csv(out / self.plain[0], index_label="index")

    def table(self, folder: Path) -> pd.DataFrame:
        """Percent. A copy without the cells takes them from `HelpNb201`'s beside it, which has the same order."""
        columns = ["index", *(f"{data}_test" for data in _SETTINGS), "unique_class"]
        frame = read_csv(folder / self.plain[0], columns)
        if "arch_str" not in frame.columns:
            cells = read_csv(folder.parent / "help-latency" / "nb201_archs.csv", ["index", "arch_str"])
            frame = frame.merge(cells[["index", "arch_str"]], on="index", validate="one_to_one")
        return frame

    def process(self, folder: Path) -> MeasurementTable:
        import pandas as pd

        frame = self.table(folder)
        keys = [
            _graphs_nb201.encode(cell, classes=classes, side=side)
            for classes, side in _SETTINGS.values()
            for cell in frame["arch_str"]
        ]
        digests, graphs = lazy_graphs("nasbench201", keys, _graphs_nb201.graph, self.progress)
        rows = [
            published(
                digests[i * len(frame) : (i + 1) * len(frame)],
                device.name,
                Metric.ACCURACY,
                frame[f"{device.hardware}_test"] / 100,
                versions={"source": self.name},
            )
            for i, device in enumerate(self.devices)
        ]
        return MeasurementTable(
            pd.concat(rows, ignore_index=True), graphs, dict.fromkeys(graphs, "nasbench201")
        )


class Nb201ZeroCost(Source):
    """Twelve zero-cost proxies of some 725 cells on three data sets: scores, and the seconds they took."""

    name = "nb201-zero-cost"
    folder = "nb201-zero-cost-sample"
    files = (
        github(
            "automl/NASLib", "a06ba0e9931fcfd4605ddbddb6ed068eb58e58f1", "naslib/data/zc_nasbench201.json"
        ),
    )
    plain = ("nb201_zero_cost_sample.csv",)
    licence = "Apache-2.0"
    citation = (
        "A. Krishnakumar, C. White, A. Zela, R. Tu, M. Safari, F. Hutter: NAS-Bench-Suite-Zero: Accelerating "
        "Research on Zero Cost Proxies, NeurIPS 2022"
    )
    rows = 2174

    def convert(self, raw: Path, out: Path) -> None:
        import pandas as pd

        try:
            content = json.loads((raw / "zc_nasbench201.json").read_text())
            records = [
                self._record(data, arch, scores)
                for data, cells in content.items()
                for arch, scores in cells.items()
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"zc_nasbench201.json cannot be read: {error}; fetch it again") from error
        pd.DataFrame(records).to_csv(out / self.plain[0], index=False)

    @staticmethod
    def _record(data: str, arch: str, scores: dict[str, Any]) -> dict[str, Any]:
        record = {
            "dataset": data,
            "arch_str": cell_of(arch),
            "naslib_idx": int(scores["idx"]),
            "naslib_arch": arch,
            "val_accuracy": scores["val_accuracy"],
        }
        for proxy in _PROXIES:
            record[proxy], record[f"{proxy}_time_s"] = scores[proxy]["score"], scores[proxy]["time"]
        return record

    def table(self, folder: Path) -> pd.DataFrame:
        """As published, with the cell in NAS-Bench-201's notation as ``arch_str``."""
        columns = ["dataset", "naslib_idx", "naslib_arch", "val_accuracy", *_PROXIES]
        frame = read_csv(folder / self.plain[0], columns)
        frame["arch_str"] = frame["naslib_arch"].map(cell_of)
        return frame

    def process(self, folder: Path) -> MeasurementTable:
        raise NotSupportedError(
            f"the scores of '{self.name}' are no quantity that Hardsight predicts; read them with table()"
        )


def cell_of(naslib_arch: str) -> str:
    """NASLib's tuple, ``"(0, 2, 3, 2, 3, 1)"`` over edges 01, 02, 03, 12, 13, 23, as a NAS-Bench-201 string.

    Raises:
        DataError: it is something else.
    """
    try:
        e01, e02, e03, e12, e13, e23 = (_NASLIB_OPS[int(code)] for code in naslib_arch.strip("()").split(","))
    except (ValueError, IndexError) as error:
        raise DataError(f"'{naslib_arch}' is no NASLib cell; expected six numbers from 0 to 4") from error
    return f"|{e01}~0|+|{e02}~0|{e12}~1|+|{e03}~0|{e13}~1|{e23}~2|"
