"""What is said about mutants and seeds, to the last bit: ``python -m mutator.answers 100 --batch 7 --reversed``.

Read one after the other, then predicted in batches; prints one JSON object from name to answer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hardsight.errors import HardsightError
from hardsight.graph import OperatorGraph
from hardsight.ingest import read_onnx
from hardsight.predictors import load_predictor
from mutator import mutant, seed_models
from mutator.examine import DEVICE, prepare


def subjects(count: int) -> dict[str, bytes]:
    """The seeds and the first mutants."""
    return {**seed_models(), **{f"mutant-{i}": mutant(i).data for i in range(count)}}


def answers(files: Mapping[str, bytes], batch: int) -> dict[str, tuple[str, str]]:
    """The whole graph and its estimates, or the error's class and message; all digits of every number."""
    said: dict[str, tuple[str, str]] = {}
    graphs: dict[str, OperatorGraph] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as made:
        folder = Path(made)
        prepare(folder)
        for name, data in files.items():
            path = folder / f"{name}.onnx"
            path.write_bytes(data)
            try:
                graphs[name] = read_onnx(path)
            except HardsightError as error:
                said[name] = type(error).__name__, str(error).replace(made, "")
    names, predictor = list(graphs), load_predictor(DEVICE)
    for start in range(0, len(names), batch):
        part = names[start : start + batch]
        table = predictor.predict([graphs[name] for name in part], DEVICE)
        for row, name in enumerate(part):
            graph = graphs[name]
            said[name] = repr((graph.digest, graph)), repr(table.row(row))
    return said


def main() -> None:
    """Print them."""
    given = argparse.ArgumentParser(prog="mutator.answers", description=__doc__)
    given.add_argument("count", type=int)
    given.add_argument("--batch", type=int, default=1)
    given.add_argument("--reversed", action="store_true")
    arguments = given.parse_args()
    files = subjects(arguments.count)
    if arguments.reversed:
        files = dict(reversed(files.items()))
    print(json.dumps(answers(files, arguments.batch)))


if __name__ == "__main__":
    main()
