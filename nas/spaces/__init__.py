"""Search spaces by name."""

from __future__ import annotations

from hardsight.errors import UnknownNameError
from hardsight.nas.spaces._base import NetworkSpace, SearchSpace, Task
from hardsight.nas.spaces.nas_bench_201 import NasBench201Space
from hardsight.nas.spaces.nas_bench_macro import NasBenchMacroSpace
from hardsight.nas.spaces.quant_cnn import QuantCnnSpace

__all__ = ["SPACES", "NetworkSpace", "SearchSpace", "Task", "get_space"]

SPACES: dict[str, type[SearchSpace]] = {
    QuantCnnSpace.name: QuantCnnSpace,
    NasBench201Space.name: NasBench201Space,
    NasBenchMacroSpace.name: NasBenchMacroSpace,
}


def get_space(name: str) -> type[SearchSpace]:
    """The space of that name.

    Raises:
        UnknownNameError: listing the names there are.
    """
    if name not in SPACES:
        raise UnknownNameError("search space", name, SPACES)
    return SPACES[name]
