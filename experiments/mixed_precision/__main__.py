"""Mixed precision of trained networks: ``python -m hardsight.experiments.mixed_precision``.

Takes about seven minutes on one idle core. Writes ``experiments/mixed_precision/README.md`` when run in a checkout;
adapts to this machine first (in ``HARDSIGHT_HOME``), where that has not been done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from hardsight import api
from hardsight.cli import _boundary
from hardsight.errors import NotCalibratedError
from hardsight.experiments.mixed_precision import checks
from hardsight.experiments.mixed_precision.networks import NAMES, network
from hardsight.experiments.readme_tables import markdown, write
from hardsight.nas.data import load_data
from hardsight.nas.mixed_precision import QuantizeReport, quantize
from hardsight.predictors import load_predictor
from hardsight.units import format_quantity

README = Path("experiments/mixed_precision/README.md")
DEVICE = api.HERE
SHARES = (0.1, 0.3, 0.5, 0.8)
Networks = Mapping[tuple[str, int], onnx.ModelProto]


def main() -> None:
    """Train, check, and write the tables."""
    given = argparse.ArgumentParser(
        prog="python -m hardsight.experiments.mixed_precision", description=__doc__
    )
    given.add_argument("--seeds", type=int, default=3)
    given.add_argument("--readme", type=Path, default=README)
    arguments = given.parse_args()
    trained = {
        (name, seed): network(name, load_data(checks.SPEC, seed), seed)
        for seed in range(arguments.seeds)
        for name in NAMES
    }
    for name, table in (
        ("sensitivity", sensitivity_table),
        ("program", program_table),
        ("latency", latency_table),
    ):
        write(arguments.readme, name, table(trained))


def sensitivity_table(trained: Networks) -> str:
    """Rank correlations, mean and range over seeds."""
    rows = []
    for name in NAMES:
        seeds = [model for (n, _), model in sorted(trained.items(), key=lambda item: item[0]) if n == name]
        whole = [checks.drops(model, seed, weights_only=False) for seed, model in enumerate(seeds)]
        weights = [checks.drops(model, seed, weights_only=True) for seed, model in enumerate(seeds)]
        rows.append(_ranks(f"{name}, INT8", whole))
        for bits in checks.BITS[1:]:
            of = [[d for d in found if d.precision == f"int{bits}"] for found in weights]
            rows.append(_ranks(f"{name}, weights of {bits} bits", of))
        rows.append(_ranks(f"{name}, weights of 2 to 4 bits together", weights))
    columns = (
        "network and precision", "n", "rank, loss", "rank, accuracy", "truth with itself", "largest loss increase",
    )  # fmt: skip
    return markdown(columns, rows)


def _ranks(what: str, by_seed: Sequence[Sequence[checks.Drop]]) -> tuple[str, ...]:
    return (
        what,
        str(len(by_seed[0])),
        _range([checks.rank(found) for found in by_seed]),
        _range([checks.rank(found, "accuracy") for found in by_seed]),
        _range([checks.agreement(found) for found in by_seed]),
        f"{max(d.loss for found in by_seed for d in found):.2g}",
    )


def _range(values: Sequence[float]) -> str:
    if not np.isfinite(values).any():
        return "–"
    return f"{np.nanmean(values):.2f} ({np.nanmin(values):.2f} to {np.nanmax(values):.2f})"


def program_table(trained: Networks) -> str:
    """The solver against every choice there is, and its time."""
    own = [
        checks.excess_over_brute_force(program, share)
        for program in (
            checks.trained_program(model, seed)
            for (name, seed), model in trained.items()
            if name in ("cnn", "mlp")
        )
        for share in SHARES
    ]
    drawn = [
        checks.excess_over_brute_force(checks.random_program(8, 3, seed), share)
        for seed in range(10)
        for share in SHARES
    ]
    large = [
        checks.timed(checks.random_program(100, 8, seed), share) for seed in range(10) for share in SHARES
    ]
    slowest, gap = (max(values) for values in zip(*large, strict=True))
    return markdown(
        ("problem", "n", "worst", "wanted"),
        [
            ("trained networks, 4 or 8 layers x 3 widths: sensitivity above the best choice's", str(len(own)),
             f"{100 * max(own):.3f} %", "1 %"),
            ("drawn, 8 layers x 3, with pairs: the same", str(len(drawn)), f"{100 * max(drawn):.3f} %", "1 %"),
            ("drawn, 100 layers x 8, with pairs: gap", str(len(large)), f"{100 * gap:.3f} %", "0.1 %"),
            ("the same: time", str(len(large)), f"{slowest:.2f} s", "10 s"),
        ],
    )  # fmt: skip


def latency_table(trained: Networks) -> str:
    """Latency on this machine, before and after; of each network and seed."""
    try:
        load_predictor(DEVICE)
    except NotCalibratedError:
        api.adapt(device=DEVICE)
    rows = []
    for (name, seed), model in sorted(trained.items()):
        report = quantize(model, device=DEVICE, data=checks.SPEC, seed=seed)
        rows += [_latencies(f"{name}, seed {seed}", report)]
    columns = (
        "network", "before", "uniform INT8", "chosen", "layers in INT8", "times as fast", "against uniform",
        "predicted", "accuracy before", "after",
    )  # fmt: skip
    return markdown(columns, rows)


def _latencies(what: str, report: QuantizeReport) -> tuple[str, ...]:
    before, chosen = report.tried[0], report.chosen
    uniform = next((t for t in report.tried if len(t.precisions) == 1 and "int8" in t.precisions), None)
    times = [t.measured["latency_s"][0] if t else float("nan") for t in (before, uniform, chosen)]
    predicted = [t.predicted["latency_s"].value for t in (before, chosen)]
    return (
        what,
        *(format_quantity(t, "s") for t in times),
        f"{chosen.precisions.get('int8', 0)} of {len(report.layers)}",
        f"{times[0] / times[2]:.2f}" if report.gain else "no gain",
        f"{times[1] / times[2]:.2f}",
        f"{predicted[0] / predicted[1]:.2f}",
        f"{100 * report.before.value:.1f} %",
        f"{100 * report.after.value:.1f} %",
    )


if __name__ == "__main__":
    sys.exit(_boundary.answer(lambda _: main()))
