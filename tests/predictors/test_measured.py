"""Files of measurements: what is accepted, and one sentence with the line for everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import parser

from hardsight.errors import DataError
from hardsight.ingest import read_onnx
from hardsight.metrics import Metric
from hardsight.predictors.measured import read_measurements

DEVICE = "host/onnxruntime/fp32-t1"
MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[1, C, S, S] x) => (float[1, C, S, S] y)
{
    y = Relu(x)
}
"""


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """A line for a model beside the file, its shapes as measured."""
    onnx.save(parser.parse_model(MODEL), tmp_path / "tiny.onnx")
    shapes = {"x": [1, 3, 32, 32]}
    return {
        "model": "tiny.onnx",
        "digest": read_onnx(tmp_path / "tiny.onnx", shapes=shapes).digest,
        "device": DEVICE,
        "shapes": shapes,
        "measurements": {"latency_s": {"value": 1e-3, "spread": 0.01, "repeats": 20}},
    }


def read(folder: Path, *lines: object, start: str = "", device: str = DEVICE) -> Any:
    path = folder / "labels.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text(start + "\n".join(texts), encoding="utf-8")
    return read_measurements(path, device)


@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n"])
def test_the_shapes_of_the_measurement_are_used(tmp_path: Path, record: dict[str, Any], start: str) -> None:
    graphs, values = read(tmp_path, record, start=start).labelled(DEVICE, Metric.LATENCY)
    assert graphs[0].digest == record["digest"]
    assert values.tolist() == [1e-3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"measurements": 3}, "measurements: "),
        ({"measurements": {"latency_s": 1}}, "measurements.latency_s: "),
        ({"measurements": {"latency_s": {}}}, "measurements.latency_s.value: "),
        ({"measurements": {"speed": {"value": 1.0}}}, "measurements.speed"),
        *(
            ({"measurements": {"latency_s": {"value": value}}}, "measurements.latency_s.value: ")
            for value in (True, "1", None, 10**400, float("nan"))
        ),
        ({"measurements": {"latency_s": {"value": -1.0}}}, "finite and positive"),
        ({"measurements": {"latency_s": {"value": 1.0, "spread": -1}}}, "latency_s.spread: "),
        ({"measurements": {"latency_s": {"value": 1.0, "repeats": 0}}}, "latency_s.repeats: "),
        ({"measurements": {"latency_s": {"value": 1.0, "repeats": 2.5}}}, "latency_s.repeats: "),
        ({"model": 7}, "model: "),
        ({"model": ""}, "there is no 'model'"),
        ({"shapes": {"x": "big"}}, "shapes.x: "),
        ({"digest": "0" * 32}, "but the measurement is of"),
    ],
)
def test_a_wrong_record_is_named_with_its_line(
    tmp_path: Path, record: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    if "model" in change:
        record["digest"] = ""
    with pytest.raises(DataError) as caught:
        read(tmp_path, record, {**record, **change})
    assert "labels.jsonl, line 2: " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", "{", "[" * 100_000, '{"a":' * 100_000])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"labels.jsonl, line 1: .*measure --json"):
        read(tmp_path, text)


def test_lines_of_several_devices_are_refused(tmp_path: Path, record: dict[str, Any]) -> None:
    other = {**record, "device": "phone/onnxruntime/fp32-t1"}
    with pytest.raises(DataError, match=f"{DEVICE} and phone/onnxruntime/fp32-t1; keep one device's lines"):
        read(tmp_path, record, other)


def test_another_mode_than_the_devices_is_refused(tmp_path: Path, record: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="give --device host/onnxruntime/fp32-t1"):
        read(tmp_path, record, device="host/onnxruntime/int8-t1")
