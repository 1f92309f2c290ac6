"""Which tables there are: their tasks, numbers of measurements, and what was published for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hardsight.datasets.sources import get_source
from hardsight.experiments.few_shot import convert
from hardsight.experiments.few_shot.published import (
    HELP_BY_NASFLAT,
    HELP_FBNET,
    HELP_NB201,
    NASFLAT,
    Published,
)
from hardsight.predictors.few_shot.tables import Tables, Task

_SPACES = {"nb201": "help-nb201", "fbnet": "help-fbnet", "ofa": "help-ofa"}
_NASFLAT_TASKS = {"ND": "nb201", **dict.fromkeys(("FD", "F1", "F2", "F3", "F4", "FA"), "fbnet")}
HELP_KNOWN = {"nb201": 900, "fbnet": 4000}
"""HELP knows its devices for the first so many architectures, and is asked about the next thousand."""
_HELP_QUERY = 1000


@dataclass(frozen=True)
class Case:
    """A task, and the tables that hold it."""

    tables: Tables
    task: Task


@dataclass(frozen=True)
class Table:
    """A table of the README.

    Args:
        name: for the command line and the README.
        load: the cases; called with a folder for converted tables.
        samples: numbers of measurements, the one to tell most about first.
        published: rows of others.
        trimmed: whether the correlation is over the middle 80 %, as in HELP's paper.
        by_device: whether columns are the devices of one task, or tasks.
        methods: those compared by default; all if empty.
    """

    name: str
    load: Callable[[Path], list[Case]]
    samples: tuple[int, ...] = (20, 10, 5)
    published: tuple[Published, ...] = ()
    trimmed: bool = False
    by_device: bool = False
    methods: tuple[str, ...] = ()


def _help_tables() -> dict[str, Tables]:
    return {space: Tables(get_source(name).find()) for space, name in _SPACES.items()}


def _nasflat(folder: Path) -> list[Case]:
    tables = _help_tables()
    wanted = {**_NASFLAT_TASKS, "HELP/ofa": "ofa"}
    return [Case(tables[space], tables[space].task(name)) for name, space in wanted.items()]


def _nasflat_900(folder: Path) -> list[Case]:
    return [replace(case, task=replace(case.task, known=range(900))) for case in _nasflat(folder)]


def _help(space: str, *, all_known: bool = False) -> Callable[[Path], list[Case]]:
    def load(folder: Path) -> list[Case]:
        tables, known = _help_tables()[space], HELP_KNOWN[space]
        query = range(known, known + _HELP_QUERY)
        task = replace(tables.task(f"HELP/{space}"), query=query)
        return [Case(tables, task if all_known else replace(task, known=range(known)))]

    return load


def _converted(write: Callable[[Path], None], name: str) -> Callable[[Path], list[Case]]:
    def load(folder: Path) -> list[Case]:
        if not (folder / name / "splits.json").exists():
            write(folder / name)
        tables = Tables(folder / name)
        return [Case(tables, tables.task(task)) for task in tables.tasks]

    return load


_CHEAP = ("ours", "copy", "sources")
_BOTH = (NASFLAT, HELP_BY_NASFLAT)
_TABLES = (
    Table("nasflat", _nasflat, published=_BOTH),
    Table("nasflat-900", _nasflat_900, (20,), _BOTH, methods=_CHEAP),
    Table("help-fbnet", _help("fbnet"), (20,), HELP_FBNET, trimmed=True, by_device=True),
    Table(
        "help-fbnet-all",
        _help("fbnet", all_known=True),
        (20,),
        trimmed=True,
        by_device=True,
        methods=_CHEAP,
    ),
    Table("help-nb201", _help("nb201"), (20,), HELP_NB201, trimmed=True, by_device=True),
    Table(
        "help-nb201-all",
        _help("nb201", all_known=True),
        (20,),
        trimmed=True,
        by_device=True,
        methods=_CHEAP,
    ),
    Table("hat", _converted(convert.write_hat, "hat")),
    Table("accel-nasbench", _converted(convert.write_accel_nasbench, "accel-nasbench")),
)
"""A new table is one line here."""
TABLES = {table.name: table for table in _TABLES}
