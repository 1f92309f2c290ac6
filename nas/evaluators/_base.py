"""The contract of an accuracy evaluator."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from hardsight.candidate import Candidate
from hardsight.errors import HardsightError, JobError, StorageError
from hardsight.nas._text import fault, faults
from hardsight.nas.data import LabelledData, load_data
from hardsight.progress import Progress

if TYPE_CHECKING:
    import onnx

    from hardsight.nas.data import Part
    from hardsight.nas.job import Job
    from hardsight.nas.spaces import SearchSpace


class TrialFailure(HardsightError):
    """One candidate failed, not the search: its training diverged, ran out of memory or of time."""


Details = Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """A candidate with its accuracy.

    Args:
        candidate: what was evaluated.
        accuracy: share of the validation samples that are classified right.
        seed: that it started from.
        epochs: it was trained for.
        duration_s: it took.
        weights: trained tensors by name, as `save` keeps them; empty where nothing was
            trained.
        pruned: whether the training was ended, or not begun, because others promised more: the accuracy is a
            lower bound, and the front's networks are trained on.
        details: what the evaluator wants to know of this candidate when it judges others, as JSON.
    """

    candidate: Candidate
    accuracy: float
    seed: int
    epochs: int = 0
    duration_s: float = 0.0
    weights: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict, repr=False)
    pruned: bool = False
    details: Details = field(default_factory=dict, repr=False)

    def save(self, path: Path) -> None:
        """Write the weights as safetensors with the rest as its metadata, whole or not at all.

        Raises:
            StorageError: disk full or no permission.
        """
        from safetensors.numpy import save_file

        metadata = {
            "candidate": self.candidate.to_json(),
            "accuracy": repr(self.accuracy),
            "seed": str(self.seed),
            "epochs": str(self.epochs),
            "duration_s": repr(self.duration_s),
            "pruned": json.dumps(self.pruned),
            "details": json.dumps(dict(self.details)),
        }
        with written_whole(path, "weights") as temporary:
            save_file(dict(self.weights), temporary, metadata=metadata)

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            StorageError: a file that is missing or torn.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as held:
                metadata = held.metadata()
                weights = {key: held.get_tensor(key) for key in held.keys()}  # noqa: SIM118 - no mapping
            return cls(
                Candidate.from_json(metadata["candidate"]),
                float(metadata["accuracy"]),
                int(metadata["seed"]),
                int(metadata["epochs"]),
                float(metadata["duration_s"]),
                weights,
                json.loads(metadata.get("pruned", "false")),
                json.loads(metadata.get("details", "{}")),
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"cannot read weights from '{path}': {error}; delete the file, then go on with --resume"
            ) from error


@contextmanager
def written_whole(path: Path, what: str) -> Iterator[Path]:
    """A file to write tensors to, which takes the place of ``path`` at the end, or leaves nothing behind.

    Args:
        path: of the file.
        what: it holds, for the message.

    Raises:
        StorageError: disk full or no permission.
    """
    from safetensors import SafetensorError

    temporary = path.with_suffix(".part")
    try:
        yield temporary
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {what} to {path}: {error}; free space, then go on with --resume"
        ) from error


class AccuracyEvaluator(ABC):
    """Answers how accurate a candidate is on the task at hand.

    ``options_type`` says what a job file may set beside the name; ``note`` what a report's reader must know of the
    accuracies, if anything.
    """

    options_type: ClassVar[type[BaseModel]]
    note: str = ""

    @classmethod
    def load_data(cls, job: Job) -> LabelledData:
        """The samples that a job's networks are for.

        Raises:
            InputError: they cannot be used.
        """
        return load_data(job.data, job.seed)

    @classmethod
    def for_job(cls, space: SearchSpace, data: LabelledData, job: Job) -> Self:
        """The evaluator that a job asks for by name; one that is only given as an instance need not have it.

        Raises:
            JobError: an option it does not have, or a space whose candidates it cannot judge.
        """
        raise JobError(f"evaluator '{cls.__name__}' cannot be asked for in a job")

    @classmethod
    def options_of(cls, job: Job) -> Any:
        """What the job sets beside the evaluator's name, as ``options_type``.

        Raises:
            JobError: an option it does not have, or a wrong value.
        """
        try:
            return cls.options_type.model_validate(job.evaluator.options)
        except ValidationError as error:
            fields = cls.options_type.model_fields
            wrong = [fault(e, fields, "evaluator") for e in faults(map(dict, error.errors()))]
            raise JobError(f"job is not valid: {'; '.join(wrong)}") from error

    def begin(self, folder: Path, progress: Progress | None = None) -> None:  # noqa: B027 - most need nothing
        """Called before the first trial of a search, also of a resumed one.

        Args:
            folder: of the study; what the evaluator keeps there is not made again.
            progress: of what it does before it can answer.
        """

    @abstractmethod
    def evaluate(self, candidate: Candidate, seed: int, epochs: int | None = None) -> Evaluation:
        """Accuracy on the validation part; the same arguments give the same answer.

        Args:
            candidate: of the evaluator's space.
            seed: of initial weights and batches.
            epochs: other than the evaluator's own, for a final training.

        Raises:
            TrialFailure: when this candidate, not the task, is the trouble.
        """

    def test_accuracy(self, evaluation: Evaluation) -> float | None:
        """Share of the test samples classified right, where no run of the network can tell; None: it is run."""
        return None

    def evaluate_among(self, candidate: Candidate, seed: int, rivals: Sequence[Details]) -> Evaluation:
        """`evaluate` within a search, where a candidate that promises too little need not be trained to the end.

        Args:
            candidate: of the evaluator's space.
            seed: of initial weights and batches.
            rivals: `Evaluation.details` of earlier candidates that cost no more in any objective, in order: with
                an equal accuracy they would be the better choice. The cheapest candidate has none.

        Raises:
            TrialFailure: as `evaluate`.
        """
        return self.evaluate(candidate, seed)

    @abstractmethod
    def to_onnx(self, evaluation: Evaluation) -> onnx.ModelProto:
        """The trained network as ONNX, quantized where the candidate says so."""

    @abstractmethod
    def predict(self, evaluation: Evaluation, part: Part) -> npt.NDArray[Any]:
        """Logits ``(n, classes)`` of the trained network, computed where it was trained."""
