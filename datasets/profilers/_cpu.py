"""What the runtimes on this machine's CPU have in common: one protocol, one isolated worker."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from hardsight.datasets.profilers._base import Profiler
from hardsight.datasets.profilers.energy import RaplCounter
from hardsight.device import Device, available_cores
from hardsight.errors import BackendError, ModelError
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import onnx

_SCRATCH = Path("/dev/shm")  # weights never touch a slow disk where memory-backed files exist
_MEMORY_RUNS = 5
_CONVERSION_S = 600.0  # of wall time: a conversion may share its core


class CpuRuntimeProfiler(Profiler):
    """Latency, peak memory and (where RAPL is readable) energy of a runtime on this machine's CPU.

    Latency is the median wall time of one inference: warm-up of 0.1 s, then at least 20 samples
    until the median's 95 % interval is within ±2 % or the budget ends. Peak memory is the resident
    memory that loading the file and running it twice adds to a process that has the runtime
    imported, median of five processes (the allocator's luck moves it by up to a quarter); the
    file's own buffers while it loads count, as they do for a user. Energy is that
    of the whole CPU package, idle power included.

    A runtime is a subclass with a ``load`` (and a ``convert``, where it has its own file format); both
    run in forks of a worker process, which is started on first use and lives as long as this object.

    Args:
        cache: folder where files with weights, and converted ones, are kept by digest and used again.
    """

    runtime: ClassVar[str]
    """Second part of a device's name."""
    package: ClassVar[str]
    """Module that ``load`` needs; `check` looks for it, labels carry its version."""
    distribution: ClassVar[str] = ""
    """What pip calls the package, where that differs."""
    extra: ClassVar[str] = ""
    """Extra of Hardsight that installs it."""
    converter_packages: ClassVar[tuple[str, ...]] = ()
    """More modules that ``convert`` needs; imported once by a process of its own."""

    def __init__(self, cache: Path | None = None) -> None:
        super().__init__(cache)
        self._workers: dict[str, subprocess.Popen[str]] = {}

    @staticmethod
    def convert(model: str, folder: str, mode: str) -> str:
        """An ONNX file with weights to the path (in ``folder``) of what `load` reads; here the file itself."""
        return model

    @staticmethod
    @abstractmethod
    def load(path: str, mode: str, threads: int, shapes: dict[str, list[int]]) -> Callable[[], object]:
        """Load a model in this process.

        Returns:
            One inference on fixed inputs (`inputs`), outputs ready when it returns.
        """

    @classmethod
    def title(cls) -> str:
        """The runtime and its version, for messages."""
        return f"{cls.runtime} {cls.version()}".strip()

    @classmethod
    def version(cls) -> str:
        """Version of the package; empty when it is not installed."""
        try:
            return metadata.version(cls.distribution or cls.package)
        except metadata.PackageNotFoundError:
            return ""

    @classmethod
    def reason(cls, error: Exception) -> str:
        """One sentence for whatever ``load`` or ``convert`` raised."""
        text = " ".join(str(error).split())[:300].strip(" .")
        return f"{text or type(error).__name__}. {cls.title()} cannot run it; 'hardsight predict' does not need to"

    def check(self) -> None:
        for package in (self.package, *self.converter_packages):
            if find_spec(package.split(".")[0]) is None:
                how = f"pip install 'hardsight[{self.extra}]'" if self.extra else f"pip install {package}"
                raise BackendError(f"the {self.runtime} profiler needs the package '{package}': {how}")

    def unavailable(self) -> dict[Metric, str]:
        reasons: dict[Metric, str] = {}
        try:
            RaplCounter()
        except BackendError as error:
            reasons[Metric.ENERGY] = str(error)
        if not Path("/proc/self/status").exists():
            reasons[Metric.PEAK_MEMORY] = "peak memory is read from /proc, which this system does not have"
        return reasons

    def prepare(
        self,
        model: Path | onnx.ModelProto,
        device: Device,
        *,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Fill weights, quantize and convert ahead, into the cache: what needs no idle machine.

        Raises:
            ModelError: when the model cannot be read.
            BackendError: when it cannot be converted.
        """
        from hardsight.ingest import read_onnx

        assert self.cache is not None, "prepare needs a cache"
        graph = read_onnx(model, shapes=shapes)
        bound = {spec.name: list(spec.shape) for spec in graph.inputs}
        with self._loadable(model, graph.digest, bound, device):
            pass

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
        missing = self.unavailable()
        for metric in metrics or ():
            if metric in missing:
                raise BackendError(f"{metric} cannot be measured on {device.name}: {missing[metric]}")
        if device.threads > (cores := available_cores()):
            raise BackendError(
                f"{device.name} needs {device.threads} cores, and this process may use {cores}; take a mode with fewer"
            )
        wanted = tuple(metrics or (Metric.LATENCY, Metric.PEAK_MEMORY, Metric.ENERGY))
        graph = read_onnx(model, shapes=shapes)
        bound = {spec.name: list(spec.shape) for spec in graph.inputs}
        with self._loadable(model, graph.digest, bound, device) as (path, weights):
            request = {
                "path": str(path),
                "mode": device.mode,
                "threads": device.threads,
                "shapes": bound,
                "budget_s": budget_s,
                "timeout_s": 60 + 3 * budget_s,
                "energy": Metric.ENERGY in wanted and Metric.ENERGY not in missing,
            }
            memory_runs = _MEMORY_RUNS if Metric.PEAK_MEMORY in wanted else 0
            if wanted == (Metric.PEAK_MEMORY,):
                answer: dict[str, Any] = {}
            else:
                answer = self._ask(request)
                memory_runs -= 1
            again = [self._ask({**request, "memory_only": True}) for _ in range(memory_runs)]
            for each in (answer, *again):
                if "error" in each:
                    raise BackendError(f"'{graph.name}' on {device.name}: {each['error']}")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        versions = {
            **host_versions(),
            (self.distribution or self.package): self.version(),
            "weights": weights,
        }
        peaks = [a[Metric.PEAK_MEMORY] for a in (answer, *again) if a.get(Metric.PEAK_MEMORY)]
        found = {
            Metric.LATENCY: (answer.get(Metric.LATENCY), answer.get("spread"), answer.get("repeats")),
            Metric.PEAK_MEMORY: (float(np.median(peaks)) if peaks else None, _half_range(peaks), len(peaks)),
            Metric.ENERGY: (answer.get(Metric.ENERGY), 0.0, answer.get("repeats")),
        }
        return [
            Measurement(
                digest=graph.digest,
                device=device.name,
                metric=metric,
                value=float(value),
                spread=spread or 0.0,
                repeats=repeats or 1,
                time=now,
                versions=versions,
            )
            for metric in wanted
            for value, spread, repeats in [found[metric]]
            if value is not None
        ]

    @contextlib.contextmanager
    def _loadable(
        self, model: Path | onnx.ModelProto, digest: str, shapes: Mapping[str, Sequence[int]], device: Device
    ) -> Iterator[tuple[Path, str]]:
        """What `load` reads, and whence its weights: ``"model"`` or ``"random"``; kept when there is a cache."""
        converts = type(self).convert is not CpuRuntimeProfiler.convert
        precision = "int8" if device.mode.startswith("int8") else "fp32"
        kept = (
            self.cache / f"{digest}.{self.runtime if converts else 'onnx'}-{precision}"
            if self.cache
            else None
        )
        if kept and (kept / "done.json").exists():
            done = json.loads((kept / "done.json").read_text())
            yield kept / done["file"], done["weights"]
            return
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
        parent = kept.parent if kept else _SCRATCH if _SCRATCH.is_dir() else None
        with (
            tempfile.TemporaryDirectory(prefix="hardsight-", dir=parent) as folder,
            _runnable(
                model, shapes, quantize=precision == "int8" and self.takes_qdq, folder=Path(folder)
            ) as (
                path,
                weights,
                quantized,
            ),
        ):
            if quantized and not self.takes_qdq:
                if not self.quantizes_anew or precision != "int8":
                    raise BackendError(f"{self.title()} does not take ONNX files that are quantized with QDQ")
                import onnx

                from hardsight.datasets.dequantize import dequantized

                plain, weights = Path(folder) / "float.onnx", f"{weights}, quantized anew"
                onnx.save(dequantized(onnx.load(path)), plain)
                path = plain
            if converts:
                out = Path(folder) / "converted"
                out.mkdir()
                request = {
                    "path": str(path),
                    "folder": str(out),
                    "mode": device.mode,
                    "timeout_s": _CONVERSION_S,
                }
                answer = self._ask(request, ",".join((self.package, *self.converter_packages)))
                if "error" in answer:
                    raise BackendError(f"{device.name}: {answer['error']}")
                path = Path(answer["path"])
            if kept is None or path == model:
                yield path, weights
                return
            done = {"file": path.name, "weights": weights}
            (path.parent / "done.json").write_text(json.dumps(done))
            if not converts:  # `folder` itself goes when this context ends
                (out := Path(folder) / "kept").mkdir()
                path.replace(out / path.name)
                (path.parent / "done.json").replace(out / "done.json")
            with contextlib.suppress(OSError):  # another process was faster
                out.replace(kept)
            yield kept / path.name, weights

    def close(self) -> None:
        """End the worker processes, and those that are running a model."""
        for worker in self._workers.values():
            _end(worker)
        self._workers = {}

    def __del__(self) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], packages: str = "") -> dict[str, Any]:
        """The answer to a request of the worker that has imported these packages; by default, what `load` needs."""
        packages = packages or self.package
        if packages not in self._workers or self._workers[packages].poll() is not None:
            if dead := self._workers.pop(packages, None):
                _end(dead)
            name = f"{type(self).__module__}:{type(self).__qualname__}"
            self._workers[packages] = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "hardsight.datasets.profilers._worker",
                    name,
                    str(os.getpid()),
                    packages,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "CI": "true"},  # what OpenVINO asks before it sends usage statistics
                text=True,
                start_new_session=True,  # a group to end as a whole; Ctrl-C is for the parent
            )
        stdin, stdout = self._workers[packages].stdin, self._workers[packages].stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:  # its answer, still to come, would be taken for the next one's
            self.close()
            raise
        if not line:
            self.close()
            return {"error": "the profiling process ended without an answer"}
        answer: dict[str, Any] = json.loads(line)
        return answer


def _end(worker: subprocess.Popen[str]) -> None:
    """Kill a worker and what it has forked."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)
    worker.kill()
    worker.wait()
    for stream in (worker.stdin, worker.stdout):
        if stream is not None:
            stream.close()


def inputs(
    shapes: Mapping[str, Sequence[int]], dtypes: Mapping[str, npt.DTypeLike]
) -> dict[str, npt.NDArray[Any]]:
    """Fixed inputs: floats standard normal, the rest zeros and ones (valid as token ids, indices, masks and flags)."""
    rng = np.random.default_rng(0)
    made: dict[str, npt.NDArray[Any]] = {}
    for name, shape in shapes.items():
        dtype = np.dtype(dtypes[name])
        if dtype.kind == "f":  # drawn in single precision: half the peak memory
            made[name] = rng.standard_normal(shape, dtype=np.float32).astype(dtype, copy=False)
        else:
            made[name] = rng.integers(0, 2, shape, dtype=np.uint8).astype(dtype, copy=False)
    return made


@contextlib.contextmanager
def _runnable(
    model: Path | onnx.ModelProto, shapes: Mapping[str, Sequence[int]], *, quantize: bool, folder: Path
) -> Iterator[tuple[Path, str, bool]]:
    """A file with weights for such inputs, whence its weights (``"model"`` or ``"random"``), and if it is quantized.

    A file that will do as it is stays where it is; another is written to ``folder``.
    """
    import onnx

    from hardsight.datasets.quantize import quantize_static
    from hardsight.datasets.weights import fill_weights

    if isinstance(model, Path):
        proto = onnx.load(model, load_external_data=False)
        complete = _has_weights(proto, model.parent)
    else:
        proto = model
        complete = _has_weights(proto, None)
    quantized = _is_quantized(proto)
    quantize = quantize and not quantized
    rebind = quantize or _contradicts(proto, shapes)
    if isinstance(model, Path) and complete:
        if not rebind:
            yield model, "model", quantized
            return
        proto = onnx.load(model)
    if rebind:
        proto = _bound(proto, shapes)
    if not complete:
        proto = fill_weights(proto)
    if quantize:
        proto = quantize_static(proto)
    path = folder / "model.onnx"
    try:
        data = proto.SerializeToString()
    except ValueError as error:
        raise ModelError(f"the model is too large to be written as one file: {error}") from error
    path.write_bytes(data)
    del proto, data
    yield path, "model" if complete else "random", quantized or quantize


def _contradicts(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether the file leaves an input's dimension open, or fixes it to another number: runtimes refuse that one."""
    return any(
        dim.dim_value != size
        for value in model.graph.input
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False)
    )


def _bound(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """A copy with these input shapes, and without what the file says of other tensors' shapes."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        if value.name in shapes and value.type.HasField("tensor_type"):
            tensor = value.type.tensor_type
            tensor.ClearField("shape")
            tensor.shape.SetInParent()  # present though empty: a scalar
            for size in shapes[value.name]:
                tensor.shape.dim.add(dim_value=size)
    del copy.graph.value_info[:]
    for value in copy.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return copy


def _has_weights(model: onnx.ModelProto, folder: Path | None) -> bool:
    """Whether every initializer's data is in the file or lies beside it."""
    import onnx

    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        if folder is None or not location or not (folder / location).is_file():
            return False
    return True


def _is_quantized(model: onnx.ModelProto) -> bool:
    """Whether some operator already quantizes; such a model runs in INT8 as it is."""
    return any("Quant" in node.op_type or node.op_type.startswith("QLinear") for node in model.graph.node)


def _half_range(values: Sequence[float]) -> float:
    """Half the range relative to the median; the spread of a few runs that have no distribution to speak of."""
    return (max(values) - min(values)) / 2 / float(np.median(values)) if values else 0.0


@cache
def host_versions() -> dict[str, str]:
    """What labels taken on this machine depend on, whatever the runtime: CPU, cores, system."""
    return {
        "cpu": cpu_name(),
        "cores": str(available_cores()),
        "system": f"{platform.system()} {platform.release()}",
    }


@cache
def cpu_name() -> str:
    """The CPU's marketing name and the instruction sets that matter here."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        import cpuinfo

        return str(cpuinfo.get_cpu_info().get("brand_raw", platform.processor()))
    text = info.read_text()
    name = re.search(r"model name\s*: (.*)", text)
    flags = re.search(r"flags\s*: (.*)", text)
    have = set(flags.group(1).split()) if flags else set()
    useful = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16") if f in have]
    return " ".join([name.group(1) if name else platform.machine(), *useful])
