"""Reads measurements taken elsewhere: the lines of ``hardsight measure --json``, or a kit's results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardsight.datasets.kit import Header, kit_device, read_header
from hardsight.device import Device
from hardsight.errors import DataError, HardsightError, ModelError
from hardsight.graph import OperatorGraph
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric

_EXPECTED = "expected what 'hardsight measure --json' prints"
_EXPECTED_OF_KIT = "run the kit's measure.py again, which goes on where it stopped and mends a line cut short"
_Dimension = Annotated[int, Field(ge=1)]


class _Label(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    value: float
    spread: float | None = Field(default=None, ge=0)
    repeats: int | None = Field(default=None, ge=1)


class _Record(BaseModel):
    """One line; keys that have no use here are left aside."""

    model_config = ConfigDict(strict=True)

    model: str = ""
    digest: str = ""
    device: str = Field(default="", pattern=r"^([^/]+/[^/]+/[^/]+)?$")
    time: str = ""
    shapes: dict[str, tuple[_Dimension, ...]] | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    measurements: dict[Metric, _Label]


class _KitRecord(_Record):
    """One line of a kit's results: of a network that the kit knows, measured or failed."""

    measurements: dict[Metric, _Label] = Field(default_factory=dict)
    failed: str = ""


class Measured(NamedTuple):
    """What a file of measurements holds.

    Args:
        table: the labels.
        failures: ``(digest, device)`` to the reason why a network has none.
        device: what a kit has measured; None when the file is not a kit's.
    """

    table: MeasurementTable
    failures: Mapping[tuple[str, str], str]
    device: Device | None


def read_measurements(path: Path, device: str) -> MeasurementTable:
    """The labels of a file, taken to be of a device; networks are looked up in the package's data set.

    Raises:
        DataError: as `read_measured`.
    """
    from hardsight.datasets.store import load_shipped

    return read_measured(path, load_shipped().graphs, device).table


def is_kit(path: Path) -> bool:
    """Whether a file begins like a kit's results.

    Raises:
        DataError: the file cannot be read, or has nothing in it.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read measurements from {path}: {error}") from error
    if not first.strip().startswith("{"):
        raise DataError(f"{path} holds no measurement; {_EXPECTED}, or the results of a kit")
    return '"kit"' in first


def read_measured(path: Path, known: Mapping[str, OperatorGraph], device: str | None = None) -> Measured:
    """Read a file of measurements.

    Each line is ``{"model": file, "digest": …, "device": …, "shapes": {input: dims}, "measurements": {"latency_s":
    {"value", "spread", "repeats"}}}``; only the last is always needed. The graph is found by digest among the
    known ones, else read from ``model`` (relative to the file) with ``shapes``. A kit's results begin with a header
    and hold each of its networks at most once.

    Args:
        path: of the file.
        known: graphs by digest.
        device: what the labels are taken to be of; its mode must be the one that was measured. None keeps the
            device that the lines name, as a kit's results always do.

    Raises:
        DataError: naming the line and what is wrong with it, the devices when there are several, or what in a
            kit's header does not match.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read measurements from {path}: {error}") from error
    try:
        header = read_header(lines[0]) if lines else None
        kit = kit_device(header.device) if header else None
    except HardsightError as error:
        raise DataError(f"{path}: {error}") from error
    form = _KitRecord if header else _Record
    expected = _EXPECTED_OF_KIT if header else _EXPECTED
    graphs: dict[str, OperatorGraph] = {}
    labels: list[Measurement] = []
    failures: dict[tuple[str, str], str] = {}
    devices: set[str] = set()
    seen: dict[str, int] = {}
    for number, text in enumerate(lines, 1):
        if not text.strip() or (header and number == 1):
            continue
        try:
            record = form.model_validate_json(text)
            if header and isinstance(record, _KitRecord):
                _check_of_kit(record, header, seen.setdefault(record.digest, number), number)
            graph = _graph_of(record, known, path.parent, header)
            name = record.device if header else device or record.device
            if not name:
                raise DataError("there is no 'device'; name what was measured")
            labels += [
                Measurement(
                    graph.digest,
                    name,
                    metric,
                    label.value,
                    label.spread or 0.0,
                    label.repeats or 1,
                    record.time,
                    header.versions if header else record.versions,
                )
                for metric, label in record.measurements.items()
            ]
            if isinstance(record, _KitRecord) and record.failed:
                failures[graph.digest, name] = record.failed
        except ValidationError as error:
            raise DataError(f"{path}, line {number}: {_faults(error)}; {expected}") from error
        except HardsightError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        graphs[graph.digest] = graph
        devices |= {record.device} - {""}
    if not labels:
        reason = f"; the first of its networks failed: {next(iter(failures.values()))}" if failures else ""
        raise DataError(f"{path} holds no measurement{reason}; {expected}")
    _check_devices(path, devices, None if header else device)
    return Measured(MeasurementTable.from_measurements(labels, graphs), failures, kit)


def _check_of_kit(record: _KitRecord, header: Header, first: int, number: int) -> None:
    if record.digest not in header.networks:
        raise DataError(
            f"no network of the kit has the digest '{record.digest}'; do not edit the file, or measure again"
        )
    if first != number:
        raise DataError(f"line {first} is of the same network, {record.digest}; remove one of them")
    if record.device != header.device:
        raise DataError(
            f"the line is of {record.device or 'no device'} and the header of {header.device}; measure again"
        )
    if not record.measurements and not record.failed:
        raise DataError("there is neither 'measurements' nor 'failed'; measure again")
    for metric in record.measurements:
        if str(metric) not in header.units:
            raise DataError(f"the header states no unit of {metric}; do not edit the file, or measure again")


def _graph_of(
    record: _Record, known: Mapping[str, OperatorGraph], folder: Path, header: Header | None
) -> OperatorGraph:
    from hardsight.ingest import read_onnx

    if record.digest in known:
        return known[record.digest]
    if header:
        raise ModelError(
            f"no network of the data set here has the digest '{record.digest}': the kit is of another data set; "
            "build one here with 'hardsight kit' and measure again"
        )
    if not record.model:
        raise ModelError(
            f"there is no 'model' and no network of the package has the digest '{record.digest}'; give the file"
        )
    graph = read_onnx(folder / record.model, shapes=record.shapes)
    if record.digest and graph.digest != record.digest:
        raise ModelError(
            f"'{record.model}' has digest {graph.digest}, but the measurement is of {record.digest}; "
            "give the file that was measured, or measure again"
        )
    return graph


def _faults(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'the record'}: {fault['msg']}" for fault in error.errors()
    )


def _check_devices(path: Path, found: set[str], device: str | None) -> None:
    if len(found) > 1:
        raise DataError(
            f"{path} holds measurements of {' and '.join(sorted(found))}; keep one device's lines"
        )
    for name in found:
        if device and name.split("/")[2] != device.split("/")[2]:
            raise DataError(
                f"{path} holds measurements of {name}, but the device given, {device}, runs in another mode; "
                f"give --device {'/'.join([*device.split('/')[:2], name.split('/')[2]])}"
            )
