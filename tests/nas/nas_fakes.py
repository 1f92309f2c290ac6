"""Fakes as short as the interfaces they stand for; tests and the process to be killed import them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from hardsight.candidate import Candidate
from hardsight.datasets.weights import fill_weights
from hardsight.device import Device
from hardsight.errors import StorageError
from hardsight.graph import OperatorGraph
from hardsight.measurement import Measurement
from hardsight.metrics import Metric
from hardsight.nas.data import DataSpec, load_data
from hardsight.nas.evaluators import AccuracyEvaluator, Evaluation, TrialFailure
from hardsight.nas.job import Job, parse_job
from hardsight.nas.network import INPUT
from hardsight.nas.spaces import Task, get_space
from hardsight.prediction import Prediction

SPACE = {
    "name": "quant_cnn",
    "resolutions": [8],
    "max_depth": 1,
    "widths": [[8, 16], [8, 24]],
    "expansions": [1, 2],
}
DEVICE = "host/onnxruntime/fp32-t1"


class FakePredictor:
    """1 ns per MAC, ± 25 %."""

    def predict(self, graphs: Sequence[OperatorGraph], device: str, level: float = 0.9) -> Prediction:
        value = np.array([[g.macs * 1e-9] for g in graphs])
        return Prediction(value, value * 0.75, value * 1.25, (Metric.LATENCY,), device, level, "fake")


class FakeEvaluator(AccuracyEvaluator):
    """An accuracy made of the digest, after ``delay_s``; from call ``fail_from`` on, everything diverges."""

    def __init__(self, delay_s: float = 0.0, fail_from: int | None = None) -> None:
        self.space = get_space("quant_cnn").for_task(
            Task((1, 8, 8), 10), **{k: v for k, v in SPACE.items() if k != "name"}
        )
        self.delay_s = delay_s
        self.fail_from = fail_from
        self.calls: list[str] = []

    def evaluate(self, candidate: Candidate, seed: int, epochs: int | None = None) -> Evaluation:
        self.calls.append(candidate.digest)
        time.sleep(self.delay_s)
        if self.fail_from is not None and len(self.calls) > self.fail_from:
            raise TrialFailure("diverged")
        accuracy = 0.5 + int(candidate.digest[:4], 16) / 2**17
        return Evaluation(
            candidate, accuracy, seed, epochs or 1, self.delay_s, {"w": np.zeros(1, np.float32)}
        )

    def to_onnx(self, evaluation: Evaluation) -> onnx.ModelProto:
        return fill_weights(self.space.to_onnx(evaluation.candidate))

    def predict(self, evaluation: Evaluation, part: str) -> npt.NDArray[Any]:
        return np.zeros((len(load_data(DataSpec(limit=200), evaluation.seed).parts["test"]), 10))


class FullDisk(FakeEvaluator):
    """Cannot write."""

    def evaluate(self, candidate: Candidate, seed: int, epochs: int | None = None) -> Evaluation:
        raise StorageError("disk full")


def fake_measure(path: Path, device: Device) -> list[Measurement]:
    assert path.exists()
    return [Measurement("0", device.name, Metric.LATENCY, 1e-4, 0.01, 20)]


def make_job(**changes: object) -> Job:
    raw = {
        "data": {"limit": 200},
        "space": SPACE,
        "device": DEVICE,
        "sampler": "nsga2",
        "trials": 6,
        "epochs": 1,
        "final_epochs": 0,
        **changes,
    }
    return parse_job(raw)


def logits(model: onnx.ModelProto, samples: npt.NDArray[np.float32], level: str) -> npt.NDArray[np.float32]:
    """A network's answers, sample by sample, at one of ONNX Runtime's levels of optimization."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    return np.concatenate([session.run(None, {INPUT: sample[None]})[0] for sample in samples])
