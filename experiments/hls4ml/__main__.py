"""hls4ml layers of unseen shapes: ``python -m hardsight.experiments.hls4ml``.

About five minutes of one core. Predictions are kept as Parquet in ``runs/hls4ml``; with them there, only the tables
are made again. Reads the public tables below ``HARDSIGHT_DATA`` (by default ``../shared/data``), writes
``experiments/hls4ml/README.md`` when run in a checkout, and one MLflow run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hardsight.cli import _boundary
from hardsight.experiments.readme_tables import fill
from hardsight.progress import progress_bars

FOLDER = Path("runs/hls4ml")
README = Path("experiments/hls4ml/README.md")


def main(folder: Path = FOLDER, readme: Path = README) -> None:
    """Predict or read predictions, then write tables and the MLflow run."""
    import pandas as pd

    from hardsight import tracking
    from hardsight.experiments.hls4ml import evaluate, feasibility, scores, tables

    for name in evaluate.SOURCES:
        evaluate.find(name)  # say what is missing before anything is made
    folder.mkdir(parents=True, exist_ok=True)
    files = {"predictions": folder / "predictions.parquet", "feasibility": folder / "feasibility.parquet"}
    if not all(path.exists() for path in files.values()):
        with progress_bars() as progress:
            feasibility.predict_success(progress).to_parquet(files["feasibility"])
            evaluate.predict_all(progress).to_parquet(files["predictions"])
    frame, success = (pd.read_parquet(path) for path in files.values())
    params = {"seeds": evaluate.SEEDS, "folds": evaluate.FOLDS, "level": evaluate.LEVEL}
    with tracking.track("hls4ml", "unseen-shapes", params, folder=folder) as run:
        pooled = scores.scores(frame, ("grouping", "predictor", "device", "metric"))
        for row in pooled.to_dict(orient="records"):
            prefix = f"{row['grouping']}/{row['predictor']}/{row['device']}/{row['metric']}"
            numbers = {k: v for k, v in row.items() if isinstance(v, float) and v == v}
            run.metrics({f"{prefix}/{k}": v for k, v in numbers.items()})
        for row in feasibility.success_scores(success).to_dict(orient="records"):
            prefix = f"feasibility/{row['predictor']}/{row['device']}"
            run.metrics({f"{prefix}/{k}": row[k] for k in ("auc", "accuracy", "brier")})
        for path in files.values():
            run.artifact(path)
    if readme.exists():
        text = readme.read_text()
        for name, table in tables.all_tables(frame, success).items():
            text = fill(text, name, table)
        readme.write_text(text)
        _boundary.say(f"Tables written to {readme}")


if __name__ == "__main__":
    sys.exit(_boundary.answer(lambda _: main()))
