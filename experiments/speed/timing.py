"""What is timed, and how: rates over one and over several processes, medians of single calls."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import hardsight
from hardsight.errors import BackendError
from hardsight.experiments.speed import files
from hardsight.graph import OperatorGraph
from hardsight.ingest import read_onnx
from hardsight.predictors import load_predictor

_graphs: list[OperatorGraph] = []  # of a process that predicts


def read_share(paths: Sequence[Path]) -> int:
    """Read files; returns how many."""
    return len([read_onnx(path) for path in paths])


def predict_share(count: int, batch: int, device: str) -> int:
    """Predict graphs in batches, none of which was seen before; returns how many."""
    fresh = [replace(_graphs[i % len(_graphs)]) for i in range(count)]
    predictor = load_predictor(device)
    for start in range(0, count, batch):
        predictor.predict(fresh[start : start + batch], device)
    return count


def load_graphs(count: int) -> None:
    """Make a process ready to predict."""
    _graphs.extend(files.graphs(count))


def rate(
    work: Callable[..., int],
    shares: Sequence[tuple[object, ...]],
    prepare: Callable[[], None] | None = None,
    repeats: int = 3,
) -> float:
    """Items per second, one process to a share; the best of some repeats, after one that warms up.

    Processes are what runs side by side: each has one thread, or the threads of one would wait for those of another.
    """
    spawn = get_context("spawn")
    with ProcessPoolExecutor(len(shares), spawn, initializer=_start, initargs=(prepare,)) as pool:
        best = 0.0
        for attempt in range(repeats + 1):
            start = time.perf_counter()
            done = sum(future.result() for future in [pool.submit(work, *share) for share in shares])
            if attempt:
                best = max(best, done / (time.perf_counter() - start))
    return best


def _start(prepare: Callable[[], None] | None) -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    if prepare:
        prepare()


def warm_prediction_s(model: bytes, device: str, calls: int) -> float:
    """Median time of `hardsight.predict` on one model, reading included."""
    return _median_s(lambda: hardsight.predict(model, device=device), calls, warm_up=20)


def cold_prediction_s(path: Path, device: str, calls: int = 5) -> float:
    """Median time of ``hardsight predict`` in a process of its own."""
    command = [sys.executable, "-m", "hardsight", "predict", str(path), "--device", device]

    def call() -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BackendError(f"'{' '.join(command)}' ended with {done.returncode}: {done.stderr.strip()}")

    return _median_s(call, calls, warm_up=1)


def _median_s(call: Callable[[], object], calls: int, warm_up: int) -> float:
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)
