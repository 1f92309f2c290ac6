"""Small convolutional networks for FPGAs, with bits per layer for weights and activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hardsight.candidate import Candidate, Json
from hardsight.nas.data import DataKind
from hardsight.nas.network import INPUT, Layer, Network
from hardsight.nas.spaces._base import Task
from hardsight.nas.spaces._fixed_point import Bits, Count, FixedPointSpace, Strict, checked_range

if TYPE_CHECKING:
    import optuna


class _Convolution(Strict):
    channels: Count
    kernel: Literal[2, 3]
    stride: Literal[1, 2]
    weight_bits: Bits
    activation_bits: Bits


class _Parameters(Strict):
    channels: int = Field(ge=1)
    classes: int = Field(ge=2)
    resolution: int = Field(ge=4)
    input_bits: Bits
    convolutions: tuple[_Convolution, ...] = Field(min_length=1)
    classifier_weight_bits: Bits


class Options(Strict):
    """What a job file may set.

    Args:
        resolutions: sides of the square image the networks see.
        max_depth: convolutions at most.
        widths: channels of a convolution, least and most.
        kernels: choices for the side of a convolution's window.
        strides: choices for its step; at 2 each side is halved.
        bits: choices for weights and activations; by default all that the device executes.
        uniform: one width for all weights and activations of a network, in place of one per layer.
    """

    resolutions: tuple[Annotated[int, Field(strict=True, ge=4, le=64)], ...] = Field(
        default=(4, 6, 8), min_length=1
    )
    max_depth: int = Field(default=2, strict=True, ge=1, le=6)
    widths: tuple[Count, Count] = (2, 6)
    kernels: tuple[Literal[2, 3], ...] = Field(default=(2, 3), min_length=1)
    strides: tuple[Literal[1, 2], ...] = Field(default=(2,), min_length=1)
    bits: tuple[Bits, ...] | None = Field(default=None, min_length=1)
    uniform: bool = False


class FpgaCnnSpace(FixedPointSpace):
    """Small convolutional networks in fixed point with 2 to 8 bits per layer (Aarrestad et al., MLST 2021).

    Every position of every convolution is a circuit of its own, so images and channels are few. Chosen are the
    resolution, the number of convolutions, channels, kernel and stride of each, and bits as `FixedPointSpace` says.
    The classifier reads all positions.

    Args:
        task: image shape, classes and precisions of the device.
        options: bounds of the space.
    """

    name: ClassVar[str] = "fpga_cnn"
    samples: ClassVar[DataKind] = "images"
    options_type: ClassVar[type[Strict]] = Options

    def __init__(self, task: Task, options: Options | None = None) -> None:
        self.options = options or Options()
        super().__init__(task, self.options.bits, self.options.uniform)
        self.widths = checked_range(self.name, "widths", *self.options.widths)
        self.resolutions, self.kernels, self.strides = (
            sorted(set(choices))
            for choices in (self.options.resolutions, self.options.kernels, self.options.strides)
        )

    def suggest(self, trial: optuna.trial.BaseTrial) -> Candidate:
        resolution = trial.suggest_categorical("resolution", self.resolutions)
        depth = trial.suggest_int("depth", 1, self.options.max_depth)
        convolutions: list[Json] = [
            {
                "channels": trial.suggest_int(f"{name}_channels", *self.widths),
                "kernel": trial.suggest_categorical(f"{name}_kernel", self.kernels),
                "stride": trial.suggest_categorical(f"{name}_stride", self.strides),
                **self.choose_layer(trial, name),
            }
            for name in self._convolutions
        ]
        return Candidate(
            self.name,
            {
                "channels": self.task.shape[0],
                "classes": self.task.classes,
                "resolution": resolution,
                "input_bits": self.choose_bits(trial, "input_bits"),
                "convolutions": convolutions[: self._fitting(resolution, depth, convolutions)],
                "classifier_weight_bits": self.choose_bits(trial, "classifier_weight_bits"),
            },
        )

    def anchors(self) -> list[Mapping[str, Any]]:
        """The smallest network with the fewest bits."""
        chosen: dict[str, Any] = {"resolution": self.resolutions[0], "depth": 1}
        for name in self._convolutions:
            chosen |= {
                f"{name}_channels": self.widths[0],
                f"{name}_kernel": self.kernels[0],
                f"{name}_stride": self.strides[-1],
            }
        return [chosen | dict(self.fewest_bits(self._convolutions))]

    def network(self, candidate: Candidate) -> Network:
        p = self.parameters(candidate, _Parameters)
        layers, x = [], INPUT
        for i, c in enumerate(p.convolutions):
            layer = Layer(
                f"conv{i}", "conv", (x,), c.weight_bits, c.activation_bits, c.channels, c.kernel, c.stride, relu=True
            )  # fmt: skip
            layers.append(layer)
            x = layer.name
        layers.append(Layer("classifier", "linear", (x,), p.classifier_weight_bits, channels=p.classes))
        return Network(
            f"{self.name}-{candidate.digest[:8]}",
            (p.channels, p.resolution, p.resolution),
            tuple(layers),
            p.input_bits,
            self.task.signed,
            fixed_point=True,
        )

    @staticmethod
    def _fitting(side: int, depth: int, convolutions: Sequence[Any]) -> int:
        """How many of ``depth`` there can be before the image is a single position."""
        for i, convolution in enumerate(convolutions[:depth]):
            if side < 2:
                return i
            pad = (convolution["kernel"] - 1) // 2
            side = (side + 2 * pad - convolution["kernel"]) // convolution["stride"] + 1
        return depth

    @property
    def _convolutions(self) -> list[str]:
        return [f"conv{i}" for i in range(self.options.max_depth)]
