"""Compare all predictors on what they never saw: ``python -m hardsight.experiments.accuracy``.

Arguments choose kinds of devices (``cpu gpu npu fpga asic``), protocols (``families networks``) and predictors; all by
default, which takes hours on two cores. Predictions are kept as Parquet in ``runs/accuracy``, fold by fold as they
land: a run that was cut off goes on where it was, and with all of them there, only the tables are made again, of all
that is kept. Writes ``experiments/accuracy/README.md`` when run in a checkout, and one MLflow run for each kind and
protocol.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from hardsight.cli import _boundary
from hardsight.device import Kind
from hardsight.errors import InputError
from hardsight.experiments.accuracy.protocols import PROTOCOLS
from hardsight.experiments.accuracy.tables import device_table, family_table, own_cost_table, pooled_table
from hardsight.experiments.readme_tables import fill
from hardsight.progress import progress_bars

if TYPE_CHECKING:
    import pandas as pd

    from hardsight.measurement import MeasurementTable

FOLDER = Path("runs/accuracy")
README = Path("experiments/accuracy/README.md")
KINDS: tuple[str, ...] = get_args(Kind)


def main(
    chosen: Sequence[str] = (), folder: Path = FOLDER, readme: Path = README, data: Path | None = None
) -> None:
    """Predict or read predictions, then write tables and MLflow runs.

    Args:
        chosen: kinds of devices, names of protocols and of predictors; of each, none means all.
        folder: of the predictions.
        readme: file whose tables to fill, where it exists.
        data: folder of a data set; the shipped one by default.

    Raises:
        InputError: a word that is none of these.
    """
    from hardsight import jobs
    from hardsight.predictors import BASELINES, PREDICTORS
    from hardsight.predictors.training import by_kind

    names = (*PREDICTORS, *BASELINES)
    unknown = set(chosen) - {*KINDS, *PROTOCOLS, *names}
    if unknown:
        raise InputError(
            f"'{min(unknown)}' is neither a kind of device ({', '.join(KINDS)}) nor a protocol "
            f"({', '.join(PROTOCOLS)}) nor a predictor ({', '.join(names)})"
        )
    kinds = by_kind(jobs.load_dataset(data))
    for protocol in [p for p in PROTOCOLS if p in chosen] or list(PROTOCOLS):
        for kind in [k for k in KINDS if k in chosen] or list(kinds):
            if kind not in kinds:
                continue
            wanted = [n for n in names if n in chosen] or names
            frames = predictions(kinds[kind], protocol, folder / protocol / kind, wanted)
            scores = _scores(frames)
            _track(kinds[kind], kind, protocol, frames, scores, folder)
            if readme.exists():
                _write(readme, f"{protocol}-{kind}", kinds[kind], frames, scores)


def predictions(
    table: MeasurementTable, protocol: str, folder: Path, wanted: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """Out-of-fold predictions by predictor: what is kept in the folder, and the wanted, made and kept there.

    Args:
        table: labels of devices of one kind.
        protocol: one of `PROTOCOLS`.
        folder: ``…/<protocol>/<kind>``; predictions are kept fold by fold in a folder for each predictor, then as one
            file.
        wanted: names of predictors.
    """
    import pandas as pd

    from hardsight.predictors import BASELINES, PREDICTORS
    from hardsight.predictors.training import compare

    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in (*PREDICTORS, *BASELINES):
        path = folder / f"{name}.parquet"
        if name not in wanted and not path.exists():
            continue
        if not path.exists():
            with progress_bars() as progress:
                marked = PROTOCOLS[protocol](table)
                _, frames = compare(marked, (name,), progress=progress, keep=folder.parent)
            part = path.with_suffix(".part")
            frames[name].to_parquet(part)
            part.replace(path)
        found[name] = pd.read_parquet(path)
    return found


def _track(
    table: MeasurementTable,
    kind: str,
    protocol: str,
    frames: dict[str, pd.DataFrame],
    scores: pd.DataFrame,
    folder: Path,
) -> None:
    from hardsight import jobs, tracking

    params = {"predictors": ", ".join(frames), "graphs": str(len(table.digests)), "protocol": protocol}
    tags = {"data_digest": table.labels_digest}
    with tracking.track("accuracy", f"{protocol}-{kind}", params, tags, folder=folder) as run:
        for row in jobs.score_records(scores):
            prefix = f"{row['predictor']}/{row['device']}/{row['metric']}"
            run.metrics({f"{prefix}/{k}": v for k, v in row.items() if isinstance(v, int | float)})
        for name in frames:
            run.artifact(folder / protocol / kind / f"{name}.parquet")


def _scores(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    from hardsight.predictors.evaluation import summary

    return pd.concat([summary(frame).assign(predictor=name) for name, frame in frames.items()])


def _seeds(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    from hardsight.predictors.evaluation import over_seeds

    return pd.concat([over_seeds(frame).assign(predictor=name) for name, frame in frames.items()])


def _write(
    readme: Path, section: str, table: MeasurementTable, frames: dict[str, pd.DataFrame], scores: pd.DataFrame
) -> None:
    text = fill(readme.read_text(), section, pooled_table(scores, _seeds(frames)))
    text = fill(text, f"{section}-devices", device_table(scores))
    if section.startswith("families"):
        text = fill(text, f"{section}-by-family", family_table(frames["graphnet"]))
    if section.endswith("fpga"):
        text = fill(text, "fpga-own-cost", own_cost_table(table))
    readme.write_text(text)
    _boundary.say(f"Tables of {section} written to {readme}")


if __name__ == "__main__":
    sys.exit(_boundary.answer(main))
