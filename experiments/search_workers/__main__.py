"""Four workers against one: ``python -m hardsight.experiments.search_workers [--seeds 5]``.

Starts a PostgreSQL server of its own. A search that is kept in ``runs/search_workers`` is not made again. Writes
``experiments/search_workers/README.md`` when run in a checkout.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hardsight.cli import _boundary
from hardsight.errors import InputError
from hardsight.experiments.readme_tables import markdown, write
from hardsight.experiments.search_workers.postgres import running_server
from hardsight.experiments.search_workers.runs import Outcome, record, run

FOLDER = Path("runs/search_workers")
README = Path("experiments/search_workers/README.md")
SEEDS = 5
WORKERS = (1, 4)


def main(seeds: int = SEEDS, folder: Path = FOLDER, readme: Path = README) -> None:
    """Make the searches that are missing, then write the table.

    Args:
        seeds: searches with one worker and with four.
        folder: of what is kept.
        readme: file whose table to fill, where it exists.

    Raises:
        InputError: no seeds.
        BackendError: there is no PostgreSQL here.
    """
    if seeds < 1:
        raise InputError(f"{seeds} seeds leave nothing to search with; give 1 or more")
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with running_server() as server:
        for seed in range(seeds):
            for workers in WORKERS:
                kept = folder / f"{workers}-workers-seed-{seed}.json"
                if not kept.exists():
                    with TemporaryDirectory() as study:
                        found = run(seed, Path(study), workers, server.url)
                    kept.write_text(json.dumps(record(found)) + "\n")
                    _boundary.say(f"{found}")
                outcomes.append(Outcome(**json.loads(kept.read_text())))
    write(readme, "workers", table(outcomes))


def table(outcomes: Sequence[Outcome]) -> str:
    """A row per number of workers, sums over seeds."""
    rows = []
    for workers in dict.fromkeys(o.workers for o in outcomes):
        own = [o for o in outcomes if o.workers == workers]
        volumes = np.array([o.hypervolume for o in own])
        rows.append(
            (
                str(workers),
                str(len(own)),
                *(
                    str(sum(getattr(o, name) for o in own))
                    for name in ("killed", "finished", "lost", "doubled")
                ),
                f"{volumes.mean():.4f} ± {volumes.std(ddof=1) if len(own) > 1 else 0:.4f}",
                ", ".join(f"{v:.4f}" for v in volumes),
            )
        )
    columns = ("workers", "seeds", "killed", "trials finished", "lost", "doubled", "hypervolume", "by seed")
    return markdown(columns, rows)


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m hardsight.experiments.search_workers", description="Four workers against one."
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="searches of each kind (%(default)s)")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(_boundary.answer(lambda words: main(_arguments(words).seeds)))
