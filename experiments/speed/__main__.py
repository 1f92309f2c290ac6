"""Time reading and predicting: ``python -m hardsight.experiments.speed``.

Takes about two minutes on two idle cores. Writes ``experiments/speed/README.md`` when run in a checkout.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from hardsight.cli import _boundary
from hardsight.experiments.readme_tables import fill, markdown
from hardsight.experiments.speed import timing
from hardsight.experiments.speed.files import weightless_model, write_files

README = Path("experiments/speed/README.md")
DEVICE = "xeon-amx/onnxruntime/fp32-t1"
PROCESSES = 2
COLUMNS = ("what", "one process", "two processes", "wanted")


def main() -> None:
    """Measure all, print the table, and write it into the README."""
    given = argparse.ArgumentParser(prog="python -m hardsight.experiments.speed", description=__doc__)
    given.add_argument("--files", type=int, default=48, help="of each kind")
    given.add_argument("--graphs", type=int, default=2048, help="predicted per process")
    given.add_argument("--calls", type=int, default=200, help="of a single prediction")
    given.add_argument("--readme", type=Path, default=README)
    arguments = given.parse_args()
    with tempfile.TemporaryDirectory(prefix="hardsight-speed-") as made:
        table = markdown(COLUMNS, rows(Path(made), arguments.files, arguments.graphs, arguments.calls))
    print(f"{table}\n\n{machine()}")
    if arguments.readme.exists():
        arguments.readme.write_text(fill(arguments.readme.read_text(), "speed", f"{table}\n\n{machine()}"))
        _boundary.say(f"Table written to {arguments.readme}")


def rows(folder: Path, n_files: int, n_graphs: int, calls: int) -> list[tuple[str, ...]]:
    """The table's rows, as text.

    Args:
        folder: for the files.
        n_files: files of each kind.
        n_graphs: graphs that each process predicts.
        calls: single predictions.
    """
    found = [reading(kind, paths) for kind, paths in write_files(folder, n_files).items()]
    rates = [
        timing.rate(
            timing.predict_share,
            [(n_graphs, 256, DEVICE)] * n,
            prepare=partial(timing.load_graphs, min(n_graphs, 256)),
        )
        for n in (1, PROCESSES)
    ]
    found.append(
        ("graphs of about 100 operators, predicted in batches of 256", *map(per_second, rates), "2,000/s")
    )
    model = folder / "single.onnx"
    model.write_bytes(weightless_model())
    warm = timing.warm_prediction_s(model.read_bytes(), DEVICE, calls)
    found.append(
        ("one model of about 100 operators, read and predicted, warm", f"{1e3 * warm:.1f} ms", "", "5 ms")
    )
    cold = timing.cold_prediction_s(model, DEVICE)
    found.append(("`hardsight predict` of it from a cold shell", f"{cold:.2f} s", "", "1 s"))
    return found


def reading(kind: str, paths: list[Path]) -> tuple[str, ...]:
    """The row of one kind of files."""
    rates = [timing.rate(timing.read_share, [(paths,)] * n) for n in (1, PROCESSES)]
    return (f"ONNX files read, {kind}", *map(per_second, rates), "150/s")


def per_second(rate: float) -> str:
    """A rate as text."""
    return f"{rate:,.0f}/s"


def machine() -> str:
    """One sentence on where the numbers come from."""
    from hardsight.datasets.profilers._cpu import cpu_name

    busy = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return f"Measured on {cpu_name()} with {os.cpu_count()} cores; load average {busy}, the measurement included."


if __name__ == "__main__":
    sys.exit(_boundary.answer(lambda _: main()))
