"""Search spaces by name."""

from __future__ import annotations

from hardsight.errors import UnknownNameError
from hardsight.nas.spaces._base import NetworkSpace, SearchSpace, Task
from hardsight.nas.spaces.compound import CompoundSpace
from hardsight.nas.spaces.families import (
    CNN1dSpace,
    ImageStages,
    MBConvSpace,
    ResNetSpace,
    SignalStages,
    ViTSpace,
)
from hardsight.nas.spaces.fpga_cnn import FpgaCnnSpace
from hardsight.nas.spaces.nas_bench_201 import NasBench201Space
from hardsight.nas.spaces.nas_bench_macro import NasBenchMacroSpace
from hardsight.nas.spaces.quant_cnn import QuantCnnSpace
from hardsight.nas.spaces.quant_mlp import QuantMlpSpace

__all__ = ["SPACES", "NetworkSpace", "SearchSpace", "Task", "get_space"]

_ALL: tuple[type[SearchSpace], ...] = (
    QuantCnnSpace,
    ImageStages,
    MBConvSpace,
    ResNetSpace,
    ViTSpace,
    SignalStages,
    CNN1dSpace,
    CompoundSpace,
    QuantMlpSpace,
    FpgaCnnSpace,
    NasBench201Space,
    NasBenchMacroSpace,
)
SPACES: dict[str, type[SearchSpace]] = {space.name: space for space in _ALL}


def get_space(name: str) -> type[SearchSpace]:
    """The space of that name.

    Raises:
        UnknownNameError: listing the names there are.
    """
    if name not in SPACES:
        raise UnknownNameError("search space", name, SPACES)
    return SPACES[name]
