"""Quantized perceptrons for FPGAs, with bits per layer for weights and activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from hardsight.candidate import Candidate, Json
from hardsight.nas.data import DataKind
from hardsight.nas.network import INPUT, Layer, Network
from hardsight.nas.spaces._base import Task
from hardsight.nas.spaces._fixed_point import Bits, Count, FixedPointSpace, Strict, checked_range

if TYPE_CHECKING:
    import optuna


class _Hidden(Strict):
    width: Count
    weight_bits: Bits
    activation_bits: Bits


class _Parameters(Strict):
    features: int = Field(ge=1)
    classes: int = Field(ge=2)
    input_bits: Bits
    hidden: tuple[_Hidden, ...] = Field(min_length=1)
    classifier_weight_bits: Bits


class Options(Strict):
    """What a job file may set.

    Args:
        max_depth: hidden layers at most.
        widths: units of a hidden layer, least and most.
        bits: choices for weights and activations; by default all that the device executes.
        uniform: one width for all weights and activations of a network, in place of one per layer.
    """

    max_depth: int = Field(default=3, strict=True, ge=1, le=8)
    widths: tuple[Count, Count] = (3, 24)
    bits: tuple[Bits, ...] | None = Field(default=None, min_length=1)
    uniform: bool = False


class QuantMlpSpace(FixedPointSpace):
    """Perceptrons in fixed point with 2 to 8 bits per layer, each unrolled into a circuit (Duarte et al., JINST 2018).

    Chosen are the number of hidden layers, the units of each, and bits as `FixedPointSpace` says. Units have a ReLU;
    there is no batch normalisation, whose factors are no powers of two.

    Args:
        task: features, classes and precisions of the device.
        options: bounds of the space.

    Example:
        >>> space = QuantMlpSpace(Task((16,), 7, ("int2", "int3", "int4"), signed=True))
        >>> candidate = space.suggest(optuna.trial.FixedTrial(space.anchors()[0]))
        >>> model = space.to_onnx(candidate)
    """

    name: ClassVar[str] = "quant_mlp"
    samples: ClassVar[DataKind] = "tables"
    options_type: ClassVar[type[Strict]] = Options

    def __init__(self, task: Task, options: Options | None = None) -> None:
        self.options = options or Options()
        super().__init__(task, self.options.bits, self.options.uniform)
        self.widths = checked_range(self.name, "widths", *self.options.widths)

    def suggest(self, trial: optuna.trial.BaseTrial) -> Candidate:
        depth = trial.suggest_int("depth", 1, self.options.max_depth)
        hidden: list[Json] = [
            {"width": trial.suggest_int(f"{name}_width", *self.widths), **self.choose_layer(trial, name)}
            for name in self._hidden
        ]
        return Candidate(
            self.name,
            {
                "features": self.task.shape[0],
                "classes": self.task.classes,
                "input_bits": self.choose_bits(trial, "input_bits"),
                "hidden": hidden[:depth],
                "classifier_weight_bits": self.choose_bits(trial, "classifier_weight_bits"),
            },
        )

    def anchors(self) -> list[Mapping[str, Any]]:
        """The smallest network with the fewest bits."""
        widths = {f"{name}_width": self.widths[0] for name in self._hidden}
        return [{"depth": 1, **widths, **self.fewest_bits(self._hidden)}]

    def network(self, candidate: Candidate) -> Network:
        p = self.parameters(candidate, _Parameters)
        layers, x = [], INPUT
        for name, layer in zip(self._names(len(p.hidden)), p.hidden, strict=True):
            layers.append(
                Layer(name, "linear", (x,), layer.weight_bits, layer.activation_bits, layer.width, relu=True)
            )
            x = name
        layers.append(Layer("classifier", "linear", (x,), p.classifier_weight_bits, channels=p.classes))
        name = f"{self.name}-{candidate.digest[:8]}"
        return Network(name, (p.features,), tuple(layers), p.input_bits, self.task.signed, fixed_point=True)

    @property
    def _hidden(self) -> list[str]:
        return self._names(self.options.max_depth)

    @staticmethod
    def _names(depth: int) -> list[str]:
        return [f"hidden{i}" for i in range(depth)]
