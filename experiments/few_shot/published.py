"""Numbers from papers, next to which ours stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row.

    Args:
        name: as the table has it.
        samples: measurements on the target, in total.
        scores: rank correlation by task or by device.
    """

    name: str
    samples: str
    scores: Mapping[str, float]


_TASKS = ("ND", "FD", "F1", "F2", "F3", "F4", "FA")
_NB201 = ("titan_rtx_256", "gold_6226", "pixel2", "raspi4", "eyeriss", "fpga")
_FBNET = ("raspi4", "eyeriss", "fpga")


def _row(name: str, samples: str, columns: tuple[str, ...], *scores: float) -> Published:
    return Published(name, samples, dict(zip(columns, scores, strict=True)))


NASFLAT = _row("NASFLAT, published", "20", _TASKS, 0.959, 0.961, 0.809, 0.871, 0.814, 0.734, 0.577)
"""Y. Akhauri, M. S. Abdelfattah: On Latency Predictors for Neural Architecture Search, MLSys 2024."""

HELP_BY_NASFLAT = _row(
    "HELP, as NASFLAT ran it", "20", _TASKS, 0.948, 0.910, 0.793, 0.543, 0.413, 0.799, 0.370
)
"""From the same paper."""

HELP_FBNET = (
    _row("MAML, published", "10", _FBNET, 0.718, 0.763, 0.727),
    _row("Meta-SGD, published", "10", _FBNET, 0.821, 0.822, 0.776),
    _row("HELP, published", "10 + 10", _FBNET, 0.887, 0.943, 0.892),
)
"""H. Lee, S. Lee, S. Chong, S. J. Hwang: HELP, NeurIPS 2021, Table 2; ASIC is eyeriss. It counts ten samples, and
measures ten reference architectures as well. The mean that it prints, 0.910, is not that of its columns."""

HELP_NB201 = (
    _row("FLOPs, published", "0", _NB201, 0.950, 0.826, 0.765, 0.846, 0.437, 0.900),
    _row("BRP-NAS, published", "900", _NB201, 0.814, 0.796, 0.666, 0.847, 0.811, 0.801),
    _row("HELP, published", "10 + 10", _NB201, 0.987, 0.989, 0.802, 0.890, 0.940, 0.985),
)
"""The same, Table 3."""


@dataclass(frozen=True)
class Found:
    """What HELP found under a constraint.

    Args:
        constraint_ms: asked for.
        latency_ms: of the network found, true.
        accuracy: CIFAR-100, percent.
    """

    constraint_ms: float
    latency_ms: float
    accuracy: float


HELP_SEARCH: dict[str, tuple[Found, ...]] = {
    "titan_rtx_256": (Found(18, 17.8, 69.7), Found(21, 18.9, 71.5), Found(25, 24.2, 71.8)),
    "gold_6226": (Found(8, 8.0, 67.3), Found(11, 10.7, 70.2), Found(14, 14.3, 72.1)),
    "pixel2": (Found(14, 13.0, 69.7), Found(18, 19.0, 71.8), Found(22, 25.0, 73.2)),
    "eyeriss": (Found(5, 3.9, 71.5), Found(7, 5.1, 71.8), Found(9, 9.1, 73.5)),
    "fpga": (Found(4, 3.8, 70.2), Found(5, 4.7, 71.8), Found(6, 7.4, 73.5)),
}
"""HELP, Table 4, as README.md of github.com/HayeonLee/HELP has it at commit 11970ec. Of its Table 5 (OFA on ImageNet)
nobody can be compared: accuracies of OFA's networks are not in the public tables, nor the devices' but one."""
