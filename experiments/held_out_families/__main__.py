"""Compare all predictors on held-out families: ``python -m hardsight.experiments.held_out_families``.

About forty minutes on two idle cores. Predictions are kept as Parquet in ``runs/held_out_families``; with them
there, only the tables are made again. Writes ``experiments/held_out_families/README.md`` when run in a
checkout, and one MLflow run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hardsight.cli import _boundary
from hardsight.experiments.readme_tables import fill, markdown
from hardsight.progress import progress_bars

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path("runs/held_out_families")
README = Path("experiments/held_out_families/README.md")


def main(folder: Path = FOLDER, readme: Path = README) -> None:
    """Predict or read predictions, then write tables and the MLflow run."""
    import pandas as pd

    from hardsight import jobs, tracking
    from hardsight.measurement import MeasurementTable
    from hardsight.predictors import PREDICTORS
    from hardsight.predictors.evaluation import summary
    from hardsight.predictors.training import compare

    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.parquet" for name in PREDICTORS}
    table = jobs.load_dataset()
    measured = table.rows[table.rows["provenance"] == "measured"].reset_index(drop=True)
    table = MeasurementTable(measured, table.graphs, table.families)
    if not all(path.exists() for path in files.values()):
        with progress_bars() as progress:
            _, frames = compare(table, progress=progress)
        for name, frame in frames.items():
            frame.to_parquet(files[name])
    frames = {name: pd.read_parquet(path) for name, path in files.items()}
    scores = pd.concat([summary(frame).assign(predictor=name) for name, frame in frames.items()])
    params = {"predictors": ", ".join(frames), "graphs": str(len(table.digests))}
    tags = {"data_digest": jobs.table_digest(table)}
    with tracking.track("held-out-families", "shipped", params, tags, folder=folder) as run:
        for row in jobs.score_records(scores):
            prefix = f"{row['predictor']}/{row['device']}/{row['metric']}"
            run.metrics({f"{prefix}/{k}": v for k, v in row.items() if isinstance(v, int | float)})
        for path in files.values():
            run.artifact(path)
    if readme.exists():
        text = fill(readme.read_text(), "pooled", pooled_table(scores))
        text = fill(text, "families", family_table(frames["graphnet"]))
        readme.write_text(text)
        _boundary.say(f"Tables written to {readme}")


def pooled_table(scores: pd.DataFrame) -> str:
    """One row per predictor, device and metric."""
    columns = (
        "predictor",
        "device",
        "metric",
        "labels",
        "MAPE",
        "within 10 %",
        "Spearman",
        "coverage",
        "width",
    )
    return markdown(
        columns,
        (
            (
                str(row["predictor"]),
                f"`{row['device']}`",
                f"`{row['metric']}`",
                str(int(row["n"])),
                f"{row['mape']:.1%}",
                f"{row['within_10']:.1%}",
                f"{row['spearman']:.3f}",
                f"{row['coverage']:.1%}",
                f"{row['width']:.2f}",
            )
            for row in scores.sort_values(["metric", "device", "mape"]).to_dict(orient="records")
        ),
    )


def family_table(frame: pd.DataFrame) -> str:
    """The graph network's latency error on each family, worst last; both devices together."""
    error = (frame["value"] - frame["label"]) / frame["label"]
    inside = (frame["lower"] <= frame["label"]) & (frame["label"] <= frame["upper"])
    rows = frame.assign(error=error, size=error.abs(), inside=inside).groupby("family")
    table = rows.agg(
        labels=("size", "size"),
        mape=("size", "mean"),
        median=("size", "median"),
        bias=("error", "median"),
        cover=("inside", "mean"),
    )
    return markdown(
        ("family", "labels", "MAPE", "median error", "median bias", "coverage"),
        (
            (str(name), str(int(r["labels"])), *(f"{r[k]:.1%}" for k in ("mape", "median", "bias", "cover")))
            for name, r in table.sort_values("mape").iterrows()
        ),
    )


if __name__ == "__main__":
    sys.exit(_boundary.guard(main, debug="--debug" in sys.argv))
