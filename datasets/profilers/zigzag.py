"""ASIC accelerators by ZigZag, an analytical model of mapping a network to an array and its memories."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hardsight.datasets.profilers._base import Profiler
from hardsight.device import Device
from hardsight.errors import BackendError, StorageError, UnknownNameError
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import onnx

ARCHITECTURES: Final = {
    "tpu-like": ("tpu_like", "tpu_like"),
    "eyeriss-like": ("eyeriss_like", "default"),
    "edge-tpu-like": ("edge_tpu_like", "edge_tpu_like"),
    "ascend-like": ("ascend_like", "ascend_like"),
    "tesla-npu-like": ("tesla_npu_like", "tesla_npu_like"),
    "meta-prototype-like": ("meta_prototype", "meta_prototype_like"),
    "dimc": ("dimc", "default_imc"),
    "aimc": ("aimc", "default_imc"),
}
"""First part of a device's name to the hardware and mapping files that ZigZag ships; no other mapping fits Eyeriss."""

_WORKER = (sys.executable, "-m", "hardsight.datasets.profilers._zigzag_worker")
_TIMEOUT_S = 1800.0  # of wall time: a simulator may run beside others
_REVISION = 1  # of how layers are made and searched: part of a kept price's key


class ZigzagProfiler(Profiler):
    """Cycles, energy and (where the clock is known) latency that ZigZag predicts; nothing here is measured.

    Mei, Houshmand, Jain, Giraldo, Verhelst, "ZigZag: Enlarging Joint Architecture-Mapping Design Space Exploration
    for DNN Accelerators", IEEE Transactions on Computers 70(8), 2021.

    Every convolution and matrix product is mapped by itself, its inputs, outputs and weights coming from and going
    to DRAM; a graph costs the sum of these. ZigZag takes the fastest of the loop orders that its LOMA engine tries,
    with three loop prime factors. All else (activations, normalisation, pooling, additions) costs nothing: labels
    name these operators in ``versions["unpriced_operators"]``. Operands have 8 bits and partial sums 16, whatever
    the graph says: a float graph and its quantized twin have the same label.

    ZigZag runs in a worker process, started on first need. Layers of one shape are priced once: within a graph,
    across graphs and, in ``cache``, across runs and processes; a cell that ran out of time goes on from there.

    Args:
        cache: folder of ``zigzag.sqlite``, the prices of layers; None keeps them in memory.
        timeout_s: for the layers of one graph on one device.
    """

    anywhere: ClassVar[bool] = True

    def __init__(self, cache: Path | None = None, *, timeout_s: float = _TIMEOUT_S) -> None:
        super().__init__(cache)
        self._timeout_s = timeout_s
        self._worker: subprocess.Popen[str] | None = None
        self._prices: _Prices | None = None

    def check(self) -> None:
        if (
            find_spec("zigzag") is None or find_spec("six") is None
        ):  # which ZigZag imports but does not require
            raise BackendError(
                "the ZigZag profiler needs the packages 'zigzag-dse' and 'six': pip install 'hardsight[asic]'"
            )

    def measure(
        self,
        model: Path | onnx.ModelProto,
        device: Device,
        metrics: Sequence[Metric] | None = None,
        *,
        budget_s: float = 10.0,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> list[Measurement]:
        """See `Profiler.measure`; weights and ``budget_s`` make no difference.

        Raises:
            ModelError: when the model cannot be read.
            BackendError: when ZigZag cannot price something in it that multiplies, or takes too long.
            UnknownNameError: when the device is none of `ARCHITECTURES`.
            StorageError: when the cache cannot be used.
        """
        from hardsight.datasets.profilers._zigzag_layers import layers, unpriced
        from hardsight.ingest import read_onnx

        self.check()
        if device.hardware not in ARCHITECTURES:
            raise UnknownNameError("ZigZag architecture", device.hardware, ARCHITECTURES)
        known = [Metric.CYCLES, Metric.ENERGY, *([Metric.LATENCY] if device.clock_hz else [])]
        for metric in metrics or ():
            if metric not in known:
                raise BackendError(
                    f"ZigZag does not tell {metric} of {device.name}; it tells {', '.join(known)}"
                    + (" (its clock is not published)" if metric is Metric.LATENCY else "")
                )
        graph = read_onnx(model, shapes=shapes)
        cycles, energy_pj = 0, 0.0
        deadline = time.monotonic() + self._timeout_s
        for layer, count in layers(graph).items():
            price = self._price(layer, device.hardware, deadline)
            if "error" in price:
                raise BackendError(f"'{graph.name}' on {device.name}: {price['error']}")
            cycles += math.ceil(price["cycles"]) * count
            energy_pj += price["energy_pj"] * count
        values = {Metric.CYCLES: float(cycles), Metric.ENERGY: energy_pj * 1e-12}
        if device.clock_hz:
            values[Metric.LATENCY] = cycles / device.clock_hz
        versions = {"zigzag-dse": _version(), "unpriced_operators": unpriced(graph)}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return [
            Measurement(
                digest=graph.digest,
                device=device.name,
                metric=metric,
                value=values[metric],
                spread=0.0,
                repeats=1,
                time=now,
                versions=versions,
                provenance="simulated",
            )
            for metric in metrics or known
        ]

    def close(self) -> None:
        """End the worker process and close the cache."""
        self._end_worker()
        if self._prices is not None:
            self._prices.close()
            self._prices = None

    def __del__(self) -> None:
        self.close()

    def _price(self, layer: str, hardware: str, deadline: float) -> dict[str, Any]:
        """``{"cycles", "energy_pj"}`` of one layer (canonical JSON), or ``{"error"}`` when ZigZag refuses it."""
        if self._prices is None:
            self._prices = _Prices(self.cache)
        key = f"{_version()} {_REVISION} {hardware} {layer}"
        price = self._prices.get(key)
        if price is None:
            stem, mapping = ARCHITECTURES[hardware]
            price = self._ask({"layer": json.loads(layer), "hardware": stem, "mapping": mapping}, deadline)
            self._prices.put(key, price)
        return price

    def _ask(self, request: dict[str, Any], deadline: float) -> dict[str, Any]:
        """The worker's answer.

        Raises:
            BackendError: when there is none by the deadline, or the worker dies.
        """
        if self._worker is None:
            self._worker = subprocess.Popen(
                _WORKER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        worker = self._worker
        assert worker.stdin is not None and worker.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            worker.kill()

        timer = threading.Timer(max(deadline - time.monotonic(), 0), end)
        timer.start()
        line = ""
        try:
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            pass
        finally:
            timer.cancel()
            if (
                not line.endswith("\n") or late.is_set()
            ):  # what it may still say must not be taken for the next answer
                code = self._end_worker()
        if line.endswith("\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        if late.is_set():
            raise BackendError(f"ZigZag was still searching after {self._timeout_s:.0f} s")
        raise BackendError(f"ZigZag's process ended without an answer (exit status {code})")

    def _end_worker(self) -> int | None:
        """Kill the worker if it lives; its exit status."""
        worker, self._worker = self._worker, None
        if worker is None:
            return None
        worker.kill()
        for stream in (worker.stdin, worker.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        return worker.wait()


class _Prices:
    """Prices of layers by key, in a file that several processes may use, or in memory."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / "zigzag.sqlite" if folder else ":memory:"
        try:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS prices (key TEXT PRIMARY KEY, price TEXT) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def get(self, key: str) -> dict[str, Any] | None:
        try:
            row = self._db.execute("SELECT price FROM prices WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return None if row is None else dict(json.loads(row[0]))

    def put(self, key: str, price: Mapping[str, Any]) -> None:
        try:
            self._db.execute("INSERT OR REPLACE INTO prices VALUES (?, ?)", (key, json.dumps(price)))
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        self._db.close()

    def _unusable(self, error: Exception) -> StorageError:
        return StorageError(f"cannot use the cache {self._path}: {error}; delete it or give another folder")


def _version() -> str:
    return metadata.version("zigzag-dse")
