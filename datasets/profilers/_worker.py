"""Worker process of the CPU profilers: one JSON request a line in, one JSON answer a line out.

Each request runs in a fork of this process, which has imported the runtime but created nothing in it.
So a model that crashes or hangs costs one answer, peak memory starts from a known base, and no model
inherits the arena of the one before. Where there is no fork (Windows), the request runs right here.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardsight.datasets.profilers.energy import RaplCounter
from hardsight.errors import BackendError

if TYPE_CHECKING:
    from hardsight.datasets.profilers._cpu import CpuRuntimeProfiler

MIN_SAMPLES = 20
TARGET_SPREAD = 0.02
MIN_SAMPLE_S = 2e-4
WARMUP_S = 0.1

_MAX_ALARM_S = 2**31 - 1
_PR_SET_PDEATHSIG = 1


def median_spread(samples: list[float]) -> tuple[float, float]:
    """Median and the relative half-width of its 95 % confidence interval.

    Distribution-free, from order statistics: ranks n/2 ± 1.96 sqrt(n)/2 (Conover, Practical Nonparametric Statistics).
    """
    ordered = sorted(samples)
    n = len(ordered)
    median = float(np.median(ordered))
    reach = 0.98 * math.sqrt(n)
    low = max(0, math.floor(n / 2 - reach))
    high = min(n - 1, math.ceil(n / 2 + reach))
    return median, (ordered[high] - ordered[low]) / 2 / median


def sample(run: Callable[[], object], budget_s: float) -> list[float]:
    """Seconds of single inferences, after a warm-up; very short ones are timed in groups.

    Ends when the median is known to ± 2 %, or when the budget is spent and there are three.
    """
    begin = time.perf_counter()
    single = math.inf
    for _ in range(1000):
        start = time.perf_counter()
        run()
        single = min(single, time.perf_counter() - start)
        if time.perf_counter() - begin > WARMUP_S:
            break
    inner = max(1, math.ceil(MIN_SAMPLE_S / single))
    samples: list[float] = []
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        for _ in range(inner):
            run()
        samples.append((time.perf_counter() - start) / inner)
        spent = time.perf_counter() - begin
        enough = len(samples) >= MIN_SAMPLES and len(samples) % 5 == 0
        if enough and median_spread(samples)[1] < TARGET_SPREAD:
            break
        if spent > budget_s and len(samples) >= 3:
            break
    return samples


def peak_rss_bytes() -> int:
    """High-water mark of this process's resident memory."""
    return _status_bytes("VmHWM")


def _status_bytes(key: str) -> int:
    with Path("/proc/self/status").open() as status:
        for line in status:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    raise OSError(f"no {key} in /proc/self/status")


def profile(runtime: type[CpuRuntimeProfiler], request: dict[str, Any]) -> dict[str, Any]:
    """Load, warm up and time one model in this process.

    Args:
        runtime: whose ``load`` to use.
        request: ``path``, ``mode``, ``threads``, ``shapes`` (input name to shape), ``budget_s``, ``energy`` (bool);
            ``memory_only`` (bool) leaves out all but the peak.

    Returns:
        ``latency_s``, ``spread``, ``repeats``, ``peak_memory_bytes`` (None off Linux), ``energy_j`` (None
        without a counter).
    """
    have_status = Path("/proc/self/status").exists()
    base = _status_bytes("VmRSS") if have_status else 0
    run = runtime.load(request["path"], request["mode"], request["threads"], request["shapes"])
    run()
    run()
    peak = peak_rss_bytes() - base if have_status else None
    if request.get("memory_only"):
        return {"peak_memory_bytes": peak}
    samples = sample(run, request["budget_s"])
    median, spread = median_spread(samples)
    return {
        "latency_s": median,
        "spread": spread,
        "repeats": len(samples),
        "peak_memory_bytes": peak,
        "energy_j": _energy_j(run, max(request["budget_s"], 0.2)) if request.get("energy") else None,
    }


def _energy_j(run: Callable[[], object], loop_s: float) -> float:
    """Joules of one inference, over a loop."""
    counter = RaplCounter()
    joules, begin, runs = counter.read_j(), time.perf_counter(), 0
    while time.perf_counter() - begin < loop_s:
        run()
        runs += 1
    return (counter.read_j() - joules) / runs


def convert(runtime: type[CpuRuntimeProfiler], request: dict[str, Any]) -> dict[str, Any]:
    """Turn an ONNX file with weights into what the runtime loads; ``path``, ``folder`` and ``mode`` are given."""
    return {"path": runtime.convert(request["path"], request["folder"], request["mode"])}


def _answer(runtime: type[CpuRuntimeProfiler], request: dict[str, Any]) -> str:
    try:
        return json.dumps((convert if request.get("folder") else profile)(runtime, request))
    except BackendError as error:
        return json.dumps({"error": str(error)})
    except Exception as error:  # whatever the runtime throws becomes the cell's reason
        return json.dumps({"error": runtime.reason(error)})


def _die_with(parent: int) -> None:
    """Have this process killed when its parent (on Linux: the thread that started it) ends, however that dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def _answer_in_fork(runtime: type[CpuRuntimeProfiler], request: dict[str, Any]) -> str:
    read_end, write_end = os.pipe()
    worker = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _die_with(worker)
            os.close(read_end)
            signal.alarm(math.ceil(min(request["timeout_s"], _MAX_ALARM_S)))
            with os.fdopen(write_end, "w") as out:
                out.write(_answer(runtime, request))
        finally:  # whatever happens, never go on as a second worker
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if text:
        return text
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        reason = (
            f"still running after {request['timeout_s']:.0f} s"
            if number == signal.SIGALRM
            else f"{runtime.title()} crashed ({signal.Signals(number).name})"
        )
    else:
        reason = "the profiling process ended without an answer"
    return json.dumps({"error": reason})


def main() -> None:
    """Serve requests for the class named ``module:Class``, dying with the parent process given.

    The third argument lists modules to import before the first request.
    """
    module, name = sys.argv[1].split(":")
    runtime: type[CpuRuntimeProfiler] = getattr(import_module(module), name)
    _die_with(int(sys.argv[2]))
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what a runtime prints must not be taken for an answer
        for package in filter(None, sys.argv[3].split(",")):
            with contextlib.suppress(ImportError):  # check() has the words for it
                import_module(package)
        answer = _answer_in_fork if hasattr(os, "fork") else _answer
        for line in sys.stdin:
            answers.write(answer(runtime, json.loads(line)) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
