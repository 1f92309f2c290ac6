"""The journal of a data set under construction: one line of JSON per labelled cell, appended as they come."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hardsight.errors import StorageError
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

Cell = dict[str, Any]
"""``digest``, ``device``, ``metrics`` asked for (empty: all that the backend has), and ``labels`` or ``failed``; timed
ones have ``drift`` before and after, those timed a second time ``again``."""


class Journal:
    """Lines in a file. What a kill tore is skipped, so that its cells are made again.

    Args:
        path: of the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Cell]:
        if not self.path.exists():
            return
        with self.path.open() as lines:
            for text in lines:
                try:
                    yield json.loads(text)
                except json.JSONDecodeError:
                    continue

    def append(self, cells: Iterable[Cell]) -> None:
        """Add cells, after whatever a kill left of the last one.

        Raises:
            StorageError: the file cannot be written.
        """
        try:
            with self.path.open("ab+") as out:
                if out.tell():
                    out.seek(-1, 2)
                    torn = out.read(1) != b"\n"
                    out.write(b"\n" * torn)
                out.write("".join(json.dumps(cell) + "\n" for cell in cells).encode())
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror or error}; free space or give another folder"
            ) from error

    def done(self, device: str, metrics: Sequence[Metric] = (), *, again: bool = False) -> set[str]:
        """Digests not to be tried for these metrics on the device: they have labels, or a reason for none.

        Args:
            device: name.
            metrics: what would be labelled; empty means all that the backend has.
            again: count the cells of the second time instead of the first.
        """
        wanted = set(map(str, metrics))
        found: dict[str, set[str]] = {}
        whole: set[str] = set()
        for cell in self:
            if cell["device"] != device or cell.get("again", False) != again:
                continue
            if asked := cell.get("metrics"):
                found.setdefault(cell["digest"], set()).update(asked)
            else:
                whole.add(cell["digest"])
        return whole | {digest for digest, asked in found.items() if wanted and wanted <= asked}

    def measurements(self) -> Iterator[Measurement]:
        """Every label; of a cell made twice, the later comes later."""
        for cell in self:
            yield from labels_of(cell)

    def failures(self) -> dict[tuple[str, str], str]:
        """Digest and device of cells that have no label at all to the latest reason."""
        labelled: set[tuple[str, str]] = set()
        failed: dict[tuple[str, str], str] = {}
        for cell in self:
            key = cell["digest"], cell["device"]
            if "failed" in cell:
                failed[key] = cell["failed"]
            elif cell.get("labels"):
                labelled.add(key)
        return {key: reason for key, reason in failed.items() if key not in labelled}


def labels_of(cell: Cell) -> Iterator[Measurement]:
    """The labels of one cell."""
    for raw in cell.get("labels", ()):
        yield Measurement(**{**raw, "metric": Metric(raw["metric"])})
