"""wa-hls4ml: high-level synthesis of single dense layers by hls4ml for one large FPGA.

The numbers are the HLS tool's own estimate, before place and route. Most rows are synthesis failures without
numbers: they give no label, and `WaHls4ml.table` keeps them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hardsight.datasets.sources._base import Source, github, published, read_csv
from hardsight.datasets.sources._graphs import lazy_graphs
from hardsight.datasets.sources._hls4ml import layer
from hardsight.device import Device
from hardsight.errors import DataError
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

_CSV = "dense_shapes_train.csv"
_SETTINGS = ("d_in", "d_out", "prec", "rf", "strategy", "hls_synth_success")
_METRICS = {
    Metric.CYCLES: "WorstLatency_hls",
    Metric.INTERVAL_CYCLES: "IntervalMax_hls",
    Metric.LUT: "LUT_hls",
    Metric.FF: "FF_hls",
    Metric.DSP: "DSP_hls",
    Metric.BRAM_18K: "BRAM_18K_hls",
    Metric.URAM: "URAM_hls",
}


def _device(strategy: str) -> Device:
    return Device(
        name=f"xcvu13p/hls4ml/{strategy}",
        kind="fpga",
        description=f"hls4ml, {strategy} strategy, 5 ns clock, HLS estimate; the part is known by its totals only",
        precisions=tuple(f"int{bits}" for bits in range(2, 15, 2)),
        clock_hz=200e6,
        provenance="published",
    )


class WaHls4ml(Source):
    """2,687 dense layers: 64 shapes x 7 widths x 3 reuse factors x 2 strategies.

    The copy below ``HARDSIGHT_DATA`` holds the rows of 45 shapes only; a fetched one holds all.
    """

    name = "wa-hls4ml"
    folder = "wa-hls4ml-dense"
    files = (
        github(
            "Dendendelen/wa-hls4ml-search",
            "8e70542108dbf8b6c3cdcc16418c0d14990ee955",
            "results/results_format_test.csv",
        ),
    )
    plain = (_CSV,)
    licence = "Apache-2.0"
    citation = (
        "B. Hawks et al.: wa-hls4ml: A Benchmark and Surrogate Models for hls4ml Resource and Latency "
        "Estimation, 2025"
    )
    rows = 2687
    devices = (_device("latency"), _device("resource"))

    def convert(self, raw: Path, out: Path) -> None:
        frame = read_csv(raw / "results_format_test.csv", [*_SETTINGS, *_METRICS.values()], dtype=str)
        if len(frame) != self.rows:
            raise DataError(f"the original of '{self.name}' has {len(frame)} rows, not {self.rows}")
        frame.to_csv(out / _CSV, index=False)

    def table(self, folder: Path) -> pd.DataFrame:
        return read_csv(folder / _CSV, [*_SETTINGS, *_METRICS.values()])

    def process(self, folder: Path) -> MeasurementTable:
        import pandas as pd

        frame = self.table(folder)
        done = frame[frame["hls_synth_success"].astype(str).str.upper() == "TRUE"]
        keys = [f"dense {r.d_in} {r.d_out} {r.prec} {r.rf}" for r in done.itertuples()]
        digests, graphs = lazy_graphs(self.name, keys, layer, self.progress)
        digest = pd.Series(digests, index=done.index)
        rows = [
            published(
                digest[group.index],
                f"xcvu13p/hls4ml/{strategy}",
                metric,
                group[column],
                versions={"source": self.name},
            )
            for strategy, group in done.groupby("strategy")
            for metric, column in _METRICS.items()
        ]
        shapes = (f"{self.name} {r.d_in}x{r.d_out}" for r in done.itertuples())
        return MeasurementTable(
            pd.concat(rows, ignore_index=True), graphs, dict(zip(digests, shapes, strict=True))
        )
