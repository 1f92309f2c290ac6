"""Energy counters. Where a machine has none, none is made up.

RAPL counts a whole CPU package and NVML a whole GPU, idle power included: a difference of two
readings is the energy of everything that ran there in between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any

from hardsight.errors import BackendError

POWERCAP = Path("/sys/class/powercap")


class EnergyCounter(ABC):
    """A monotone joule counter."""

    @abstractmethod
    def read_j(self) -> float:
        """Joules since some fixed moment, after undoing wrap-around."""


class RaplCounter(EnergyCounter):
    """Intel/AMD RAPL packages through Linux powercap.

    Args:
        root: the powercap folder.

    Raises:
        BackendError: when there is no package zone or it is not readable.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        zones = [z for z in sorted(root.glob("*-rapl:*")) if z.name.count(":") == 1]
        if not zones:
            raise BackendError(f"no readable energy counter: {root} has no RAPL package zone")
        self._files = [z / "energy_uj" for z in zones]
        try:
            self._ranges = [int((z / "max_energy_range_uj").read_text()) for z in zones]
            self._last = [int(f.read_text()) for f in self._files]
        except OSError as error:
            raise BackendError(f"no readable energy counter: {error.filename} ({error.strerror})") from error
        self._total_uj = 0

    def read_j(self) -> float:
        for i, file in enumerate(self._files):
            now = int(file.read_text())
            self._total_uj += (now - self._last[i]) % (self._ranges[i] + 1)
            self._last[i] = now
        return self._total_uj / 1e6


class NvmlCounter(EnergyCounter):
    """An NVIDIA GPU's total-energy counter (Volta and later).

    Args:
        index: GPU number.
        nvml: the ``pynvml`` module, or a fake of it.

    Raises:
        BackendError: without driver, GPU or counter.
    """

    def __init__(self, index: int = 0, nvml: Any = None) -> None:
        if nvml is None:
            try:
                nvml = import_module("pynvml")
            except ImportError as error:
                raise BackendError("no readable energy counter: 'nvidia-ml-py' is not installed") from error
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
            self.read_j()
        except nvml.NVMLError as error:
            raise BackendError(f"no readable energy counter on GPU {index}: {error}") from error

    def read_j(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
