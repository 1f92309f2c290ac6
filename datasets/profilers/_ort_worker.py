"""Worker process of the ONNX Runtime CPU profiler: one JSON request a line in, one JSON answer a line out.

Each request runs in a fork of this process, which has imported the runtime but made no session. So a
model that crashes or hangs costs one answer, peak memory starts from a known base, and no model
inherits the arena of the one before. Where there is no fork (Windows), the request runs right here.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from hardsight.datasets.profilers.energy import RaplCounter
from hardsight.errors import BackendError

MIN_SAMPLES = 20
TARGET_SPREAD = 0.02
MIN_SAMPLE_S = 2e-4
WARMUP_S = 0.1

_MAX_ALARM_S = 2**31 - 1
_PR_SET_PDEATHSIG = 1

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int16)": np.int16,
    "tensor(uint16)": np.uint16,
    "tensor(int32)": np.int32,
    "tensor(uint32)": np.uint32,
    "tensor(int64)": np.int64,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}


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


def peak_rss_bytes() -> int:
    """High-water mark of this process's resident memory."""
    return _status_bytes("VmHWM")


def _status_bytes(key: str) -> int:
    with Path("/proc/self/status").open() as status:
        for line in status:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    raise OSError(f"no {key} in /proc/self/status")


def _feeds(session: ort.InferenceSession, shapes: dict[str, list[int]], seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    feeds: dict[str, Any] = {}
    for spec in session.get_inputs():
        if spec.type not in _DTYPES:
            raise ValueError(f"input '{spec.name}' has type {spec.type}, which cannot be fed")
        dtype = np.dtype(_DTYPES[spec.type])
        shape = shapes[spec.name]
        if dtype.kind == "f":  # drawn in single precision: half the peak memory
            feeds[spec.name] = rng.standard_normal(shape, dtype=np.float32).astype(dtype, copy=False)
        else:  # small numbers: valid token ids, indices, masks and flags alike
            feeds[spec.name] = rng.integers(0, 2, shape, dtype=np.uint8).astype(dtype, copy=False)
    return feeds


def profile(request: dict[str, Any]) -> dict[str, Any]:
    """Load, warm up and time one model in this process.

    Args:
        request: ``path``, ``threads``, ``shapes`` (input name to shape), ``budget_s``, ``energy`` (bool);
            ``memory_only`` (bool) leaves out all but the peak.

    Returns:
        ``latency_s``, ``spread``, ``repeats``, ``peak_memory_bytes`` (None off Linux), ``energy_j`` (None
        without a counter).
    """
    have_status = Path("/proc/self/status").exists()
    base = _status_bytes("VmRSS") if have_status else 0
    options = ort.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(request["path"], options, providers=["CPUExecutionProvider"])
    feeds = _feeds(session, request["shapes"], seed=0)

    def run() -> None:
        session.run(None, feeds)

    run()
    run()
    peak = peak_rss_bytes() - base if have_status else None
    if request.get("memory_only"):
        return {"peak_memory_bytes": peak}
    begin = time.perf_counter()
    single = math.inf
    for _ in range(1000):
        start = time.perf_counter()
        run()
        single = min(single, time.perf_counter() - start)
        if time.perf_counter() - begin > WARMUP_S:
            break
    inner = max(1, math.ceil(MIN_SAMPLE_S / single))
    counter = RaplCounter() if request.get("energy") else None
    samples: list[float] = []
    joules = counter.read_j() if counter else 0.0
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
        if spent > request["budget_s"] and len(samples) >= 3:
            break
    median, spread = median_spread(samples)
    runs = inner * len(samples)
    return {
        "latency_s": median,
        "spread": spread,
        "repeats": len(samples),
        "peak_memory_bytes": peak,
        "energy_j": (counter.read_j() - joules) / runs if counter else None,
    }


def _answer(request: dict[str, Any]) -> str:
    try:
        return json.dumps(profile(request))
    except BackendError as error:
        return json.dumps({"error": str(error)})
    except Exception as error:  # whatever the runtime throws becomes the cell's reason
        return json.dumps(
            {
                "error": f"{_reason(error)}. ONNX Runtime {ort.__version__} cannot run it; "
                "'hardsight predict' does not need to"
            }
        )


def _reason(error: Exception) -> str:
    """What an exception says, without ONNX Runtime's status codes, source paths and C++ signatures."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    text = re.sub(r"^.*(?:FAIL : |Message: )", "", text)
    text = re.sub(r"/onnxruntime_src/\S+ (?:[\w<>:~*& ]*::[\w~]+\([^()]*\)(?: const)? )?", "", text)
    text = re.sub(r"^Load model from .*? failed: ?", "", text)
    return text[:300].strip(" .") or type(error).__name__


def _die_with(parent: int) -> None:
    """Have this process killed when its parent (on Linux: the thread that started it) ends, however that dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def _answer_in_fork(request: dict[str, Any]) -> str:
    read_end, write_end = os.pipe()
    worker = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _die_with(worker)
            os.close(read_end)
            signal.alarm(math.ceil(min(request["timeout_s"], _MAX_ALARM_S)))
            with os.fdopen(write_end, "w") as out:
                out.write(_answer(request))
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
            else f"ONNX Runtime {ort.__version__} crashed ({signal.Signals(number).name})"
        )
    else:
        reason = "the profiling process ended without an answer"
    return json.dumps({"error": reason})


def main() -> None:
    if len(sys.argv) > 1:
        _die_with(int(sys.argv[1]))
    answer = _answer_in_fork if hasattr(os, "fork") else _answer
    for line in sys.stdin:
        sys.stdout.write(answer(json.loads(line)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
