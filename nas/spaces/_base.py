"""The contract of a search space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ValidationError

from hardsight.candidate import Candidate
from hardsight.errors import InputError, JobError
from hardsight.ingest import read_onnx
from hardsight.nas._text import fault, faults, key_names
from hardsight.nas.data import DataKind
from hardsight.nas.export import Values, network_to_onnx
from hardsight.nas.export_qonnx import network_to_qonnx
from hardsight.nas.network import Network

if TYPE_CHECKING:
    import onnx
    import optuna

    from hardsight.graph import OperatorGraph


Parameters = TypeVar("Parameters", bound=BaseModel)


@dataclass(frozen=True)
class Task:
    """What a network is searched for.

    Args:
        shape: of a sample of the data: ``(channels, height, width)`` of an image, ``(channels, length)`` of a signal,
            ``(features,)`` of a table's row.
        classes: how many there are.
        precisions: those that the device really executes.
        signed: whether samples have values below zero.
    """

    shape: tuple[int, ...]
    classes: int
    precisions: tuple[str, ...] = ("fp32", "int8")
    signed: bool = False


class SearchSpace(ABC):
    """A set of networks, from which an Optuna trial picks one.

    A space names the kind of data that its networks read (``samples``), whether they are for FPGAs only
    (``fixed_point``; None: for any device), and the options that a job file may set (``options_type``; their docstring
    becomes the table in ``docs/job.md``).

    Args:
        task: what the networks are for.
        options: of ``options_type``; its defaults without them.
    """

    name: ClassVar[str]
    samples: ClassVar[DataKind]
    fixed_point: ClassVar[bool | None] = False
    options_type: ClassVar[type[BaseModel]]

    @abstractmethod
    def __init__(self, task: Task, options: Any = None) -> None: ...

    @classmethod
    def for_task(cls, task: Task, **options: Any) -> Self:
        """The space for a task; ``options`` are those of the job file.

        Raises:
            JobError: an option or a value that the space does not have.
        """
        try:
            return cls(task, cls.options_type.model_validate(options))
        except ValidationError as error:
            known = key_names(cls.options_type)
            wrong = [fault(e, known, "space") for e in faults(map(dict, error.errors()))]
            raise JobError(f"job is not valid: {'; '.join(wrong)}") from error

    def parameters(self, candidate: Candidate, model: type[Parameters]) -> Parameters:
        """The candidate's parameters, checked.

        Raises:
            InputError: when the candidate is of another space or its parameters are not of this one.
        """
        if candidate.space != self.name:
            raise InputError(f"a candidate of space '{candidate.space}' was given to space '{self.name}'")
        try:
            return model.model_validate(dict(candidate.params))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"candidate of space '{self.name}' is not valid at '{where}': {first['msg']}"
            ) from error

    @abstractmethod
    def suggest(self, trial: optuna.trial.BaseTrial) -> Candidate:
        """Pick a candidate.

        The same parameters are asked for in every trial: samplers that model them need that. One without
        effect (the kernel of a block that is not there) is left out of the candidate, whose digest so
        identifies the architecture.
        """

    def at(self, parameters: Mapping[str, Any]) -> Candidate:
        """The candidate of a trial's parameters."""
        import optuna

        return self.suggest(optuna.trial.FixedTrial(dict(parameters)))

    @abstractmethod
    def to_onnx(self, candidate: Candidate, weights: Values | None = None) -> onnx.ModelProto:
        """The candidate as ONNX; weightless unless ``weights`` gives data by initializer name.

        Raises:
            InputError: when the candidate is of another space or its parameters are not of this one.
        """

    def graph(self, candidate: Candidate) -> OperatorGraph:
        """What `to_onnx` writes, as predictors read it; a space that knows a faster way gives the same."""
        return read_onnx(self.to_onnx(candidate))

    def anchors(self) -> list[Mapping[str, Any]]:
        """Parameters worth trying first, for example the cheapest network: a tight budget is met early."""
        return []


class NetworkSpace(SearchSpace):
    """A space whose candidates are a `Network`: it can train and export them without more code."""

    @abstractmethod
    def network(self, candidate: Candidate) -> Network:
        """The candidate's layers."""

    def to_onnx(self, candidate: Candidate, weights: Values | None = None) -> onnx.ModelProto:
        network = self.network(candidate)
        return (network_to_qonnx if network.fixed_point else network_to_onnx)(network, weights)
