"""timm: throughput of over a thousand real image models on GPUs and CPUs, and their ImageNet accuracy.

The tables name models and hold no graphs, and their times are of batches of varying size: they are tables, not
labels. Who has the timm package can build a model by its name, export it and tie a row to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hardsight.datasets.sources._base import Source, github, read_csv
from hardsight.errors import DataError, NotSupportedError
from hardsight.measurement import MeasurementTable

if TYPE_CHECKING:
    import pandas as pd

_COMMIT = "aa4b5850c1543fa488abf260f18390eda46cf85d"
_BENCHMARKS = "timm_infer_benchmarks.csv"
_ACCURACIES = "timm_imagenet_top1.csv"
_RUN = ("precision", "layout", "torch", "cuda", "device", "dynamo")
_VALUES = (
    "model",
    "infer_samples_per_sec",
    "infer_step_time",
    "infer_batch_size",
    "infer_img_size",
    "infer_gmacs",
    "infer_macts",
    "param_count",
)


class _Run(NamedTuple):
    """One benchmark file; what was run is in its name."""

    precision: str
    layout: str
    torch: str
    cuda: str
    device: str
    dynamo: int

    @property
    def file(self) -> str:
        compiled = "-dynamo" if self.dynamo else ""
        name = f"{self.precision}-{self.layout}-pt{self.torch}-{self.cuda}-{self.device}"
        return f"benchmark-infer-{name}{compiled}.csv"


_RUNS = (
    _Run("amp", "nchw", "113", "cu117", "rtx3090", 0),
    _Run("amp", "nchw", "210", "cu121", "rtx3090", 0),
    _Run("amp", "nchw", "240", "cu124", "rtx3090", 0),
    _Run("amp", "nchw", "240", "cu124", "rtx4090", 1),
    _Run("amp", "nchw", "240", "cu124", "rtx4090", 0),
    _Run("amp", "nchw", "291", "cu128", "4090", 1),
    _Run("amp", "nchw", "291", "cu128", "4090", 0),
    _Run("amp", "nchw", "291", "cu130", "5090", 1),
    _Run("amp", "nchw", "291", "cu130", "5090", 0),
    _Run("amp", "nchw", "291", "cu130", "pro6000maxq", 1),
    _Run("amp", "nchw", "291", "cu130", "pro6000maxq", 0),
    _Run("amp", "nhwc", "113", "cu117", "rtx3090", 0),
    _Run("amp", "nhwc", "210", "cu121", "rtx3090", 0),
    _Run("amp", "nhwc", "240", "cu124", "rtx3090", 0),
    _Run("amp", "nhwc", "240", "cu124", "rtx4090", 0),
    _Run("amp_bf16", "nchw", "291", "cu130", "pro6000maxq", 1),
    _Run("bf16", "nchw", "291", "cu130", "pro6000maxq", 1),
    _Run("fp32", "nchw", "221", "cpu", "i9_10940x", 1),
    _Run("fp32", "nchw", "240", "cpu", "i7_12700h", 1),
    _Run("fp32", "nchw", "240", "cpu", "i9_10940x", 1),
)


class TimmThroughput(Source):
    """28,768 rows: about 1,600 models in 20 runs (Wightman, "PyTorch Image Models")."""

    name = "timm"
    folder = "timm-throughput"
    files = (
        *(github("huggingface/pytorch-image-models", _COMMIT, f"results/{run.file}") for run in _RUNS),
        github(
            "huggingface/pytorch-image-models",
            _COMMIT,
            "results/results-imagenet.csv",
            sha256="30972bf7c7ab451bbd4480ec6116b13d0a84441c57bbc946896fd312264acfcd",
            size=123104,
        ),
    )
    plain = (_BENCHMARKS, _ACCURACIES)
    licence = "Apache-2.0"
    citation = "R. Wightman: PyTorch Image Models, github.com/huggingface/pytorch-image-models"
    rows = 28768

    def convert(self, raw: Path, out: Path) -> None:
        import pandas as pd

        frames = []
        for run in _RUNS:
            frame = read_csv(raw / run.file, _VALUES, dtype=str)
            frames.append(frame[list(_VALUES)].assign(**run._asdict()))
        stacked = pd.concat(frames, ignore_index=True)[[*_RUN, *_VALUES]]
        if len(stacked) != self.rows:
            raise DataError(f"the originals of '{self.name}' have {len(stacked)} rows, not {self.rows}")
        stacked.to_csv(out / _BENCHMARKS, index=False)
        (out / _ACCURACIES).write_bytes((raw / "results-imagenet.csv").read_bytes())

    def table(self, folder: Path) -> pd.DataFrame:
        """Columns as in the README of the plain copy, and ``samples_per_s``, ``step_time_s``, ``macs`` in SI units."""
        frame = read_csv(folder / _BENCHMARKS, [*_RUN, *_VALUES], dtype={"torch": str, "device": str})
        return frame.assign(
            samples_per_s=frame["infer_samples_per_sec"],
            step_time_s=frame["infer_step_time"] * 1e-3,
            macs=frame["infer_gmacs"] * 1e9,
            dynamo=frame["dynamo"].astype(bool),
        )

    def accuracies(self, folder: Path) -> pd.DataFrame:
        """ImageNet accuracy of pretrained models, in percent."""
        return read_csv(folder / _ACCURACIES, ("model", "img_size", "top1", "top5", "param_count"))

    def process(self, folder: Path) -> MeasurementTable:
        raise NotSupportedError(
            f"the rows of '{self.name}' name models and hold no graph, and their batch sizes vary; read them with "
            "table(), and build a model by its name with the timm package"
        )
