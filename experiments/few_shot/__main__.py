"""Few-shot tables made again: ``python -m hardsight.experiments.few_shot [TABLE ...] [--method NAME ...]``.

Scores are kept in ``runs/few_shot``, one file per table and method; only what is missing is made, and the tables are
made of all that is kept, so several may run at once with a method each. To make a method's scores again, remove its
files. Reads the public tables below ``HARDSIGHT_DATA``. Writes ``experiments/few_shot/README.md`` when run in
a checkout, and one MLflow run for each table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hardsight.cli import _boundary
from hardsight.errors import InputError, UnknownNameError
from hardsight.experiments.few_shot import constrained
from hardsight.experiments.few_shot.cells import CEILING, Scores, ceilings, make, path_of, read
from hardsight.experiments.few_shot.definitions import TABLES, Table
from hardsight.experiments.readme_tables import write
from hardsight.predictors.few_shot import METHODS
from hardsight.predictors.few_shot.scoring import DRAWS
from hardsight.progress import progress_bars

FOLDER = Path("runs/few_shot")
README = Path("experiments/few_shot/README.md")
NAMES = (*TABLES, constrained.NAME)


def main(
    chosen: Sequence[str] = (),
    methods: Sequence[str] = (),
    draws: int = DRAWS,
    folder: Path = FOLDER,
    readme: Path = README,
) -> None:
    """Make scores or read them, then write tables and MLflow runs.

    Args:
        chosen: names of tables; none means all.
        methods: to make the scores of; none means those of each table.
        draws: repetitions.
        folder: of what is kept.
        readme: file whose tables to fill, where it exists.

    Raises:
        UnknownNameError: no such table or method.
        InputError: no draws.
        DataError: a public table is missing.
    """
    for kind, names, known in (("table", chosen, NAMES), ("method", methods, tuple(METHODS))):
        for name in names:
            if name not in known:
                raise UnknownNameError(kind, name, known)
    if draws < 1:
        raise InputError(f"{draws} draws leave nothing to average; give 1 or more")
    for name in chosen or NAMES:
        if name == constrained.NAME:
            section = _search(draws, folder)
        else:
            section = _few_shot(TABLES[name], methods, draws, folder)
        write(readme, name, section)


def _few_shot(table: Table, methods: Sequence[str], draws: int, folder: Path) -> str:
    from hardsight.experiments.few_shot.tables import few_shot_section

    cases = table.load(folder / "converted")
    with progress_bars() as progress:
        for method in methods or table.methods or METHODS:
            make(table, cases, method, draws, folder, progress)
        top = ceilings(table, cases, folder, progress)
    scores = read(table, cases, tuple(METHODS), draws, folder) | top
    _track(table, scores, draws, folder)
    return few_shot_section(table, cases, scores)


def _track(table: Table, scores: Scores, draws: int, folder: Path) -> None:
    import numpy as np

    from hardsight import tracking

    params = {"methods": ", ".join(scores), "draws": draws, "samples": ", ".join(map(str, table.samples))}
    with tracking.track("few-shot", table.name, params, folder=folder) as run:
        for method, cells in scores.items():
            for (task, samples), found in cells.items():
                prefix = f"{method}/{task}/{samples}"
                for number in ("spearman", "spearman_trimmed", "mape"):
                    run.metrics(
                        {
                            f"{prefix}/{device}/{number}": getattr(s, number).mean()
                            for device, s in found.items()
                        }
                    )
                run.metrics({f"{prefix}/spearman": float(np.mean([s.spearman for s in found.values()]))})
            if method != CEILING:
                run.artifact(path_of(folder, table, method))


def _search(draws: int, folder: Path) -> str:
    from hardsight import tracking
    from hardsight.datasets.sources import get_source
    from hardsight.experiments.few_shot.tables import search_section
    from hardsight.predictors.few_shot.tables import Tables

    tables = Tables(get_source("help-nb201").find())
    settings = constrained.settings(tables)
    with progress_bars() as progress:
        rows = constrained.run(tables, settings, draws, folder, progress)
    params = {"draws": draws, "samples": constrained.SAMPLES}
    with tracking.track("few-shot", constrained.NAME, params, folder=folder) as run:
        run.metrics(constrained.summary(rows))
        run.artifact(folder / constrained.NAME / "ours.jsonl")
    return search_section(tables, settings, rows)


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m hardsight.experiments.few_shot", description="Few-shot tables."
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(NAMES)}; by default all")
    parser.add_argument("--method", action="append", default=[], metavar="NAME", help="may be repeated")
    parser.add_argument("--draws", type=int, default=DRAWS, help="repetitions (%(default)s)")
    return parser.parse_args(words)


if __name__ == "__main__":

    def command(words: Sequence[str]) -> None:
        given = _arguments(words)
        main(given.tables, given.method, given.draws)

    sys.exit(_boundary.answer(command))
