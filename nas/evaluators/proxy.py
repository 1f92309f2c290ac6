"""Accuracy by training only what a score of the untrained network puts among the best."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field

from hardsight.candidate import Candidate
from hardsight.nas.evaluators import qat
from hardsight.nas.evaluators._base import Details, Evaluation, TrialFailure
from hardsight.nas.evaluators.module import NetworkModule
from hardsight.nas.evaluators.proxies import PROXIES

_BATCH = 64


class Options(qat.Options):
    """What a job file may set, beside what `qat` has.

    Args:
        proxy: the score; ``parameters`` and ``macs`` are mere sizes, and ranked as well as the others.
        share: of the candidates, those with the highest scores among what costs no more, that are trained.
    """

    proxy: Literal["parameters", "macs", "grad_norm", "snip", "synflow", "naswot", "jacob_cov"] = "macs"
    share: float = Field(default=0.5, gt=0, le=1)


class ProxyEvaluator(qat.QatEvaluator):
    """As `qat`, but only candidates with a good score before any training are trained.

    A score says nothing about the error, only which of two candidates promises more (Abdelfattah et al.,
    "Zero-Cost Proxies for Lightweight NAS", ICLR 2021). So it screens: a candidate that is not in the best
    ``share`` of those that cost no more counts as one that guesses. The network is scored in float.

    Args and the rest as `QatEvaluator`; `evaluate` always trains.
    """

    options_type: ClassVar[type[qat.Options]] = Options
    options: Options

    def evaluate_among(self, candidate: Candidate, seed: int, rivals: Sequence[Details]) -> Evaluation:
        start = time.perf_counter()
        score = self.score(candidate, seed)
        others = [r[self.options.proxy] for r in rivals if self.options.proxy in r]
        if sum(other >= score for other in others) < self.options.share * (len(others) + 1):
            found = self.evaluate(candidate, seed)
        else:
            found = Evaluation(candidate, 1 / len(self.data.classes), seed, pruned=True)
        spent = time.perf_counter() - start
        return replace(found, duration_s=spent, details={self.options.proxy: score})

    def score(self, candidate: Candidate, seed: int) -> float:
        """Of the network with initial weights by the seed, on as many training samples as a batch has.

        Raises:
            TrialFailure: when it is not finite.
        """
        with self._working(seed):
            module = self._placed(NetworkModule(self.space.network(candidate).floating()))
            samples, labels = self._part(module.network, "train")
            chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:_BATCH]
            score = PROXIES[self.options.proxy](module, samples[chosen], labels[chosen])
        if not math.isfinite(score):
            raise TrialFailure(f"{self.options.proxy} is {score}")
        return score
