"""TF-NAS: latencies of single inverted bottlenecks on a CPU and a GPU, for every width between input and output.

Of the 72,962 rows only those whose width is that of the input plus a multiple of 8 were measured. Upstream drew
straight lines between them, and on below the input's width, where its code builds no other block; that is where the
negative values come from. It also sorted each series before (make_lat_lut_example.py), so that a value may be that
of a neighbouring width. `TfNas.table` has all rows; labels are the measured ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardsight.datasets.sources import _graphs_tfnas
from hardsight.datasets.sources._base import Source, github, published, read_csv
from hardsight.datasets.sources._graphs import lazy_graphs
from hardsight.datasets.sources._pickles import read_pickle
from hardsight.device import Device
from hardsight.errors import DataError
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

_REPOSITORY, _COMMIT = "AberHu/TF-NAS", "08b31a2e6dc2386ae72890369847c2206745006a"
_SHAPE = ("resolution", "c_in", "c_se", "c_out", "kernel", "stride")
_COLUMNS = ("device", "block", *_SHAPE, "act", "c_mid", "latency_ms")
_STEP = 8  # between the widths that were measured
_RUNS = 1000
_MACHINES = {"xeon_gold_6130_bs1": ("cpu", 1), "titan_rtx_bs32": ("gpu", 32)}
"""Which of upstream's files, and the batch size, by the plain table's name of the device."""


class TfNas(Source):
    """MBConv blocks at every width (Hu et al., "TF-NAS", ECCV 2020), PyTorch 1.1, mean of 1,000 runs."""

    name = "tf-nas"
    folder = "tfnas-block-latency"
    files = tuple(
        github(_REPOSITORY, _COMMIT, f"latency_pkl/latency_{part}.pkl") for part, _ in _MACHINES.values()
    )
    plain = ("mbconv_block_latency.csv",)
    licence = "MIT"
    citation = (
        "Y. Hu, X. Wu, R. He: TF-NAS: Rethinking Three Search Freedoms of Latency-Constrained Differentiable Neural "
        "Architecture Search, ECCV 2020"
    )
    rows = 72962
    devices = (
        Device(
            name="xeon-gold-6130/tf-nas/fp32-t1",
            kind="cpu",
            description="Intel Xeon Gold 6130 at 2.1 GHz, PyTorch 1.1, one MKL thread, batch 1",
            runtime_version="1.1",
            provenance="published",
        ),
        Device(
            name="titan-rtx/tf-nas/fp32",
            kind="gpu",
            description="NVIDIA Titan RTX, PyTorch 1.1 with cuDNN 7.6.0, batch 32",
            runtime_version="1.1",
            provenance="published",
        ),
    )

    def convert(self, raw: Path, out: Path) -> None:
        import pandas as pd

        records: list[dict[str, Any]] = []
        for machine, (part, _) in _MACHINES.items():
            content = read_pickle(raw / f"latency_{part}.pkl")
            try:
                for key, found in content.items():
                    records += _records(machine, key, found)
            except (AttributeError, ValueError, TypeError) as error:
                raise DataError(f"latency_{part}.pkl is not the table expected: {error}") from error
        frame = pd.DataFrame(records, columns=list(_COLUMNS))
        whole = dict.fromkeys((*_SHAPE, "c_mid"), "Int64")  # empty in the rows called base
        frame.astype(whole).to_csv(out / self.plain[0], index=False)

    def table(self, folder: Path) -> pd.DataFrame:
        """All rows; ``measured`` says which are no straight line between others (of ``base``: a sum of five)."""
        frame = read_csv(folder / self.plain[0], _COLUMNS, dtype=dict.fromkeys((*_SHAPE, "c_mid"), "Int64"))
        over = frame["c_mid"] - frame["c_in"]
        frame["measured"] = ((over >= 0) & (over % _STEP == 0)).fillna(False).astype(bool)
        return frame

    def process(self, folder: Path) -> MeasurementTable:
        import pandas as pd

        frame = self.table(folder)
        blocks = frame[frame["measured"]]
        keys = [
            _graphs_tfnas.encode(
                batch=_MACHINES[row["device"]][1],
                act=row["act"],
                **{name: int(row[name]) for name in (*_SHAPE, "c_mid")},
            )
            for row in blocks.to_dict("records")
        ]
        digests, graphs = lazy_graphs(self.name, keys, _graphs_tfnas.graph, self.progress)
        digest_of = pd.Series(digests, index=blocks.index)
        rows = []
        for machine, device in zip(_MACHINES, self.devices, strict=True):
            here = blocks[blocks["device"] == machine]
            rows.append(
                published(
                    digest_of[here.index].tolist(),
                    device.name,
                    Metric.LATENCY,
                    here["latency_ms"] * 1e-3,
                    repeats=_RUNS,
                    versions={"source": self.name, "torch": "1.1"},
                )
            )
        return MeasurementTable(pd.concat(rows, ignore_index=True), graphs, dict.fromkeys(graphs, self.name))


def _records(machine: str, key: str, found: Any) -> list[dict[str, Any]]:
    """Rows of one entry: ``base`` is a number, ``MBInvertedResBlock_112_16_0_24_k3_s2_relu`` a number per width."""
    if key == "base":
        return [{"device": machine, "block": key, "latency_ms": float(found)}]
    block, resolution, c_in, c_se, c_out, kernel, stride, act = key.split("_")
    shape = (resolution, c_in, c_se, c_out, kernel.removeprefix("k"), stride.removeprefix("s"))
    fixed = {"device": machine, "block": block, "act": act, **dict(zip(_SHAPE, map(int, shape), strict=True))}
    return [{**fixed, "c_mid": int(width), "latency_ms": float(value)} for width, value in found.items()]
