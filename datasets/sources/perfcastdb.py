"""PerfCastDB: benchmark scores of server processors with the machine's description.

It holds no neural network: SPEC rates, HPCG, Stream and memory latency and bandwidth. The public sample is of 13
machine runs, enough to see how a machine can be described and too small to judge a model by.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hardsight.datasets.sources._base import Source, github, read_csv
from hardsight.errors import NotSupportedError
from hardsight.measurement import MeasurementTable

if TYPE_CHECKING:
    import pandas as pd

_COMMIT = "dd5ca2b2890e95f68027ed97efafc065698d6809"
_COLUMNS = ("RESULT.WorkloadName", "RESULT.TestName", "RESULT.Value", "SVR.CPU.CPU Model")


class PerfCastDb(Source):
    """280 scores of 4 to 5 processor models (Liu, "Towards CPU Performance Prediction", 2024)."""

    name = "perfcastdb"
    folder = "perfcastdb-sample"
    files = (
        github(
            "xiaoman-liu/NCPP",
            _COMMIT,
            "data/raw/SPR/train_data.csv",
            sha256="72896f399eb821b5bf8c9a11eca73244299f9c7df7c2575cdecd053590f1f3b5",
            size=217596,
        ),
        github(
            "xiaoman-liu/NCPP",
            _COMMIT,
            "data/raw/SPR/test_data.csv",
            sha256="a810ee66ce1915d618cdaa7b4e9ef3db7361f8b70fcb55f807356072782181db",
            size=200638,
        ),
    )
    plain = ("train.csv", "test.csv")
    licence = "Apache-2.0"
    citation = (
        "X. Liu: Towards CPU Performance Prediction: New Challenge Benchmark Dataset and Novel Approach, 2024 "
        "(Copyright Intel)"
    )
    rows = 280

    def convert(self, raw: Path, out: Path) -> None:
        for original, plain in zip(self.files, self.plain, strict=True):
            (out / plain).write_bytes((raw / original.name).read_bytes())

    def table(self, folder: Path) -> pd.DataFrame:
        """Both parts, told apart by the column ``split``; a score's unit depends on ``RESULT.TestName``."""
        import pandas as pd

        parts = {Path(name).stem: read_csv(folder / name, _COLUMNS) for name in self.plain}
        return pd.concat([frame.assign(split=name) for name, frame in parts.items()], ignore_index=True)

    def process(self, folder: Path) -> MeasurementTable:
        raise NotSupportedError(
            f"'{self.name}' holds scores of server benchmarks and no neural network; read them with table()"
        )
