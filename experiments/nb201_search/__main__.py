"""HELP's Table 4 with every delivered network measured: ``python -m hardsight.experiments.nb201_search``.

Answers are kept in ``runs/nb201_search``, a file per sampler; only what is missing is made, and the tables are made of
all that is kept, so several may run at once with a sampler each. ``job`` instead of samplers runs the worked job
``experiments/nb201_search/job.yaml``. Reads the public tables below ``HARDSIGHT_DATA``. Writes
``experiments/nb201_search/README.md`` and the picture beside it when run in a checkout, and one MLflow run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hardsight.cli import _boundary
from hardsight.datasets.journal import Journal
from hardsight.errors import InputError, UnknownNameError
from hardsight.experiments.few_shot.published import HELP_SEARCH
from hardsight.experiments.nb201_search import tables
from hardsight.experiments.nb201_search.rows import CANDIDATES, EVERYTHING, Plan, Row, World, answer
from hardsight.experiments.readme_tables import write
from hardsight.progress import Progress, progress_bars

FOLDER = Path("runs/nb201_search")
README = Path("experiments/nb201_search/README.md")
SAMPLERS = (EVERYTHING, CANDIDATES, "screening", "nsga2", "random")
DRAWS = 10
_TASK = "HELP/nb201"


def main(
    samplers: Sequence[str] = (), draws: int = DRAWS, folder: Path = FOLDER, readme: Path = README
) -> None:
    """Make answers or read them, then write tables, the picture and the MLflow run.

    Args:
        samplers: to make the answers of; none means all.
        draws: repetitions.
        folder: of what is kept.
        readme: file whose tables to fill, where it exists.

    Raises:
        UnknownNameError: no such sampler.
        InputError: no draws.
        DataError: a public table is missing.
    """
    for name in samplers:
        if name not in SAMPLERS:
            raise UnknownNameError("sampler", name, SAMPLERS)
    if draws < 1:
        raise InputError(f"{draws} draws leave nothing to average; give 1 or more")
    world = load()
    with progress_bars() as progress:
        for name in samplers or SAMPLERS:
            make(world, name, draws, folder, progress)
    rows = read(draws, folder)
    best = optima(world)
    _track(rows, best, draws, folder)
    write(readme, "summary", tables.summary(rows, best))
    write(readme, "rows", tables.delivered(rows, best))
    if readme.exists():
        readme.with_name("gaps.png").write_bytes(tables.figure_png(rows, best))


def job(readme: Path = README) -> None:
    """Run the worked job and fill its table."""
    from hardsight.experiments.nb201_search.worked import run_job

    report = run_job()
    lines = "\n".join(f"- {sentence}" for sentence in report.sentences())
    write(readme, "job", f"{tables.front(report)}\n\n{lines}")


def load() -> World:
    """The public tables.

    Raises:
        DataError: one is missing; says how to get it.
    """
    from hardsight.datasets.sources import get_source
    from hardsight.datasets.sources._base import read_csv
    from hardsight.predictors.few_shot.tables import Tables

    source = get_source("nb201-accuracy")
    accuracy = source.table(source.find())["cifar100_test"].to_numpy(np.float64)
    folder = get_source("help-nb201").find()
    candidates = read_csv(folder / "nb201_metad2a_candidates.csv", ["nb201_index"])["nb201_index"]
    return World(Tables(folder), accuracy, candidates.to_numpy(np.int64))


def make(world: World, sampler: str, draws: int, folder: Path, progress: Progress) -> None:
    """Whatever answers of a sampler are missing."""
    path = folder / f"{sampler}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    have = {(row["device"], row["draw"]) for row in Journal(path)}
    task = world.tables.task(_TASK)
    cells = [(device, draw) for draw in range(draws) for device in HELP_SEARCH]
    for done, (device, draw) in enumerate(cells):
        progress(sampler, done, len(cells))
        if (device, draw) not in have:
            limits = [found.constraint_ms for found in HELP_SEARCH[device]]
            Journal(path).append(answer(world, task, device, limits, sampler, draw, Plan()))
    progress(sampler, len(cells), len(cells))


def read(draws: int, folder: Path) -> list[Row]:
    """Kept answers of all samplers."""
    return [row for name in SAMPLERS for row in Journal(folder / f"{name}.jsonl") if row["draw"] < draws]


def optima(world: World) -> dict[tables.Place, tuple[float, float]]:
    """What would be delivered had everything been measured and evaluated."""
    task, found = world.tables.task(_TASK), {}
    for device, limit in tables.places():
        latency = world.tables.costs(task, device)
        best = int(np.where(latency <= limit, world.accuracy, -np.inf).argmax())
        found[device, limit] = float(world.accuracy[best]), float(latency[best])
    return found


def _track(rows: Sequence[Row], best: tables.Optima, draws: int, folder: Path) -> None:
    from hardsight import tracking

    params = {"draws": draws, **vars(Plan())}
    with tracking.track("nb201-search", "help-table-4", params, folder=folder) as run:
        for name, found in tables.summaries(rows, best).items():
            run.metrics({f"{name}/{key}": float(value) for key, value in found.items()})
            run.artifact(folder / f"{name}.jsonl")


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m hardsight.experiments.nb201_search", description="HELP's Table 4, verified."
    )
    parser.add_argument(
        "what", nargs="*", metavar="SAMPLER", help=f"of {', '.join(SAMPLERS)}, or 'job'; all by default"
    )
    parser.add_argument("--draws", type=int, default=DRAWS, help="repetitions (%(default)s)")
    return parser.parse_args(words)


if __name__ == "__main__":

    def command(words: Sequence[str]) -> None:
        given = _arguments(words)
        if given.what == ["job"]:
            job()
        else:
            main(given.what, given.draws)

    sys.exit(_boundary.answer(command))
