"""Examine mutants: ``PYTHONPATH=tests/hardsight/ingest python -m mutator 4711``.

With one number it says what was done to the file and what came of it; with two it prints a JSON line for
each number from the first up to the second. Whoever takes too long ends the process with a traceback.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import tempfile
from pathlib import Path

from mutator import mutant
from mutator.examine import LIMIT_S, examine, prepare


def main() -> int:
    """1 when something is wrong with one of them."""
    arguments = argparse.ArgumentParser(prog="mutator", description=__doc__)
    arguments.add_argument("first", type=int)
    arguments.add_argument("stop", type=int, nargs="?")
    arguments.add_argument("--save", type=Path, help="also write the (first) file there")
    given = arguments.parse_args()
    stop = given.first + 1 if given.stop is None else given.stop
    wrong = False
    with tempfile.TemporaryDirectory(prefix="mutants-") as made:
        folder = Path(made)
        prepare(folder)
        for number in range(given.first, stop):
            subject = mutant(number)
            path = folder / f"mutant-{number}.onnx"
            path.write_bytes(subject.data)
            if given.save is not None and number == given.first:
                given.save.write_bytes(subject.data)
            if given.stop is None:
                done = f"{subject.origin or 'bomb'}: {', '.join(subject.changes)}"
                print(f"{done}; {len(subject.data)} bytes", flush=True)
            faulthandler.dump_traceback_later(1.5 * LIMIT_S, exit=True)
            outcome = examine(number, path)
            faulthandler.cancel_dump_traceback_later()
            path.unlink()
            wrong |= bool(outcome.fault)
            print(outcome if given.stop is None else json.dumps(outcome.record()), flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
