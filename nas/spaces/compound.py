"""Compound scaling: one family of networks, larger and smaller."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, Field

from hardsight.candidate import Candidate, Json
from hardsight.nas.data import DataKind
from hardsight.nas.network import Precision
from hardsight.nas.spaces._base import Task
from hardsight.nas.spaces._options import Resolution, Strict, executed
from hardsight.nas.spaces.blocks import FIELDS
from hardsight.nas.spaces.families import MBConvOptions, ResNetOptions, ViTOptions
from hardsight.nas.spaces.stages import BlockSpace, ImageStageOptions, Stage

if TYPE_CHECKING:
    import optuna

_DISTINCT = (Field(min_length=1), AfterValidator(lambda values: tuple(sorted(set(values)))))
Scales = Annotated[tuple[Annotated[float, Field(gt=0, le=1024)], ...], *_DISTINCT]
Shares = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], *_DISTINCT]
Family = Literal["mbconv", "resnet", "vit"]

_FAMILIES: dict[Family, type[ImageStageOptions]] = {
    "mbconv": MBConvOptions,
    "resnet": ResNetOptions,
    "vit": ViTOptions,
}
_WIDTH_STEP = 4
_SIDE_STEP = 4


class CompoundOptions(Strict):
    """What a job file may set.

    Args:
        family: `mbconv`, `resnet` or `vit`, whose smallest network is the base.
        stages: the base instead of the family's; of a list of choices the first counts, the smallest.
        resolution: side of the base's image; by default the data's.
        scales: choices for the multiply-accumulates over the base's.
        alphas: choices for the share of a scale that goes into width, in logarithms; depth and resolution have half of
            the rest each. 0.8 is best on many devices, since width costs the least traffic (Dollár et al., CVPR 2021).
        precisions: choices per stage; by default all that the device executes.
    """

    family: Family = "mbconv"
    stages: tuple[Stage, ...] | None = Field(default=None, min_length=1, max_length=12)
    resolution: Resolution | None = None
    scales: Scales = (0.5, 1.0, 2.0, 4.0, 8.0)
    alphas: Shares = (0.8,)
    precisions: tuple[Precision, ...] | None = Field(default=None, min_length=1)


class CompoundSpace(BlockSpace):
    """A network scaled in width, depth and resolution together (Dollár et al., CVPR 2021), a precision per stage.

    Multiply-accumulates grow with depth · width² · resolution². A scale ``s`` therefore multiplies the width by
    ``s^(alpha / 2)``, the depth by ``s^((1 - alpha) / 2)`` and the resolution by ``s^((1 - alpha) / 4)`` (section 5
    of the paper), each rounded: small networks do not reach the scale exactly.

    Args:
        task: shape, classes and precisions of the device.
        options: base and scales.
    """

    name: ClassVar[str] = "compound"
    samples: ClassVar[DataKind] = "images"
    options_type: ClassVar[type[BaseModel]] = CompoundOptions

    def __init__(self, task: Task, options: CompoundOptions | None = None) -> None:
        self.task = task
        self.options = options or CompoundOptions()
        self.precisions = executed(self.name, task, self.options.precisions)
        given = {} if self.options.stages is None else {"stages": self.options.stages}
        base = _FAMILIES[self.options.family].model_validate(given)
        self._stages, self._activation = base.stages, base.activations[0]

    def suggest(self, trial: optuna.trial.BaseTrial) -> Candidate:
        scale = trial.suggest_categorical("scale", self.options.scales)
        alpha = trial.suggest_categorical("alpha", self.options.alphas)
        width, depth, resolution = (
            scale ** (alpha / 2),
            scale ** ((1 - alpha) / 2),
            scale ** ((1 - alpha) / 4),
        )
        side = _SIDE_STEP * round(self._side * resolution / _SIDE_STEP)
        blocks: list[dict[str, Json]] = []
        for s, stage in enumerate(self._stages):
            precision = trial.suggest_categorical(f"s{s}_precision", self.precisions)
            block = _scaled(stage, width)
            for b in range(max(1, round(stage.depth[0] * depth))):
                stride = stage.stride[0] if b == 0 else 1
                blocks.append({**block, "stride": stride, "precision": precision})
        head = trial.suggest_categorical("head_precision", self.precisions)
        shape = (self.task.shape[0], max(_SIDE_STEP, side), max(_SIDE_STEP, side))
        return self.candidate(shape, self._activation, blocks, head)

    def anchors(self) -> list[Mapping[str, Any]]:
        """The smallest network, in each precision."""
        least = {"scale": self.options.scales[0], "alpha": self.options.alphas[0]}
        stages = [f"s{s}_precision" for s in range(len(self._stages))]
        return [
            {**least, **dict.fromkeys([*stages, "head_precision"], precision)}
            for precision in self.precisions
        ]

    @property
    def _side(self) -> int:
        return self.options.resolution or max(self.task.shape[1:])


def _scaled(stage: Stage, factor: float) -> dict[str, Json]:
    """A block of the stage, its width scaled to a multiple of 4 that the heads divide."""
    own: dict[str, Json] = {key: stage.choices(key)[0] for key in FIELDS[stage.block]}
    heads = own.get("heads", 1)
    assert isinstance(heads, int)
    step = math.lcm(_WIDTH_STEP, heads)
    return {"block": stage.block, **own, "width": max(1, round(stage.width[0] * factor / step)) * step}
