"""Accuracy by training that ends early for candidates that fall behind: successive halving."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import Field

from hardsight.candidate import Candidate
from hardsight.errors import JobError
from hardsight.nas.data import LabelledData
from hardsight.nas.evaluators import qat
from hardsight.nas.evaluators._base import Details, Evaluation
from hardsight.nas.spaces import SearchSpace

if TYPE_CHECKING:
    import optuna

    from hardsight.nas.job import Job

_CURVE = "curve"
Curve = Sequence[tuple[int, float]]
"""Epochs since the beginning and the accuracy then, at each rung that was reached."""


class Options(qat.Options):
    """What a job file may set, beside what `qat` has.

    Args:
        pruner: Optuna's that decides; ``halving`` trains one in ``reduction`` of each rung on, ``hyperband`` spares
            some candidates the first rungs, ``median`` trains on what is not below the median.
        min_epochs: before the first decision; by default the job's epochs over ``reduction``.
        reduction: factor by which epochs grow from rung to rung.
    """

    pruner: Literal["halving", "hyperband", "median"] = "halving"
    min_epochs: int | None = Field(default=None, strict=True, ge=1)
    reduction: int = Field(default=2, strict=True, ge=2)


class HalvingEvaluator(qat.QatEvaluator):
    """As `qat`, but the training of a candidate that falls behind cheaper ones ends early.

    Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys
    2020) or Hyperband (Li et al., JMLR 2018), by Optuna's pruners. A pruner compares one number, a search has
    several objectives: a candidate is therefore held only against those that cost no more, whose learning curves
    are told to a study of their own. A small network is not given up because a large one is more accurate.

    Each rung ends a cycle of the learning rate (warm restarts with growing cycles; Loshchilov and Hutter, "SGDR",
    2017), quantization included: what is compared, and kept of a candidate that is given up, is a finished
    network, not one in the middle of a cycle, whose accuracy says little (``experiments/accuracy_evaluators``).

    Args and the rest as `QatEvaluator`; `evaluate` never ends early and has one cycle.
    """

    options_type: ClassVar[type[qat.Options]] = Options
    options: Options

    @classmethod
    def for_job(cls, space: SearchSpace, data: LabelledData, job: Job) -> Self:
        evaluator = super().for_job(space, data, job)
        if evaluator.min_epochs >= job.epochs:
            raise JobError(
                f"evaluator.min_epochs: after {evaluator.min_epochs} of {job.epochs} epochs nothing is left to be "
                "saved; give less, or more 'epochs'"
            )
        return evaluator

    @property
    def min_epochs(self) -> int:
        return self.options.min_epochs or max(1, self.epochs // self.options.reduction)

    @property
    def rungs(self) -> list[int]:
        """Epochs after which accuracies are compared; the last is the end."""
        rungs = [self.min_epochs]
        while rungs[-1] * self.options.reduction < self.epochs:
            rungs.append(rungs[-1] * self.options.reduction)
        return [*rungs, self.epochs]

    def evaluate_among(self, candidate: Candidate, seed: int, rivals: Sequence[Details]) -> Evaluation:
        start, deadline = time.perf_counter(), self._deadline()
        study = learning_curves([r[_CURVE] for r in rivals if _CURVE in r], self._pruner(), self.epochs)
        trial = study.ask()
        shuffle = torch.Generator().manual_seed(seed)
        curve: list[tuple[int, float]] = []
        with self._working(seed):
            module = self._module(candidate, self.rungs[0])
            for done, rung in zip([0, *self.rungs], self.rungs, strict=False):
                self._cycle(module, rung - done, shuffle, deadline)
                curve.append((rung, self._accuracy(module)))
                trial.report(curve[-1][1], rung)
                if rung < self.epochs and trial.should_prune():
                    break
            found = self._evaluation(candidate, module, seed, curve[-1][0], start)
        return replace(found, pruned=found.epochs < self.epochs, details={_CURVE: curve})

    def _pruner(self) -> optuna.pruners.BasePruner:
        from optuna.pruners import HyperbandPruner, MedianPruner, SuccessiveHalvingPruner

        least, factor = self.min_epochs, self.options.reduction
        if self.options.pruner == "median":
            return MedianPruner()
        if self.options.pruner == "hyperband":
            return HyperbandPruner(least, self.epochs, factor)
        return SuccessiveHalvingPruner(least, factor)


def learning_curves(curves: Sequence[Curve], pruner: optuna.pruners.BasePruner, epochs: int) -> optuna.Study:
    """A study in memory in which the curves were reported in their order.

    It is made anew for each candidate: what a search stores is enough to resume it and to share it by workers,
    and the comparison may leave out candidates.

    Args:
        curves: of earlier candidates.
        pruner: to be asked about the next trial.
        epochs: that a curve has at its end unless it was given up.
    """
    import optuna

    from hardsight.nas.storage import quiet_optuna

    with quiet_optuna():
        study = optuna.create_study(
            study_name="learning-curves",  # Hyperband draws a trial's bracket from it
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(0),
            pruner=pruner,
        )
        for curve in curves:
            trial = study.ask()
            for done, accuracy in curve:
                trial.report(accuracy, done)
                trial.should_prune()  # notes the rung; what it said then was decided among others
            if curve[-1][0] < epochs:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, curve[-1][1])
    return study
