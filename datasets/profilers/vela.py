"""Arm Ethos-U NPUs, priced by Arm's own compiler. Nothing is run: every label is the compiler's estimate."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hardsight.datasets.profilers._base import Profiler
from hardsight.datasets.profilers._cpu import CpuRuntimeProfiler
from hardsight.datasets.profilers.litert_cpu import LiteRtProfiler
from hardsight.device import Device
from hardsight.errors import BackendError
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import onnx

SYSTEMS = {
    "ethos-u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": ("Ethos_U65_Client_Server", "Dedicated_Sram_384KB"),
    "ethos-u85": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
}
"""System configuration and memory mode by series: what Vela takes by itself when it is told neither."""

_OPERATORS_AS = {"ethos-u65": "ethos-u55"}  # the series that has the same operators

_COMPILATION_S = 600.0  # wall time: simulators share the machine with much else
_KIB = 1024


class VelaProfiler(Profiler):
    """Latency, cycles, memory and traffic of an int8 network on an Ethos-U, as Vela estimates them.

    The model is converted to TFLite and quantized by LiteRT's tools (`hardsight.datasets.to_tflite`), once for
    all configurations when there is a cache, and compiled with Vela's default optimisation, for the system
    configuration and memory mode in `SYSTEMS`. A label is a column of Vela's summary CSV:

    - ``latency_s``: ``inference_time``, which is ``cycles_total`` over ``core_clock``; batch 1.
    - ``cycles``: ``cycles_total``. Each pass takes as long as the slowest of computing and access to each memory;
      passes are summed.
    - ``sram_bytes``: ``sram_memory_used`` x 1024, the peak. On the U55 that is all feature maps, and may exceed
      what a chip has; on U65 and U85 it is the use of a cache of 384 KiB, the rest of the feature maps is in DRAM.
    - ``flash_bytes``: what is only read: encoded weights, scales, constants. On the U55 this is
      ``off_chip_flash_memory_used`` x 1024; on U65 and U85 it shares the column ``dram_memory_used`` with feature
      maps, and is taken from the report behind the CSV instead (``readOnlyPeakUsage``, equal on the U55).
    - ``traffic_bytes``: ``dram_total_bytes`` + ``off_chip_flash_total_bytes``, read and written off chip.

    A TFLite file is compiled as it is; a label's digest is then of the file.

    Vela leaves operators that the NPU lacks to the host's CPU and counts them as free. A model with any is
    refused: its label would be too small by an unknown amount.

    Args:
        cache: folder where TFLite files are kept by digest.
    """

    anywhere = True

    def __init__(self, cache: Path | None = None) -> None:
        super().__init__(cache)
        self._litert = LiteRtProfiler(cache)
        self._compiler = _Compiler()
        self._refused: dict[tuple[str, str], BackendError] = {}

    def check(self) -> None:
        self._compiler.check()
        self._litert.check()

    def measure(
        self,
        model: Path | onnx.ModelProto,
        device: Device,
        metrics: Sequence[Metric] | None = None,
        *,
        budget_s: float = 10.0,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> list[Measurement]:
        from hardsight.ingest import read_onnx

        self.check()
        if (series := _series(device.hardware)) not in SYSTEMS:
            raise BackendError(
                f"Vela does not compile for '{device.hardware}'; it does for {', '.join(SYSTEMS)}, "
                "each with a number of MACs behind it"
            )
        if isinstance(model, Path) and model.suffix == ".tflite":
            digest = hashlib.sha256(model.read_bytes()).hexdigest()
            report = self._compiled(model, device)
            if left := report.cpu_operators:
                raise BackendError(_left(model.name, device.hardware, left))
            return self._measurements(digest, device, report, metrics, "model")
        graph = read_onnx(model, shapes=shapes)
        everywhere, alike = (graph.digest, ""), (graph.digest, _OPERATORS_AS.get(series, series))
        for known in (everywhere, alike):  # what failed on another configuration fails on this one
            if known in self._refused:
                raise self._refused[known]
        bound = {spec.name: list(spec.shape) for spec in graph.inputs}
        with contextlib.ExitStack() as stack:
            try:
                path, weights = stack.enter_context(
                    self._litert.tflite(model, graph.digest, bound, int8=True)
                )
            except BackendError as error:
                self._refused[everywhere] = error
                raise
            report = self._compiled(path, device)
        if left := report.cpu_operators:
            self._refused[alike] = BackendError(_left(graph.name, alike[1], left))
            raise self._refused[alike]
        if not report.values[Metric.CYCLES]:
            raise BackendError(f"'{graph.name}' on {device.name}: Vela finds nothing for the NPU to do")
        return self._measurements(graph.digest, device, report, metrics, weights)

    def _compiled(self, path: Path, device: Device) -> Report:
        with TemporaryDirectory(prefix="hardsight-vela-") as folder:
            self._compiler.compile(path, Path(folder), device.hardware)
            return read_report(Path(folder))

    def _measurements(
        self, digest: str, device: Device, report: Report, metrics: Sequence[Metric] | None, weights: str
    ) -> list[Measurement]:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return [
            Measurement(
                digest=digest,
                device=device.name,
                metric=metric,
                value=value,
                spread=0.0,
                repeats=1,
                time=now,
                versions={
                    "ethos-u-vela": self._compiler.version(),
                    "ai-edge-litert": self._litert.version(),
                    "weights": weights,
                    "cpu_operators": "0",
                },
                provenance="simulated",
            )
            for metric, value in report.values.items()
            if metrics is None or metric in metrics
        ]

    def close(self) -> None:
        """End the worker processes."""
        self._litert.close()
        self._compiler.close()


@dataclass(frozen=True)
class Report:
    """What Vela says of one network.

    Args:
        values: by metric, in SI units.
        cpu_operators: kinds of TFLite operator left to the CPU, with counts.
    """

    values: dict[Metric, float]
    cpu_operators: Counter[str]


def read_report(folder: Path) -> Report:
    """Read the files that a compilation left.

    Raises:
        BackendError: when one is missing or has other columns than Vela 5.2 writes.
    """
    try:
        (summary,) = folder.glob("*_summary_*.csv")
        (layers,) = folder.glob("*_per-layer.csv")
        with summary.open(newline="") as lines:
            (row,) = csv.DictReader(lines)
        constants = json.loads((folder / "constants.json").read_text())
        values = {
            Metric.LATENCY: float(row["inference_time"]),
            Metric.CYCLES: float(row["cycles_total"]),
            Metric.SRAM: float(row["sram_memory_used"]) * _KIB,
            Metric.FLASH: float(constants["readOnlyPeakUsage"]),
            Metric.TRAFFIC: float(row["dram_total_bytes"]) + float(row["off_chip_flash_total_bytes"]),
        }
        # a name may hold commas, and Vela does not quote it; it comes last
        operators = [line.split(",", 3) for line in layers.read_text().splitlines()]
        if operators[0][:3] != ["Original Operator", "NNG Operator", "Target"]:
            raise KeyError("Target")
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise BackendError(
            f"Vela's report in {folder} cannot be read: {error}; use ethos-u-vela 5.2"
        ) from error
    return Report(values, Counter(kind for kind, _, target, _ in operators[1:] if target == "CPU"))


class _Compiler(CpuRuntimeProfiler):
    """Vela in the isolated worker of the CPU runtimes: a crash or a hang costs one answer."""

    runtime = "vela"
    package = "ethosu.vela.vela"
    distribution = "ethos-u-vela"
    extra = "npu"

    def compile(self, path: Path, folder: Path, accelerator: str) -> None:
        """Have Vela write its reports on a TFLite file into ``folder``.

        Raises:
            BackendError: when it refuses, crashes or takes too long.
        """
        request = {"path": str(path), "folder": str(folder), "mode": accelerator, "timeout_s": _COMPILATION_S}
        answer = self._ask(request)
        if "error" in answer:
            raise BackendError(f"Vela could not compile for {accelerator}: {answer['error']}")

    @classmethod
    def reason(cls, error: Exception) -> str:
        return " ".join(str(error).split())[:300] or type(error).__name__

    @staticmethod
    def convert(model: str, folder: str, mode: str) -> str:
        """Run in a fork of the worker."""
        from ethosu.vela import stats_writer, vela

        write_csv = stats_writer.print_regor_performance_metrics

        def keep(arch: Any, report: Any, *rest: Any) -> None:
            constants = {"readOnlyPeakUsage": report.readOnlyPeakUsage}
            Path(folder, "constants.json").write_text(json.dumps(constants))
            write_csv(arch, report, *rest)

        stats_writer.print_regor_performance_metrics = keep
        system, memory = SYSTEMS[_series(mode)]
        arguments = ["--accelerator-config", mode, "--config", "Arm/vela.ini"]
        arguments += ["--system-config", system, "--memory-mode", memory]
        with Path(folder, "log.txt").open("w+") as log:
            for stream in (1, 2):  # by number: Vela's core is C++
                os.dup2(log.fileno(), stream)
            try:
                vela.main([model, *arguments, "--output-dir", folder, "--verbose-performance"])
            except SystemExit as error:
                log.seek(0)
                raise BackendError(f"exit {error}: {log.read()[-300:].strip()}") from error
        return folder

    @staticmethod
    def load(path: str, mode: str, threads: int, shapes: dict[str, list[int]]) -> Callable[[], object]:
        raise AssertionError("Vela compiles and does not run")


def _left(network: str, npu: str, operators: Counter[str]) -> str:
    listed = ", ".join(f"{name} ({n})" for name, n in sorted(operators.items()))
    return (
        f"'{network}' on {npu}: Vela leaves {operators.total()} operators to the CPU, which it does not price: "
        f"{listed}"
    )


def _series(hardware: str) -> str:
    return hardware.rpartition("-")[0]
