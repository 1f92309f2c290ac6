"""Every own device learned from a few of its labels: ``python -m hardsight.experiments.new_device``.

Arguments choose kinds of devices (``cpu npu asic``); all by default, which takes an hour on two cores. The graph
networks that know the other devices, and the answers, are kept in ``runs/new_device``; with them there, only the
tables are made again. Writes ``experiments/new_device/README.md`` when run in a checkout, and an MLflow run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hardsight.cli import _boundary
from hardsight.errors import InputError
from hardsight.experiments.new_device.evaluate import SAMPLES, evaluate, groups, scores, source_without
from hardsight.experiments.new_device.tables import device_table, samples_table
from hardsight.experiments.readme_tables import fill

if TYPE_CHECKING:
    import pandas as pd

    from hardsight.measurement import MeasurementTable

FOLDER = Path("runs/new_device")
README = Path("experiments/new_device/README.md")
KINDS = ("cpu", "npu", "asic")
_SHOWN = 16
_MEMBERS = 1


def main(
    chosen: Sequence[str] = (), folder: Path = FOLDER, readme: Path = README, data: Path | None = None
) -> None:
    """Train without a group of devices, adapt to each, predict, write.

    Args:
        chosen: kinds of devices; none means all.
        folder: for predictors and answers.
        readme: file whose tables to fill, where it exists.
        data: folder of a data set; the shipped one by default.

    Raises:
        InputError: no such kind.
    """
    import pandas as pd

    from hardsight import jobs
    from hardsight.predictors.training import by_kind

    if unknown := sorted(set(chosen) - set(KINDS)):
        raise InputError(f"'{unknown[0]}' is not among the kinds of devices: {', '.join(KINDS)}")
    tables = by_kind(jobs.load_dataset(data))
    frames = [
        _answers(tables[kind], devices, folder / name.replace("/", "_")).assign(kind=kind)
        for kind in [k for k in KINDS if k in (chosen or KINDS) and k in tables]
        for name, devices in groups(tables[kind]).items()
    ]
    frame = pd.concat(frames, ignore_index=True)
    _track(frame, folder)
    text = samples_table(frame)
    if readme.exists():
        page = fill(readme.read_text(), "samples", text)
        readme.write_text(fill(page, "devices", device_table(frame, _SHOWN)))
    _boundary.say(text)


def _answers(table: MeasurementTable, devices: list[str], folder: Path) -> pd.DataFrame:
    """Of one group, kept once made."""
    import pandas as pd

    path = folder / "answers.parquet"
    if not path.exists():
        source = source_without(table, devices, folder / "source", _MEMBERS)
        rows = [row for device in devices for row in evaluate(source, table, device, _boundary.say)]
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        pd.DataFrame(rows).to_parquet(part)
        part.replace(path)
    return pd.read_parquet(path)


def _track(frame: pd.DataFrame, folder: Path) -> None:
    from hardsight import tracking

    with tracking.track("new-device", "own devices", {"samples": str(SAMPLES)}, {}, folder=folder) as run:
        for (device, samples), rows in frame.groupby(["device", "samples"]):
            found = scores(rows["label"].to_numpy(), rows["value"].to_numpy())
            run.metrics({f"{device}/{samples}/{key}": value for key, value in found.items()})


if __name__ == "__main__":
    sys.exit(_boundary.answer(main))
