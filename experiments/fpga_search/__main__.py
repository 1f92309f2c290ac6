"""Search, train, synthesise and compare: ``python -m hardsight.experiments.fpga_search``.

Takes about half an hour on an idle core. A run that was stopped goes on where it was. Writes the README's tables and
picture when run in a checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hardsight.cli import _boundary
from hardsight.datasets.sources._base import DATA
from hardsight.experiments.fpga_search.figure import picture
from hardsight.experiments.fpga_search.jobs import (
    EIGHT,
    LIMIT,
    MIXED,
    SEARCHES,
    TRIALS,
    UNIFORM,
    job,
    without_duplicates,
)
from hardsight.experiments.fpga_search.results import Network, delivered, dominated, plain, saving
from hardsight.experiments.readme_tables import fill, markdown
from hardsight.nas.report import load_report
from hardsight.nas.search import run_search
from hardsight.nas.study import StudyFolder
from hardsight.progress import progress_bars

FOLDER = Path("experiments/fpga_search")
SLACK = 0.005
"""Accuracy that may be noise: about the standard error on the validation part."""

COLUMNS = (
    "search", "network", "units, bits of weights and inputs per layer", "predicted", "90 % interval",
    "synthesised", "flip-flops", "cycles", "validation", "test",
)  # fmt: skip


def main(words: Sequence[str]) -> None:
    """Run what is not done yet, print the tables, and write them into the README; ``words`` are of the command line."""
    given = argparse.ArgumentParser(prog="python -m hardsight.experiments.fpga_search", description=__doc__)
    data = Path(os.environ.get(DATA, "../shared/data")) / "dry-bean" / "dry_bean.csv"
    given.add_argument("--data", type=Path, default=data, help="CSV of the beans")
    given.add_argument("--out", type=Path, default=Path("fpga-search"), help="folder of the searches")
    given.add_argument("--trials", type=int, default=TRIALS, help="of the first two searches each")
    given.add_argument("--only", choices=SEARCHES, help="one search, without tables: to run several at once")
    arguments = given.parse_args(words)
    beans = without_duplicates(arguments.data, arguments.out / "beans.csv")
    found: dict[str, list[Network]] = {}
    for search in [arguments.only] if arguments.only else SEARCHES:
        folder = arguments.out / search.replace(" ", "-")
        if not StudyFolder(folder).front_file.exists():  # the last that a search writes before its report
            with progress_bars() as progress:
                run_search(job(search, beans, arguments.trials), folder, resume=True, progress=progress)
        found[search] = delivered(search, load_report(folder))
    if arguments.only:
        return
    table, verdict = markdown(COLUMNS, rows(found)), "\n".join(f"- {line}" for line in sentences(found))
    print(f"{table}\n\n{verdict}")
    readme = FOLDER / "README.md"
    if readme.exists():
        readme.write_text(fill(fill(readme.read_text(), "fronts", table), "verdict", verdict))
        (FOLDER / "results.json").write_text(json.dumps(plain(found), indent=1) + "\n")
        (FOLDER / "fronts.png").write_bytes(picture(found, LIMIT))


def rows(found: Mapping[str, Sequence[Network]]) -> list[tuple[str, ...]]:
    """The table's rows, as text."""
    return [
        (
            n.search,
            n.digest,
            ", ".join(n.units),
            f"{n.predicted:,.0f}",
            f"{n.lower:,.0f} to {n.upper:,.0f}",
            f"{n.measured:,.0f}" + ("" if n.kept else " (over the budget)"),
            f"{n.ff:,.0f}",
            f"{n.cycles:.0f}",
            f"{n.validation:.2%}",
            f"{n.test:.2%}",
        )
        for networks in found.values()
        for n in networks
    ]


def sentences(found: Mapping[str, Sequence[Network]]) -> list[str]:
    """The outcome against what was aimed at."""
    mixed, uniform = found[MIXED], [*found[UNIFORM], *found[EIGHT]]
    everything = [*mixed, *uniform]
    limited = [n for n in everything if n.search != EIGHT]
    lines = [
        f"{sum(n.kept for n in mixed)} of {len(mixed)} networks with bits per layer keep {LIMIT:,} logic cells when "
        f"synthesised, and {sum(n.kept for n in limited)} of {len(limited)} of both searches with that budget "
        "(aim: 90 %).",
        f"{sum(n.inside for n in everything)} of {len(everything)} synthesised networks are inside the 90 % interval.",
        f"Circuit and torch choose the same class for {min(n.agreement for n in everything):.2%} of the test part or "
        "more.",
    ]
    eight = [n for n in uniform if all(unit.endswith("w8a8") for unit in n.units)]
    lines += [_saving(mixed, eight, slack) for slack in (0.0, SLACK)]
    for accuracy in ("validation", "test"):
        beaten, of = dominated(mixed, uniform, accuracy)
        lines.append(
            f"Bits per layer are at least as good as {beaten} of the {of} networks on the front of one width, by "
            f"{accuracy} accuracy and synthesised logic cells (aim: all)."
        )
    return lines


def _saving(mixed: Sequence[Network], eight: Sequence[Network], slack: float) -> str:
    as_accurate = f"within {100 * slack:.1f} points" if slack else "at least as accurate"
    pair = saving(mixed, eight, slack)
    if pair is None:
        return (
            f"No network with bits per layer is {as_accurate} on the validation part as the best 8-bit one."
        )
    best, equal = pair
    return (
        f"The best 8-bit network ({best.validation:.2%} validation, {best.test:.2%} test) takes "
        f"{best.measured:,.0f} logic cells; the cheapest {as_accurate} on the validation part with bits per layer "
        f"({equal.validation:.2%}, {equal.test:.2%}) takes {equal.measured:,.0f}, "
        f"{best.measured / equal.measured:.1f} times fewer (aim: 2)."
    )


if __name__ == "__main__":
    sys.exit(_boundary.answer(main))
