"""Scores of machines that a model never saw."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from hardsight.datasets.sources import get_source
from hardsight.prediction import FloatArray
from hardsight.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

SEEDS = (0, 1, 2)
PROTOCOLS = ("machine", "processor", "published")
TRIVIAL = "median"
MODELS = (TRIVIAL, "ridge", "forest", "boosting", "attention")
CACHES = tuple(f"SVR.CPU.{cache} Cache" for cache in ("L1d", "L1i", "L2", "L3"))
_KNOBS = ("L1 Next Page Prefetcher", "AMP Prefetch", "Memory Encryption (TME)", "SW Guard Extensions (SGX)")

# Left out: identities (pod, host, cluster, time), and readings of the moment (free and cached memory, current clock).
GROUPS = {
    "cpu": (
        "SVR.CPU.CPU Model", "SVR.CPU.Base Frequency", "SVR.CPU.Maximum Frequency",
        "SVR.CPU.All-core Maximum Frequency", "SVR.CPU.Core(s) per Socket", "SVR.CPU.CPU(s)",
        "SVR.CPU.NUMA Node(s)", *CACHES, "SVR.Accelerators", "META.metadata.cscope.stepping",
    ),
    "memory": ("SVR.Memory.Installed", "SVR.Memory.MemTotal", "SVR.Memory.Automatic NUMA Balancing"),
    "bios": tuple(f"BIOS.{knob}" for knob in (*_KNOBS, "Volatile Memory Mode", "SNC", "Fan PWM Offset")),
    "dimm": tuple(f"Measure.DIMM.{what}" for what in ("Population", "Num", "Total", "PartNo", "Freq")),
    "system": ("SVR.System.OS", "SVR.System.Microcode"),
    "workload": tuple(f"RESULT.{what}" for what in ("WorkloadName", "WorkloadVersion", "WorkloadPreset", "TestName")),
}  # fmt: skip


def load() -> pd.DataFrame:
    """Both published parts, with ``machine``, ``processor``, ``workload``, ``test`` and ``log`` of the score added.

    One run is published twice under two pods, its times included; one copy is kept.

    Raises:
        DataError: it is neither below ``HARDSIGHT_DATA`` nor fetched; says how to fetch it.
    """
    source = get_source("perfcastdb")
    frame = source.table(source.find())
    frame = frame.drop_duplicates([name for name in frame if name != "kubernetes.pod_id"], ignore_index=True)
    return one_unit(frame).assign(
        machine=frame["RESULT.kubernetes.host"],
        processor=frame["SVR.CPU.CPU Model"],
        workload=frame["RESULT.WorkloadName"],
        test=frame["RESULT.WorkloadName"] + " / " + frame["RESULT.TestName"],
        log=np.log(frame["RESULT.Value"]),
    )


def one_unit(frame: pd.DataFrame) -> pd.DataFrame:
    """Caches in KiB, L1 and L2 per core, L3 per socket: one machine gives MiB over both sockets."""
    frame = frame.astype(dict.fromkeys(CACHES, float))
    summed = frame["SVR.CPU.L2 Cache"] < 1024  # KiB; every core of this generation has 2048
    for name in CACHES:
        parts = frame["SVR.CPU.Socket(s)"] * (1 if "L3" in name else frame["SVR.CPU.Core(s) per Socket"])
        frame.loc[summed, name] *= 1024 / parts[summed]
    return frame


def folds(frame: pd.DataFrame, protocol: str) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Rows to learn from and rows to predict: one machine, all machines of one processor, or the published test part.

    Rows of a test that no training row is of are among neither: every answer starts from a known score.
    """
    by, values = ("split", ["test"]) if protocol == "published" else (protocol, sorted(set(frame[protocol])))
    for value in values:
        train, held = frame[frame[by] != value], frame[frame[by] == value]
        yield train, held[held["test"].isin(set(train["test"]))]


def centre(train: pd.DataFrame, frame: pd.DataFrame) -> FloatArray:
    """Median of the training rows' log scores of the same test, for each row of a frame ``(n,)``."""
    found: FloatArray = frame["test"].map(train.groupby("test")["log"].median()).to_numpy(float)
    return found


def models(frame: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Name to unfitted model; sizes are the libraries' own and our first choice, none was chosen by these scores."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    from hardsight.predictors.device_encoder import DeviceEncoder, DeviceEncoderConfig

    columns = frame[list(chain.from_iterable(GROUPS.values()))]
    numbers = list(columns.select_dtypes("number"))
    words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)  # missing is a word, too
    read = make_column_transformer(
        (words, [c for c in columns if c not in numbers]), (StandardScaler(), numbers)
    )
    return {
        "ridge": make_pipeline(read, Ridge()),
        "forest": make_pipeline(read, RandomForestRegressor(random_state=seed)),
        "boosting": make_pipeline(read, HistGradientBoostingRegressor(random_state=seed)),
        "attention": DeviceEncoder(GROUPS, DeviceEncoderConfig(seed=seed)),
    }  # fmt: skip


def predict(frame: pd.DataFrame, protocol: str, progress: Progress | None = None) -> pd.DataFrame:
    """Every score that a protocol holds out, by every model.

    Models learn the log score less the training median of its test, which makes units comparable.

    Returns:
        One row per score, model and seed: ``machine, workload, test, label, protocol, model, seed, value``; label and
        value in the test's own unit.
    """
    import pandas as pd

    parts = []
    work = list(folds(frame, protocol))
    for done, (train, held) in enumerate(work, 1):
        target, start = train["log"].to_numpy(float) - centre(train, train), centre(train, held)
        said = held[["machine", "workload", "test"]].assign(label=held["RESULT.Value"], protocol=protocol)
        for seed in SEEDS:
            parts.append(said.assign(model=TRIVIAL, seed=seed, value=np.exp(start)))
            for name, model in models(frame, seed).items():
                value = np.exp(start + model.fit(train, target).predict(held))
                parts.append(said.assign(model=name, seed=seed, value=value))
        if progress:
            progress(f"held out: {protocol}", done, len(work))
    return pd.concat(parts, ignore_index=True)
