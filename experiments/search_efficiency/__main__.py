"""Search efficiency: ``python -m hardsight.experiments.search_efficiency [TABLE ...] [--sampler NAME] [--seeds 20]``.

Searches are kept in ``runs/search_efficiency``, a file per table and sampler; only what is missing is made, and the
tables are made of all that is kept. To make a sampler's searches again, remove its files. Reads the public tables below
``HARDSIGHT_DATA``. Writes ``experiments/search_efficiency/README.md`` and the picture beside it when run in a checkout,
and one MLflow run for each table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hardsight.cli import _boundary
from hardsight.errors import InputError, UnknownNameError
from hardsight.experiments.readme_tables import write
from hardsight.experiments.search_efficiency.definitions import TABLES, Table
from hardsight.experiments.search_efficiency.runs import (
    EVALUATIONS,
    SAMPLERS,
    SEEDS,
    Curves,
    make,
    needed,
    path_of,
    read,
)
from hardsight.experiments.search_efficiency.tables import WANTED, figure_png, section
from hardsight.progress import progress_bars

FOLDER = Path("runs/search_efficiency")
README = Path("experiments/search_efficiency/README.md")


def main(
    chosen: Sequence[str] = (),
    samplers: Sequence[str] = (),
    seeds: int = SEEDS,
    folder: Path = FOLDER,
    readme: Path = README,
) -> None:
    """Make searches or read them, then write tables, picture and MLflow runs.

    Args:
        chosen: names of tables; none means all.
        samplers: to make the searches of; none means all.
        seeds: searches of each sampler.
        folder: of what is kept.
        readme: file whose tables to fill, where it exists.

    Raises:
        UnknownNameError: no such table or sampler.
        InputError: no seeds.
        DataError: a public table is missing.
    """
    for kind, names, known in (("table", chosen, tuple(TABLES)), ("sampler", samplers, SAMPLERS)):
        for name in names:
            if name not in known:
                raise UnknownNameError(kind, name, known)
    if seeds < 1:
        raise InputError(f"{seeds} seeds leave nothing to search with; give 1 or more")
    for table in (TABLES[name] for name in chosen or TABLES):
        space = table.load()
        with progress_bars() as progress:
            make(table, space, samplers or SAMPLERS, seeds, folder, progress)
        curves, times = read(table, space, folder, seeds)
        _track(table, curves, times, folder)
        write(readme, table.name, section(table, space, curves, times))
    if readme.exists():
        _draw(folder, seeds, readme.with_name("hypervolume.png"))


def _draw(folder: Path, seeds: int, path: Path) -> None:
    """All tables that have searches, not only the chosen."""
    there = [table for table in TABLES.values() if (folder / table.name).exists()]
    found = [read(table, table.load(), folder, seeds)[0] for table in there]
    path.write_bytes(figure_png(there, found))


def _track(table: Table, curves: Curves, times: Mapping[str, Mapping[str, float]], folder: Path) -> None:
    from hardsight import tracking

    params = {"samplers": ", ".join(curves), "evaluations": EVALUATIONS}
    params |= {f"{sampler}/seeds": str(len(of)) for sampler, of in curves.items()}
    with tracking.track("search-efficiency", table.name, params, folder=folder) as run:
        for sampler, of in curves.items():
            for step, share in enumerate(np.median(of, axis=0), 1):
                run.metrics({f"{sampler}/hypervolume": float(share)}, step)
            reached = float(np.median(needed(of, WANTED)))
            if np.isfinite(reached):
                run.metrics({f"{sampler}/evaluations_99": reached})
            run.metrics({f"{sampler}/{name}": value for name, value in times[sampler].items()})
            run.artifact(path_of(folder, table.name, sampler))


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m hardsight.experiments.search_efficiency", description="Search efficiency."
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; by default all")
    parser.add_argument("--sampler", action="append", default=[], metavar="NAME", help="may be repeated")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="searches of each sampler (%(default)s)")
    return parser.parse_args(words)


if __name__ == "__main__":

    def command(words: Sequence[str]) -> None:
        given = _arguments(words)
        main(given.tables, given.sampler, given.seeds)

    sys.exit(_boundary.answer(command))
