"""The measurement kit: networks and one script, for a machine where Hardsight is not installed.

Here the kit is written, and the header of the file that the script brings back is read. What the script does, and what
its lines look like, is in `hardsight.datasets.kit_script`.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardsight import __version__
from hardsight.datasets.kit_script import KIT, RUNTIMES
from hardsight.datasets.schema import VERSION
from hardsight.device import Device
from hardsight.errors import BackendError, DataError, HardsightError, InputError, StorageError
from hardsight.metrics import Metric
from hardsight.progress import Progress

if TYPE_CHECKING:
    import onnx

_FOLDER = "hardsight-kit"
_STAMP = (2026, 1, 1, 0, 0, 0)  # of the files inside, so that the same kit is the same file
_README = """Hardsight measurement kit for {device}

1. Unpack this folder on the machine to be measured. It needs Python 3.9 or newer, numpy and {package}:
       pip install numpy {package}
2. Close other programs, plug a laptop in, and run (a few minutes):
       python measure.py
   An interrupted run goes on where it stopped. --threads N measures with other than {threads}.
3. Bring the file results-{mode}.jsonl back, and there run one of:
       hardsight adapt --measurements results-{mode}.jsonl
       hardsight dataset import results-{mode}.jsonl --out FOLDER
"""


class Kit(NamedTuple):
    """What `write_kit` packed.

    Args:
        path: of the archive.
        networks: how many are in it.
        left_out: digest to the reason why a network is not in it.
    """

    path: Path
    networks: int
    left_out: Mapping[str, str]


def kit_device(name: str) -> Device:
    """The device that a kit of that name measures.

    Raises:
        InputError: when no kit can be made for it.
    """
    if name.count("/") != 2:
        raise InputError(f"'{name}' is not a device name; write hardware/runtime/mode")
    hardware, runtime, mode = name.split("/")
    precision, _, threads = mode.rpartition("-t")
    if runtime not in RUNTIMES:
        raise InputError(
            f"'{name}' has runtime '{runtime}'; a kit measures with {' or '.join(RUNTIMES)}, "
            f"for example {hardware}/onnxruntime/fp32-t1"
        )
    if precision not in ("fp32", "int8") or not threads.isdigit() or int(threads) < 1:
        raise InputError(
            f"'{name}' has mode '{mode}'; a kit measures fp32 or int8 with a number of threads, "
            f"for example {hardware}/{runtime}/fp32-t1"
        )
    return Device(name=name, kind="cpu", precisions=("fp32", "int8"), threads=int(threads))


def write_kit(
    path: Path, device: Device, networks: Mapping[str, onnx.ModelProto], *, progress: Progress | None = None
) -> Kit:
    """Pack networks, with weights and in the runtime's format, and the script: whole, or not at all.

    Args:
        path: of the archive.
        device: from `kit_device`.
        networks: digest to model, with or without weights; on an ``int8`` mode they are quantized first.
        progress: called after each network.

    Raises:
        BackendError: when the tool that converts networks for the runtime is not here, or takes none of them.
        StorageError: when the archive cannot be written.
    """
    convert = _CONVERTERS[device.runtime]
    package = RUNTIMES[device.runtime][0][1]
    part = path.with_name(path.name + ".part")
    packed: list[dict[str, object]] = []
    left_out: dict[str, str] = {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(part, "w") as archive:
            for i, (digest, model) in enumerate(networks.items()):
                if progress:
                    progress("packing networks", i, len(networks))
                try:
                    entry = _pack(archive, digest, model, device, convert)
                except HardsightError as error:
                    left_out[digest] = str(error)
                else:
                    packed.append(entry)
            if not packed:
                raise BackendError(
                    f"none of {len(networks)} networks could be packed for {device.name}; the first says: "
                    f"{next(iter(left_out.values()), 'there is none')}"
                )
            kit = {
                "kit": KIT,
                "schema": VERSION,
                "hardsight": __version__,
                "device": device.name,
                "runtime": device.runtime,
                "threads": device.threads,
                "networks": packed,
            }
            words = {
                "device": device.name,
                "package": package,
                "threads": device.threads,
                "mode": device.mode,
            }
            _add(archive, "kit.json", json.dumps(kit, indent=1).encode())
            _add(archive, "README.txt", _README.format(**words).encode())
            _add(archive, "measure.py", _script())
        part.replace(path)
    except OSError as error:
        if isinstance(error, HardsightError):
            raise
        raise StorageError(f"cannot write the kit to {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    if progress:
        progress("packing networks", len(networks), len(networks))
    return Kit(path, len(packed), left_out)


def _pack(
    archive: zipfile.ZipFile, digest: str, model: onnx.ModelProto, device: Device, convert: _Convert
) -> dict[str, object]:
    from hardsight.datasets.weights import fill_weights
    from hardsight.ingest import read_onnx

    graph = read_onnx(model, name=digest[:8])
    assert graph.digest == digest, "a network is known by its digest"
    suffix, data = convert(fill_weights(model), device.mode.startswith("int8"))
    file = f"models/{digest}.{suffix}"
    _add(archive, file, data)
    return {
        "digest": digest,
        "file": file,
        "sha256": hashlib.sha256(data).hexdigest(),
        "shapes": {spec.name: list(spec.shape) for spec in graph.inputs},
    }


_Convert = Callable[["onnx.ModelProto", bool], tuple[str, bytes]]


def _to_onnx(model: onnx.ModelProto, int8: bool) -> tuple[str, bytes]:
    from hardsight.datasets.quantize import quantize_static

    quantized = any(
        "Quant" in node.op_type or node.op_type.startswith("QLinear") for node in model.graph.node
    )
    return "onnx", (quantize_static(model) if int8 and not quantized else model).SerializeToString()


def _to_tflite(model: onnx.ModelProto, int8: bool) -> tuple[str, bytes]:
    from hardsight.datasets.to_tflite import to_tflite

    return "tflite", to_tflite(model, int8=int8)


_CONVERTERS: dict[str, _Convert] = {"onnxruntime": _to_onnx, "litert": _to_tflite}


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(f"{_FOLDER}/{name}", _STAMP)
    entry.external_attr = 0o644 << 16
    # Random weights do not compress; trying would only take time.
    archive.writestr(entry, data, zipfile.ZIP_DEFLATED if len(data) < 2**20 else zipfile.ZIP_STORED)


def _script() -> bytes:
    return (resources.files("hardsight.datasets") / "kit_script.py").read_bytes()


# -- what comes back -------------------------------------------------------------------------------


class Header(BaseModel):
    """First line of a kit's results.

    Args:
        kit: version of the kit.
        schema_version: of the data set that the kit's networks are from.
        device: name of what was measured.
        threads: used.
        units: of each metric.
        versions: runtime, processor and system as found.
        networks: digests that the kit holds.
    """

    model_config = ConfigDict(strict=True)

    kit: int
    schema_version: int = Field(alias="schema")
    device: str
    threads: int
    units: dict[str, str]
    versions: dict[str, str]
    networks: list[str]


def read_header(text: str) -> Header | None:
    """The header in the first line of a file of measurements; None when the file is not a kit's.

    Raises:
        DataError: when the kit, its units or its threads are not what this version reads, with what to do.
        InputError: when its device is none that a kit measures.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or "kit" not in record:
        return None
    for key, expected in (("kit", KIT), ("schema", VERSION)):
        if record.get(key) != expected:
            raise DataError(
                f"the measurements are of {key} version {record.get(key)}, and this Hardsight reads {expected}; "
                "build the kit here with 'hardsight kit' and measure again"
            )
    try:
        header = Header.model_validate(record)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise DataError(f"the header is damaged ({where}: {fault['msg']}); measure again") from error
    if kit_device(header.device).threads != header.threads:
        raise DataError(
            f"the header says that {header.device} was measured with {header.threads} threads; do not edit the file, "
            "or measure again"
        )
    for name, unit in header.units.items():
        expected_unit = Metric(name).unit if name in list(Metric) else "no such metric"
        if unit != expected_unit:
            raise DataError(
                f"the header says that {name} is in {unit}; expected {expected_unit}. Do not edit the file, "
                "or measure again"
            )
    return header
