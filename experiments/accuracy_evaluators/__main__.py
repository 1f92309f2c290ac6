"""Evaluators of accuracy compared: ``python -m hardsight.experiments.accuracy_evaluators [--candidates 20]``.

Judgements are kept in ``runs/accuracy_evaluators``; only what is missing is made. Writes
``experiments/accuracy_evaluators/README.md`` when run in a checkout. The second table reads a public one below
``HARDSIGHT_DATA``. About ten minutes on an idle core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hardsight.cli import _boundary, _show
from hardsight.datasets.journal import Journal
from hardsight.errors import DataError, InputError
from hardsight.experiments.accuracy_evaluators.published import published_table, score
from hardsight.experiments.accuracy_evaluators.runs import CANDIDATES, make
from hardsight.experiments.accuracy_evaluators.tables import table
from hardsight.experiments.readme_tables import write
from hardsight.progress import progress_bars

FOLDER = Path("runs/accuracy_evaluators")
README = Path("experiments/accuracy_evaluators/README.md")


def main(count: int = CANDIDATES, folder: Path = FOLDER, readme: Path = README) -> None:
    """Make what is missing, then write the table.

    Args:
        count: of candidates.
        folder: of what is kept.
        readme: file whose table to fill, where it exists.

    Raises:
        InputError: too few candidates to be ranked.
    """
    if count < 3:
        raise InputError(f"{count} candidates cannot be ranked; give 3 or more")
    with progress_bars() as progress:
        make(folder, count, progress)
    rows = [row for row in Journal(folder / "rows.jsonl") if row["candidate"] < count]
    write(readme, "evaluators", table(rows))
    try:
        with progress_bars() as progress:
            score(folder, progress)
    except DataError as error:
        _show.note(f"table 'published' is left as it is: {error}")
    else:
        write(readme, "published", published_table(folder))


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m hardsight.experiments.accuracy_evaluators")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help="drawn by a seed (%(default)s)")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(_boundary.answer(lambda words: main(_arguments(words).candidates)))
