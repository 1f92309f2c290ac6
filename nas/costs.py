"""What a candidate costs: through the same door as a user's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from hardsight.budgets import SIZE, Verdict, judge
from hardsight.candidate import Candidate
from hardsight.errors import NotSupportedError
from hardsight.graph import OperatorGraph
from hardsight.ingest import read_onnx
from hardsight.nas.job import ERROR, Job
from hardsight.nas.spaces import SearchSpace
from hardsight.prediction import Estimate, Prediction

EXACT = 1.0  # level of what is counted, not predicted


class CostPredictor(Protocol):
    """The part of `hardsight.predictors.Predictor` that a search needs."""

    def predict(self, graphs: Sequence[OperatorGraph], device: str, level: float = 0.9) -> Prediction: ...


class CostModel:
    """Predicts candidates and holds them against the job's constraints.

    Args:
        space: of the candidates.
        predictor: knows the job's device.
        job: with device, objectives and constraints.
        measured: costs by name that are known of candidates, by their JSON.
        floating: whether the device's tools quantize a float model by themselves, which its costs are then
            predicted of.
    """

    def __init__(
        self,
        space: SearchSpace,
        predictor: CostPredictor,
        job: Job,
        measured: Mapping[str, Mapping[str, float]] | None = None,
        floating: bool = False,
    ) -> None:
        self._space = space
        self._job = job
        self.predictor = predictor
        self.measured = dict(measured or {})
        self.floating = floating

    def __call__(self, candidate: Candidate) -> dict[str, Estimate]:
        """Every cost known for the candidate: the predictor's metrics, and its size.

        Raises:
            NotSupportedError: when one of the objectives is not among them.
        """
        job = self._job
        written, asked = self._graphs(candidate)
        row = self.predictor.predict([asked], job.device, job.level).row(0)
        costs = {str(metric): estimate for metric, estimate in row.estimates.items()}
        size = float(written.weight_bytes)
        costs[SIZE] = Estimate(size, size, size, EXACT)
        missing = [name for name in job.objectives if name not in (*costs, ERROR)]
        if missing:
            raise NotSupportedError(
                f"no predictor covers {', '.join(missing)} on '{job.device}', so it cannot be an objective; "
                f"covered: {', '.join(costs)}"
            )
        return costs

    def graph(self, candidate: Candidate) -> OperatorGraph:
        """What the predictor is asked about."""
        return self._graphs(candidate)[1]

    def _graphs(self, candidate: Candidate) -> tuple[OperatorGraph, OperatorGraph]:
        """The candidate as it is written, and what the predictor is asked about."""
        if not self.floating:
            graph = self._space.graph(candidate)
            return graph, graph
        from hardsight.datasets.dequantize import dequantized

        model = self._space.to_onnx(candidate)
        return read_onnx(model), read_onnx(dequantized(model))

    def verdicts(self, costs: Mapping[str, Estimate]) -> list[Verdict]:
        """The job's constraints, judged on the intervals' upper ends.

        Raises:
            NotSupportedError: a constraint on what is not predicted, or predicted without an interval.
        """
        return judge(self._job.constraints, costs, int(costs[SIZE].value), self._job.device)

    def violations(self, candidate: Candidate, costs: Mapping[str, Estimate]) -> dict[str, float]:
        """By constraint: the part of the limit by which the upper end exceeds it; at most 0 means kept.

        Of a candidate that was measured, the measurement must keep the limit as well.
        """
        known = self.measured.get(candidate.to_json(), {})
        return {
            v.quantity: max(v.upper, known.get(v.quantity, v.upper)) / v.limit - 1.0
            for v in self.verdicts(costs)
        }
