"""The tables: every architecture of a space, its error and its cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hardsight.nas.pareto import hypervolume
from hardsight.prediction import FloatArray

MARGIN = 0.1
"""The reference point lies beyond the worst of the true front by this share of the front's range."""


@dataclass(frozen=True)
class Space:
    """Architectures with both outcomes.

    Args:
        choices: by parameter.
        rows: each architecture's choices.
        points: ``(n, 2)`` error, a share, and cost.
        classes: of the data that the error is of.
    """

    choices: dict[str, list[str]]
    rows: Sequence[tuple[str, ...]]
    points: FloatArray
    classes: int

    @cached_property
    def index(self) -> dict[tuple[str, ...], int]:
        return {row: i for i, row in enumerate(self.rows)}

    def find(self, params: dict[str, Any]) -> int:
        """Which architecture parameters mean."""
        return self.index[tuple(params[name] for name in self.choices)]

    @cached_property
    def front(self) -> FloatArray:
        """``(k, 2)`` true front, by cost."""
        ordered = self.points[np.lexsort(self.points.T)]
        best = np.minimum.accumulate(ordered[:, 0])
        return np.asarray(ordered[np.append(True, ordered[1:, 0] < best[:-1])])

    @cached_property
    def reference(self) -> list[float]:
        """Point up to which volume counts."""
        low, high = self.front.min(axis=0), self.front.max(axis=0)
        return [float(x) for x in high + MARGIN * (high - low)]

    @cached_property
    def volume(self) -> float:
        """Hypervolume of the true front."""
        return hypervolume(self.front, self.reference)


@dataclass(frozen=True)
class Table:
    """A benchmark.

    Args:
        name: for the command line.
        title: for people.
        cost: what the second objective is, with its unit.
        load: reads it.
    """

    name: str
    title: str
    cost: str
    load: Callable[[], Space]


def _nb201(column: str) -> Callable[[], Space]:
    def load() -> Space:
        from hardsight.datasets.sources.help import HelpNb201
        from hardsight.datasets.sources.nb201_accuracy import Nb201Accuracy

        accuracy, latency = Nb201Accuracy(), HelpNb201()
        cells = latency.table(latency.find())
        accuracies = accuracy.table(accuracy.find())
        merged = accuracies[["arch_str", "cifar100_test"]].merge(
            cells[["arch_str", column]], on="arch_str", validate="one_to_one"
        )
        rows = [tuple(_operations(cell)) for cell in merged["arch_str"]]
        points = np.stack([1 - merged["cifar100_test"] / 100, merged[column] * 1e-3], axis=1)
        return space(rows, points, "edge", classes=100)

    return load


def _operations(cell: str) -> list[str]:
    """The six of ``|avg_pool_3x3~0|+|none~0|skip_connect~1|+...``."""
    return [part.split("~")[0] for part in cell.replace("+", "").split("|") if part]


def _nas_bench_macro() -> Space:
    from hardsight.datasets.sources.nas_bench_macro import NasBenchMacro

    source = NasBenchMacro()
    frame = source.table(source.find())
    points = np.stack([1 - frame["mean_acc"] / 100, frame["flops"]], axis=1)
    return space([tuple(arch) for arch in frame["arch"]], points, "block", classes=10)


def space(rows: Sequence[tuple[str, ...]], points: FloatArray, word: str, classes: int) -> Space:
    """A space whose parameters are numbered and have whatever choices occur."""
    choices = {f"{word}_{i}": sorted(set(values)) for i, values in enumerate(zip(*rows, strict=True))}
    return Space(choices, rows, np.asarray(points, dtype=np.float64), classes)


_TABLES = (
    *(
        Table(f"nb201-{name}", f"NAS-Bench-201, CIFAR-100, `{column}`", "latency, s", _nb201(column))
        for name, column in (("pixel3", "pixel3"), ("1080ti", "1080ti_1"), ("fpga", "fpga"))
    ),
    Table("nas-bench-macro", "NAS-Bench-Macro, CIFAR-10", "multiply-accumulates", _nas_bench_macro),
)
TABLES = {table.name: table for table in _TABLES}
"""A new one is one line here."""
