"""HAT: encoder and decoder latencies of translation Transformers on a server CPU, a GPU and a Raspberry Pi.

Upstream published averages over the layers only. The graph of a row has the layers that are likeliest, given
that upstream drew each choice uniformly and that they have this average; the wider come first. The total of
multiply-accumulates, weights and operators is the true one whatever the layers, for all are linear in what is
averaged; which layer has which width is a guess.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardsight.datasets.sources._base import Source, github, published, read_csv
from hardsight.datasets.sources._graphs import lazy_graphs
from hardsight.datasets.sources._graphs_hat import Decoder, Encoder, graph
from hardsight.device import Device
from hardsight.errors import DataError
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

_REPOSITORY, _COMMIT = "mit-han-lab/hardware-aware-transformers", "70e5a279d080670208249fdd98ed731fa9bcc466"
_FILES = (
    *("iwslt14deen_gpu_titanxp", "wmt14ende_cpu_raspberrypi", "wmt14ende_cpu_xeon", "wmt14ende_gpu_titanxp"),
    *("wmt14enfr_cpu_raspberrypi", "wmt14enfr_cpu_xeon", "wmt14enfr_gpu_titanxp", "wmt19ende_gpu_titanxp"),
)
_ENCODER = (
    "encoder_embed_dim",
    "encoder_layer_num",
    "encoder_ffn_embed_dim_avg",
    "encoder_self_attention_heads_avg",
)
_DECODER = (
    *(
        "decoder_embed_dim",
        "decoder_layer_num",
        "decoder_ffn_embed_dim_avg",
        "decoder_self_attention_heads_avg",
    ),
    *("decoder_ende_attention_heads_avg", "decoder_arbitrary_ende_attn_avg"),
)
_LATENCIES = tuple(f"latency_{kind}_{part}" for kind in ("mean", "std") for part in ("encoder", "decoder"))
_WIDTHS, _HEADS, _SOURCES = (512, 1024, 2048, 3072), (2, 4, 8), (1, 2, 3)
_MEDIAN = 1.2533  # how much wider the median's interval is than the mean's, for normal noise


def _device(name: str, kind: Any, description: str) -> Device:
    return Device(name=name, kind=kind, description=description, provenance="published")


_DEVICES = {
    "gpu_titanxp": _device("titan-xp/hat/fp32", "gpu", "NVIDIA Titan Xp, PyTorch"),
    "cpu_xeon": _device("xeon-e5-2640/hat/fp32", "cpu", "Intel Xeon E5-2640, PyTorch"),
    "cpu_raspberrypi": _device("raspberry-pi-4/hat/fp32", "cpu", "Raspberry Pi 4 with a Cortex-A72, PyTorch"),
}
_RUNS = {"gpu_titanxp": 20, "cpu_xeon": 20, "cpu_raspberrypi": 2}
"""``latiter`` of upstream's configurations."""


class Hat(Source):
    """Eight files of 2,000 Transformers (Wang et al., "HAT", ACL 2020), two labels each.

    The spread is half the 95 % interval of a median, from the published standard deviation and the runs. Rows with
    the same averages are one graph here: its label is their median, and its spread theirs.
    """

    name = "hat"
    folder = "hat-transformer-latency"
    files = tuple(github(_REPOSITORY, _COMMIT, f"latency_dataset/{name}_all.csv") for name in _FILES)
    plain = tuple(f"{name}.csv" for name in _FILES)
    licence = "MIT"
    citation = (
        "H. Wang, Z. Wu, Z. Liu, H. Cai, L. Zhu, C. Gan, S. Han: HAT: Hardware-Aware Transformers for Efficient "
        "Natural Language Processing, ACL 2020"
    )
    rows = 16000
    devices = tuple(_DEVICES.values())

    def convert(self, raw: Path, out: Path) -> None:
        for name in _FILES:
            read_csv(raw / f"{name}_all.csv", [*_ENCODER, *_DECODER, *_LATENCIES])
            shutil.copyfile(raw / f"{name}_all.csv", out / f"{name}.csv")

    def table(self, folder: Path) -> pd.DataFrame:
        """The files stacked, with ``task`` and ``machine`` from their names; milliseconds."""
        import pandas as pd

        frames = []
        for name in _FILES:
            frame = read_csv(folder / f"{name}.csv", [*_ENCODER, *_DECODER, *_LATENCIES])
            task, _, machine = name.partition("_")
            frame.insert(0, "task", task)
            frame.insert(1, "machine", machine)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def process(self, folder: Path) -> MeasurementTable:
        import pandas as pd

        frame = self.table(folder)
        records = frame.to_dict("records")
        encoders = [encoder_of(row).encode() for row in records]
        decoders = [decoder_of(row).encode() for row in records]
        digests, graphs = lazy_graphs(self.name, [*encoders, *decoders], graph, self.progress)
        of_part = {"encoder": digests[: len(frame)], "decoder": digests[len(frame) :]}
        rows = list(self._labels(frame, of_part))
        return MeasurementTable(pd.concat(rows, ignore_index=True), graphs, dict.fromkeys(graphs, self.name))

    def _labels(self, frame: pd.DataFrame, digests: Mapping[str, list[str]]) -> Iterator[pd.DataFrame]:
        for part, all_digests in digests.items():
            for machine, device in _DEVICES.items():
                here = (frame["machine"] == machine).to_numpy()
                mean, std = (frame.loc[here, f"latency_{kind}_{part}"].to_numpy() for kind in ("mean", "std"))
                runs = _RUNS[machine]
                yield published(
                    [digest for digest, wanted in zip(all_digests, here, strict=True) if wanted],
                    device.name,
                    Metric.LATENCY,
                    mean * 1e-3,
                    spread=1.96 * _MEDIAN * std / np.sqrt(runs) / mean,
                    repeats=runs,
                    versions={"source": self.name, "part": part},
                )


def encoder_of(row: Mapping[str, Any]) -> Encoder:
    """The encoder of a row of `Hat.table`."""
    embed, layers, ffn, heads = (row[name] for name in _ENCODER)
    return Encoder(row["task"], int(embed), layers_of(_WIDTHS, layers, ffn), layers_of(_HEADS, layers, heads))


def decoder_of(row: Mapping[str, Any]) -> Decoder:
    """The decoder of a row of `Hat.table`."""
    embed, layers, ffn, heads, cross_heads, sources = (row[name] for name in _DECODER)
    return Decoder(
        row["task"],
        int(embed),
        int(row["encoder_embed_dim"]),
        layers_of(_WIDTHS, layers, ffn),
        layers_of(_HEADS, layers, heads),
        layers_of(_HEADS, layers, cross_heads),
        layers_of(_SOURCES, layers, sources),
    )


def layers_of(choices: tuple[int, ...], layers: int, average: float) -> tuple[int, ...]:
    """The likeliest choices of ``layers`` layers with that average, the largest first.

    Raises:
        DataError: no choices have it.
    """
    total = round(average * layers)
    found = _likeliest(choices, int(layers)).get(total)
    if found is None or not math.isclose(total, average * layers, abs_tol=1e-6):
        raise DataError(f"no {layers} layers out of {choices} have an average of {average}")
    return found


@cache
def _likeliest(choices: tuple[int, ...], layers: int) -> dict[int, tuple[int, ...]]:
    """For each total the combination that comes in most orders; of equals the one with the widest layer."""
    best: dict[int, tuple[int, ...]] = {}
    for combination in combinations_with_replacement(sorted(choices, reverse=True), layers):
        other = best.setdefault(sum(combination), combination)
        if _orders(combination) > _orders(other):
            best[sum(combination)] = combination
    return best


def _orders(combination: tuple[int, ...]) -> int:
    ways = math.factorial(len(combination))
    for count in Counter(combination).values():
        ways //= math.factorial(count)
    return ways
