"""Accuracies that others trained, looked up in a public table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from hardsight.candidate import Candidate
from hardsight.errors import DataError, JobError, NotSupportedError
from hardsight.nas.data import DataSpec, LabelledData, Part, without_samples
from hardsight.nas.evaluators._base import AccuracyEvaluator, Evaluation
from hardsight.nas.spaces import SearchSpace
from hardsight.nas.spaces._benchmark import BenchmarkSpace
from hardsight.nas.spaces.nas_bench_201 import NasBench201Space
from hardsight.nas.spaces.nas_bench_macro import NasBenchMacroSpace

if TYPE_CHECKING:
    import onnx

    from hardsight.nas.job import Job

DataName = Literal["cifar10", "cifar100", "ImageNet16-120"]
_DATA: dict[DataName, tuple[int, int]] = {
    "cifar10": (10, 32),
    "cifar100": (100, 32),
    "ImageNet16-120": (120, 16),
}
"""Classes and side of the image."""


class Options(BaseModel):
    """What a job file may set.

    Args:
        dataset: `cifar10`, `cifar100` or `ImageNet16-120`; NAS-Bench-Macro has the first only.
        folder: of the table's plain copy; by default below `HARDSIGHT_DATA`, or where `dataset fetch` put it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: DataName = "cifar10"
    folder: str | None = None


@dataclass(frozen=True)
class AccuracyTable:
    """What is known of a space's networks by their published names.

    Args:
        validation: share of samples classified right, which the search judges by.
        test: the same for the report.
        origin: where both come from, for the report's reader.
    """

    validation: Mapping[str, float]
    test: Mapping[str, float]
    origin: str

    @property
    def digest(self) -> str:
        """SHA-256 of the accuracies (64 hex digits)."""
        return hashlib.sha256(
            repr((sorted(self.validation.items()), sorted(self.test.items()))).encode()
        ).hexdigest()


class TableEvaluator(AccuracyEvaluator):
    """Looks accuracies up in the table of NAS-Bench-201 or NAS-Bench-Macro: no training, no data.

    Neither table keeps a part for validation back. Of NAS-Bench-201 (NATS-Bench, 200 epochs, mean of the seeds) the
    search and the report have the same number, which therefore flatters what was found. Of NAS-Bench-Macro's three
    trainings the search has the first, and the report the mean of the others.

    Args:
        space: one that was published with such a table.
        table: of its networks.
    """

    options_type: ClassVar[type[BaseModel]] = Options

    def __init__(self, space: BenchmarkSpace, table: AccuracyTable) -> None:
        self.space = space
        self.table = table
        self.note = f"Nothing was trained: {table.origin}"

    @classmethod
    def load_data(cls, job: Job) -> LabelledData:
        if job.data != DataSpec():
            raise JobError(
                f"evaluator 'table' needs no data, and 'data' names '{job.data.source}'; remove the key 'data', or "
                "name another evaluator"
            )
        name = cls.options_of(job).dataset
        classes, side = _DATA[name]
        return without_samples(name, (3, side, side), classes, _table(cls.options_of(job), job).digest)

    @classmethod
    def for_job(cls, space: SearchSpace, data: LabelledData, job: Job) -> Self:
        table = _table(cls.options_of(job), job)
        assert isinstance(space, BenchmarkSpace)
        return cls(space, table)

    def evaluate(self, candidate: Candidate, seed: int, epochs: int | None = None) -> Evaluation:
        """As published; seed and epochs change nothing.

        Raises:
            DataError: the table lacks the network.
        """
        return Evaluation(candidate, self._look_up(self.table.validation, candidate), seed)

    def test_accuracy(self, evaluation: Evaluation) -> float:
        return self._look_up(self.table.test, evaluation.candidate)

    def to_onnx(self, evaluation: Evaluation) -> onnx.ModelProto:
        """The network without weights: those that reached the accuracy are not in the table."""
        return self.space.to_onnx(evaluation.candidate)

    def predict(self, evaluation: Evaluation, part: Part) -> npt.NDArray[Any]:
        raise NotSupportedError(
            "a table of accuracies holds no network to run; ask test_accuracy() for what it knows"
        )

    def _look_up(self, accuracies: Mapping[str, float], candidate: Candidate) -> float:
        name = self.space.published(candidate)
        if name not in accuracies:
            raise DataError(
                f"the table has no accuracy of '{name}' among its {len(accuracies):,} networks; fetch the whole table"
            )
        return accuracies[name]


def _table(options: Options, job: Job) -> AccuracyTable:
    if job.space.name not in _READERS:
        raise JobError(
            f"evaluator 'table' knows the accuracies of {' and '.join(_READERS)}, not of space '{job.space.name}'; "
            "name one of these, or another evaluator"
        )
    folder = None if options.folder is None else Path(options.folder).expanduser()
    return _READERS[job.space.name](folder, options.dataset)


def _nas_bench_201(folder: Path | None, dataset: DataName) -> AccuracyTable:
    from hardsight.datasets.sources import get_source

    source = get_source("nb201-accuracy")
    frame = source.table(source.find(folder))
    column = frame[f"{dataset.lower().replace('-', '_')}_test"] / 100
    accuracies = dict(zip(frame["arch_str"], map(float, column), strict=True))
    return AccuracyTable(
        accuracies,
        accuracies,
        "accuracies are NATS-Bench's test accuracies after 200 epochs, mean of the seeds. The public table keeps no "
        "part for validation back, so the search judged by the same numbers that stand here.",
    )


def _nas_bench_macro(folder: Path | None, dataset: DataName) -> AccuracyTable:
    from hardsight.datasets.sources import get_source

    if dataset != "cifar10":
        raise JobError(f"evaluator.dataset: NAS-Bench-Macro was trained on cifar10 only, not on {dataset}")
    source = get_source("nas-bench-macro")
    frame = source.table(source.find(folder))
    searched, others = frame["test_acc_1"] / 100, frame[["test_acc_2", "test_acc_3"]].mean(axis=1) / 100
    return AccuracyTable(
        dict(zip(frame["arch"], map(float, searched), strict=True)),
        dict(zip(frame["arch"], map(float, others), strict=True)),
        "accuracies are NAS-Bench-Macro's. The search judged by the first of three trainings; the mean of the other "
        "two stands here as test accuracy.",
    )


_READERS: dict[str, Callable[[Path | None, DataName], AccuracyTable]] = {
    NasBench201Space.name: _nas_bench_201,
    NasBenchMacroSpace.name: _nas_bench_macro,
}
