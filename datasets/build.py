"""Builds a data set: generate, quantize, label, pack. Resumable after any kill.

Everything done is one line of a journal or one file, written whole; a restart reads them and goes
on. Timing labels are taken in blocks between two runs of a sentinel model: when the two differ, the
machine was disturbed, and the block is measured again; a lasting change of speed is corrected when the
data set is packed. What needs no idle machine (simulators, synthesis, peak memory) fans out with joblib.
"""

from __future__ import annotations

import json
import shutil
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardsight.datasets.families import Family, get_family
from hardsight.datasets.journal import Cell, Journal
from hardsight.datasets.store import StoredGraph
from hardsight.device import Device
from hardsight.errors import HardsightError, InputError, StorageError
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric

if TYPE_CHECKING:
    from hardsight.datasets.profilers import Profiler

BLOCK = 20
DRIFT = 0.06
MAX_SPREAD = 0.10
_MORE_OF_TEACHING = 4  # small graphs are quick to measure
_BACKENDS = ("loky", "dask", "ray")
_FEW = 64
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Recipe:
    """What a data set holds.

    Args:
        families: generator names; empty means all.
        per_family: graphs of each; four times as many of those that teach single operators.
        int8: add a statically quantized twin of each graph.
        mixed: add a twin of which only some layers are quantized.
        seed: of the generators.
        budget_s: time for the repeats of one label.

    Raises:
        UnknownNameError: no such family.
    """

    families: tuple[str, ...] = ()
    per_family: int = 30
    int8: bool = True
    mixed: bool = False
    seed: int = 0
    budget_s: float = 0.6

    def __post_init__(self) -> None:
        for name in self.families:
            get_family(name)


class Builder:
    """One data-set folder under construction.

    Args:
        folder: holds the work in progress (``work/``) and, after `pack`, the data set.
        recipe: what to build; a folder begun with another recipe is refused.

    Raises:
        InputError: when the folder was begun with another recipe.
        StorageError: when the folder cannot be written.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder = folder
        self.recipe = recipe
        self.journal = Journal(folder / "work" / "journal.jsonl")
        self.cache = folder / "work" / "cache"
        self._graphs = folder / "work" / "graphs"
        try:
            self._graphs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(self._graphs, error) from error
        self._check_recipe()

    def _check_recipe(self) -> None:
        path = self.folder / "work" / "recipe.json"
        text = json.dumps(asdict(self.recipe), sort_keys=True)
        if not path.exists():
            _write(path, text.encode())
            return
        try:
            begun = asdict(Recipe()) | json.loads(path.read_text())  # an older one lacks newer settings
        except (ValueError, TypeError) as error:
            raise StorageError(f"{path} is damaged; delete {self.folder} or give another folder") from error
        differing = [
            _in_words(key, begun.get(key))
            for key, value in json.loads(text).items()
            if begun.get(key) != value
        ]
        if differing:
            words, flags = zip(*differing, strict=True)
            raise InputError(
                f"'{self.folder}' was begun with {', '.join(words)}; give {' '.join(flags)} or another folder"
            )

    # -- graphs ---------------------------------------------------------------------------------

    def _members(self) -> list[tuple[str, int]]:
        """Family and number of every graph of the recipe, families in turn: any first part of it has them all."""
        from hardsight.datasets.families import FAMILIES, TEACHING

        names = self.recipe.families or tuple(FAMILIES)
        counts = {
            name: self.recipe.per_family * (_MORE_OF_TEACHING if name in TEACHING else 1) for name in names
        }
        share = {(name, i): (i + 0.5) / n for name, n in counts.items() for i in range(n)}
        return sorted(share, key=share.__getitem__)

    def generate(self, progress: Progress | None = None) -> None:
        """Write every graph of the recipe (and its quantized twins) that is not there yet."""
        members = self._members()
        for done, (name, index) in enumerate(members):
            if progress:
                progress("graphs", done, len(members))
            if not (self._graphs / f"{name}-{index}.json").exists():
                self._generate_one(get_family(name), index)
        if progress:
            progress("graphs", len(members), len(members))

    def _generate_one(self, family: Family, index: int) -> None:
        from hardsight.datasets.quantize import quantize_some, quantize_static
        from hardsight.datasets.weights import fill_weights, strip_weights
        from hardsight.ingest import read_onnx

        rng = np.random.default_rng([self.recipe.seed, index, zlib.crc32(family.name.encode())])
        model = family.sample(rng)
        record: dict[str, Any] = {"family": family.name, "fp32": read_onnx(model).digest}
        _write(self._graphs / f"{record['fp32']}.onnx", model.SerializeToString())
        twins = {
            "int8": quantize_static if self.recipe.int8 else None,
            "mixed": partial(quantize_some, rng=rng) if self.recipe.mixed else None,
        }
        for kind, quantize in twins.items():
            if quantize is None:
                continue
            try:
                quantized = strip_weights(quantize(fill_weights(model)))
                record[kind] = read_onnx(quantized).digest
                _write(self._graphs / f"{record[kind]}.onnx", quantized.SerializeToString())
            except HardsightError as error:
                record[f"{kind}_failed"] = str(error)
        _write(self._graphs / f"{family.name}-{index}.json", json.dumps(record).encode())

    def stored(self) -> list[StoredGraph]:
        """Graphs generated so far, each digest once, families in turn."""
        found: dict[str, StoredGraph] = {}
        for record in self._records():
            for kind, twin in (("fp32", ""), ("int8", record["fp32"]), ("mixed", record["fp32"])):
                digest = record.get(kind)
                if digest and digest not in found:
                    data = (self._graphs / f"{digest}.onnx").read_bytes()
                    found[digest] = StoredGraph(digest, record["family"], twin, data)
        return list(found.values())

    def mixed(self) -> set[str]:
        """Digests of twins of which only some layers are quantized; the others are what an int8 mode makes."""
        records = list(self._records())
        return {r["mixed"] for r in records if "mixed" in r} - {r.get("int8") for r in records}

    def _records(self) -> Iterator[dict[str, Any]]:
        for family, index in self._members():
            path = self._graphs / f"{family}-{index}.json"
            if path.exists():
                yield json.loads(path.read_text())

    # -- labels ---------------------------------------------------------------------------------

    def measure(
        self,
        targets: Sequence[tuple[Profiler, Device]],
        *,
        metrics: Sequence[Metric] = (),
        graphs: Sequence[StoredGraph] | None = None,
        again: bool = False,
        time_limit_s: float = float("inf"),
        progress: Progress | None = None,
    ) -> bool:
        """Label every graph that has no label yet, block by block, the devices in turn.

        Args:
            targets: devices to measure, each with its backend.
            metrics: what to measure; empty means all that the backend has.
            graphs: which of them; all by default.
            again: a second time, to learn how well labels repeat (see `hardsight.datasets.repeats`).
            time_limit_s: stop after the block that passes it.
            progress: called after every graph.

        Returns:
            True when no cell is left.

        Raises:
            InputError: the folder has labels of one of the devices from another processor.
        """
        self._check_processor([device.name for _, device in targets])
        graphs = self.stored() if graphs is None else graphs
        done = {device.name: self.journal.done(device.name, metrics, again=again) for _, device in targets}
        begin = time.monotonic()
        sentinels: dict[str, _Sentinel] = {}
        for start in range(0, len(graphs), BLOCK):
            block = graphs[start : start + BLOCK]
            for profiler, device in targets:
                todo = [g for g in block if g.digest not in done[device.name] and _fits(g, profiler, device)]
                if not todo:
                    continue
                if time.monotonic() - begin > time_limit_s:
                    return False
                if device.name not in sentinels:
                    path = self.folder / "work" / "sentinel.json"
                    sentinels[device.name] = _Sentinel(profiler, device, path)
                tick = _ticker(progress, device.name, start, len(graphs))
                cells = self._measure_block(profiler, device, todo, metrics, sentinels[device.name], tick)
                self.journal.append([{**cell, "again": True} for cell in cells] if again else cells)
            if self.cache.is_dir():  # files with weights are large, and this block is done
                for graph in block:
                    for kept in self.cache.glob(f"{graph.digest}.*"):
                        shutil.rmtree(kept, ignore_errors=True)
        return True

    def _check_processor(self, devices: Collection[str]) -> None:
        """Refuse to go on where another processor began: a rented machine may be another one tomorrow."""
        from hardsight.datasets.profilers._cpu import cpu_name

        here = cpu_name()
        for m in self.journal.measurements():
            there = m.versions.get("cpu", here)
            if m.device in devices and there != here:
                raise InputError(
                    f"'{self.folder}' has labels of {m.device} from another processor ({there}); this one is "
                    f"{here}. Give another folder"
                )

    def _measure_block(
        self,
        profiler: Profiler,
        device: Device,
        graphs: Sequence[StoredGraph],
        metrics: Sequence[Metric],
        sentinel: _Sentinel,
        tick: Callable[[int], None],
    ) -> list[Cell]:
        """Cells of a few graphs, made again (twice at most) when the machine changed speed under way.

        A speed that differs from the reference but holds is written down; `pack` corrects for it.
        """
        for _attempt in range(3):
            before = sentinel.drift()
            cells: list[Cell] = []
            for graph in graphs:
                cells.append(_label(profiler, device, graph, metrics, self.recipe.budget_s))
                tick(len(cells))
            after = sentinel.drift()
            if abs(after - before) < DRIFT:
                break
        return [{**cell, "drift": [round(before, 4), round(after, 4)]} for cell in cells]

    def fan_out(
        self,
        devices: Sequence[Device],
        *,
        metrics: Sequence[Metric] = (),
        graphs: Sequence[StoredGraph] | None = None,
        n_jobs: int = -1,
        backend: str = "loky",
        time_limit_s: float = float("inf"),
        progress: Progress | None = None,
    ) -> bool:
        """Label on devices that need no idle machine: simulators, synthesis, or peak memory. One job is one graph.

        Args:
            devices: to label on, one after the other within a job, so that they share what is converted.
            metrics: what to label; empty means all that the backend has.
            graphs: which of them; all by default.
            n_jobs: processes; -1 means one per core.
            backend: joblib's: ``loky`` (processes on this machine), ``dask`` or ``ray`` (the cluster that
                the caller has connected to).
            time_limit_s: start no job after that.
            progress: called after every graph.

        Returns:
            True when no cell is left.

        Raises:
            InputError: for another backend.
            BackendError: a cluster's package is missing.
        """
        from joblib import delayed, parallel_config

        from hardsight.datasets.profilers import get_profiler

        graphs = self.stored() if graphs is None else graphs
        done = {device.name: self.journal.done(device.name, metrics) for device in devices}
        profilers = [(d, get_profiler(d)) for d in devices]
        todo = [
            (graph, left)
            for graph in graphs
            if (left := [d for d, p in profilers if graph.digest not in done[d.name] and _fits(graph, p, d)])
        ]
        self.cache.mkdir(exist_ok=True)
        begin = time.monotonic()

        def jobs() -> Iterator[Any]:
            for graph, left in todo:
                if time.monotonic() - begin > time_limit_s:
                    return
                yield delayed(_label_on_all)(left, graph, metrics, self.recipe.budget_s, self.cache)

        _register(backend)
        count = 0
        with parallel_config(backend=backend, n_jobs=n_jobs):
            for cells in _as_they_come(jobs(), backend):
                self.journal.append(cells)
                count += 1
                if progress:
                    progress(devices[0].runtime, len(graphs) - len(todo) + count, len(graphs))
        return count == len(todo)

    # -- the data set ---------------------------------------------------------------------------

    def pack(self, *, rename: dict[str, str] | None = None) -> MeasurementTable:
        """Write the data set from what has been labelled so far; see `hardsight.datasets.pack`."""
        from hardsight.datasets.pack import pack

        return pack([self], self.folder, rename=rename)

    def failures(self) -> dict[str, int]:
        """Reasons for missing cells, with counts."""
        counts: dict[str, int] = {}
        for reason in self.journal.failures().values():
            counts[reason] = counts.get(reason, 0) + 1
        return counts


@contextmanager
def only_builder(folder: Path) -> Iterator[None]:
    """Hold a data set's folder against a second build, which would time networks while this one does.

    The system lets go of it when the process ends, however it ends. Windows has no such lock: there, it is up to the
    user.

    Raises:
        InputError: another process builds there.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / "work" / "lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another process is building in '{folder}'; wait for it or stop it") from error
        yield


def _fits(graph: StoredGraph, profiler: Profiler, device: Device) -> bool:
    """Whether the graph is for the device: quantized twins are for modes that run a QDQ file as it is."""
    return not graph.twin or (profiler.takes_qdq and not device.mode.startswith("bf16"))


def _label(
    profiler: Profiler, device: Device, graph: StoredGraph, metrics: Sequence[Metric], budget_s: float
) -> Cell:
    """One cell: labels, or the reason why there are none; a noisy one gets three times the time once."""
    import onnx

    cell: Cell = {"digest": graph.digest, "device": device.name, "metrics": [str(m) for m in metrics]}
    try:
        model = onnx.load_from_string(graph.onnx)
        labels = profiler.measure(model, device, metrics or None, budget_s=budget_s)
        if any(noisy(m) for m in labels):
            labels = profiler.measure(model, device, metrics or None, budget_s=3 * budget_s)
    except HardsightError as error:
        return {**cell, "failed": str(error)}
    return {**cell, "labels": [asdict(m) for m in labels]}


def _label_on_all(
    devices: Sequence[Device], graph: StoredGraph, metrics: Sequence[Metric], budget_s: float, folder: Path
) -> list[Cell]:
    """One job: a graph on several devices, what they share thrown away after."""
    try:
        return [_label(_profiler(d, folder), d, graph, metrics, budget_s) for d in devices]
    finally:
        for kept in folder.glob(f"{graph.digest}.*"):
            shutil.rmtree(kept, ignore_errors=True) if kept.is_dir() else kept.unlink(missing_ok=True)


def _as_they_come(jobs: Iterator[Any], backend: str) -> Iterator[list[Cell]]:
    """Results of jobs as they end; on Ray, which hands over lists only, a few at a time."""
    from joblib import Parallel

    if backend != "ray":
        yield from Parallel(return_as="generator_unordered", pre_dispatch="2*n_jobs", batch_size=1)(jobs)
        return
    while few := list(islice(jobs, _FEW)):
        yield from Parallel(batch_size=1)(few)


def _profiler(device: Device, folder: Path) -> Profiler:
    """A backend that lives as long as this process, with the workers it has started; one for all its devices."""
    from hardsight.datasets.profilers import get_profiler

    key = device.runtime, folder
    if key not in _PROFILERS:
        _PROFILERS[key] = get_profiler(device, folder)
    return _PROFILERS[key]


_PROFILERS: dict[tuple[str, Path], Profiler] = {}


def _register(backend: str) -> None:
    """Make joblib know a cluster's backend."""
    from hardsight.errors import BackendError

    if backend not in _BACKENDS:
        raise InputError(f"backend '{backend}' is not one of {', '.join(_BACKENDS)}")
    try:
        if backend == "dask":
            from dask.distributed import default_client

            default_client()
        if backend == "ray":
            from ray.util.joblib import register_ray

            register_ray()
    except ImportError as error:
        raise BackendError(
            f"backend '{backend}' needs the package '{backend}': pip install {backend}"
        ) from error
    except ValueError as error:
        raise BackendError("backend 'dask' needs a connected dask.distributed.Client") from error


def _ticker(progress: Progress | None, name: str, start: int, total: int) -> Callable[[int], None]:
    def tick(n: int) -> None:
        if progress:
            progress(name, start + n, total)

    return tick


class _Sentinel:
    """A model measured between blocks, to notice that the machine has changed speed.

    Its reference, the median of five runs when the data set was begun, is kept in ``path``.
    """

    def __init__(self, profiler: Profiler, device: Device, path: Path) -> None:
        from hardsight.datasets.builder import OnnxBuilder
        from hardsight.datasets.weights import fill_weights

        builder = OnnxBuilder("sentinel")
        x = builder.input("x", (1, 32, 48, 48))
        for _ in range(4):
            x = builder.relu(builder.conv(x, 32, 3))
        builder.output(x)
        self._model = fill_weights(builder.model())
        self._profiler, self._device = profiler, device
        references = json.loads(path.read_text()) if path.exists() else {}
        if device.name not in references:
            references[device.name] = float(np.median([self._run() for _ in range(5)]))
            _write(path, json.dumps(references).encode())
        self._reference: float = references[device.name]

    def _run(self) -> float:
        (label,) = self._profiler.measure(self._model, self._device, [Metric.LATENCY], budget_s=0.3)
        return label.value

    def drift(self) -> float:
        """Relative change against the reference."""
        return self._run() / self._reference - 1


def noisy(m: Measurement) -> bool:
    """A timing that more time would settle; how memory is laid out is luck, and its spread part of the truth."""
    return m.metric is not Metric.PEAK_MEMORY and m.spread > MAX_SPREAD


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write {path}: {error.strerror or error}; free space or give another folder")


def _in_words(key: str, value: Any) -> tuple[str, str]:
    """One setting of a `Recipe` in words, and as flags of ``hardsight dataset build``."""
    if key == "families":
        if not value:
            return "all families", "no --family"
        return f"the families {' and '.join(value)}", " ".join(f"--family {name}" for name in value)
    if key in ("int8", "mixed"):
        return (key, f"--{key}") if value else (f"no {key}", f"--no-{key}")
    flag = key.replace("_", "-")
    return f"{flag} {value}", f"--{flag} {value}"
