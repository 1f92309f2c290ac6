"""Quantized convolutional networks of inverted bottlenecks, with a precision per block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from hardsight.candidate import Candidate, Json
from hardsight.errors import JobError
from hardsight.nas.data import DataKind
from hardsight.nas.network import Layer, Network, Precision
from hardsight.nas.spaces._base import NetworkSpace, Task
from hardsight.nas.spaces._options import Resolution, Strict, Width, executed, resolutions
from hardsight.nas.spaces.blocks import Block, LayerStack

if TYPE_CHECKING:
    import optuna


class _Block(Strict):
    kernel: Literal[3, 5]
    expansion: int = Field(ge=1)
    precision: Precision


class _Stage(Strict):
    width: int = Field(ge=1)
    blocks: tuple[_Block, ...] = Field(min_length=1)


class _Parameters(Strict):
    channels: int = Field(ge=1)
    classes: int = Field(ge=2)
    resolution: int = Field(ge=4)
    stem_width: int = Field(ge=1)
    stem_precision: Precision
    stages: tuple[_Stage, ...] = Field(min_length=1)
    head_precision: Precision


class Options(Strict):
    """What a job file may set.

    Args:
        resolutions: sides of the square image the networks see; by default from a quarter of the data's to
            four times small data's.
        max_depth: blocks of a stage at most.
        widths: per stage, the narrowest and the widest in channels; its length is the number of stages.
        width_step: widths are multiples of it.
        expansions: choices for a block's hidden width over its input's.
        kernels: choices for the depthwise convolution.
        precisions: choices per block; by default all that the device executes.
    """

    resolutions: tuple[Resolution, ...] | None = Field(default=None, min_length=1)
    max_depth: int = Field(default=3, strict=True, ge=1, le=8)
    widths: tuple[tuple[Width, Width], ...] = Field(
        default=((8, 24), (16, 40), (24, 64)), min_length=1, max_length=6
    )
    width_step: int = Field(default=8, strict=True, ge=1)
    expansions: tuple[Annotated[int, Field(strict=True, ge=1, le=64)], ...] = Field(
        default=(1, 2, 4), min_length=1
    )
    kernels: tuple[Literal[3, 5], ...] = Field(default=(3, 5), min_length=1)
    precisions: tuple[Precision, ...] | None = Field(default=None, min_length=1)


class QuantCnnSpace(NetworkSpace):
    """A stem, stages of inverted bottlenecks (MobileNetV2; Sandler et al., CVPR 2018), a classifier.

    Chosen are the resolution, the stem's width, each stage's depth and width, each block's kernel, expansion
    and precision, and the precision of stem and classifier. Each stage but the first halves the image; so
    does the stem, from 16 pixels on. A block whose input and output have the same shape adds the one to the
    other.

    Args:
        task: image shape, classes and precisions of the device.
        options: bounds of the space.

    Example:
        >>> space = QuantCnnSpace(Task((1, 8, 8), 10))
        >>> candidate = space.suggest(optuna.trial.FixedTrial(space.anchors()[0]))
        >>> model = space.to_onnx(candidate)
    """

    name: ClassVar[str] = "quant_cnn"
    samples: ClassVar[DataKind] = "images"
    options_type: ClassVar[type[BaseModel]] = Options

    def __init__(self, task: Task, options: Options | None = None) -> None:
        self.task = task
        self.options = options or Options()
        self.precisions = executed(self.name, task, self.options.precisions)
        self.resolutions = tuple(sorted(set(self.options.resolutions or resolutions(max(task.shape[1:])))))
        for low, high in self.options.widths:
            if low > high:
                raise JobError(
                    f"space.widths: range {low} to {high} is empty; give the narrowest first, for example [8, 24]"
                )

    def suggest(self, trial: optuna.trial.BaseTrial) -> Candidate:
        options = self.options
        resolution = trial.suggest_categorical("resolution", self.resolutions)
        stem_width = self._width(trial, "stem_width", *options.widths[0])
        stem_precision = trial.suggest_categorical("stem_precision", self.precisions)
        stages: list[Json] = []
        for s, (low, high) in enumerate(options.widths):
            depth = trial.suggest_int(f"s{s}_depth", 1, options.max_depth)
            width = self._width(trial, f"s{s}_width", low, high)
            blocks: list[Json] = [self._block(trial, f"s{s}_b{b}") for b in range(options.max_depth)]
            stages.append({"width": width, "blocks": blocks[:depth]})
        return Candidate(
            self.name,
            {
                "channels": self.task.shape[0],
                "classes": self.task.classes,
                "resolution": resolution,
                "stem_width": stem_width,
                "stem_precision": stem_precision,
                "stages": stages,
                "head_precision": trial.suggest_categorical("head_precision", self.precisions),
            },
        )

    def anchors(self) -> list[Mapping[str, Any]]:
        """The smallest network, in each precision."""
        return [self._smallest(precision) for precision in self.precisions]

    def network(self, candidate: Candidate) -> Network:
        parameters = self.parameters(candidate, _Parameters)
        return Network.of_precisions(
            f"{self.name}-{candidate.digest[:8]}",
            (parameters.channels, parameters.resolution, parameters.resolution),
            _layers(parameters),
            self.task.signed,
        )

    def _width(self, trial: optuna.trial.BaseTrial, name: str, low: int, high: int) -> int:
        return trial.suggest_int(
            name,
            low,
            low + (high - low) // self.options.width_step * self.options.width_step,
            step=self.options.width_step,
        )

    def _block(self, trial: optuna.trial.BaseTrial, name: str) -> dict[str, Json]:
        return {
            "kernel": trial.suggest_categorical(f"{name}_kernel", self.options.kernels),
            "expansion": trial.suggest_categorical(f"{name}_expansion", self.options.expansions),
            "precision": trial.suggest_categorical(f"{name}_precision", self.precisions),
        }

    def _smallest(self, precision: str) -> dict[str, Any]:
        options = self.options
        chosen: dict[str, Any] = {
            "resolution": self.resolutions[0],
            "stem_width": options.widths[0][0],
            "stem_precision": precision,
            "head_precision": precision,
        }
        for s, (low, _) in enumerate(options.widths):
            chosen |= {f"s{s}_depth": 1, f"s{s}_width": low}
            for b in range(options.max_depth):
                chosen[f"s{s}_b{b}_kernel"] = min(options.kernels)
                chosen[f"s{s}_b{b}_expansion"] = min(options.expansions)
                chosen[f"s{s}_b{b}_precision"] = precision
        return chosen


def _layers(p: _Parameters) -> list[tuple[Layer, Precision]]:
    stack = LayerStack(p.channels)
    stem_stride = 2 if p.resolution >= 16 else 1
    stack.block(
        "stem",
        Block(block="conv", width=p.stem_width, stride=stem_stride, kernel=3, precision=p.stem_precision),
    )
    for s, stage in enumerate(p.stages):
        for b, block in enumerate(stage.blocks):
            stride = 2 if b == 0 and s > 0 else 1
            mbconv = Block(block="mbconv", width=stage.width, stride=stride, **block.model_dump())
            stack.block(f"s{s}_b{b}", mbconv)
    stack.head(p.classes, p.head_precision)
    return stack.layers
