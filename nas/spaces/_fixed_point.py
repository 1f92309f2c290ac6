"""What spaces of networks in fixed point share: bits per layer among what the device executes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from hardsight.candidate import Json
from hardsight.errors import JobError
from hardsight.nas.spaces._base import NetworkSpace, Task

if TYPE_CHECKING:
    import optuna

BITS = tuple(range(2, 9))

Bits = Annotated[int, Field(strict=True, ge=BITS[0], le=BITS[-1])]
Count = Annotated[int, Field(strict=True, ge=1, le=256)]


class Strict(BaseModel):
    """Refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FixedPointSpace(NetworkSpace):
    """A space whose candidates are networks in fixed point, unrolled into a circuit.

    Chosen are, beside what a space adds, the bits of the input, of each layer's weights and of what each layer but
    the last writes; or, if ``uniform``, one number for all of them.

    Args:
        task: shape, classes and precisions of the device.
        bits: choices that the job allows; all that the device executes without it.
        uniform: whether all weights and activations of a network have the same width.
    """

    fixed_point: ClassVar[bool] = True

    def __init__(self, task: Task, bits: Sequence[int] | None, uniform: bool) -> None:
        self.task = task
        self.uniform = uniform
        executed = [b for b in BITS if f"int{b}" in task.precisions]
        self.bits = sorted(set(bits or executed))
        if not self.bits or not set(self.bits) <= set(executed):
            raise JobError(
                f"{', '.join(map(str, self.bits)) or 'no'} bits were asked of space '{self.name}', which has 2 to 8; "
                f"the device executes {', '.join(task.precisions)}; name only what both have"
            )

    def choose_bits(self, trial: optuna.trial.BaseTrial, name: str) -> int:
        """Width of something; of an unbroken range as a number, whose order a sampler may use."""
        name = "bits" if self.uniform else name
        low, high = self.bits[0], self.bits[-1]
        if self.bits == list(range(low, high + 1)):
            return trial.suggest_int(name, low, high)
        return int(trial.suggest_categorical(name, self.bits))

    def choose_layer(self, trial: optuna.trial.BaseTrial, name: str) -> dict[str, Json]:
        """Widths of a hidden layer's weights and of what it writes."""
        return {f"{of}_bits": self.choose_bits(trial, f"{name}_{of}_bits") for of in ("weight", "activation")}

    def fewest_bits(self, hidden: Sequence[str]) -> Mapping[str, int]:
        """Parameters of the cheapest choice, for the hidden layers of those names."""
        names = [f"{name}_{of}_bits" for name in hidden for of in ("weight", "activation")]
        names = ["bits"] if self.uniform else ["input_bits", *names, "classifier_weight_bits"]
        return dict.fromkeys(names, self.bits[0])


def checked_range(space: str, key: str, low: int, high: int) -> tuple[int, int]:
    """A range that is not empty.

    Raises:
        JobError: naming the option.
    """
    if low > high:
        raise JobError(f"space.{key}: range {low} to {high} of '{space}' is empty; give the lowest first")
    return low, high
