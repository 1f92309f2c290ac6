"""The main job: ``python -m hardsight.experiments.quickstart``, or ``make quickstart``.

Adapts to this machine, predicts three networks from outside the package beside their measured values,
searches quantized networks for the digits data set, and measures the front. Everything but the adapted
predictor, which stays for later predictions, is written to ``runs/quickstart``.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from hardsight import api, jobs
from hardsight.cli import _boundary, _show
from hardsight.cli.search import show_report
from hardsight.progress import Progress, progress_bars

if TYPE_CHECKING:
    from hardsight.nas.report import SearchReport

FOLDER = Path("runs/quickstart")
SAMPLES = 14
STEPS = 3
COMPARED = ("model", "metric", "predicted", "90 % interval", "measured", "off by")


def main(folder: Path = FOLDER) -> None:
    """Run all steps and print what to do next.

    Args:
        folder: for models, study and tracking database.

    Raises:
        HardsightError: from any step, with what to do.
    """
    device = api.HERE
    _announce(1, f"Adapt to this machine: measure {SAMPLES} small networks")
    with progress_bars() as progress:
        report = api.adapt(device=device, samples=SAMPLES, progress=progress)
    scale = report.scale["latency_s"]
    _show.note(f"This machine takes {scale:.2f} x the time of {report.source_device}.")
    for text in report.notes:
        _show.note(text)

    _announce(2, "Predict three networks the package has never seen, and measure them")
    with progress_bars() as progress:
        rows = compare_stock(folder / "models", device, progress)
    _show.table(COMPARED, rows)
    (folder / "compared.json").write_text(json.dumps(rows, indent=1))

    _announce(
        3, "Search quantized networks for the digits data set, then train, export and measure the front"
    )
    search = search_digits(folder)
    show_report(search)

    for line in (
        "",
        "Done. What you may want next:",
        f"  hardsight predict YOUR_MODEL.onnx --device {device} --layers",
        f"  hardsight check YOUR_MODEL.onnx --device {device} --max latency=10ms",
        f"  hardsight search {folder / 'digits.yaml'}   (edit it first: data, budget, trials)",
        f"The command is in {Path(sys.executable).parent}; the search's page is {search.folder / 'report.html'}.",
    ):
        _show.note(line)


def compare_stock(folder: Path, device: str, progress: Progress) -> list[tuple[str, ...]]:
    """Export, predict and measure each stock network.

    Returns:
        One row of text per model and metric that was both predicted and measured.
    """
    from hardsight.experiments.stock import STOCK, export

    rows: list[tuple[str, ...]] = []
    for done, name in enumerate(STOCK):
        progress("networks", done, len(STOCK))
        path = export(name, folder)
        predicted = api.predict(path, device=device)
        measured = {m.metric: m for m in api.measure(path, device=device, budget_s=5.0).measurements}
        for metric, estimate in predicted.estimates.items():
            if metric not in measured:
                continue
            value = measured[metric].value
            ends = (estimate.lower, estimate.upper)
            rows.append(
                (
                    name,
                    _show.label(metric),
                    _show.amount(estimate.value, metric),
                    "none" if None in ends else " to ".join(_show.amount(end, metric) for end in ends),
                    _show.amount(value, metric),
                    _show.percent(abs(estimate.value - value) / value),
                )
            )
    progress("networks", len(STOCK), len(STOCK))
    return rows


def search_digits(folder: Path) -> SearchReport:
    """Search as ``quickstart.yaml`` says; a study that an earlier run began is finished, not repeated."""
    job_file = folder / "digits.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    if not job_file.exists():
        shutil.copyfile(str(resources.files("hardsight.experiments") / "quickstart.yaml"), job_file)
    with progress_bars() as progress:
        return jobs.search(job_file, folder / "digits", resume=True, log_to=folder, progress=progress)


def _announce(step: int, what: str) -> None:
    Console().print(f"\n[bold]Step {step} of {STEPS}: {what}[/bold]")


if __name__ == "__main__":
    sys.exit(_boundary.answer(lambda _: main()))
