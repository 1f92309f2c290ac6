"""All stock torchvision classification networks on this machine: ``python -m hardsight.experiments.outside``.

Adapts to this machine, then predicts and measures each network in fp32 and INT8, one thread. About an hour on an idle
core; every measurement is kept in ``runs/outside`` as soon as it is made, so an interrupted run goes on. Arguments name
networks; all by default. Writes ``experiments/outside/README.md`` when run in a checkout, and an MLflow run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hardsight import api
from hardsight.cli import _boundary
from hardsight.datasets.journal import Journal
from hardsight.errors import HardsightError, InputError
from hardsight.experiments.outside import models
from hardsight.experiments.outside.tables import model_table, summary_table
from hardsight.experiments.readme_tables import fill
from hardsight.metrics import Metric
from hardsight.progress import Progress, progress_bars

FOLDER = Path("runs/outside")
README = Path("experiments/outside/README.md")
JOURNAL = "measured.jsonl"
MODES = {f"host/onnxruntime/{mode}-t1": f"outside/onnxruntime/{mode}-t1" for mode in ("fp32", "int8")}
"""What is measured, and the name of what is adapted to it."""
SAMPLES = 14

Row = dict[str, Any]


def main(chosen: Sequence[str] = (), folder: Path = FOLDER, readme: Path = README) -> None:
    """Adapt, measure, predict, write.

    Args:
        chosen: names of networks; none means all.
        folder: for models and measurements.
        readme: file whose tables to fill, where it exists.

    Raises:
        InputError: torchvision has no such network.
        BackendError: torchvision is missing, or this machine cannot be measured.
        StorageError: a measurement cannot be kept.
    """
    known = models.names()
    if unknown := sorted(set(chosen) - set(known)):
        raise InputError(f"torchvision has no '{unknown[0]}'; it has {', '.join(known)}")
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bars() as progress:
        _adapt(folder, progress)
        _measure(list(chosen) or known, folder, progress)
    rows = list(_rows(folder))
    _track(rows, folder)
    summary = summary_table(rows)
    if readme.exists():
        text = fill(readme.read_text(), "summary", summary)
        text = fill(text, "models", model_table(rows))
        readme.write_text(text)
    _boundary.say(summary)


def _adapt(folder: Path, progress: Progress) -> None:
    """Once per run folder, so that all its networks are predicted alike."""
    mark = folder / "adapted.json"
    done = json.loads(mark.read_text()) if mark.exists() else {}
    for device, name in MODES.items():
        if name in done and api.devices(name)[0].can_predict:
            continue
        report = api.adapt(device=device, name=name, samples=SAMPLES, measure_all=True, progress=progress)
        done[name] = {"from": report.source_device, "scale": dict(report.scale)}
        mark.write_text(json.dumps(done, indent=1))


def _measure(chosen: Sequence[str], folder: Path, progress: Progress) -> None:
    journal = Journal(folder / JOURNAL)
    known = {(row["model"], row["device"]) for row in journal}
    for done, name in enumerate(chosen):
        progress("networks", done, len(chosen))
        for device in MODES:
            if (name, device) in known:
                continue
            row: Row = {"model": name, "device": device}
            try:
                path = models.export(name, folder / "models")
                taken = api.measure(path, device=device, metrics=[Metric.LATENCY], budget_s=3.0)
                label = taken["latency_s"]
                row |= {"value": label.value, "spread": label.spread, "versions": dict(label.versions)}
            except HardsightError as error:
                row["failed"] = str(error)
            journal.append([row])
    progress("networks", len(chosen), len(chosen))


def _rows(folder: Path) -> Iterator[Row]:
    """What was measured, with what is predicted; failed ones as they are."""
    for row in Journal(folder / JOURNAL):
        if "failed" not in row:
            path = folder / "models" / f"{row['model']}.onnx"
            answer = api.predict(path, device=MODES[row["device"]])["latency_s"]
            row |= {"predicted": answer.value, "lower": answer.lower, "upper": answer.upper}
        yield row


def _track(rows: Sequence[Row], folder: Path) -> None:
    from hardsight import tracking
    from hardsight.experiments.outside.tables import scores

    with tracking.track("outside", "torchvision", {"models": str(len(rows))}, {}, folder=folder) as run:
        for device in MODES:
            found = scores([row for row in rows if row["device"] == device and "failed" not in row])
            run.metrics({f"{device}/{key}": value for key, value in found.items() if value == value})
        run.artifact(folder / JOURNAL)


if __name__ == "__main__":
    sys.exit(_boundary.answer(main))
