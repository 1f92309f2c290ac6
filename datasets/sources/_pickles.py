"""Numbers out of pickles that others published, without running what else may be in them."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

from hardsight.errors import DataError

_PLAIN = frozenset({"bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list"})
_MORE = frozenset({"range", "set", "slice", "str", "tuple"})
_NUMPY = frozenset({"_reconstruct", "scalar", "_frombuffer", "ndarray", "dtype"})
_NUMPY_MODULES = frozenset(
    f"numpy{inner}"
    for inner in ("", ".core.multiarray", "._core.multiarray", ".core.numeric", "._core.numeric")
)


class _Plain(pickle.Unpickler):
    """Admits builtin containers and numpy arrays; whatever else a pickle names is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in _PLAIN | _MORE:
            return super().find_class("builtins", name)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("_codecs", "encode"):  # how Python 2 pickles hold bytes
            return _latin1
        if module in _NUMPY_MODULES and name in _NUMPY:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither a container nor an array")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding}")
    return text.encode("latin1")


def read_pickle(path: Path) -> Any:
    """Numbers, text, containers and numpy arrays of a pickle.

    Raises:
        DataError: the file is torn, or holds anything else; that is not run.
    """
    try:
        with path.open("rb") as file:
            return _Plain(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"'{path}' is not read, for it is not plain data: {error}") from error


def read_torch(path: Path) -> Any:
    """Tensors, numpy arrays and containers of a file that ``torch.save`` wrote.

    Raises:
        DataError: the file is torn, or holds anything else; that is not run.
    """
    import torch

    try:
        with torch.serialization.safe_globals(_array_parts()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the same
        raise DataError(f"'{path}' is not read, for it is not plain tensors: {error}") from error


def _array_parts() -> list[Any]:
    """What the pickle of a numpy array names, under numpy's old and new module."""
    import numpy as np
    from numpy._core import multiarray

    functions = [getattr(multiarray, name) for name in ("_reconstruct", "scalar")]
    old = [(function, f"numpy.core.multiarray.{function.__name__}") for function in functions]
    new = [(function, f"numpy._core.multiarray.{function.__name__}") for function in functions]
    types = [type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "b1")]
    return [*old, *new, np.ndarray, np.dtype, *types]
