"""How accurate a candidate becomes."""

from __future__ import annotations

from hardsight.nas.evaluators._base import AccuracyEvaluator, Evaluation, TrialFailure

__all__ = ["AccuracyEvaluator", "Evaluation", "TrialFailure"]
