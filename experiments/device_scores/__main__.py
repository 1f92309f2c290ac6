"""Benchmark scores of servers never seen: ``python -m hardsight.experiments.device_scores``.

About three minutes of one core. Predictions are kept in ``runs/device_scores``, a file per way of holding out, and not
made again. Reads PerfCastDB's sample below ``HARDSIGHT_DATA`` (by default ``../shared/data``), writes
``experiments/device_scores/README.md`` when run in a checkout, and one MLflow run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hardsight.cli import _boundary
from hardsight.experiments.readme_tables import fill
from hardsight.progress import progress_bars

FOLDER = Path("runs/device_scores")
README = Path("experiments/device_scores/README.md")


def main(folder: Path = FOLDER, readme: Path = README) -> None:
    """Predict or read predictions, then write tables and the MLflow run."""
    import pandas as pd

    from hardsight import tracking
    from hardsight.experiments.device_scores import evaluate, tables

    frame = evaluate.load()  # say what is missing before anything is made
    folder.mkdir(parents=True, exist_ok=True)
    files = {protocol: folder / f"{protocol}.parquet" for protocol in evaluate.PROTOCOLS}
    for protocol, path in files.items():
        if not path.exists():
            with progress_bars() as progress:
                evaluate.predict(frame, protocol, progress).to_parquet(path)
    said = pd.concat(map(pd.read_parquet, files.values()), ignore_index=True)
    params = {"seeds": evaluate.SEEDS, "protocols": evaluate.PROTOCOLS}
    with tracking.track("device-scores", "perfcastdb", params, folder=folder) as run:
        for (protocol, model), row in tables.scores(said, ("protocol", "model")).iterrows():
            run.metrics({f"{protocol}/{model}/{key}": value for key, value in row.items()})
        for path in files.values():
            run.artifact(path)
    if readme.exists():
        text = readme.read_text()
        text = fill(text, "data", tables.data_table(frame))
        text = fill(text, "splits", tables.splits_table(frame))
        text = fill(text, "scores", tables.scores_table(said))
        readme.write_text(fill(text, "workloads", tables.workloads_table(said)))
        _boundary.say(f"Tables written to {readme}")


if __name__ == "__main__":
    sys.exit(_boundary.answer(lambda _: main()))
