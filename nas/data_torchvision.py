"""Data sets of torchvision whose files are on this machine; nothing is downloaded."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hardsight.errors import BackendError, DataError, UnknownNameError

PREFIX = "torchvision:"
NAMES = ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST")

_KEPT: list[Any] = []  # a library's definitions live as long as it does


def torchvision_module(name: str) -> Any:
    """``torchvision.<name>``; beside a CPU build of torch two operator schemas must be there before it imports.

    Raises:
        BackendError: torchvision is not installed.
    """
    import torch

    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        _KEPT.append(library)
    try:
        return import_module(f"torchvision.{name}")
    except ImportError as error:
        raise BackendError("torchvision is missing: pip install --no-deps torchvision==0.28.0") from error


def read_torchvision(name: str, root: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The training part of a data set; its test part stays unread, for a comparison with published results.

    Args:
        name: as torchvision calls it.
        root: folder in which torchvision keeps its files.

    Returns:
        images ``(n, height, width)`` or ``(n, height, width, channels)``, uint8, and the index of each one's class.

    Raises:
        UnknownNameError: another data set.
        DataError: files that are missing or damaged.
        BackendError: torchvision is not installed.
    """
    if name not in NAMES:
        raise UnknownNameError("data set of torchvision", name, NAMES)
    kind = getattr(torchvision_module("datasets"), name)
    try:
        held = kind(root=str(root), train=True, download=False)  # CIFAR's are compared with their checksums
    except (OSError, RuntimeError, ValueError, EOFError, AssertionError) as error:
        reason = str(error).split(". You can use")[0] or "damaged"
        raise DataError(
            f"data set '{PREFIX}{name}' cannot be read in '{root}': {reason}; say with 'root' which folder holds its "
            f"files, as torchvision.datasets.{name}(root, download=True) leaves them"
        ) from error
    return np.asarray(held.data), np.asarray(held.targets)
