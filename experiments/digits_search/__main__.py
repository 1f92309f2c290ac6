"""Worked job (a): ``python -m hardsight.experiments.digits_search``.

Adapts to this machine where that was not done, searches as ``job.yaml`` says, then holds every delivered network
against its twin in float and against ONNX Runtime's static INT8 of that twin. What is done stays in
``runs/digits_search``, so an interrupted run goes on. Writes ``experiments/digits_search/README.md`` when run in a
checkout.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from hardsight import api, jobs
from hardsight.cli import _boundary
from hardsight.experiments.digits_search.twins import Row, compare
from hardsight.experiments.readme_tables import markdown, write
from hardsight.metrics import Metric
from hardsight.nas import search
from hardsight.nas.job import load_job
from hardsight.nas.report import SearchReport
from hardsight.nas.study import write_json
from hardsight.progress import Progress, progress_bars
from hardsight.units import format_quantity

FOLDER = Path("runs/digits_search")
README = Path("experiments/digits_search/README.md")
SAMPLES = 14
FLOAT = "32"
POINTS = 0.005
"""Half a percentage point: accuracies closer than this count as equal."""


def main(folder: Path = FOLDER, readme: Path = README) -> None:
    """Adapt, search, compare, write.

    Args:
        folder: for study, twins and tracking database.
        readme: file whose tables to fill, where it exists.

    Raises:
        HardsightError: from any step, with what to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    job_file = folder / "job.yaml"
    shutil.copyfile(str(resources.files("hardsight.experiments.digits_search") / "job.yaml"), job_file)
    job = load_job(job_file)
    with progress_bars() as progress:
        if not api.devices(job.device)[0].can_predict:
            api.adapt(device=job.device, samples=SAMPLES, progress=progress)
        report = jobs.search(job_file, folder / "study", resume=True, log_to=folder, progress=progress)
        rows = _compared(report, folder, progress)
    write(readme, "summary", summary_table(report, rows))
    write(readme, "networks", network_table(report, rows))
    if readme.exists():
        shutil.copyfile(report.folder / "front.png", readme.with_name("front.png"))


def _compared(report: SearchReport, folder: Path, progress: Progress) -> list[Row]:
    setting = search.prepare(report.job)
    twins = folder / "twins"
    twins.mkdir(exist_ok=True)
    found = []
    for done, row in enumerate(report.rows):
        progress("twins", done, len(report.rows))
        kept = twins / f"{row.digest}.json"
        if not kept.exists():
            candidate = next(
                r.candidate for r in report.records if r.complete and r.candidate.digest == row.digest
            )
            write_json(kept, compare(setting, row, candidate, report.folder / row.file, twins))
        found.append(json.loads(kept.read_text()))
    return found


def summary_table(report: SearchReport, rows: Sequence[Row]) -> str:
    """What the issue asked, against what came out."""
    quantized = [row for row in rows if set(row["bits"]) != {FLOAT}]
    equal = [row for row in quantized if row["searched"]["accuracy"] >= row["float"]["accuracy"] - POINTS]
    lines = [
        ("delivered networks", str(len(rows)), "–"),
        ("keep the latency budget when measured", _of([row["kept"] for row in rows]), "90 %"),
        ("measured latency inside the predicted interval", _of([row["inside"] for row in rows]), "90 %"),
        ("with an INT8 block", str(len(quantized)), "–"),
        (
            "of these as accurate as their float twin, to half a point",
            _of([r in equal for r in quantized]),
            "all",
        ),
        ("times as fast as the float twin, median (range), of those", _gains(equal, "float"), "1.5"),
        ("times as fast as static INT8 of the twin, median (range)", _gains(equal, "static"), "–"),
    ]
    return markdown(("what", "found", "wanted"), lines)


def network_table(report: SearchReport, rows: Sequence[Row]) -> str:
    """A row per delivered network, most accurate first."""
    lines = []
    for row, front in zip(rows, report.rows, strict=True):
        cells = [row["digest"][:8], " ".join(map(str, row["bits"]))]
        estimate = front.predicted[str(Metric.LATENCY)]
        cells.append(_time(estimate.value))
        for name in ("searched", "float", "static"):
            cells += [_time(row[name]["latency_s"]), f"{row[name]['accuracy']:.2%}".replace("%", " %")]
        gain = row["float"]["latency_s"] / row["searched"]["latency_s"]
        cells.append(
            "float" if set(row["bits"]) == {FLOAT} else f"{gain:.2f}" if gain > 1 else f"no gain, {gain:.2f}"
        )
        lines.append(cells)
    columns = (
        "network", "bits per block", "predicted", "measured", "accuracy", "float twin", "its accuracy",
        "static INT8", "its accuracy", "times as fast as float",
    )  # fmt: skip
    return markdown(columns, lines)


def _time(seconds: float) -> str:
    return format_quantity(seconds, "s")


def _of(found: Sequence[bool]) -> str:
    return f"{sum(map(bool, found))} of {len(found)}"


def _gains(rows: Sequence[Row], against: str) -> str:
    if not rows:
        return "–"
    gains = [row[against]["latency_s"] / row["searched"]["latency_s"] for row in rows]
    return f"{np.median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f})"


if __name__ == "__main__":
    sys.exit(_boundary.answer(lambda _: main()))
