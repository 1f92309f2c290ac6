"""What a search's report says, in words that are true of how its accuracies came about."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hardsight.budgets import SIZE, unit_of
from hardsight.metrics import Metric
from hardsight.units import format_quantity
from hardsight.wording import metric_words

if TYPE_CHECKING:
    from hardsight.nas.report import SearchReport
    from hardsight.nas.study import TrialRecord


class Words(NamedTuple):
    """How an evaluator comes to an accuracy.

    Args:
        judged: of a candidate that has one.
        work: that a trial's time goes into; empty where there is none.
        error: what the search judged by.
    """

    judged: str
    work: str
    error: str


_TRAINED = Words("trained", "training", "validation error")
_WORDS = {
    "supernet": Words(
        "judged with inherited weights",
        "training shared weights and judging with them",
        "validation error, inherited weights",
    ),
    "proxy": Words("trained", "scoring and training", "validation error"),
    "table": Words("looked up", "", "published error"),
}
_ABBREVIATIONS = {
    str(Metric.LUT): "LUTs",
    str(Metric.FF): "flip-flops",
    str(Metric.DSP): "DSP blocks",
    str(Metric.BRAM_18K): "18-kbit block RAMs",
    str(Metric.URAM): "UltraRAMs",
    str(Metric.SRAM): "SRAM",
    SIZE: "size",
}


def words_of(evaluator: str) -> Words:
    """By the evaluator's name; one that was given as an instance trains."""
    return _WORDS.get(evaluator, _TRAINED)


def cost_words(name: str) -> str:
    """A cost as people say it: ``peak memory``, ``logic cells``, ``SRAM``."""
    return _ABBREVIATIONS.get(name) or metric_words(Metric(name))


def show(name: str, value: float) -> str:
    """A cost with its unit; a count is written out."""
    unit = unit_of(name)
    return f"{value:,.0f}" if unit == "1" else format_quantity(value, unit)


def excess(value: float, limit: float) -> str:
    """By how much a value is above its limit: ``12.3% more``, ``10 times as much``."""
    ratio = value / limit
    return f"{ratio:.3g} times as much" if ratio >= 2 else f"{ratio - 1:.1%} more"


def networks(n: int) -> str:
    """The word that follows a number of them."""
    return "network" if n == 1 else "networks"


def fate(record: TrialRecord, evaluator: str) -> str:
    """What became of a trial."""
    if record.failure is not None:
        return f"failed, {record.failure}"
    if record.accuracy is None:
        return "infeasible"
    if record.pruned:
        return "given up early" if record.epochs else "not trained"
    return "seen before" if record.reused else words_of(evaluator).judged


def sentences(report: SearchReport) -> list[str]:
    """The outcome."""
    return [_effort(report), *_saved(report), *_outcome(report), *_verified(report), *report.notes]


def _effort(report: SearchReport) -> str:
    counts = ", ".join(f"{n} {how}" for how, n in report.counts.items())
    n = len(report.records)
    line = f"{n} {'trial' if n == 1 else 'trials'} ({counts}), {format_quantity(report.search_s, 's')} of trial time"
    work = words_of(report.job.evaluator.name).work
    inner = f" ({format_quantity(report.train_s, 's')} of it {work})" if work and report.train_s else ""
    after = "; final training, export and measuring come on top" if work and report.verified else ""
    return f"{line} summed over all workers{inner}{after}."


def _saved(report: SearchReport) -> list[str]:
    saved, whole = report.epochs_saved
    if not saved:
        return []
    how = "Not training" if report.job.evaluator.name == "proxy" else "Giving up early on"
    return [f"{how} candidates that promised too little saved {saved} of {whole} epochs of training."]


def _outcome(report: SearchReport) -> list[str]:
    if report.closest is not None:
        parts = [
            f"{cost_words(name)} {show(name, upper)} at the upper end of its interval against a limit of "
            f"{show(name, limit)} ({excess(upper, limit)})"
            for name, (limit, upper) in report.closest.misses.items()
        ]
        return [
            "No candidate keeps the constraints. The closest, trial "
            f"{report.closest.trial}, misses: {'; '.join(parts)}. Loosen the limits, allow smaller "
            "networks, or search longer."
        ]
    if not report.verified:
        return ["The search was stopped before its front was verified; go on with --resume."]
    return [] if report.rows else ["No candidate has an accuracy, so there is no front."]


def _verified(report: SearchReport) -> list[str]:
    lines = []
    for name in report.compared:
        inside, known = report.inside(name)
        if known:
            lines.append(
                f"Inside the {report.job.level:.0%} interval of the prediction: the measured {cost_words(name)} of "
                f"{inside} of {known} {networks(known)}."
            )
    for budget in report.budgets:
        if budget.judged:
            lines.append(
                f"{len(budget.kept)} of {budget.judged} {networks(budget.judged)} "
                f"{'keeps' if len(budget.kept) == budget.judged == 1 else 'keep'} {cost_words(budget.cost)} ≤ "
                f"{show(budget.cost, budget.limit)} when measured."
            )
    return lines
