"""Builds a measured data set: generate, quantize, measure, pack. Resumable after any kill.

Everything done is one line of a journal or one file, written whole; a restart reads them and goes
on. Labels are taken in blocks between two runs of a sentinel model: when the sentinel drifts, the
machine was disturbed, and the block is measured again.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardsight.datasets.store import StoredGraph, load_table, save_table
from hardsight.device import Device
from hardsight.errors import HardsightError, InputError, StorageError, UnknownNameError
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric

if TYPE_CHECKING:
    from hardsight.datasets.profilers import Profiler

BLOCK = 20
DRIFT = 0.06
MAX_SPREAD = 0.10
_MORE_OF = {"single_operator": 4, "small_block": 4}  # small graphs teach the cost of single operators
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Recipe:
    """What a data set holds.

    Args:
        families: generator names; empty means all.
        per_family: graphs of each; four times as many single operators and small blocks.
        int8: add a statically quantized twin of each graph.
        seed: of the generators.
        budget_s: time for the repeats of one label.

    Raises:
        UnknownNameError: no such family.
    """

    families: tuple[str, ...] = ()
    per_family: int = 30
    int8: bool = True
    seed: int = 0
    budget_s: float = 0.6

    def __post_init__(self) -> None:
        from hardsight.datasets.families import FAMILIES

        for name in self.families:
            if name not in FAMILIES:
                raise UnknownNameError("family", name, FAMILIES)


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
            begun = dict(json.loads(path.read_text()))
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

    def generate(self, progress: Progress | None = None) -> None:
        """Write every graph of the recipe (and its quantized twin) that is not there yet."""
        from hardsight.datasets.families import FAMILIES

        names = self.recipe.families or tuple(FAMILIES)
        jobs = [(name, i) for name in names for i in range(self.recipe.per_family * _MORE_OF.get(name, 1))]
        for done, (name, index) in enumerate(jobs):
            if progress:
                progress("graphs", done, len(jobs))
            if not (self._graphs / f"{name}-{index}.json").exists():
                self._generate_one(name, index)
        if progress:
            progress("graphs", len(jobs), len(jobs))

    def _generate_one(self, family: str, index: int) -> None:
        from hardsight.datasets.families import FAMILIES
        from hardsight.datasets.quantize import quantize_static
        from hardsight.datasets.weights import fill_weights, strip_weights
        from hardsight.ingest import read_onnx

        rng = np.random.default_rng([self.recipe.seed, index, zlib.crc32(family.encode())])
        model = FAMILIES[family].sample(rng)
        record: dict[str, Any] = {"family": family, "fp32": read_onnx(model).digest}
        _write(self._graphs / f"{record['fp32']}.onnx", model.SerializeToString())
        if self.recipe.int8:
            try:
                quantized = strip_weights(quantize_static(fill_weights(model)))
                record["int8"] = read_onnx(quantized).digest
                _write(self._graphs / f"{record['int8']}.onnx", quantized.SerializeToString())
            except HardsightError as error:
                record["int8_failed"] = str(error)
        _write(self._graphs / f"{family}-{index}.json", json.dumps(record).encode())

    def stored(self) -> list[StoredGraph]:
        """Graphs generated so far, each digest once."""
        found: dict[str, StoredGraph] = {}
        for path in sorted(self._graphs.glob("*.json")):
            record = json.loads(path.read_text())
            for key, twin in (("fp32", ""), ("int8", record["fp32"])):
                digest = record.get(key)
                if digest and digest not in found:
                    data = (self._graphs / f"{digest}.onnx").read_bytes()
                    found[digest] = StoredGraph(digest, record["family"], twin, data)
        return list(found.values())

    # -- labels ---------------------------------------------------------------------------------

    def measure(
        self,
        profiler: Profiler,
        device: Device,
        *,
        time_limit_s: float = float("inf"),
        progress: Progress | None = None,
    ) -> bool:
        """Measure every graph that has no label on the device yet.

        Args:
            profiler: backend to measure with.
            device: mode to measure.
            time_limit_s: stop after the block that passes it.
            progress: called after every graph.

        Returns:
            True when no cell is left.
        """
        graphs = self.stored()
        done = {line["digest"] for line in self._journal() if line["device"] == device.name}
        todo = [g for g in graphs if g.digest not in done]
        np.random.default_rng(self.recipe.seed).shuffle(todo)
        sentinel = _Sentinel(profiler, device, self.folder / "work" / "sentinel.json")
        begin = time.monotonic()
        count = len(done)
        for start in range(0, len(todo), BLOCK):
            if time.monotonic() - begin > time_limit_s:
                return False
            lines: list[dict[str, Any]] = []
            before = sentinel.drift()
            for _attempt in range(3):
                lines = []
                for graph in todo[start : start + BLOCK]:
                    lines.append(self._measure_one(profiler, device, graph))
                    if progress:
                        progress(device.name, count + len(lines), len(graphs))
                after = sentinel.drift()
                worst = max(before, after, key=abs)
                for line in lines:
                    line["sentinel_drift"] = round(worst, 4)
                if abs(worst) < DRIFT:
                    break
                before = after
            self._append(lines)
            count += len(lines)
        return True

    def _measure_one(self, profiler: Profiler, device: Device, graph: StoredGraph) -> dict[str, Any]:
        import onnx

        line: dict[str, Any] = {"digest": graph.digest, "device": device.name}
        try:
            model = onnx.load_from_string(graph.onnx)
            labels = profiler.measure(model, device, budget_s=self.recipe.budget_s)
        except HardsightError as error:
            return {**line, "failed": str(error)}
        if any(_noisy(m) for m in labels):
            labels = profiler.measure(model, device, budget_s=3 * self.recipe.budget_s)
        return {**line, "labels": [asdict(m) for m in labels]}

    def _journal(self) -> Iterator[dict[str, Any]]:
        path = self.folder / "work" / "journal.jsonl"
        for text in path.read_text().splitlines() if path.exists() else ():
            try:
                yield json.loads(text)
            except json.JSONDecodeError:
                continue  # the line a kill tore; its cell is measured again

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        path = self.folder / "work" / "journal.jsonl"
        try:
            torn = path.exists() and not path.read_bytes().endswith(b"\n")
            with path.open("a") as out:
                out.write("\n" * torn + "".join(json.dumps(line) + "\n" for line in lines))
        except OSError as error:
            raise _cannot_write(path, error) from error

    # -- the data set ---------------------------------------------------------------------------

    def pack(self, *, rename: dict[str, str] | None = None) -> MeasurementTable:
        """Write the data set from what has been measured so far.

        On an ``int8-…`` mode, a float graph and its quantized twin both have the twin's label on the
        ``fp32-…`` mode of the same threads: the same file, run the same way.

        Args:
            rename: device name as measured to the name it ships under.

        Returns:
            The table, as read back.
        """
        graphs = {g.digest: g for g in self.stored()}
        labels: dict[tuple[str, str, str], Measurement] = {}
        for line in self._journal():
            for raw in line.get("labels", ()):
                m = Measurement(**{**raw, "metric": Metric(raw["metric"])})
                m = _renamed(m, (rename or {}).get(m.device, m.device), m.digest)
                if _noisy(m) or m.digest not in graphs:
                    continue
                labels[m.digest, m.device, m.metric] = m
                if (original := graphs[m.digest].twin) and "/fp32-" in m.device:
                    mode = m.device.replace("/fp32-", "/int8-")
                    for digest in (m.digest, original):
                        labels[digest, mode, m.metric] = _renamed(m, mode, digest)
        table = MeasurementTable.from_measurements(labels.values(), {})
        used = set(table.digests)
        save_table(self.folder, [g for d, g in graphs.items() if d in used], table)
        return load_table(self.folder)

    def failures(self) -> dict[str, int]:
        """Reasons for missing cells, with counts."""
        counts: dict[str, int] = {}
        for line in self._journal():
            if "failed" in line:
                counts[line["failed"]] = counts.get(line["failed"], 0) + 1
        return counts


class _Sentinel:
    """A model measured between blocks, to notice that the machine has changed speed.

    Its reference, the fastest of five runs when the data set was begun, is kept in ``path``.
    """

    def __init__(self, profiler: Profiler, device: Device, path: Path) -> None:
        from hardsight.datasets.builder import OnnxBuilder

        builder = OnnxBuilder("sentinel")
        x = builder.input("x", (1, 32, 48, 48))
        for _ in range(4):
            x = builder.relu(builder.conv(x, 32, 3))
        builder.output(x)
        self._model = builder.model()
        self._profiler, self._device = profiler, device
        references = json.loads(path.read_text()) if path.exists() else {}
        if device.name not in references:
            references[device.name] = min(self._run() for _ in range(5))
            _write(path, json.dumps(references).encode())
        self._reference: float = references[device.name]

    def _run(self) -> float:
        (label,) = self._profiler.measure(self._model, self._device, [Metric.LATENCY], budget_s=0.5)
        return label.value

    def drift(self) -> float:
        """Relative change against the reference."""
        return self._run() / self._reference - 1


def _noisy(m: Measurement) -> bool:
    """A timing that more time would settle; how memory is laid out is luck, and its spread part of the truth."""
    return m.metric is not Metric.PEAK_MEMORY and m.spread > MAX_SPREAD


def _renamed(m: Measurement, device: str, digest: str) -> Measurement:
    from dataclasses import replace

    return replace(m, device=device, digest=digest)


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
    if key == "int8":
        return ("int8", "--int8") if value else ("no int8", "--no-int8")
    flag = key.replace("_", "-")
    return f"{flag} {value}", f"--{flag} {value}"
