"""Energy by a GPU's total-energy counter: what to make of a counter that moves in steps.

NVML's counter (`nvmlDeviceGetTotalEnergyConsumption`: millijoules of the whole board since the driver was
loaded, idle power included) is brought up to date some tens of times a second, however often it is read.
A difference of two readings is therefore only right between two of its steps, so we take the time and the
work done at the steps: the error is then at most one batch of inferences at either end. On recent boards the
sensor behind it sees only a part of the time, so loops must be long (Yang, Adamek and Armour, "Accurate and
convenient energy measurements for GPUs: a detailed study of NVIDIA GPU's built-in power sensor", SC 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from hardsight.datasets.profilers.energy import EnergyCounter
from hardsight.errors import BackendError

LOOP_S = 1.0
MIN_STEPS = 20
"""A loop ends when it has lasted `LOOP_S` and the counter has moved so often …"""
PATIENCE = 5
"""… or after so many times `LOOP_S`, where single inferences are slow or the counter is."""
STILL_S = 2.0
"""A counter that has not moved for this long does not count."""

_PARTS = 5


@dataclass(frozen=True)
class Step:
    """One move of the counter.

    Args:
        time_s: of a clock, when it was seen.
        joules: the new reading.
        runs: inferences done until then.
    """

    time_s: float
    joules: float
    runs: int


def watch(counter: EnergyCounter, work: Callable[[], int], clock: Callable[[], float]) -> list[Step]:
    """Repeat some work, and note the counter's moves.

    Args:
        counter: read after each piece of work.
        work: does a few milliseconds' worth and returns the number of inferences in it.
        clock: seconds.

    Returns:
        at least two steps: the first starts the measurement, the last ends it.

    Raises:
        BackendError: when the counter stands still or runs backwards.
    """
    steps: list[Step] = []
    runs, last = 0, counter.read_j()
    begin = moved = clock()
    while True:
        runs += work()
        now, joules = clock(), counter.read_j()
        if joules < last:
            raise BackendError("the GPU's energy counter ran backwards (was the driver loaded anew?)")
        if joules > last:
            steps.append(Step(now, joules, runs))
            last, moved = joules, now
        elif now - moved > STILL_S:
            raise BackendError(f"the GPU's energy counter has not moved for {now - moved:.1f} s of work")
        lasted = steps[-1].time_s - steps[0].time_s if steps else 0.0
        if lasted >= LOOP_S and (len(steps) > MIN_STEPS or now - begin >= PATIENCE * LOOP_S):
            return steps


def joules_per_run(steps: list[Step]) -> tuple[float, float]:
    """Energy of one inference, and half the range of its parts' (up to five) relative to it.

    Raises:
        BackendError: when no inference ended between the counter's moves.
    """
    if steps[-1].runs == steps[0].runs:
        raise BackendError("no inference ended between two moves of the GPU's energy counter")
    energy = _per_run(steps[0], steps[-1])
    cuts = np.linspace(0, len(steps) - 1, min(_PARTS, len(steps) - 1) + 1).astype(int)
    parts = [_per_run(steps[a], steps[b]) for a, b in pairwise(cuts)]
    return energy, (max(parts) - min(parts)) / 2 / energy


def watts(steps: list[Step]) -> float:
    """Mean power between the first and the last step."""
    return (steps[-1].joules - steps[0].joules) / (steps[-1].time_s - steps[0].time_s)


def period_s(steps: list[Step]) -> float:
    """How often the counter was seen to move."""
    return float(np.median(np.diff([step.time_s for step in steps])))


def gpu_index(uuid: str, nvml: Any) -> int:
    """NVML's number of the GPU; CUDA may count others, or in another order.

    Args:
        uuid: with or without ``GPU-`` in front.
        nvml: the ``pynvml`` module, or a fake of it.

    Raises:
        BackendError: when NVML does not list it (parts of a GPU have no counter of their own).
    """
    wanted = uuid.removeprefix("GPU-")
    try:
        nvml.nvmlInit()
        for index in range(nvml.nvmlDeviceGetCount()):
            if nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index)).removeprefix("GPU-") == wanted:
                return index
    except nvml.NVMLError as error:
        raise BackendError(f"no readable energy counter: NVML says {error}") from error
    raise BackendError(f"no readable energy counter: NVML does not list the GPU {uuid}")


def _per_run(first: Step, last: Step) -> float:
    return (last.joules - first.joules) / (last.runs - first.runs)
