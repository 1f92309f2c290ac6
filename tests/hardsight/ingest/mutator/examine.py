"""Read one file through the public door and say what happened."""

from __future__ import annotations

import os
import re
import time
import traceback
from dataclasses import asdict, dataclass
from math import isclose, isfinite
from pathlib import Path

import hardsight
from hardsight.errors import HardsightError, ModelError
from hardsight.ingest.client import WORKER
from hardsight.prediction import ModelPrediction

DEVICE = "xeon-amx/onnxruntime/fp32-t1"
LIMIT_S = 10.0
LIMIT_BYTES = 10**9
LONGEST_MESSAGE = 1000


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Args:
        number: of the mutant.
        result: "read", or the class of the error.
        answer: the digest and the estimates, or the message.
        seconds: wall-clock time.
        memory_bytes: the most that this process ever held, together with the worker's most.
        fault: what is wrong with that; "" when nothing is.
    """

    number: int
    result: str
    answer: str
    seconds: float
    memory_bytes: int
    fault: str

    def record(self) -> dict[str, object]:
        return asdict(self)


def prepare(folder: Path) -> None:
    """Neighbours that external data of a mutant may point to."""
    (folder / "weights.bin").write_bytes(bytes(8) + (4).to_bytes(8, "little") + (16).to_bytes(8, "little"))
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("/dev/zero")
    (folder / "loop").symlink_to("loop")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe")


def examine(number: int, path: Path) -> Outcome:
    """Predict the cost of the model in ``path``."""
    start = time.perf_counter()
    fault = ""
    try:
        answer = hardsight.predict(path, device=DEVICE, layers=True)
        result, said = "read", repr((answer.digest, dict(answer.estimates)))
        fault = _fault_of_answer(answer)
    except HardsightError as error:
        result, said = type(error).__name__, str(error)
        fault = _fault_of_message(said, path.stem) if isinstance(error, ModelError) else said
    except Exception as error:
        result, said = type(error).__name__, str(error)[:LONGEST_MESSAGE]
        fault = "".join(traceback.format_exception(error)[-4:])
    seconds = time.perf_counter() - start
    memory = most_memory()
    if seconds > LIMIT_S:
        fault = fault or f"took {seconds:.1f} s"
    if memory > LIMIT_BYTES:
        fault = fault or f"this process and the worker held {memory / 1e6:.0f} MB"
    return Outcome(number, result, said, round(seconds, 3), memory, fault)


def _fault_of_answer(answer: ModelPrediction) -> str:
    for metric, estimate in answer.estimates.items():
        ends = (estimate.lower, estimate.value, estimate.upper)
        if None in ends or not all(isfinite(e) and e >= 0 for e in ends) or list(ends) != sorted(ends):
            return f"{metric} is {estimate}"
    layers = answer.layers or ()
    costs = [layer.latency_s for layer in layers]
    if layers and not isclose(sum(costs), answer["latency_s"].value, rel_tol=1e-4):
        return f"the layers sum to {sum(costs)}, not to {answer['latency_s'].value}"
    if any(layer.macs < 0 or layer.bytes < 0 or not layer.latency_s >= 0 for layer in layers):
        return "a layer has a negative cost"
    long = [said for said in answer.assumptions if len(said) > LONGEST_MESSAGE or not said.isprintable()]
    return f"an assumption of {len(long[0])} characters, or not printable" if long else ""


def _fault_of_message(said: str, name: str) -> str:
    if name not in said:
        return "the message does not name the file"
    if len(said) > LONGEST_MESSAGE:
        return f"the message has {len(said)} characters"
    if not said.isprintable():
        return "the message is not printable"
    return "the message gives no reason" if ": ;" in said else ""


def most_memory() -> int:
    """Highest resident size of this process and of its worker, added, in bytes; 0 where that is not known."""
    return sum(_high_water(pid) for pid in (os.getpid(), WORKER.pid) if pid is not None)


def _high_water(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # not Linux, or gone
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
