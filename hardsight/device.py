"""Devices: hardware, runtime and mode, each a validated YAML file in ``hardsight/devices``."""

from __future__ import annotations

import os
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardsight.errors import DataError, StorageError, UnknownNameError

HOST = "host"
HOST_MODES = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "ncnn": ("fp32",),
    "mnn": ("fp32",),
    "torch": ("fp32", "channels-last"),
    "litert": ("fp32", "int8"),
}
"""Runtimes that measure on this machine's CPU, and their modes."""
GPU_MODES = tuple(
    f"{how}-{precision}"
    for how in ("eager", "cuda-graph", "compile")
    for precision in ("fp32", "fp16", "bf16")
)
"""Modes of the runtime ``cuda``: PyTorch on this machine's first NVIDIA GPU."""
Kind = Literal["cpu", "gpu", "npu", "fpga", "asic"]
Loop = Literal["B", "G", "K", "C", "F", "CF", "X", "Y"]


class LoopMapping(BaseModel):
    """How many steps of each loop of a layer an array takes at once; loops are filled up to multiples of that.

    Loops of a convolution: batch ``B``; groups ``G``; output channels ``K`` and input channels ``C`` of a group; taps
    of the window ``F``; width ``X`` and height ``Y`` of the output; ``CF`` are input channels and taps as one loop. A
    matrix product has its rows in ``X``; pooling has its channels in ``G``.

    Args:
        macs_per_cycle: multiply-accumulates in a cycle when every loop is full.
        at_once: steps by loop; 1 for a loop that is not named.
        least_positions: so many positions take as long as fewer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    macs_per_cycle: float = Field(gt=0)
    at_once: dict[Loop, int]
    least_positions: int = Field(default=1, ge=1)


class MacArray(BaseModel):
    """An array of multipliers and the memories that feed it; one byte is a number.

    Args:
        mappings: of loops to the array; a layer takes the fastest.
        bytes_per_cycle: of the memory that features come from, and weights where they have none of their own.
        weight_bytes_per_cycle: of the memory that weights and other constants come from, at the same time.
        outputs_per_cycle: elements that can leave in a cycle; None where only products cost anything.
        native_dilation: a window dilated by this costs no more; zeros between other taps are multiplied; None where
            they never are.
        largest_stride: beyond, a convolution is made position by position.
        burst_bytes: least that is fetched of a constant at once.
        cache_bytes: what features are kept in until they do not fit; SRAM in use is never more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mappings: tuple[LoopMapping, ...] = Field(min_length=1)
    bytes_per_cycle: float = Field(gt=0)
    weight_bytes_per_cycle: float | None = Field(default=None, gt=0)
    outputs_per_cycle: float | None = Field(default=None, gt=0)
    native_dilation: int | None = Field(default=None, ge=1)
    largest_stride: int | None = Field(default=None, ge=1)
    burst_bytes: int | None = Field(default=None, ge=1)
    cache_bytes: int | None = Field(default=None, ge=1)


class Device(BaseModel):
    """What a cost is predicted for. Extra keys in a file are refused.

    The name reads ``hardware/runtime/mode``. A mode such as ``fp32-t1`` runs a model as it is given
    (quantized layers of a QDQ file in INT8, the rest in fp32) with one thread; ``int8-t1`` first
    quantizes a float model statically, then runs it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*){2}$")
    kind: Kind
    description: str = ""
    runtime_version: str = ""
    precisions: tuple[str, ...] = ("fp32",)
    threads: int = Field(default=1, ge=1)
    clock_hz: float | None = Field(default=None, gt=0)
    peak_macs_per_s: dict[str, float] = Field(default_factory=dict)
    bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)
    memory_bytes: int | None = Field(default=None, gt=0)
    array: MacArray | None = None
    provenance: Literal["measured", "simulated", "synthesised", "published"] = "measured"

    @property
    def hardware(self) -> str:
        return self.name.split("/")[0]

    @property
    def runtime(self) -> str:
        return self.name.split("/")[1]

    @property
    def mode(self) -> str:
        return self.name.split("/")[2]


@cache
def shipped_devices() -> dict[str, Device]:
    """Devices of the package by name."""
    folder = resources.files("hardsight") / "devices"
    found = (parse_device(f.read_text(), f.name) for f in folder.iterdir() if f.name.endswith(".yaml"))
    return {device.name: device for device in sorted(found, key=lambda d: d.name)}


def kind_of(name: str) -> Kind:
    """Kind of a device of the package; this machine and unknown devices are CPUs."""
    known = shipped_devices().get(name)
    return known.kind if known else "cpu"


@lru_cache(maxsize=256)
def parse_device(text: str, source: str) -> Device:
    """Validate one device file.

    Raises:
        DataError: naming every wrong key.
    """
    try:
        return Device.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise DataError(f"device file {source} is not valid: {faults}") from error
    except yaml.YAMLError as error:
        raise DataError(f"device file {source} is not YAML: {error}") from error


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host_devices() -> dict[str, Device]:
    """This machine's modes: of its CPU, for one thread and for all cores the process may use; of an NVIDIA GPU."""
    cores = available_cores()
    names = {
        f"{HOST}/{runtime}/{mode}-t{threads}": (mode, threads)
        for runtime, modes in HOST_MODES.items()
        for threads in sorted({1, cores})
        for mode in modes
    }
    devices = {
        name: Device(
            name=name,
            kind="cpu",
            description="this machine",
            precisions=("fp32", "bf16" if mode == "bf16" else "int8"),
            threads=threads,
        )
        for name, (mode, threads) in names.items()
    }
    if any(Path("/proc/driver/nvidia/gpus").glob("*")):
        for mode in GPU_MODES:
            name = f"{HOST}/cuda/{mode}"
            precision = mode.rpartition("-")[2]
            devices[name] = Device(
                name=name, kind="gpu", description="this machine's first GPU", precisions=(precision,)
            )
    return devices


def get_device(name: str) -> Device:
    """The device of that name: this machine's, the user's own, or one of the package.

    Raises:
        UnknownNameError: listing the names there are.
        StorageError: the user's own device of that name cannot be read.
    """
    known = {**shipped_devices(), **user_devices(), **host_devices()}
    if name not in known:
        if (folder := device_folder(name)) in _read_user_devices()[1]:
            raise StorageError(
                f"the description of '{name}' is damaged; run 'hardsight adapt' again or delete {folder}"
            )
        raise UnknownNameError("device", name, known, "See 'hardsight devices'.")
    return known[name]


def home() -> Path:
    """Folder for adapted predictors and caches: ``HARDSIGHT_HOME``, or the platform's data folder."""
    if "HARDSIGHT_HOME" in os.environ:
        return Path(os.environ["HARDSIGHT_HOME"])
    from platformdirs import user_data_path

    return user_data_path("hardsight")


def device_folder(name: str) -> Path:
    """Where an adapted device of that name is kept (it need not exist)."""
    return home() / "devices" / name.replace("/", "__")


def user_devices() -> dict[str, Device]:
    """Devices made by ``hardsight adapt``, by name; one that cannot be read must not cost the others."""
    return _read_user_devices()[0]


def _read_user_devices() -> tuple[dict[str, Device], list[Path]]:
    """The user's devices by name, and the folders of those that are damaged."""
    devices: dict[str, Device] = {}
    damaged: list[Path] = []
    for file in sorted((home() / "devices").glob("*/device.yaml")):
        try:
            device = parse_device(file.read_text(), str(file))
        except (OSError, ValueError, RecursionError):
            damaged.append(file.parent)
        else:
            devices[device.name] = device
    return devices, damaged
