"""NAS-Bench-Macro: a chain of eight blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from hardsight.candidate import Candidate, Json
from hardsight.errors import JobError
from hardsight.nas.spaces._base import Task
from hardsight.nas.spaces._benchmark import BenchmarkSpace

if TYPE_CHECKING:
    import optuna

    from hardsight.datasets.sources._graphs_blocks import Describe

_BLOCKS = 8
_CHOICES = ("identity", "mbconv_e3_k3", "mbconv_e6_k5")  # published as the digits 0, 1, 2
_TASK = ((3, 32, 32), 10)


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: Annotated[
        tuple[Literal["identity", "mbconv_e3_k3", "mbconv_e6_k5"], ...],
        Field(min_length=_BLOCKS, max_length=_BLOCKS),
    ]


class Options(BaseModel):
    """What a job file may set: nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NasBenchMacroSpace(BenchmarkSpace):
    """6,561 chains of eight blocks of MobileNetV2, each of three kinds (Su et al., CVPR 2021), trained on CIFAR-10.

    A block is left out, has expansion 3 and kernel 3, or expansion 6 and kernel 5; the first of each of the three
    stages halves the image.

    Args:
        task: CIFAR-10's, whose classes and image size the published networks have.
        options: none.
    """

    name: ClassVar[str] = "nas_bench_macro"
    options_type: ClassVar[type[BaseModel]] = Options

    def __init__(self, task: Task, options: Options | None = None) -> None:
        self.check(task)
        if (task.shape, task.classes) != _TASK:
            raise JobError(
                f"networks of space '{self.name}' are for CIFAR-10's ten classes and 32 pixels a side, not for "
                f"{task.classes} classes and shape {task.shape}"
            )
        self.task = task

    def suggest(self, trial: optuna.trial.BaseTrial) -> Candidate:
        blocks: list[Json] = [trial.suggest_categorical(f"block_{i}", _CHOICES) for i in range(_BLOCKS)]
        return Candidate(self.name, {"blocks": blocks})

    def anchors(self) -> list[Mapping[str, Any]]:
        """The network without blocks."""
        return [{f"block_{i}": _CHOICES[0] for i in range(_BLOCKS)}]

    def published(self, candidate: Candidate) -> str:
        blocks = self.parameters(candidate, _Parameters).blocks
        return "".join(str(_CHOICES.index(block)) for block in blocks)

    def _written(self, candidate: Candidate) -> tuple[Describe, str]:
        from hardsight.datasets.sources._graphs_nas_bench_macro import describe

        return describe, self.published(candidate)
