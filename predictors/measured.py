"""Reads measurements taken elsewhere: the lines that ``hardsight measure --json`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardsight.errors import DataError, HardsightError, ModelError
from hardsight.graph import OperatorGraph
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric

_EXPECTED = "expected what 'hardsight measure --json' prints"
_Dimension = Annotated[int, Field(ge=1)]


class _Label(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    value: float
    spread: float | None = Field(default=None, ge=0)
    repeats: int | None = Field(default=None, ge=1)


class _Record(BaseModel):
    """One line; keys that adapting has no use for are left aside."""

    model_config = ConfigDict(strict=True)

    model: str = ""
    digest: str = ""
    device: str = Field(default="", pattern=r"^([^/]+/[^/]+/[^/]+)?$")
    shapes: dict[str, tuple[_Dimension, ...]] | None = None
    measurements: dict[Metric, _Label]


def read_measurements(path: Path, device: str) -> MeasurementTable:
    """Read a file of measurements: the lines that ``hardsight measure --json`` prints.

    Each line is ``{"model": file, "digest": …, "device": …, "shapes": {input: dims}, "measurements": {"latency_s":
    {"value", "spread", "repeats"}}}``; only the last is always needed. The graph is found by digest among the
    shipped ones, else read from ``model`` (relative to the file) with ``shapes``.

    Args:
        path: of the file.
        device: what the labels are taken to be of; its mode must be the one that was measured.

    Raises:
        DataError: naming the line and what is wrong with it, or the devices when there are several.
    """
    from hardsight.datasets.store import load_shipped

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read measurements from {path}: {error}") from error
    known = load_shipped().graphs
    graphs: dict[str, OperatorGraph] = {}
    labels: list[Measurement] = []
    devices: set[str] = set()
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            record = _Record.model_validate_json(text)
            graph = _graph_of(record, known, path.parent)
            labels += [
                Measurement(
                    graph.digest, device, metric, label.value, label.spread or 0.0, label.repeats or 1
                )
                for metric, label in record.measurements.items()
            ]
        except ValidationError as error:
            raise DataError(f"{path}, line {number}: {_faults(error)}; {_EXPECTED}") from error
        except HardsightError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        graphs[graph.digest] = graph
        devices |= {record.device} - {""}
    if not labels:
        raise DataError(f"{path} holds no measurement; {_EXPECTED}")
    _check_devices(path, devices, device)
    return MeasurementTable.from_measurements(labels, graphs)


def _graph_of(record: _Record, known: Mapping[str, OperatorGraph], folder: Path) -> OperatorGraph:
    from hardsight.ingest import read_onnx

    if record.digest in known:
        return known[record.digest]
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


def _check_devices(path: Path, found: set[str], device: str) -> None:
    if len(found) > 1:
        raise DataError(
            f"{path} holds measurements of {' and '.join(sorted(found))}; keep one device's lines"
        )
    mode = device.split("/")[2]
    for name in found:
        if name.split("/")[2] != mode:
            raise DataError(
                f"{path} holds measurements of {name}, but the device given, {device}, runs in another mode; "
                f"give --device {'/'.join([*device.split('/')[:2], name.split('/')[2]])}"
            )
