"""N-TORC: high-level synthesis of Conv1D, LSTM and dense layers, taken out of whole hls4ml designs.

The designs are 16-bit fixed point for a Zynq UltraScale+ at 250 MHz, Vivado HLS 2019.1. Layers recur from design to
design with almost the same numbers, so the published rows of a configuration become one label, their median.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hardsight.datasets.sources._base import RemoteFile, Source, github, published, read_csv
from hardsight.datasets.sources._graphs import lazy_graphs
from hardsight.datasets.sources._hls4ml import layer
from hardsight.device import Device
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

_BITS = 16
_RESOURCES = {Metric.BRAM_18K: "bram_18k", Metric.LUT: "lut", Metric.FF: "ff", Metric.DSP: "dsp48e"}
_LATENCY = {Metric.CYCLES: "latency_max"}
_SIZES = ("inputs", "outputs", "length", "reuse")


class _File(NamedTuple):
    """One published file.

    Args:
        kind: of the layers, as `_hls4ml.layer` calls it.
        labels: metric to column.
        sizes: columns of inputs, outputs, sequence length and legal reuse factor.
        original: its name upstream.
        sha256: of the original, whose bytes the plain copies have.
        size: in bytes.
    """

    kind: str
    labels: dict[Metric, str]
    sizes: tuple[str, str, str, str]
    original: str
    sha256: str
    size: int

    @property
    def plain(self) -> str:
        return f"{self.kind}_{'latency' if self.labels is _LATENCY else 'resources'}.csv"


_FILES = (
    _File(
        "dense",
        _RESOURCES,
        (
            "n_inputs_resources",
            "dense_size_resource",
            "sequence_length_resource",
            "correct_reuse_factor_dense_resource",
        ),
        "dense_resources_collapsed.csv",
        "aa1ac9fe3acf3d8286bffe0a5833bc090f7010c88f9924a52c9be4729f6318ae",
        263404,
    ),
    _File(
        "dense",
        _LATENCY,
        (
            "n_inputs_latency",
            "dense_size_latency",
            "sequence_length_latency",
            "correct_reuse_factor_dense_latency",
        ),
        "dense_latency_collapsed.csv",
        "901a342669d66131a584bac7e04b9d26ab1dc914b28a0ef5a7309dee7b9ba394",
        226752,
    ),
    _File(
        "conv1d",
        _RESOURCES,
        (
            "n_inputs_resources",
            "cnn_filters_resources",
            "sequence_length_resource",
            "correct_reuse_factor_resource",
        ),
        "collapsed_conv_resources.csv",
        "2899f196bd6a2dd6ed0415e1a077354f42e1a4583e377f52c465569d78c698c9",
        187902,
    ),
    _File(
        "conv1d",
        _LATENCY,
        (
            "n_inputs_latency",
            "cnn_filters_latency",
            "sequence_length_latency",
            "correct_reuse_factor_latency",
        ),
        "conv_latency_collapsed.csv",
        "10d2403896cd734f764d3faed2c0404c337207c8a93d83b4b6ae4b5432f4b2df",
        158812,
    ),
    _File(
        "lstm",
        _RESOURCES,
        ("n_inputs_resources", "lstm_size", "sequence_length_resource", "correct_reuse_factor_lstm_resource"),
        "lstm_resources_collapsed.csv",
        "1bc27144b3554211e2ad4bbf055099019057ecbf9c9dd08fd29a91805c9c3015",
        27871,
    ),
    _File(
        "lstm",
        _LATENCY,
        ("n_inputs_latency", "lstm_size", "sequence_length_latency", "correct_reuse_factor_lstm_latency"),
        "lstm_latency_collapsed.csv",
        "fba15a7af4aa0f673210bc397953442f9fd35c1d82014cbbe2ee8196c3da1bf6",
        24322,
    ),
)


def _remote(file: _File) -> RemoteFile:
    path = f"training_data_optimizer/{file.original}"
    commit = "bdd6413d62f35fdef30aa72ba33261b34a9193a4"
    return github("HeRCLab/N-TORC", commit, path, sha256=file.sha256, size=file.size)


def _device(strategy: str) -> Device:
    return Device(
        name=f"xczu7ev/hls4ml/{strategy}",
        kind="fpga",
        description=f"hls4ml, {strategy} strategy, stream interface, xczu7ev-ffvc1156-2-e at 4 ns, Vivado HLS estimate",
        runtime_version="Vivado HLS 2019.1",
        precisions=(f"int{_BITS}",),
        clock_hz=250e6,
        provenance="published",
    )


class NTorc(Source):
    """10,141 rows of 404 layer configurations (Singh et al., "N-TORC", FCCM 2025)."""

    name = "ntorc"
    folder = "ntorc-hls4ml-layers"
    files = tuple(_remote(file) for file in _FILES)
    plain = tuple(file.plain for file in _FILES)
    licence = "MIT"
    citation = "S. V. Singh et al.: N-TORC: Native Tensor Optimizer for Real-time Constraints, FCCM 2025"
    rows = 10141
    devices = (_device("latency"), _device("resource"))

    def convert(self, raw: Path, out: Path) -> None:
        for file in _FILES:
            (out / file.plain).write_bytes((raw / file.original).read_bytes())

    def table(self, folder: Path) -> pd.DataFrame:
        """One row per published number.

        Columns: ``kind``, ``inputs``, ``outputs``, ``length``, ``reuse`` (the legal factor), ``metric``, ``value``.
        """
        import pandas as pd

        frames = []
        for file in _FILES:
            read = read_csv(folder / file.plain, [*file.sizes, *file.labels.values()])
            read = read.rename(columns=dict(zip(file.sizes, _SIZES, strict=True)))
            for metric, column in file.labels.items():
                frame = read[list(_SIZES)].assign(kind=file.kind, metric=str(metric), value=read[column])
                frames.append(frame)
        columns = ["kind", *_SIZES, "metric", "value"]
        return pd.concat(frames, ignore_index=True)[columns]

    def process(self, folder: Path) -> MeasurementTable:
        import pandas as pd

        frame = self.table(folder)
        keys = [_key(*row) for row in zip(*(frame[name] for name in ("kind", *_SIZES)), strict=True)]
        digests, graphs = lazy_graphs(self.name, keys, layer, self.progress)
        digest = pd.Series(digests, index=frame.index)
        # what the designs' generator does: reuse factor 1 selects the latency strategy
        strategy = frame["reuse"].eq(1).map({True: "latency", False: "resource"})
        rows = [
            published(
                digest[group.index],
                f"xczu7ev/hls4ml/{name}",
                Metric(metric),
                group["value"],
                versions={"source": self.name, "vivado_hls": "2019.1"},
            )
            for (name, metric), group in frame.groupby([strategy, "metric"])
        ]
        families = {d: f"{self.name} {' '.join(k.split()[:-2])}" for d, k in zip(digests, keys, strict=True)}
        return MeasurementTable(pd.concat(rows, ignore_index=True), graphs, families)


def _key(kind: str, inputs: int, outputs: int, length: int, reuse: int) -> str:
    sizes = f"{inputs} {outputs}" if kind == "dense" else f"{inputs} {outputs} {length}"
    return f"{kind} {sizes} {_BITS} {reuse}"
