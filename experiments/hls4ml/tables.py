"""The experiment's tables, from its predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardsight.experiments.hls4ml import checks
from hardsight.experiments.hls4ml.evaluate import OURS, SHAPE, SIZE
from hardsight.experiments.hls4ml.feasibility import success_scores
from hardsight.experiments.hls4ml.scores import score, scores
from hardsight.experiments.readme_tables import markdown
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

_DENSE = "xcvu13p/hls4ml/resource"
_WIDE_BITS = 8
_COLUMNS = ("n", "R²", "R² of log(1 + y)", "SMAPE", "exact", "within 2")


def all_tables(frame: pd.DataFrame, feasibility: pd.DataFrame) -> dict[str, str]:
    """Name of each place in the README to its table."""
    return {
        "targets": targets_table(frame),
        "devices": devices_table(frame),
        "kinds": kinds_table(frame),
        "baselines": baselines_table(frame),
        "intervals": intervals_table(frame),
        "sizes": sizes_table(frame),
        "feasibility": feasibility_table(feasibility),
        "rules": rules_table(),
        "noise": noise_table(),
    }


def targets_table(frame: pd.DataFrame) -> str:
    """Dense layers, resource strategy: what was to be reached, and what each seed reached."""
    ours = frame[(frame["device"] == _DENSE) & (frame["grouping"] == SHAPE) & (frame["predictor"] == OURS)]
    wide = ours[ours["bits"] >= _WIDE_BITS]
    aims = (
        (Metric.CYCLES, ours, "r2", "R²", 0.999),
        (Metric.CYCLES, ours, "within_2", "within 2 cycles", 0.99),
        (Metric.INTERVAL_CYCLES, ours, "r2", "R²", 0.999),
        (Metric.INTERVAL_CYCLES, ours, "within_2", "within 2 cycles", 0.99),
        (Metric.DSP, wide, "exact", f"exact, {_WIDE_BITS} bits and more", 0.95),
        (Metric.LUT, ours, "r2", "R²", 0.97),
        (Metric.FF, ours, "r2", "R²", 0.97),
    )
    rows = []
    for metric, among, key, what, aim in aims:
        own = among[among["metric"] == str(metric)]
        reached = [score(part)[key] for _, part in own.groupby("seed")]
        show = _percent if key != "r2" else _r2
        rows.append(
            (f"`{metric}`", what, show(aim), *map(show, reached), "yes" if min(reached) >= aim else "no")
        )
    seeds = [f"seed {seed}" for seed in sorted(frame["seed"].unique())]
    return markdown(("metric", "measure", "aim", *seeds, "reached by all"), rows)


def devices_table(frame: pd.DataFrame) -> str:
    """The predictor on all layers of each device."""
    own = frame[(frame["predictor"] == OURS) & (frame["grouping"] == SHAPE)]
    return _scores_table(own, ("device", "metric"))


def kinds_table(frame: pd.DataFrame) -> str:
    """The same by kind of code."""
    own = frame[(frame["predictor"] == OURS) & (frame["grouping"] == SHAPE)]
    return _scores_table(own, ("device", "stratum", "metric"))


def sizes_table(frame: pd.DataFrame) -> str:
    """N-TORC with all lengths of a layer held out together."""
    own = frame[(frame["predictor"] == OURS) & (frame["grouping"] == SIZE)]
    return _scores_table(own, ("device", "stratum", "metric"))


def _scores_table(own: pd.DataFrame, by: tuple[str, ...]) -> str:
    rows = [(*(f"`{row[key]}`" for key in by), *_cells(row)) for row in _records(own, by)]
    return markdown((*by, *_COLUMNS), rows)


def baselines_table(frame: pd.DataFrame) -> str:
    """All predictors side by side: R², R² of log(1 + count), SMAPE."""
    names = list(dict.fromkeys(frame["predictor"]))
    found = {
        (row["device"], row["metric"], row["predictor"]): row
        for row in _records(frame[frame["grouping"] == SHAPE], ("device", "metric", "predictor"))
    }
    rows = []
    for device, metric in dict.fromkeys((d, m) for d, m, _ in found):
        own = [found.get((device, metric, name)) for name in names]
        cells = [
            "–" if r is None else f"{_r2(r['r2'])} / {_r2(r['r2_log'])} / {_percent(r['smape'])}" for r in own
        ]
        rows.append((f"`{device}`", f"`{metric}`", *cells))
    return markdown(("device", "metric", *names), rows)


def intervals_table(frame: pd.DataFrame) -> str:
    """Coverage and width of the predictor's intervals by kind of code."""
    by = ("device", "stratum", "metric")
    own = frame[(frame["predictor"] == OURS) & (frame["grouping"] == SHAPE)]
    rows = [
        (
            *(f"`{row[key]}`" for key in by),
            str(int(row["n"])),
            *(_percent(row[key]) for key in ("coverage", "width", "wide")),
        )
        for row in _records(own, by)
    ]
    return markdown((*by, "n", "coverage", "median width", "90 % of widths below"), rows)


def feasibility_table(frame: pd.DataFrame) -> str:
    """Success of synthesis."""
    rows = [
        (
            f"`{row['device']}`",
            str(row["predictor"]),
            str(int(row["n"])),
            f"{row['auc']:.4f}",
            _percent(row["accuracy"]),
            f"{row['brier']:.4f}",
        )
        for row in success_scores(frame).to_dict(orient="records")
    ]
    return markdown(("device", "predictor", "n", "AUC", "accuracy", "Brier score"), rows)


def rules_table() -> str:
    """How often each rule holds among the published labels."""
    rows = ((what, where, str(n), _percent(share)) for what, where, n, share in checks.rule_rows())
    return markdown(("rule", "where", "labels", "hold"), rows)


def noise_table() -> str:
    """How well repeated rows of one configuration agree."""
    rows = (
        (kind, f"`{metric}`", str(n), _percent(differ), _percent(largest), f"{ceiling:.5f}")
        for kind, metric, n, differ, largest, ceiling in checks.noise_rows()
    )
    counts = ("configurations with repeats", "whose rows differ", "largest range", "R² of medians")
    return markdown(("kind", "metric", *counts), rows)


def _records(frame: pd.DataFrame, by: tuple[str, ...]) -> list[dict[str, float]]:
    found: list[dict[str, float]] = scores(frame, by).to_dict(orient="records")
    return found


def _cells(row: dict[str, float]) -> tuple[str, ...]:
    return (
        str(int(row["n"])),
        _r2(row["r2"]) if row["r2"] != row["r2"] else f"{_r2(row['r2'])} ± {row['r2_sd']:.4f}",
        _r2(row["r2_log"]),
        *(_percent(row[key]) for key in ("smape", "exact", "within_2")),
    )


def _percent(x: float) -> str:
    return "–" if x != x else f"{x:.1%}"


def _r2(x: float) -> str:
    return "–" if x != x else f"{x:.4f}"
