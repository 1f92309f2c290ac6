# ruff: noqa: T201 (a script that talks to its user)
"""Measures the networks of a Hardsight kit on this machine: ``python measure.py``.

Needs Python 3.9 or newer, numpy, and the runtime that kit.json names; nothing else, and no internet. Close other
programs first. The results go line by line into one file; run the script again after an interruption and it goes
on where it stopped. Send that file back to where the kit was made.

Each network runs in processes of its own, so that one that crashes or hangs costs one line. The latency is the median
over at least 20 runs after a warm-up, until it is known to 2 % or the time is up.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import importlib
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

KIT = 1
UNITS = {"latency_s": "s", "peak_memory_bytes": "B"}

MIN_SAMPLES = 20
TARGET_SPREAD = 0.02
BUSY_SPREAD = 0.1
MIN_SAMPLE_S = 2e-4
WARMUP_S = 0.1
MEMORY_RUNS = 5

# Module to import and distribution that pip installs, in order of preference.
RUNTIMES = {
    "onnxruntime": [("onnxruntime", "onnxruntime")],
    "litert": [
        ("ai_edge_litert.interpreter", "ai-edge-litert"),
        ("tflite_runtime.interpreter", "tflite-runtime"),
        ("tensorflow.lite", "tensorflow"),
    ],
}
ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
}


class Stop(Exception):
    """Ends the script with one sentence."""


# -- one network, in a process of its own ----------------------------------------------------------


def median_spread(samples: list[float]) -> tuple[float, float]:
    """Median, and the relative half-width of its 95 % confidence interval from order statistics."""
    ordered = sorted(samples)
    n = len(ordered)
    median = statistics.median(ordered)
    reach = 0.98 * math.sqrt(n)
    low = max(0, math.floor(n / 2 - reach))
    high = min(n - 1, math.ceil(n / 2 + reach))
    return median, (ordered[high] - ordered[low]) / 2 / median


def sample(run: Callable[[], object], budget_s: float) -> list[float]:
    """Seconds of single inferences; very short ones are timed in groups."""
    begin, single = time.perf_counter(), math.inf
    for _ in range(1000):
        start = time.perf_counter()
        run()
        single = min(single, time.perf_counter() - start)
        if time.perf_counter() - begin > WARMUP_S:
            break
    inner = max(1, math.ceil(MIN_SAMPLE_S / max(single, 1e-9)))
    samples: list[float] = []
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        for _ in range(inner):
            run()
        samples.append((time.perf_counter() - start) / inner)
        enough = len(samples) >= MIN_SAMPLES and len(samples) % 5 == 0
        if enough and median_spread(samples)[1] < TARGET_SPREAD:
            return samples
        if time.perf_counter() - begin > budget_s and len(samples) >= 3:
            return samples


def resident() -> tuple[int | None, int | None]:
    """Resident memory of this process in bytes: now, and at its peak; None where the system does not say."""
    status = Path("/proc/self/status")
    try:
        if status.exists():
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            return int(lines["VmRSS"].split()[0]) * 1024, int(lines["VmHWM"].split()[0]) * 1024
        if os.name == "nt":
            return windows_resident()
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return peak, peak
    except Exception:
        return None, None


def windows_resident() -> tuple[int | None, int | None]:
    """As `resident`, from PROCESS_MEMORY_COUNTERS."""
    words = ["PeakWorkingSetSize", "WorkingSetSize", "a", "b", "c", "d", "PagefileUsage", "PeakPagefileUsage"]

    class Counters(ctypes.Structure):
        _fields_ = [("cb", ctypes.c_uint32), ("PageFaultCount", ctypes.c_uint32)] + [
            (word, ctypes.c_size_t) for word in words
        ]

    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    ask = kernel.K32GetProcessMemoryInfo
    ask.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
    counters = Counters()
    counters.cb = ctypes.sizeof(counters)
    if not ask(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb):
        return None, None
    return counters.WorkingSetSize, counters.PeakWorkingSetSize


def find_runtime(name: str) -> tuple[Any, str]:
    """The runtime's module, and its distribution and version as ``name==version``."""
    for module, distribution in RUNTIMES[name]:
        try:
            found: Any = importlib.import_module(module)
        except ImportError:
            continue
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            version = getattr(found, "__version__", "unknown")
        return found, f"{distribution}=={version}"
    raise Stop(
        f"this kit needs {name} in {sys.executable}; install it with: pip install {RUNTIMES[name][0][1]}"
    )


def feed(shape: list[int], dtype: str) -> Any:
    """A fixed input: normal floats; zeros and ones otherwise, valid as ids, masks and indices."""
    import numpy as np

    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    return rng.integers(0, 2, shape, dtype=np.uint8).astype(dtype)


def load_onnx(module: Any, path: str, threads: int, shapes: dict[str, list[int]]) -> Callable[[], object]:
    options = module.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = module.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {}
    for spec in session.get_inputs():
        feeds[spec.name] = feed(shapes[spec.name], ONNX_TYPES.get(spec.type, spec.type[len("tensor(") : -1]))
    return lambda: session.run(None, feeds)


def load_tflite(module: Any, path: str, threads: int, shapes: dict[str, list[int]]) -> Callable[[], object]:
    interpreter = module.Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    for spec in interpreter.get_input_details():
        interpreter.set_tensor(spec["index"], feed(list(spec["shape"]), spec["dtype"]))
    outputs = [spec["index"] for spec in interpreter.get_output_details()]

    def run() -> object:
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return run


def profile(module: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Load a network in this process and take what it costs; without a time, only its memory."""
    base = resident()[0]
    load = load_onnx if request["runtime"] == "onnxruntime" else load_tflite
    run = load(module, request["path"], request["threads"], request["shapes"])
    run()
    run()
    peak = resident()[1]
    answer: dict[str, Any] = {"peak": None if base is None or peak is None else peak - base}
    if request["budget_s"]:
        samples = sample(run, request["budget_s"])
        median, spread = median_spread(samples)
        answer["latency"] = {"value": median, "spread": spread, "repeats": len(samples)}
    return answer


def continue_in_fork() -> None:
    """On Linux and Android, go on in a fork of this process, which only waits for it.

    Hardsight's own profilers measure in a fork of a process that has imported the runtime. There, the parts of the
    runtime's libraries that a network uses count as its memory; they would not in this process.
    """
    if not sys.platform.startswith(("linux", "android")):
        return
    parent = os.getpid()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
    with contextlib.suppress(Exception):  # end with the parent, which may be killed for being late
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def worker(text: str) -> None:
    """Answer one request; what a runtime prints must not be taken for the answer."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        try:
            request = json.loads(text)
            module = find_runtime(request["runtime"])[0]
            import numpy  # noqa: F401 (its memory is not the network's)

            continue_in_fork()
            answer = profile(module, request)
        except Stop as stop:
            answer = {"error": str(stop)}
        except Exception as error:  # whatever the runtime throws becomes the line's reason
            answer = {"error": (" ".join(str(error).split()) or type(error).__name__)[:300]}
        json.dump(answer, out)
        out.flush()
        os._exit(0)  # a fork must not run what the runtime does when a process ends


# -- all networks ----------------------------------------------------------------------------------


def ask(request: dict[str, Any]) -> dict[str, Any]:
    """Have a new process answer a request."""
    flags = ["-I"] if sys.flags.isolated else []
    limit = 120 + 5 * request["budget_s"]
    try:
        done = subprocess.run(
            [sys.executable, *flags, str(Path(__file__).resolve()), "--worker", json.dumps(request)],
            capture_output=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"still running after {limit:.0f} s"}
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    except ValueError:
        return {"error": f"the process ended with code {done.returncode} and without an answer"}


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """The part of a result line that says what a network costs, or why that is not known."""
    answers = [ask(request)]
    if "error" in answers[0]:
        return {"failed": answers[0]["error"]}
    found = {"latency_s": answers[0]["latency"]}
    if answers[0]["peak"]:
        answers += [ask({**request, "budget_s": 0}) for _ in range(MEMORY_RUNS - 1)]
        peaks = [a["peak"] for a in answers if a.get("peak", 0) > 0]
        if peaks:
            median = statistics.median(peaks)
            spread = (max(peaks) - min(peaks)) / 2 / median
            found["peak_memory_bytes"] = {"value": median, "spread": spread, "repeats": len(peaks)}
    return {"measurements": found}


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    try:
        if sys.platform == "darwin":
            return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.split(":")[0].strip() in ("model name", "Hardware", "Model"):
                return line.split(":", 1)[1].strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine() or "unknown"


def header_of(kit: dict[str, Any], threads: int) -> dict[str, Any]:
    """First line of the results: what was measured, on what, in which units."""
    runtime = find_runtime(kit["runtime"])[1]
    name, version = runtime.split("==")
    hardware, _, mode = kit["device"].split("/")
    return {
        "kit": KIT,
        "schema": kit["schema"],
        "hardsight": kit["hardsight"],
        "device": f"{hardware}/{kit['runtime']}/{mode.rsplit('-t', 1)[0]}-t{threads}",
        "threads": threads,
        "units": UNITS,
        "versions": {
            name: version,
            "cpu": cpu_name(),
            "cores": str(os.cpu_count() or 1),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
        "networks": [network["digest"] for network in kit["networks"]],
    }


def resume(out: Path, header: dict[str, Any]) -> set[str]:
    """Digests that the file has; a line that a kill tore is cut off, a file of another run is refused."""
    if not out.exists():
        return set()
    data = out.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        with out.open("r+b") as file:
            file.truncate(len(whole))
    try:
        lines = [json.loads(line) for line in whole.splitlines() if line.strip()]
        begun = {key: lines[0].get(key) for key in header} if lines else header
        found = {line["digest"] for line in lines[1:]}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Stop(f"{out} is damaged; give another file with --out, or delete that one") from None
    for key, value in header.items():
        if begun[key] != value:
            raise Stop(
                f"{out} was begun with another setting of '{key}' than this run has ({json.dumps(value)[:200]}); "
                "give another file with --out, or delete that one"
            )
    return found


def append(out: Path, record: dict[str, Any]) -> None:
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def main() -> int:
    folder = Path(__file__).resolve().parent
    try:
        kit = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
        if kit["kit"] != KIT:
            raise Stop(f"kit.json is of version {kit['kit']}, and this script of {KIT}; unpack the kit again")
        return run_all(folder, kit)
    except Stop as stop:
        print(f"measure.py: {stop}", file=sys.stderr)
        return 2
    except (OSError, ValueError, KeyError) as error:
        print(f"measure.py: {type(error).__name__}: {error}; unpack the kit again?", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; run the same command again to go on.", file=sys.stderr)
        return 130


def run_all(folder: Path, kit: dict[str, Any]) -> int:
    """Measure what is not in the results yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--out", type=Path, help="file of results; by default results-MODE.jsonl beside this script"
    )
    parser.add_argument("--threads", type=int, default=kit["threads"], help="by default %(default)s")
    parser.add_argument("--time", type=float, default=2.0, help="seconds for the repeats of one network")
    options = parser.parse_args()
    if options.threads < 1 or not 0 < options.time < math.inf:
        raise Stop("--threads and --time must be positive")
    header = header_of(kit, options.threads)
    out = options.out or folder / f"results-{header['device'].split('/')[2]}.jsonl"
    done = resume(out, header)
    if not out.exists() or not out.stat().st_size:
        append(out, header)
    left = [n for n in kit["networks"] if n["digest"] not in done]
    print(
        f"{header['device']} on {header['versions']['cpu']}: {len(left)} of {len(kit['networks'])} networks to go"
    )
    failed, begin = 0, time.monotonic()
    for i, network in enumerate(left):
        path = folder / network["file"]
        if hashlib.sha256(path.read_bytes()).hexdigest() != network["sha256"]:
            raise Stop(f"{network['file']} is not the file that was packed; unpack the kit again")
        request = {
            "path": str(path),
            "runtime": kit["runtime"],
            "threads": options.threads,
            "shapes": network["shapes"],
            "budget_s": options.time,
        }
        result = measure(request)
        now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        append(out, {"digest": network["digest"], "device": header["device"], "time": now, **result})
        failed += "failed" in result
        rest = (time.monotonic() - begin) / (i + 1) * (len(left) - i - 1)
        print(
            f"[{i + 1}/{len(left)}] {network['digest'][:8]}: {in_words(result)}; about {rest:.0f} s left",
            flush=True,
        )
    print(f"Done{f', {failed} failed' if failed else ''}. Send back: {out}")
    return 0


def in_words(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"failed: {result['failed']}"
    label = result["measurements"]["latency_s"]
    busy = " (is the machine busy?)" if label["spread"] > BUSY_SPREAD else ""
    return f"{1e3 * label['value']:.4g} ms ± {100 * label['spread']:.1f} %{busy}"


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--worker":
        worker(sys.argv[2])
    else:
        sys.exit(main())
