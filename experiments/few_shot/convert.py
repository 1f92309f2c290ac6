"""Public tables of other forms → the form that `hardsight.predictors.few_shot.tables` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardsight.datasets.sources import get_source
from hardsight.prediction import FloatArray

if TYPE_CHECKING:
    import pandas as pd

_MOST_LAYERS = 6  # of HAT's encoders and decoders
_ABSENT = -1
_ACCELERATORS = ("zcu102", "vck190", "tpuv2", "tpuv3", "a100", "3090")


def write(
    folder: Path,
    space: str,
    archs: pd.DataFrame,
    costs: Mapping[str, FloatArray],
    tasks: Mapping[str, Sequence[str]],
) -> None:
    """One search space in a folder.

    Args:
        folder: made where it does not exist.
        space: name of the files.
        archs: ``(n, c)`` choices.
        costs: by device ``(n,)``, NaN where not measured.
        tasks: by name the devices held out; all others are known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archs.to_csv(folder / f"{space}_archs.csv", index_label="index")
    np.savez_compressed(
        folder / f"{space}_latency.npz",
        devices=np.array(list(costs)),
        latency=np.stack(list(costs.values()), axis=1),
    )
    splits = {
        name: {"source": [d for d in costs if d not in targets], "target": list(targets)}
        for name, targets in tasks.items()
    }
    (folder / "splits.json").write_text(json.dumps({"leave one out": {space: splits}}, indent=1))


def write_accel_nasbench(folder: Path) -> None:
    """Each of six accelerators held out; the cost is the time per image, as throughputs are published."""
    source = get_source("accel-nasbench")
    frame = source.table(source.find())
    archs = frame[[f"block{i}_{part}" for i in range(7) for part in ("e", "k", "l", "se")]].astype(int)
    archs.columns = [f"{part}_{i}" for i in range(7) for part in ("e", "k", "l", "se")]
    costs = {d: 1 / frame[f"throughput_{d}_mean"].to_numpy(np.float64) for d in _ACCELERATORS}
    write(folder, "accel", archs, costs, {f"accel/{d}": [d] for d in costs})


def write_hat(folder: Path) -> None:
    """Each of three machines held out, with all its translation tasks; the cost is encoder and decoder together.

    No two files of HAT's have the same architectures, so that a known device is known for no architecture of
    a target. Layers are the likeliest with the published averages, see `hardsight.datasets.sources.hat`.
    """
    import pandas as pd

    source = get_source("hat")
    frame = source.table(source.find())
    archs = pd.DataFrame([_hat_choices(row) for row in frame.to_dict("records")])
    total = (frame["latency_mean_encoder"] + frame["latency_mean_decoder"]).to_numpy(np.float64)
    columns = frame["machine"] + "_" + frame["task"]
    costs = {str(c): np.where(columns == c, total, np.nan) for c in sorted(columns.unique())}
    machines = sorted(frame["machine"].unique())
    write(folder, "hat", archs, costs, {f"hat/{m}": [c for c in costs if c.startswith(m)] for m in machines})


def _hat_choices(row: Mapping[str, Any]) -> dict[str, int]:
    from hardsight.datasets.sources.hat import decoder_of, encoder_of

    encoder, decoder = encoder_of(row), decoder_of(row)
    layers = {
        "encoder_ffn": encoder.ffn, "encoder_heads": encoder.heads, "decoder_ffn": decoder.ffn,
        "decoder_heads": decoder.heads, "cross_heads": decoder.cross_heads, "sources": decoder.sources,
    }  # fmt: skip
    choices = {"encoder_embed": encoder.embed, "decoder_embed": decoder.embed}
    for name, values in layers.items():
        padded = [*values, *[_ABSENT] * (_MOST_LAYERS - len(values))]
        choices |= {f"{name}_{i}": value for i, value in enumerate(padded)}
    return choices
