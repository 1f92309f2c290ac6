"""NAS-Bench-Macro: CIFAR-10 accuracies of 6,561 networks, each trained three times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardsight.datasets.sources import _graphs_nas_bench_macro
from hardsight.datasets.sources._base import Source, github, published, read_csv
from hardsight.datasets.sources._graphs import lazy_graphs
from hardsight.device import Device
from hardsight.errors import DataError
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

_RUNS = ("test_acc_1", "test_acc_2", "test_acc_3")
_COLUMNS = ("arch", *_RUNS, "mean_acc", "std", "params", "flops")
_STUDENT = 4.303  # 97.5 % quantile of Student's t with two degrees of freedom


class NasBenchMacro(Source):
    """6,561 chains of eight blocks (Su et al., CVPR 2021). Values are medians of three trainings."""

    name = "nas-bench-macro"
    folder = "nas-bench-macro"
    files = (
        github(
            "xiusu/NAS-Bench-Macro",
            "61a2bfc2ca0dce04d0997e6cf498047c27d6acf2",
            "data/nas-bench-macro_cifar10.json",
        ),
    )
    plain = ("nas_bench_macro_cifar10.csv",)
    licence = "Apache-2.0"
    citation = (
        "X. Su, T. Huang, Y. Li, S. You, F. Wang, C. Qian, C. Zhang, C. Xu: Prioritized Architecture Sampling with "
        "Monto-Carlo Tree Search, CVPR 2021"
    )
    rows = 6561
    devices = (
        Device(
            name="cifar10/nas-bench-macro/three-trainings",
            kind="gpu",
            description="test accuracy on CIFAR-10; no cost of any hardware",
            provenance="published",
        ),
    )

    def convert(self, raw: Path, out: Path) -> None:
        import pandas as pd

        try:
            content = json.loads((raw / "nas-bench-macro_cifar10.json").read_text())
            records = [
                [arch, *run["test_acc"], *(run[key] for key in ("mean_acc", "std", "params", "flops"))]
                for arch, run in content.items()
            ]
            frame = pd.DataFrame(records, columns=list(_COLUMNS))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"nas-bench-macro_cifar10.json cannot be read: {error}; fetch it again"
            ) from error
        if len(frame) != self.rows:
            raise DataError(f"nas-bench-macro_cifar10.json holds {len(frame)} networks; expected {self.rows}")
        frame.to_csv(out / self.plain[0], index=False)

    def table(self, folder: Path) -> pd.DataFrame:
        return read_csv(folder / self.plain[0], _COLUMNS, dtype={"arch": str})

    def process(self, folder: Path) -> MeasurementTable:
        frame = self.table(folder)
        digests, graphs = lazy_graphs(
            self.name, frame["arch"].tolist(), _graphs_nas_bench_macro.graph, self.progress
        )
        runs = frame[[*_RUNS]].to_numpy()
        rows = published(
            digests,
            self.devices[0].name,
            Metric.ACCURACY,
            np.median(runs, axis=1) / 100,
            spread=_STUDENT * runs.std(axis=1, ddof=1) / np.sqrt(len(_RUNS)) / runs.mean(axis=1),
            repeats=len(_RUNS),
            versions={"source": self.name},
        )
        return MeasurementTable(rows, graphs, dict.fromkeys(graphs, self.name))
