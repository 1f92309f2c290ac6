"""The most accurate network that keeps a latency, on a device known from twenty measurements (HELP's Table 4).

The bound is the upper end of a one-sided 95 % interval of a measurement: with it a network is taken only where it is
likely to keep the constraint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.datasets.journal import Journal
from hardsight.datasets.sources import get_source
from hardsight.datasets.sources._base import read_csv
from hardsight.experiments.few_shot.definitions import HELP_KNOWN
from hardsight.experiments.few_shot.published import HELP_SEARCH
from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot.gaussian import GaussianProcess
from hardsight.predictors.few_shot.tables import Tables, Task
from hardsight.progress import Progress

NAME = "search"
SAMPLES = 20
_Z = 1.645  # 95 % of a normal variable lie below it
_TASK = "HELP/nb201"
_HELP_LOOKS_AT = 3  # of the candidates it expects to keep the constraint; `top` in upstream's _nas_metad2a

Key = tuple[str, str, int, str, float]
Row = dict[str, Any]
"""``setting``, ``device``, ``draw``, ``rule``, ``constraint_ms``; ``latency_ms`` and ``accuracy`` of what was found,
None where nothing was."""


@dataclass(frozen=True)
class Setting:
    """What is searched.

    Args:
        name: for the tables.
        networks: ``(c,)`` indices into the table, those with the highest score first.
        accuracy: ``(c,)`` CIFAR-100, percent.
        task: what is known of other devices.
        rules: name to how many of the candidates with the highest scores are looked at; None for all.
    """

    name: str
    networks: IntArray
    accuracy: FloatArray
    task: Task
    rules: dict[str, int | None]


def settings(tables: Tables) -> list[Setting]:
    """MetaD2A's 500 candidates as in HELP, and the whole of NAS-Bench-201.

    Raises:
        DataError: a table is missing.
    """
    folder = get_source("help-nb201").find()
    columns = ["nb201_index", "cifar100_acc", "score"]
    candidates = read_csv(folder / "nb201_metad2a_candidates.csv", columns).sort_values(
        "score", ascending=False
    )
    source = get_source("nb201-accuracy")
    accuracy = source.table(source.find())["cifar100_test"].to_numpy(np.float64)
    task = tables.task(_TASK)
    as_help = replace(task, known=range(HELP_KNOWN["nb201"]))
    few, accurate = (
        candidates["nb201_index"].to_numpy(np.int64),
        candidates["cifar100_acc"].to_numpy(np.float64),
    )
    return [
        Setting("candidates", few, accurate, as_help, {"top three": _HELP_LOOKS_AT, "best": None}),
        Setting("table", np.arange(len(accuracy)), accuracy, task, {"best": None}),
    ]


def search(
    tables: Tables, setting: Setting, device: str, constraints_ms: Sequence[float], draw: int
) -> Iterator[Row]:
    """Measure twenty networks, then choose for each constraint and rule, by the mean and by the bound.

    Args:
        tables: holds the task.
        setting: what is searched.
        device: target.
        constraints_ms: in the table's unit.
        draw: seed of the choice of measurements.
    """
    space, truth = tables.space(setting.task), tables.costs(setting.task, device)
    process = GaussianProcess()
    rng = np.random.default_rng([0, draw])
    chosen = process.choose(space, np.flatnonzero(~np.isnan(truth)), SAMPLES, rng)
    found = process.posterior(space, chosen, truth[chosen])
    mean = found.mean[setting.networks]
    upper = mean + _Z * np.hypot(found.sd[setting.networks], found.noise)
    true = truth[setting.networks]
    for constraint in constraints_ms:
        for rule, looked_at in setting.rules.items():
            for by, latency in (("mean", np.exp(mean)), ("bound", np.exp(upper))):
                taken = choose(latency, setting.accuracy, constraint, looked_at)
                yield {
                    "setting": setting.name,
                    "device": device,
                    "draw": draw,
                    "rule": f"{rule}, {by}",
                    "constraint_ms": constraint,
                    "latency_ms": None if taken is None else float(true[taken]),
                    "accuracy": None if taken is None else float(setting.accuracy[taken]),
                }


def choose(
    latency: FloatArray, accuracy: FloatArray, constraint: float, looked_at: int | None = None
) -> int | None:
    """The most accurate of the first so many networks ``(c,)`` that keep a constraint; None if none does."""
    keeping = np.flatnonzero(latency <= constraint)[:looked_at]
    return int(keeping[accuracy[keeping].argmax()]) if len(keeping) else None


def optima(tables: Tables, setting: Setting) -> dict[tuple[str, float], tuple[float, float]]:
    """By device and constraint the accuracy and the latency of the best network, had all been measured."""
    best = {}
    for device, rows in HELP_SEARCH.items():
        true = tables.costs(setting.task, device)[setting.networks]
        for row in rows:
            taken = choose(true, setting.accuracy, row.constraint_ms)
            if taken is not None:
                best[device, row.constraint_ms] = float(setting.accuracy[taken]), float(true[taken])
    return best


def run(tables: Tables, of: Sequence[Setting], draws: int, folder: Path, progress: Progress) -> list[Row]:
    """All devices, constraints and draws; what is kept in the folder is not made again."""
    journal = Journal(folder / NAME / "ours.jsonl")
    journal.path.parent.mkdir(parents=True, exist_ok=True)
    have = {_key(row) for row in journal}
    cells = [(s, device, draw) for s in of for device in HELP_SEARCH for draw in range(draws)]
    for done, (setting, device, draw) in enumerate(cells):
        progress("search", done, len(cells))
        constraints = [row.constraint_ms for row in HELP_SEARCH[device]]
        if not _keys(setting, device, draw, constraints) <= have:
            journal.append(search(tables, setting, device, constraints, draw))
    progress("search", len(cells), len(cells))
    wanted = set().union(
        *(_keys(s, d, draw, [row.constraint_ms for row in HELP_SEARCH[d]]) for s, d, draw in cells)
    )
    return list({_key(row): row for row in journal if _key(row) in wanted}.values())


def _key(row: Row) -> Key:
    return row["setting"], row["device"], row["draw"], row["rule"], row["constraint_ms"]


def _keys(setting: Setting, device: str, draw: int, constraints_ms: Sequence[float]) -> set[Key]:
    return {
        (setting.name, device, draw, f"{rule}, {by}", constraint)
        for rule in setting.rules
        for by in ("mean", "bound")
        for constraint in constraints_ms
    }


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """By setting and rule the share of kept constraints, and the mean accuracy of what was found."""
    found = {}
    for key in dict.fromkeys((row["setting"], row["rule"]) for row in rows):
        own = [row for row in rows if (row["setting"], row["rule"]) == key]
        taken = [row for row in own if row["accuracy"] is not None]
        prefix = f"{key[0]}/{key[1].replace(', ', '/')}"
        found[f"{prefix}/kept"] = kept(own) / len(own)
        if taken:
            found[f"{prefix}/accuracy"] = float(np.mean([row["accuracy"] for row in taken]))
    return found


def kept(rows: Sequence[Row]) -> int:
    """How many found a network that keeps the constraint."""
    return sum(row["accuracy"] is not None and row["latency_ms"] <= row["constraint_ms"] for row in rows)
