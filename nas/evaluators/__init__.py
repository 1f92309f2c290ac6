"""How accurate a candidate becomes: evaluators by name."""

from __future__ import annotations

from importlib import import_module

from hardsight.errors import UnknownNameError
from hardsight.nas.evaluators._base import AccuracyEvaluator, Details, Evaluation, TrialFailure

__all__ = ["EVALUATORS", "AccuracyEvaluator", "Details", "Evaluation", "TrialFailure", "get_evaluator"]

EVALUATORS: dict[str, str] = {
    "qat": "qat.QatEvaluator",
    "halving": "halving.HalvingEvaluator",
    "supernet": "supernet.SupernetEvaluator",
    "proxy": "proxy.ProxyEvaluator",
    "table": "table.TableEvaluator",
}
"""Module and class; a module is imported when it is asked for, since most load torch."""


def get_evaluator(name: str) -> type[AccuracyEvaluator]:
    """The evaluator of that name.

    Raises:
        UnknownNameError: listing the names there are.
    """
    if name not in EVALUATORS:
        raise UnknownNameError("evaluator", name, EVALUATORS)
    module, kind = EVALUATORS[name].split(".")
    found: type[AccuracyEvaluator] = getattr(import_module(f"{__name__}.{module}"), kind)
    return found
