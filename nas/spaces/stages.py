"""One engine for spaces that are described: stages of blocks with choices, by default or in a user's YAML."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hardsight.candidate import Candidate, Json
from hardsight.nas.network import Network, Precision
from hardsight.nas.spaces._base import NetworkSpace, Task
from hardsight.nas.spaces._options import Resolution, Strict, Width, executed
from hardsight.nas.spaces.blocks import FIELDS, Activation, Block, BlockKind, LayerStack

if TYPE_CHECKING:
    import optuna

Choose = Callable[[str, Sequence[Any]], Any]
"""Picks one of the choices for the parameter of that name."""


def _listed(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


def _ordered(values: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"a kernel is odd, not {value}")
    return value


_Several = (BeforeValidator(_listed), Field(min_length=1), AfterValidator(_ordered))
Widths = Annotated[tuple[Width, ...], *_Several]
Small = Annotated[tuple[Annotated[int, Field(strict=True, ge=1, le=32)], ...], *_Several]
Kernels = Annotated[
    tuple[Annotated[int, Field(strict=True, ge=1, le=31), AfterValidator(_odd)], ...], *_Several
]
Activations = Annotated[
    tuple[Activation, ...], Field(min_length=1), AfterValidator(lambda names: tuple(dict.fromkeys(names)))
]
Switch = Annotated[tuple[Annotated[bool, Field(strict=True)], ...], *_Several]


class Stage(Strict):
    """A stage: one value or a list of choices per key.

    Args:
        block: kind of its blocks. `conv`: convolution. `mbconv`: inverted bottleneck (MobileNetV3; Howard et al., ICCV
            2019). `residual` and `bottleneck`: of ResNet (He et al., CVPR 2016). `transformer`: of ViT (Dosovitskiy
            et al., ICLR 2021); only the last stage.
        width: channels that its blocks write.
        depth: how many blocks.
        stride: of its first block: by how much it shortens each dimension; side of a patch for a `transformer`.
        kernel: odd, per block; not of a `transformer`.
        expansion: of `mbconv` and `transformer`, hidden width over width; of `bottleneck`, width over hidden width;
            per block, by default 4 or 2 (`transformer`).
        squeeze: whether an `mbconv` has a squeeze-and-excitation gate; per block.
        heads: of a `transformer`'s attention, per block; each divides each width.
    """

    block: BlockKind
    width: Widths
    depth: Small = (1,)
    stride: Small = (1,)
    kernel: Kernels | None = None
    expansion: Small | None = None
    squeeze: Switch | None = None
    heads: Small | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        has = FIELDS[self.block]
        for name in ("kernel", "expansion", "squeeze", "heads"):
            if getattr(self, name) is not None and name not in has:
                raise ValueError(
                    f"a block '{self.block}' has no '{name}'; beside width it has {', '.join(has)}"
                )
        for heads in self.choices("heads") if "heads" in has else ():
            odd = [w for w in self.width if w % heads]
            if odd:
                raise ValueError(f"width {odd[0]} cannot be split into {heads} heads")
        return self

    def choices(self, name: str) -> tuple[int, ...]:
        """What a block's key may be."""
        given: tuple[int, ...] | None = getattr(self, name)
        return given if given is not None else (FIELDS[self.block][name],)


class StageOptions(Strict):
    """What a job file may set for any space of stages.

    Args:
        stages: one after the other, each a mapping (above).
        activations: choices for the whole network: `relu`, `hard_swish`, `gelu`.
        precisions: choices per block; by default all that the device executes.
    """

    stages: tuple[Stage, ...] = Field(min_length=1, max_length=12)
    activations: Activations = ("relu",)
    precisions: tuple[Precision, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _transformer_is_last(self) -> Self:
        if any(stage.block == "transformer" for stage in self.stages[:-1]):
            raise ValueError(
                "only the last stage can be of transformers: nothing turns tokens back into an image"
            )
        return self


class ImageStageOptions(StageOptions):
    """What a job file may set for a space of stages for images.

    Args:
        stages: one after the other, each a mapping (above).
        resolutions: sides of the square image the networks see; by default from a quarter of the data's to
            four times small data's.
        activations: choices for the whole network: `relu`, `hard_swish`, `gelu`.
        precisions: choices per block; by default all that the device executes.
    """

    resolutions: tuple[Resolution, ...] | None = Field(default=None, min_length=1)


class _Parameters(Strict):
    shape: tuple[int, ...]
    classes: int = Field(ge=2)
    activation: Activation
    blocks: tuple[Block, ...] = Field(min_length=1)
    head_precision: Precision


class BlockSpace(NetworkSpace):
    """A space whose candidates are a list of blocks: each says all that its network is."""

    task: Task

    def network(self, candidate: Candidate) -> Network:
        parameters = self.parameters(candidate, _Parameters)
        stack = LayerStack(parameters.shape[0], parameters.activation)
        for i, block in enumerate(parameters.blocks):
            stack.block(f"b{i}", block)
        stack.head(parameters.classes, parameters.head_precision)
        return Network.of_precisions(
            f"{self.name}-{candidate.digest[:8]}", parameters.shape, stack.layers, self.task.signed
        )

    def candidate(
        self,
        shape: tuple[int, ...],
        activation: str,
        blocks: Sequence[Mapping[str, Json]],
        head_precision: str,
    ) -> Candidate:
        """The candidate of these blocks, in the form that tells it from others."""
        told = [dict(block) for block in blocks]
        sides = list(shape[1:])
        for block in told:  # a patch is not larger than what it is cut from
            stride = block["stride"]
            assert isinstance(stride, int)
            if block["block"] == "transformer":
                block["stride"] = stride = min(stride, *sides)
            sides = [-(-side // stride) for side in sides]
        if activation == "relu":
            following = [*(block["precision"] for block in told[1:]), head_precision]
            for before, block, after in zip(told, told[1:], following[1:], strict=False):
                # ONNX Runtime computes a lone convolution between 8-bit tensors in integers, whatever its weights are
                if block["block"] == "conv" and before["precision"] == after == "int8":
                    block["precision"] = "int8"
        return Candidate(
            self.name,
            {
                "shape": list(shape),
                "classes": self.task.classes,
                "activation": activation,
                "blocks": list(told),
                "head_precision": head_precision,
            },
        )


class StagedSpace(BlockSpace):
    """Stages of blocks, then the mean over positions and a classifier.

    Chosen are each stage's depth, width and stride, each block's own keys and precision, the activation, and of
    images the resolution. A key with one choice is no parameter of the search.

    Args:
        task: shape, classes and precisions of the device.
        options: stages and choices.
    """

    options_type: ClassVar[type[StageOptions]]

    def __init__(self, task: Task, options: StageOptions | None = None) -> None:
        self.task = task
        self.options = options or self.options_type.model_validate({})
        self.precisions = executed(self.name, task, self.options.precisions)
        self.shapes = self._shapes()

    @abstractmethod
    def _shapes(self) -> list[tuple[int, ...]]:
        """Shapes of a sample to choose from, the smallest first."""

    def suggest(self, trial: optuna.trial.BaseTrial) -> Candidate:
        return self._chosen(partial(_suggested, trial))

    def anchors(self) -> list[Mapping[str, Any]]:
        """The smallest network, in each precision."""
        return [self._smallest(precision) for precision in self.precisions]

    def _smallest(self, precision: str) -> dict[str, Any]:
        params: dict[str, Any] = {}

        def first(name: str, choices: Sequence[Any]) -> Any:
            params[name] = precision if name.endswith("precision") else choices[0]
            return params[name]

        self._chosen(first)
        return params

    def _chosen(self, pick: Choose) -> Candidate:
        """The candidate of what ``pick`` answers."""

        def choose(name: str, choices: Sequence[Any]) -> Any:
            return pick(name, choices) if len(choices) > 1 else choices[0]

        side = choose("resolution", [shape[-1] for shape in self.shapes])
        shape = next(shape for shape in self.shapes if shape[-1] == side)
        activation = choose("activation", self.options.activations)
        blocks: list[dict[str, Json]] = []
        for s, stage in enumerate(self.options.stages):
            depth, width, stride = (
                choose(f"s{s}_{key}", getattr(stage, key)) for key in ("depth", "width", "stride")
            )
            for b in range(max(stage.depth)):  # also those that are not there: each trial is asked the same
                name = f"s{s}_b{b}"
                own = {key: choose(f"{name}_{key}", stage.choices(key)) for key in FIELDS[stage.block]}
                own["precision"] = choose(f"{name}_precision", self.precisions)
                if b < depth:
                    blocks.append(
                        {"block": stage.block, "width": width, "stride": stride if b == 0 else 1, **own}
                    )
        return self.candidate(shape, activation, blocks, choose("head_precision", self.precisions))


def _suggested(trial: optuna.trial.BaseTrial, name: str, choices: Sequence[Any]) -> Any:
    """Numbers in equal steps are a number to a sampler; other choices have no order."""
    numbers = all(isinstance(choice, int) and not isinstance(choice, bool) for choice in choices)
    if numbers and len({b - a for a, b in pairwise(choices)}) == 1:
        return trial.suggest_int(name, choices[0], choices[-1], step=choices[1] - choices[0])
    return trial.suggest_categorical(name, list(choices))
