"""Published spaces whose every network was trained once, for all to look up."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from hardsight.candidate import Candidate
from hardsight.errors import InputError, JobError
from hardsight.nas.data import DataKind
from hardsight.nas.export import Values
from hardsight.nas.spaces._base import SearchSpace, Task

if TYPE_CHECKING:
    import onnx

    from hardsight.datasets.sources._graphs_blocks import Describe
    from hardsight.graph import OperatorGraph

_COLOURS = 3


class BenchmarkSpace(SearchSpace):
    """What such spaces have in common: networks are rebuilt as the readers of public tables rebuild them.

    They have no weights and are not trained here; evaluator ``table`` knows how accurate they are.

    Args:
        task: square colour images; the tables' own have 32 or 16 pixels a side.
    """

    samples: ClassVar[DataKind] = "images"
    fixed_point: ClassVar[bool | None] = None

    def check(self, task: Task) -> None:
        """Refuse a task that the published networks are not for.

        Raises:
            JobError: other samples than square colour images.
        """
        if len(task.shape) != 3 or task.shape[0] != _COLOURS or task.shape[1] != task.shape[2]:
            raise JobError(
                f"networks of space '{self.name}' read square images of three colours, not samples of shape "
                f"{task.shape}; name another space, or evaluator 'table', which needs no data"
            )

    @abstractmethod
    def published(self, candidate: Candidate) -> str:
        """The network's name in public tables.

        Raises:
            InputError: when the candidate is of another space or its parameters are not of this one.
        """

    @abstractmethod
    def _written(self, candidate: Candidate) -> tuple[Describe, str]:
        """What writes the network, and the line of text that it reads."""

    def to_onnx(self, candidate: Candidate, weights: Values | None = None) -> onnx.ModelProto:
        from hardsight.datasets.sources._graphs_blocks import to_onnx

        if weights is not None:
            raise InputError(f"networks of space '{self.name}' are written without weights")
        return to_onnx(*self._written(candidate))

    def graph(self, candidate: Candidate) -> OperatorGraph:
        from hardsight.datasets.sources._graphs_blocks import to_graph

        return to_graph(*self._written(candidate))
