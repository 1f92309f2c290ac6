"""What a delivered network is held against: the same layers in float, and those quantized after training."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from hardsight.candidate import Candidate, Json
from hardsight.datasets.profilers import get_profiler
from hardsight.datasets.quantize import quantize_static
from hardsight.device import Device
from hardsight.metrics import Metric
from hardsight.nas.network import INPUT
from hardsight.nas.report import FrontRow
from hardsight.nas.runtimes import run_onnx
from hardsight.nas.search import Setting

VARIANTS = ("searched", "float", "static")
"""As the search delivers it; all in fp32, trained as long from the same seed; that under ONNX Runtime's static INT8."""
_CALIBRATION = 128
_ROUNDS = 5

Row = dict[str, Any]


def compare(setting: Setting, row: FrontRow, candidate: Candidate, delivered: Path, folder: Path) -> Row:
    """Test accuracy and latency of the three variants of a delivered network.

    Args:
        setting: of the search.
        row: of its report.
        candidate: that the row delivers.
        delivered: its ONNX file.
        folder: for the other two files.
    """
    files = {"searched": delivered} | {name: folder / f"{row.digest}-{name}.onnx" for name in VARIANTS[1:]}
    if not files["float"].exists():
        evaluation = setting.evaluator.evaluate(
            in_float(candidate), setting.job.seed, setting.job.final_epochs
        )
        onnx.save(setting.evaluator.to_onnx(evaluation), files["float"])
    model = onnx.load(files["float"])
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    calibration, _ = setting.data.part("train", shape)
    if not files["static"].exists():
        feeds = [{INPUT: sample[None]} for sample in calibration[:_CALIBRATION]]
        onnx.save(quantize_static(model, samples=feeds), files["static"])
    samples, labels = setting.data.part("test", shape)
    latency = latencies(files, setting.device, setting.job.measure_budget_s)
    found: Row = {
        "digest": row.digest,
        "bits": [bits for _, bits in row.bits],
        "kept": all(row.kept.values()),
        "inside": row.inside(str(Metric.LATENCY)),
    }
    for name, path in files.items():
        accuracy = float((run_onnx(path, samples).argmax(axis=1) == labels).mean())
        found[name] = {"accuracy": accuracy, "latency_s": latency[name]}
    return found


def in_float(candidate: Candidate) -> Candidate:
    """The same layers, every precision fp32."""

    def plain(value: Json) -> Json:
        if isinstance(value, Mapping):
            return {
                key: "fp32" if key.endswith("precision") else plain(inner) for key, inner in value.items()
            }
        return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value

    params = plain(dict(candidate.params))
    assert isinstance(params, dict)
    return Candidate(candidate.space, params)


def latencies(files: Mapping[str, Path], device: Device, budget_s: float) -> dict[str, float]:
    """Median over rounds in which all are measured in turn, so that a machine that changes speed favours none."""
    profiler = get_profiler(device)
    taken: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(_ROUNDS):
        for name, path in files.items():
            (label,) = profiler.measure(path, device, [Metric.LATENCY], budget_s=budget_s / _ROUNDS)
            taken[name].append(label.value)
    return {name: statistics.median(values) for name, values in taken.items()}
