"""Examine many mutants in processes of their own, so that a death or a hang costs one file and is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mutator.examine import Outcome

HOME = Path(__file__).parents[1]


def reproduce(number: int) -> str:
    """The command that shows what happens to one mutant."""
    return f"PYTHONPATH=tests/hardsight/ingest python -m mutator {number}"


def command(module: str, *arguments: object) -> list[str]:
    """To run this package, or a module of it, in another process."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """In which another process finds this package."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HOME), os.environ.get("PYTHONPATH", "")]),
        **more,
    }


def drive(first: int, stop: int) -> Iterator[Outcome]:
    """Outcomes of the mutants from ``first`` up to ``stop``; a process that ends early is followed by another."""
    while first < stop:
        done = subprocess.run(
            command("mutator", first, stop), env=environment(), capture_output=True, text=True, check=False
        )
        for line in done.stdout.splitlines():
            outcome = Outcome(**json.loads(line))
            first = outcome.number + 1
            yield outcome
        if first < stop:
            last = done.stderr.strip()[-1500:]
            yield Outcome(first, "death", last, 0.0, 0, f"the process ended with {done.returncode}: {last}")
            first += 1
