"""Backends that measure models, by runtime name."""

from __future__ import annotations

from pathlib import Path

from hardsight.datasets.profilers._base import Profiler
from hardsight.device import HOST, Device
from hardsight.errors import NotSupportedError, UnknownNameError

__all__ = ["PROFILERS", "Profiler", "get_profiler"]

PROFILERS = {
    "onnxruntime": "hardsight.datasets.profilers.onnxruntime_cpu:OnnxRuntimeCpuProfiler",
    "openvino": "hardsight.datasets.profilers.openvino_cpu:OpenVinoProfiler",
    "ncnn": "hardsight.datasets.profilers.ncnn_cpu:NcnnProfiler",
    "mnn": "hardsight.datasets.profilers.mnn_cpu:MnnProfiler",
    "torch": "hardsight.datasets.profilers.torch_cpu:TorchProfiler",
    "litert": "hardsight.datasets.profilers.litert_cpu:LiteRtProfiler",
    "cuda": "hardsight.datasets.profilers.cuda:CudaProfiler",
    "vela": "hardsight.datasets.profilers.vela:VelaProfiler",
    "zigzag": "hardsight.datasets.profilers.zigzag:ZigzagProfiler",
    "da4ml": "hardsight.datasets.profilers.da4ml:Da4mlProfiler",
    "nextpnr": "hardsight.datasets.profilers.nextpnr:NextpnrProfiler",
}


def get_profiler(device: Device, cache: Path | None = None) -> Profiler:
    """The backend that measures the device.

    Args:
        device: what to measure on.
        cache: folder for what several devices share, such as a converted model.

    Raises:
        NotSupportedError: when the device is not this machine, and needs to be.
        UnknownNameError: when no backend has the device's runtime.
    """
    from importlib import import_module

    if device.runtime in PROFILERS:
        module, name = PROFILERS[device.runtime].split(":")
        found: type[Profiler] = getattr(import_module(module), name)
        if found.anywhere or device.hardware == HOST:
            return found(cache)
    if device.hardware != HOST:
        raise NotSupportedError(
            f"'{device.name}' is not this machine, so it cannot be measured here; "
            f"measure as '{HOST}/{device.runtime}/{device.mode}'"
        )
    raise UnknownNameError("runtime", device.runtime, PROFILERS)
