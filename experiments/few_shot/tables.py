"""Scores → Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hardsight.experiments.few_shot import constrained
from hardsight.experiments.few_shot.cells import CEILING, Scores
from hardsight.experiments.few_shot.constrained import Row, Setting
from hardsight.experiments.few_shot.definitions import Case, Table
from hardsight.experiments.few_shot.published import HELP_SEARCH
from hardsight.experiments.readme_tables import markdown
from hardsight.prediction import FloatArray
from hardsight.predictors.few_shot.scoring import Score
from hardsight.predictors.few_shot.tables import Tables

_NONE = "–"


def few_shot_section(table: Table, cases: Sequence[Case], scores: Scores) -> str:
    """Correlations at each number of measurements, the share of the ceiling, errors, and every device."""
    rank = "spearman_trimmed" if table.trimmed else "spearman"
    most = table.samples[0]
    parts = []
    for samples in table.samples:
        parts += [
            f"Rank correlation after {samples} measurements, mean ± standard deviation over draws:",
            correlations(table, cases, scores, samples, rank),
        ]
    parts += [
        f"Share of the ceiling after {most}:",
        shares(table, cases, scores, rank),
        f"Mean relative error after {most}"
        + ("" if table.by_device else ", median over a task's devices")
        + ":",
        errors(table, cases, scores),
        "<details><summary>Every device</summary>",
        f"After {most} measurements: rank correlation over all / over the middle 80 % / mean relative error.",
        devices(cases, scores, most),
        "</details>",
    ]
    return "\n\n".join(parts)


def correlations(table: Table, cases: Sequence[Case], scores: Scores, samples: int, rank: str) -> str:
    """A row per method, then published ones and the ceiling; a column per task or device."""
    names = _columns(table, cases)
    rows = []
    for method in _methods(scores):
        of = _draws(table, cases, scores, method, samples, rank)
        if of:
            rows.append((method, *_with_mean(names, of, _spread)))
    if samples == table.samples[0]:
        for other in table.published:
            plain = {name: np.array([value]) for name, value in other.scores.items()}
            rows.append((f"{other.name} ({other.samples})", *_with_mean(names, plain, _spread)))
    top = _draws(table, cases, scores, CEILING, 0, rank)
    rows.append(("ceiling", *_with_mean(names, top, _spread)))
    return markdown(("", *names, "mean"), rows)


def shares(table: Table, cases: Sequence[Case], scores: Scores, rank: str) -> str:
    """Each method's correlation by the ceiling's."""
    names, top = _columns(table, cases), _draws(table, cases, scores, CEILING, 0, rank)
    rows = []
    for method in _methods(scores):
        of = _draws(table, cases, scores, method, table.samples[0], rank)
        share = {name: np.array([of[name].mean() / top[name].mean()]) for name in of if name in top}
        if share:
            rows.append((method, *_with_mean(names, share, _percent)))
    return markdown(("", *names, "mean"), rows)


def errors(table: Table, cases: Sequence[Case], scores: Scores) -> str:
    """Mean relative error of each device, or the median over a task's."""
    names, rows = _columns(table, cases), []
    for method in (*_methods(scores), CEILING):
        samples = 0 if method == CEILING else table.samples[0]
        found = _by_column(table, cases, scores, method, samples)
        if found:
            medians = {n: float(np.median([s.mape.mean() for s in of])) for n, of in found.items()}
            rows.append((method, *(f"{medians[n]:.1%}" if n in medians else _NONE for n in names)))
    return markdown(("", *names), rows)


def devices(cases: Sequence[Case], scores: Scores, samples: int) -> str:
    """A row per device of each task, a column per method."""
    names = (*_methods(scores), CEILING)
    rows = []
    for case in cases:
        for device in case.task.targets:
            cells = []
            for method in names:
                found = scores.get(method, {}).get((case.task.name, 0 if method == CEILING else samples))
                cells.append(_three(found[device]) if found else _NONE)
            rows.append((case.task.name, f"`{device}`", *cells))
    return markdown(("task", "device", *names), rows)


def search_section(tables: Tables, of: Sequence[Setting], rows: Sequence[Row]) -> str:
    """For each setting what was found under each constraint, and a summary."""
    parts = []
    for setting in of:
        own = [row for row in rows if row["setting"] == setting.name]
        title = "MetaD2A's 500 candidates:" if setting.name == "candidates" else "All of NAS-Bench-201:"
        parts += [title, search_table(tables, setting, own)]
    return "\n\n".join(parts)


def search_table(tables: Tables, setting: Setting, rows: Sequence[Row]) -> str:
    """Accuracy and true latency of what was found, means over draws, and how often the constraint was kept."""
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    optima = constrained.optima(tables, setting)
    with_help = setting.name == "candidates"
    lines = []
    for device, wanted in HELP_SEARCH.items():
        for help_found in wanted:
            limit = help_found.constraint_ms
            here = [row for row in rows if row["device"] == device and row["constraint_ms"] == limit]
            accuracy, latency = optima[device, limit]
            kept = "kept" if help_found.latency_ms <= limit else "broken"
            lines.append(
                (
                    f"`{device}`",
                    f"{limit:g}",
                    *(
                        [f"{help_found.accuracy:.1f} at {help_found.latency_ms:.1f}, {kept}"]
                        if with_help
                        else []
                    ),
                    *(_found([row for row in here if row["rule"] == rule]) for rule in rules),
                    f"{accuracy:.1f} at {latency:.1f}",
                )
            )
    lines.append(_summary(rules, rows, optima, with_help))
    columns = ("device", "at most, ms", *(["HELP, published"] if with_help else []), *rules, "optimum")
    return markdown(columns, lines)


def _found(rows: Sequence[Row]) -> str:
    """Mean accuracy at mean latency, and how many draws kept the constraint."""
    taken = [row for row in rows if row["accuracy"] is not None]
    if not taken:
        return "nothing"
    accuracy, latency = (float(np.mean([row[key] for row in taken])) for key in ("accuracy", "latency_ms"))
    return f"{accuracy:.1f} at {latency:.1f}, kept {constrained.kept(taken)} of {len(rows)}"


def _summary(
    rules: Sequence[str],
    rows: Sequence[Row],
    optima: Mapping[tuple[str, float], tuple[float, float]],
    with_help: bool,
) -> tuple[str, ...]:
    """The last row: mean accuracy and the share of kept constraints."""
    cells = []
    if with_help:
        flat = [found for of in HELP_SEARCH.values() for found in of]
        kept = sum(found.latency_ms <= found.constraint_ms for found in flat)
        cells.append(f"{np.mean([f.accuracy for f in flat]):.1f}, kept {kept} of {len(flat)}")
    for rule in rules:
        own = [row for row in rows if row["rule"] == rule]
        accuracy = np.mean([row["accuracy"] for row in own if row["accuracy"] is not None])
        cells.append(f"{accuracy:.1f}, kept {constrained.kept(own)} of {len(own)}")
    return ("all", "", *cells, f"{np.mean([accuracy for accuracy, _ in optima.values()]):.1f}")


def _methods(scores: Scores) -> list[str]:
    return [method for method in scores if method != CEILING]


def _columns(table: Table, cases: Sequence[Case]) -> list[str]:
    if table.by_device:
        return [device for case in cases for device in case.task.targets]
    return [case.task.name for case in cases]


def _by_column(
    table: Table, cases: Sequence[Case], scores: Scores, method: str, samples: int
) -> dict[str, list[Score]]:
    """The devices' scores that stand in each column."""
    found: dict[str, list[Score]] = {}
    for case in cases:
        of = scores.get(method, {}).get((case.task.name, samples))
        if of and table.by_device:
            found |= {device: [score] for device, score in of.items()}
        elif of:
            found[case.task.name] = list(of.values())
    return found


def _draws(
    table: Table, cases: Sequence[Case], scores: Scores, method: str, samples: int, rank: str
) -> dict[str, FloatArray]:
    """By column the correlation of each draw ``(draws,)``, mean over a task's devices."""
    found = _by_column(table, cases, scores, method, samples)
    return {name: np.mean([getattr(score, rank) for score in of], axis=0) for name, of in found.items()}


def _with_mean(
    names: Sequence[str], of: Mapping[str, FloatArray], show: Callable[[FloatArray], str]
) -> list[str]:
    """A cell per column, and the mean of all where none is missing."""
    cells = [show(of[name]) if name in of else _NONE for name in names]
    whole = all(name in of for name in names)
    return [*cells, show(np.mean([of[name] for name in names], axis=0)) if whole else _NONE]


def _spread(draws: FloatArray) -> str:
    return f"{draws.mean():.3f}" + (f" ± {draws.std(ddof=1):.3f}" if len(draws) > 1 else "")


def _percent(draws: FloatArray) -> str:
    return f"{draws.mean():.1%}"


def _three(score: Score) -> str:
    return f"{score.spearman.mean():.3f} / {score.spearman_trimmed.mean():.3f} / {score.mape.mean():.1%}"
