"""What the published tables themselves say: how often each rule holds, and how well repeated rows agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hardsight.experiments.hls4ml.evaluate import SOURCES, device_tables, find
from hardsight.experiments.hls4ml.feasibility import published
from hardsight.graph import OperatorGraph
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._hls4ml_head import Inputs, pipeline_depth
from hardsight.predictors._hls4ml_rules import (
    layers_of,
    legal_reuse_factors,
    strategy_of,
    within_unroll_limit,
)
from hardsight.predictors.evaluation import r_squared

if TYPE_CHECKING:
    import pandas as pd


def rule_rows() -> Iterator[tuple[str, str, int, float]]:
    """Rule, where, number of labels and share that obey it; a count obeys when it is off by at most half."""
    import pandas as pd

    for name in SOURCES:
        for table in device_tables(*find(name)):
            (device,) = table.devices
            parts = [
                _residuals(*table.labelled(device, metric), device, metric)
                for metric in table.metrics
                if metric not in (Metric.LUT, Metric.FF)
            ]
            for (metric, stratum), rows in pd.concat(parts).groupby(["metric", "stratum"]):
                where, off = f"{device}, {stratum}", rows["off"]
                yield f"{metric} = rule", where, len(rows), float((off <= 0.5).mean())
                if metric == str(Metric.CYCLES):
                    yield "cycles within 2 of the rule", where, len(rows), float((off <= 2).mean())
    yield from _published_rules()


def _residuals(graphs: Sequence[OperatorGraph], y: FloatArray, device: str, metric: Metric) -> pd.DataFrame:
    import pandas as pd

    layers = [layers_of(graph, strategy_of(device))[0] for graph in graphs]
    parts = Inputs.of(layers, metric).rule
    frame = pd.DataFrame({"metric": str(metric), "stratum": [layer.stratum for layer in layers], "off": 0.0})
    for _, rows in frame.groupby("stratum"):
        own = parts[rows.index]
        said = np.maximum(own[:, 0] + pipeline_depth(own, y[rows.index]) * own[:, 1], 0)
        frame.loc[rows.index, "off"] = np.abs(y[rows.index] - said)
    return frame[~np.isnan(parts[:, 0])]


def _published_rules() -> Iterator[tuple[str, str, int, float]]:
    source, folder = find("wa-hls4ml")
    rows = source.table(folder)
    done = rows["hls_synth_success"].astype(str).str.upper() == "TRUE"
    folded = rows[done & (rows["strategy"] == "resource") & (rows["rf"] > 1)]
    legal = [r.rf in legal_reuse_factors(r.d_in, r.d_out) for r in folded.itertuples()]
    yield "published reuse factor is legal", "wa-hls4ml, resource, folded", len(legal), float(np.mean(legal))
    products = folded["d_in"] * folded["d_out"] / folded["rf"]
    for bits, own, what, said in (
        ("≥ 8", folded["prec"] >= 8, "multipliers", products),
        ("6", folded["prec"] == 6, "multipliers − 1", products - 1),
        ("≤ 4", folded["prec"] <= 4, "0", 0 * products),
    ):
        where = f"wa-hls4ml, resource, folded, {bits} bits"
        yield f"dsp = {what}", where, int(own.sum()), float((folded["DSP_hls"] == said)[own].mean())
    tried = published()
    agrees = np.array([within_unroll_limit(own) for own in tried["layer"]]) == tried["succeeded"]
    for device, share in agrees.groupby(tried["device"]):
        what = "synthesis succeeds if weights are in memories or fewer than 4096, else not"
        yield what, str(device), len(share), float(share.mean())


def noise_rows() -> Iterator[tuple[str, str, int, float, float, float]]:
    """Kind, metric, configurations with several rows, share of them whose rows differ, largest relative range, ceiling.

    The ceiling is the R² that the median of a configuration's rows has on the rows: no function of the configuration
    does much better.
    """
    source, folder = find("ntorc")
    frame = source.table(folder)
    keys = ["inputs", "outputs", "length", "reuse"]
    for (kind, metric), rows in frame.groupby(["kind", "metric"]):
        value = rows.groupby(keys)["value"]
        several = value.agg(["size", "min", "max", "median"])
        several = several[several["size"] > 1]
        spread = (several["max"] - several["min"]) / several["median"].clip(lower=1)
        ceiling = r_squared(rows["value"].to_numpy(float), value.transform("median").to_numpy(float))
        yield str(kind), str(metric), len(several), float((spread > 0).mean()), float(spread.max()), ceiling
