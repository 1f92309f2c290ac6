"""Spaces of stages by name: what kind of data they are for, and their default stages."""

from __future__ import annotations

from typing import ClassVar

from hardsight.nas.data import DataKind
from hardsight.nas.spaces._options import resolutions
from hardsight.nas.spaces.stages import Activations, ImageStageOptions, Stage, StagedSpace, StageOptions


class ImageStages(StagedSpace):
    """Stages of blocks as the job describes them."""

    name: ClassVar[str] = "stages"
    samples: ClassVar[DataKind] = "images"
    options_type: ClassVar[type[StageOptions]] = ImageStageOptions

    def _shapes(self) -> list[tuple[int, ...]]:
        assert isinstance(self.options, ImageStageOptions)
        sides = self.options.resolutions or resolutions(max(self.task.shape[1:]))
        return [(self.task.shape[0], side, side) for side in sorted(set(sides))]


class SignalStages(StagedSpace):
    """Stages of one-dimensional blocks as the job describes them."""

    name: ClassVar[str] = "stages_1d"
    samples: ClassVar[DataKind] = "signals"
    options_type: ClassVar[type[StageOptions]] = StageOptions

    def _shapes(self) -> list[tuple[int, ...]]:
        return [self.task.shape]


def _stage(**choices: object) -> Stage:
    return Stage.model_validate(choices)


class MBConvOptions(ImageStageOptions):
    stages: tuple[Stage, ...] = (
        _stage(block="conv", width=[8, 16, 24], stride=[1, 2]),
        *(
            _stage(
                block="mbconv",
                width=width,
                depth=[1, 2, 3],
                stride=2,
                kernel=[3, 5, 7],
                expansion=[1, 2, 4, 6],
                squeeze=[False, True],
            )
            for width in ([8, 16, 24], [16, 24, 32, 40], [24, 32, 40, 48, 56, 64])
        ),
    )
    activations: Activations = ("relu", "hard_swish")


class MBConvSpace(ImageStages):
    """Inverted bottlenecks with gates, elastic as in Once-for-All (Cai et al., ICLR 2020)."""

    name: ClassVar[str] = "mbconv"
    options_type: ClassVar[type[StageOptions]] = MBConvOptions


class ResNetOptions(ImageStageOptions):
    stages: tuple[Stage, ...] = (
        _stage(block="conv", width=[8, 16, 24, 32], stride=[1, 2]),
        _stage(block="residual", width=[8, 16, 24, 32], depth=[1, 2, 3]),
        _stage(block="residual", width=[16, 32, 48, 64], depth=[1, 2, 3], stride=2),
        _stage(block="bottleneck", width=[32, 64, 96, 128], depth=[1, 2, 3], stride=2, expansion=[2, 4]),
    )


class ResNetSpace(ImageStages):
    """Residual networks (He et al., CVPR 2016): width, depth and precision."""

    name: ClassVar[str] = "resnet"
    options_type: ClassVar[type[StageOptions]] = ResNetOptions


class ViTOptions(ImageStageOptions):
    stages: tuple[Stage, ...] = (
        _stage(
            block="transformer",
            width=[32, 48, 64, 96],
            depth=[1, 2, 3, 4],
            stride=[4, 8],
            heads=[1, 2, 4],
            expansion=[1, 2, 4],
        ),
    )
    activations: Activations = ("relu", "gelu")


class ViTSpace(ImageStages):
    """Vision transformers (Dosovitskiy et al., ICLR 2021), elastic as in AutoFormer (Chen et al., ICCV 2021)."""

    name: ClassVar[str] = "vit"
    options_type: ClassVar[type[StageOptions]] = ViTOptions


class CNN1dOptions(StageOptions):
    stages: tuple[Stage, ...] = (
        _stage(block="conv", width=[8, 16, 24, 32], stride=[1, 2, 4], kernel=[7, 15]),
        _stage(block="residual", width=[8, 16, 24, 32], depth=[1, 2], stride=2, kernel=[3, 5, 7]),
        _stage(block="residual", width=[16, 32, 48, 64], depth=[1, 2], stride=2, kernel=[3, 5, 7]),
        _stage(
            block="mbconv", width=[32, 64, 96], depth=[1, 2], stride=2, kernel=[3, 5, 7], expansion=[1, 2]
        ),
    )


class CNN1dSpace(SignalStages):
    """One-dimensional residual networks (Hannun et al., Nature Medicine 2019)."""

    name: ClassVar[str] = "cnn1d"
    options_type: ClassVar[type[StageOptions]] = CNN1dOptions
