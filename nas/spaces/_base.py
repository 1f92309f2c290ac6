"""The contract of a search space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hardsight.candidate import Candidate
from hardsight.nas.export import Values, network_to_onnx
from hardsight.nas.network import Network

if TYPE_CHECKING:
    import onnx
    import optuna


@dataclass(frozen=True)
class Task:
    """What a network is searched for.

    Args:
        shape: channels, height and width of the data's images.
        classes: how many there are.
        precisions: those that the device really executes.
    """

    shape: tuple[int, int, int]
    classes: int
    precisions: tuple[str, ...] = ("fp32", "int8")


class SearchSpace(ABC):
    """A set of networks, from which an Optuna trial picks one."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def for_task(cls, task: Task, **options: Any) -> Self:
        """The space for a task; ``options`` are those of the job file.

        Raises:
            JobError: an option or a value that the space does not have.
        """

    @abstractmethod
    def suggest(self, trial: optuna.trial.BaseTrial) -> Candidate:
        """Pick a candidate.

        The same parameters are asked for in every trial: samplers that model them need that. One without
        effect (the kernel of a block that is not there) is left out of the candidate, whose digest so
        identifies the architecture.
        """

    @abstractmethod
    def to_onnx(self, candidate: Candidate, weights: Values | None = None) -> onnx.ModelProto:
        """The candidate as ONNX; weightless unless ``weights`` gives data by initializer name.

        Raises:
            InputError: when the candidate is of another space or its parameters are not of this one.
        """

    def anchors(self) -> list[Mapping[str, Any]]:
        """Parameters worth trying first, for example the cheapest network: a tight budget is met early."""
        return []


class NetworkSpace(SearchSpace):
    """A space whose candidates are a `Network`: it can train and export them without more code."""

    @abstractmethod
    def network(self, candidate: Candidate) -> Network:
        """The candidate's layers."""

    def to_onnx(self, candidate: Candidate, weights: Values | None = None) -> onnx.ModelProto:
        return network_to_onnx(self.network(candidate), weights)
