"""Backends that measure models, by runtime name."""

from __future__ import annotations

from hardsight.datasets.profilers._base import Profiler
from hardsight.device import HOST, Device
from hardsight.errors import NotSupportedError, UnknownNameError

__all__ = ["PROFILERS", "Profiler", "get_profiler"]

PROFILERS = {
    "onnxruntime": "hardsight.datasets.profilers.onnxruntime_cpu:OnnxRuntimeCpuProfiler",
}


def get_profiler(device: Device) -> Profiler:
    """The backend that measures the device.

    Raises:
        NotSupportedError: when the device is not this machine.
        UnknownNameError: when no backend has the device's runtime.
    """
    from importlib import import_module

    if device.hardware != HOST:
        raise NotSupportedError(
            f"'{device.name}' is not this machine, so it cannot be measured here; "
            f"measure as '{HOST}/{device.runtime}/{device.mode}'"
        )
    if device.runtime not in PROFILERS:
        raise UnknownNameError("runtime", device.runtime, PROFILERS)
    module, name = PROFILERS[device.runtime].split(":")
    profiler = getattr(import_module(module), name)()
    assert isinstance(profiler, Profiler)
    return profiler
