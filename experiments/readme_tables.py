"""Fills the README's tables: ``python -m hardsight.experiments.readme_tables``, after ``make quickstart``.

Every number comes from what is shipped or from the quick start's folder; a table whose source is missing is
left as it is, and named.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hardsight.cli import _boundary, _show
from hardsight.errors import InputError, StorageError
from hardsight.experiments.quickstart import COMPARED, FOLDER


def main(readme: Path = Path("README.md"), folder: Path = FOLDER) -> None:
    """Fill what can be filled.

    Args:
        readme: file to change.
        folder: of a finished quick start.
    """
    sources: dict[str, Callable[[], str]] = {
        "stock": lambda: stock_table(folder),
        "predictors": predictors_table,
        "dataset": dataset_table,
        "search": lambda: search_table(folder),
    }
    text = readme.read_text()
    for name, make in sources.items():
        try:
            text = fill(text, name, make())
        except (StorageError, FileNotFoundError) as error:
            _show.note(f"table '{name}' is left as it is: {error}")
    readme.write_text(text)


def fill(text: str, name: str, content: str) -> str:
    """Replace what stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.

    Raises:
        InputError: there is no such place.
    """
    pattern = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.S)
    if not pattern.search(text):
        raise InputError(
            f"the README has no place for table '{name}'; write <!-- table: {name} --> and <!-- end -->"
        )
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def write(readme: Path, name: str, content: str) -> None:
    """Fill a place of a README and say so; where there is no README, say the content."""
    if readme.exists():
        readme.write_text(fill(readme.read_text(), name, content))
        _boundary.say(f"Table '{name}' written to {readme}")
    else:
        _boundary.say(content)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def stock_table(folder: Path) -> str:
    """Networks from outside, as the quick start predicted and measured them."""
    return markdown(COMPARED, json.loads((folder / "compared.json").read_text()))


def predictors_table() -> str:
    """What was kept for each kind of device and metric on families held out whole, as training recorded it."""
    import pandas as pd

    from hardsight.device import kind_of
    from hardsight.predictors import shipped_folder
    from hardsight.predictors.evaluation import ranked
    from hardsight.predictors.persist import read_meta

    info = read_meta(shipped_folder())["info"]
    scores = pd.DataFrame(info["held_out_families"])
    numbers = ["mape", "smape", "within_10", "spearman", "coverage", "width"]
    scores[numbers] = scores[numbers].apply(pd.to_numeric)
    scores["kind"] = scores["device"].map(kind_of)
    rows = []
    for target, name in sorted(info["chosen"].items()):
        kind, metric = target.split("/")
        of = scores[(scores["kind"] == kind) & (scores["metric"] == metric)]
        means = of.groupby("predictor")["mape"].mean()[ranked(of)]
        own = of[of["predictor"] == name]
        mean = own[["within_10", "spearman", "coverage", "width"]].mean()
        next_best = next((f"{other} {_show.percent(x)}" for other, x in means.items() if other != name), "–")
        low, high = (_show.percent(x) for x in (own["mape"].min(), own["mape"].max()))
        rows.append(
            (
                kind,
                _show.label(metric),
                name,
                str(len(own)),
                f"{int(own['n'].sum()):,}",
                _show.percent(means[name]) + (f" ({low} to {high})" if len(own) > 1 else ""),
                next_best,
                _show.percent(mean["within_10"]),
                "–" if pd.isna(mean["spearman"]) else f"{mean['spearman']:.3f}",
                _show.percent(mean["coverage"]),
                _show.percent(mean["width"]),
            )
        )
    columns = (
        "devices", "metric", "kept", "n", "labels", "error", "next best", "within 10 %", "rank", "coverage", "width",
    )  # fmt: skip
    return markdown(columns, rows)


def dataset_table() -> str:
    """What the shipped data set holds, a row per device."""
    from hardsight.jobs import load_dataset

    rows = []
    for device, of in load_dataset().rows.groupby("device"):
        timings = of[(of["metric"] == "latency_s") & (of["provenance"] == "measured")]
        rows.append(
            (
                str(device),
                ", ".join(sorted(set(of["provenance"]))),
                f"{of['digest'].nunique():,}",
                ", ".join(_show.label(metric) for metric in sorted(set(of["metric"]))),
                _show.percent(timings["spread"].median()) if len(timings) else "–",
            )
        )
    return markdown(("device", "how", "graphs", "labels", "median spread"), rows)


def search_table(folder: Path) -> str:
    """The quick start's front."""
    from hardsight.nas.report import load_report

    report = load_report(folder / "digits")
    columns = ("network", "accuracy", "latency predicted", "90 % interval", "latency measured", "size")
    rows = []
    for row in report.rows:
        latency, measured = row.predicted["latency_s"], row.measured.get("latency_s")
        ends = [_show.amount(end, "latency_s") for end in (latency.lower, latency.upper)]
        rows.append(
            (
                row.digest[:8],
                _show.percent(row.test_accuracy),
                _show.amount(latency.value, "latency_s"),
                " to ".join(ends),
                _show.amount(measured[0] if measured else None, "latency_s"),
                _show.amount(row.size_bytes, "size_bytes"),
            )
        )
    return markdown(columns, rows)


if __name__ == "__main__":
    sys.exit(_boundary.guard(main))
