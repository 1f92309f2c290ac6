"""The experiment's scores and tables, from its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hardsight.experiments.device_scores.evaluate import MODELS, PROTOCOLS, TRIVIAL, centre, folds
from hardsight.experiments.readme_tables import markdown

if TYPE_CHECKING:
    import pandas as pd

_UNITS = {"HPCG": "GFLOPS", "Memory Latency Checker latency": "ns", "SPECrate2017": "score"}
_SHARES = (3, 5, 10)  # percent
_LEAST_WIN = 0.01  # of a log score: less is what repeats differ by


def score(rows: pd.DataFrame) -> dict[str, float]:
    """``mae``, which makes sense within one unit only; ``log_mae``, ``mape``, and ``within_3``, ``_5``, ``_10``."""
    label, value = rows["label"].to_numpy(float), rows["value"].to_numpy(float)
    off = np.abs(value - label) / label
    return {
        "n": len(rows),
        "mae": float(np.abs(value - label).mean()),
        "log_mae": float(np.abs(np.log(value / label)).mean()),
        "mape": float(off.mean()),
        **{f"within_{share}": float((off <= share / 100).mean()) for share in _SHARES},
    }


def scores(said: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """`score` of each group, mean over the seeds, by group; standard deviations as ``…_sd``."""
    import pandas as pd

    each = {key: score(rows) for key, rows in said.groupby([*by, "seed"])}
    grouped = pd.DataFrame(each).T.rename_axis([*by, "seed"]).groupby(list(by))
    return grouped.mean().join(grouped.std(ddof=0).add_suffix("_sd"))


def machines_won(said: pd.DataFrame) -> pd.Series:
    """By protocol and model, machines on which it is nearer than the trivial answer; mean over the seeds."""
    off = said.assign(off=np.abs(np.log(said["value"] / said["label"])))
    mean = off.groupby(["protocol", "seed", "machine", "model"])["off"].mean().unstack()
    won = mean.lt(mean[TRIVIAL] - _LEAST_WIN, axis=0).groupby(["protocol", "seed"]).sum()
    return won.groupby("protocol").mean().stack()


def scores_table(said: pd.DataFrame) -> str:
    """A row per protocol and model, all workloads together."""
    won, machines = machines_won(said), said.groupby("protocol")["machine"].nunique()
    rows = []
    for (protocol, model), of in scores(said, ("protocol", "model")).iterrows():
        shares = [
            f"{of[key]:.1%} ± {of[key + '_sd']:.1%}" for key in ("mape", *(f"within_{x}" for x in _SHARES))
        ]
        count = "–" if model == TRIVIAL else f"{won[protocol, model]:.1f} of {machines[protocol]}"
        log_mae = f"{of['log_mae']:.3f} ± {of['log_mae_sd']:.3f}"
        rows.append((protocol, model, str(int(of["n"])), log_mae, *shares, count))
    rows.sort(key=lambda row: (PROTOCOLS.index(row[0]), MODELS.index(row[1])))
    within = [f"within {share} %" for share in _SHARES]
    return markdown(("held out", "model", "n", "MAE of log", "MAPE", *within, "machines won"), rows)


def workloads_table(said: pd.DataFrame) -> str:
    """MAE in the workload's own unit, and MAPE, a machine held out."""
    found = scores(said[said["protocol"] == "machine"], ("workload", "model"))
    rows = []
    for workload in sorted(set(said["workload"])):
        own = found.loc[workload].loc[list(MODELS)]
        unit = next((unit for name, unit in _UNITS.items() if workload.startswith(name)), "MB/s")
        cells = (
            f"{x:,.{0 if x > 1000 else 1}f} / {p:.1%}" for x, p in zip(own["mae"], own["mape"], strict=True)
        )
        rows.append((workload, unit, *cells))
    return markdown(("workload", "unit", *MODELS), rows)


def data_table(frame: pd.DataFrame) -> str:
    """What was measured, and how far repeats and the two machines of a test are apart, in the median over the tests."""
    rows = []
    for workload, of in frame.groupby("workload"):
        cells = of.groupby(["test", "machine"])["log"]
        apart = cells.median().groupby("test").agg(np.ptp)
        apart = apart[of.groupby("test")["machine"].nunique() > 1]
        processors = of.groupby("machine")["processor"].first().str.split().str[-2:].str.join(" ")
        sizes = (str(of["test"].nunique()), str(len(of)), f"{cells.std().median():.2%}")
        rows.append((workload, " and ".join(processors), *sizes, f"{np.expm1(apart.median()):.1%}"))
    return markdown(("workload", "run on", "tests", "rows", "repeats vary by", "machines differ by"), rows)


def splits_table(frame: pd.DataFrame) -> str:
    """What there is to learn from under each protocol."""
    rows = []
    for protocol in PROTOCOLS:
        parts = list(folds(frame, protocol))
        both = sum(len(set(train["machine"]) & set(held["machine"])) for train, held in parts)
        of_test = [train[train["test"].isin(set(held["test"]))] for train, held in parts]
        most = max(part.groupby("test")["machine"].nunique().max() for part in of_test)
        pairs = [(train.groupby("workload")["machine"].nunique() > 1).sum() for train, _ in parts]
        spread = np.mean([np.std(train["log"] - centre(train, train)) for train, _ in parts])
        known = f"{min(pairs)} to {max(pairs)}" if min(pairs) < max(pairs) else str(pairs[0])
        rows.append((protocol, str(len(parts)), str(both), str(most), known, f"{spread:.4f}"))
    columns = ("held out", "folds", "machines on both sides", "training machines per held-out test, at most")
    return markdown((*columns, "workloads with two training machines", "sd of the training target"), rows)
