"""Judgements → Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from scipy.stats import kendalltau, spearmanr

from hardsight.experiments.accuracy_evaluators.runs import EPOCHS, FULL_SEEDS, SHORT, Row
from hardsight.experiments.readme_tables import markdown
from hardsight.nas.evaluators.proxies import PROXIES
from hardsight.prediction import FloatArray

_DRAWS = 2000


def table(rows: Iterable[Row]) -> str:
    """A row per way to judge: rank correlations with the full trainings, and cost as a share of one of those."""
    by: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by[row["method"]].append(row)
    for held in by.values():
        held.sort(key=lambda row: int(row["candidate"]))
    first, second = (_scores(by[f"full-{seed}"]) for seed in FULL_SEEDS)
    mean = (first + second) / 2
    full_s = float(np.mean([row["cpu_s"] for seed in FULL_SEEDS for row in by[f"full-{seed}"]]))
    lines = [_line("full training, other seed: the ceiling", first, second, full_s, full_s)]

    def add(name: str, scores: FloatArray, cost_s: float) -> None:
        lines.append(_line(name, scores, mean, cost_s, full_s))

    for i, share in ((0, SHORT / EPOCHS), (1, 2 * SHORT / EPOCHS)):
        name = f"one cycle of {EPOCHS} epochs stopped after {SHORT * (i + 1)}"
        curves = [[row["curve"][i][1] for row in by[f"full-{seed}"]] for seed in FULL_SEEDS]
        # each seed's against the other seed's end, so that chance is not shared
        pairs = [(np.array(curves[0]), second), (np.array(curves[1]), first)]
        found = np.mean([_correlations(a, b) for a, b in pairs], axis=0)
        lines.append((name, *_shown(found), f"{share:.3f}", f"{np.mean(curves):.3f}"))
    add(f"`qat`, {SHORT} epochs", _scores(by["short"]), _cost(by["short"]))
    rungs = by["rungs"]
    for i, (epochs, _) in enumerate(rungs[0]["curve"]):
        scores = np.array([row["curve"][i][1] for row in rungs])
        add(f"`halving`, rung of {epochs} epochs", scores, _cost(rungs) * epochs / rungs[0]["curve"][-1][0])
    held = by["supernet"]
    training_s = max(row["training_s"] for row in held)
    each_s = _cost(held) - training_s / len(held)
    add("`supernet`, inherited", _scores(held), each_s)
    if by["tuned"]:
        add(f"`supernet`, {SHORT} epochs more", _scores(by["tuned"]), _cost(by["tuned"]))
    for name in PROXIES:
        lines.append((*_line(f"`{name}`", _scores(by[name]), mean, _cost(by[name]), full_s)[:-1], ""))
    columns = ("", "Spearman", "90 % interval", "Kendall", "cost", "mean accuracy")
    return "\n\n".join(
        [
            markdown(columns, [(r[0], *r[1:]) for r in lines]),
            f"{len(mean)} candidates; full trainings reach {mean.min():.3f} to {mean.max():.3f}, {mean.mean():.3f} on "
            f"average, and take {full_s:.1f} s of one core each. The supernet's training takes {training_s:.0f} s, as "
            f"much as {training_s / full_s:.0f} full trainings, and is not in its cost.",
        ]
    )


def _scores(rows: list[Row]) -> FloatArray:
    return np.array([row["score"] for row in rows], np.float64)


def _cost(rows: list[Row]) -> float:
    return float(np.mean([row["cpu_s"] for row in rows]))


def _line(name: str, scores: FloatArray, truth: FloatArray, cost_s: float, full_s: float) -> tuple[str, ...]:
    return (
        name,
        *_shown(_correlations(scores, truth)),
        f"{cost_s / full_s:.3f}",
        f"{scores.mean():.3f}",
    )


def _shown(found: FloatArray) -> tuple[str, str, str]:
    rho, low, high, tau = found
    return f"{rho:.2f}", f"{low:.2f} to {high:.2f}", f"{tau:.2f}"


def _correlations(scores: FloatArray, truth: FloatArray) -> FloatArray:
    """Spearman's, the ends of its interval by resampling candidates, Kendall's."""
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(_DRAWS):
        i = rng.integers(0, len(truth), len(truth))
        if np.ptp(scores[i]) > 0 and np.ptp(truth[i]) > 0:
            draws.append(spearmanr(scores[i], truth[i]).statistic)
    low, high = np.quantile(draws, [0.05, 0.95]) if draws else (np.nan, np.nan)
    return np.array([spearmanr(scores, truth).statistic, low, high, kendalltau(scores, truth).statistic])
