"""NAS-Bench-201: one cell of six operations, repeated fifteen times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from hardsight.candidate import Candidate, Json
from hardsight.nas.spaces._base import Task
from hardsight.nas.spaces._benchmark import BenchmarkSpace

if TYPE_CHECKING:
    import optuna

    from hardsight.datasets.sources._graphs_blocks import Describe

EDGES = ("op_0_1", "op_0_2", "op_1_2", "op_0_3", "op_1_3", "op_2_3")
"""From node to node, in the order of the published notation."""
_Operation = Literal["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
_OPERATIONS: tuple[_Operation, ...] = (
    "none",
    "skip_connect",
    "nor_conv_1x1",
    "nor_conv_3x3",
    "avg_pool_3x3",
)


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    op_0_1: _Operation
    op_0_2: _Operation
    op_1_2: _Operation
    op_0_3: _Operation
    op_1_3: _Operation
    op_2_3: _Operation
    classes: int = Field(ge=2)
    side: int = Field(ge=4)
    batch: int = Field(ge=1)


class Options(BaseModel):
    """What a job file may set.

    Args:
        batch: images that a network reads at once; tables of latencies have 1, some GPUs more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int = Field(default=1, strict=True, ge=1)


class NasBench201Space(BenchmarkSpace):
    """15,625 cells of five operations on six edges (Dong and Yang, ICLR 2020), each trained on three data sets.

    Three stages of five cells with 16, 32 and 64 channels. An edge that leads nowhere is computed, as upstream's
    PyTorch code does; see `hardsight.datasets.sources._graphs_nb201`.

    Args:
        task: image size and classes.
        options: of the networks.

    Example:
        >>> space = NasBench201Space(Task((3, 32, 32), 100))
        >>> space.published(space.suggest(optuna.trial.FixedTrial(space.anchors()[0])))
        '|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|'
    """

    name: ClassVar[str] = "nas_bench_201"
    options_type: ClassVar[type[BaseModel]] = Options

    def __init__(self, task: Task, options: Options | None = None) -> None:
        self.check(task)
        self.task = task
        self.options = options or Options()

    def suggest(self, trial: optuna.trial.BaseTrial) -> Candidate:
        chosen: dict[str, Json] = {edge: trial.suggest_categorical(edge, _OPERATIONS) for edge in EDGES}
        return Candidate(
            self.name,
            {
                **chosen,
                "classes": self.task.classes,
                "side": self.task.shape[-1],
                "batch": self.options.batch,
            },
        )

    def anchors(self) -> list[Mapping[str, Any]]:
        """The cheapest cell that lets anything through on every way."""
        return [dict.fromkeys(EDGES, "skip_connect")]

    def published(self, candidate: Candidate) -> str:
        p = self.parameters(candidate, _Parameters)
        return f"|{p.op_0_1}~0|+|{p.op_0_2}~0|{p.op_1_2}~1|+|{p.op_0_3}~0|{p.op_1_3}~1|{p.op_2_3}~2|"  # its notation

    def _written(self, candidate: Candidate) -> tuple[Describe, str]:
        from hardsight.datasets.sources._graphs_nb201 import describe, encode

        p, cell = self.parameters(candidate, _Parameters), self.published(candidate)
        return describe, encode(cell, batch=p.batch, classes=p.classes, side=p.side)
