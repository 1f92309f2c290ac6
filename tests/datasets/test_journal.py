"""The journal: cells come back, torn lines do not, a cell with a reason is not tried again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hardsight.datasets.journal import Journal
from hardsight.errors import StorageError
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

LATENCY, MEMORY = Metric.LATENCY, Metric.PEAK_MEMORY


def cell(digest: str, device: str = "d", metrics: tuple[Metric, ...] = (), **more: Any) -> dict[str, Any]:
    return {"digest": digest, "device": device, "metrics": [str(m) for m in metrics], **more}


def test_done_knows_devices_and_metrics(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append(
        [
            cell("whole", labels=[]),
            cell("timed", metrics=(LATENCY,), labels=[]),
            cell("both", metrics=(LATENCY,), labels=[]),
            cell("both", metrics=(MEMORY,), failed="crashed"),
            cell("elsewhere", device="e", labels=[]),
            {"digest": "old", "device": "d", "labels": []},  # before cells named their metrics
        ]
    )
    assert journal.done("d") == {"whole", "old"}
    assert journal.done("d", [LATENCY]) == {"whole", "old", "timed", "both"}
    assert journal.done("d", [LATENCY, MEMORY]) == {"whole", "old", "both"}


def test_a_torn_line_costs_itself_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append([cell("a", labels=[])])
    with journal.path.open("a") as out:
        out.write('{"digest": "b", "dev')
    journal.append([cell("c", labels=[])])
    journal.append([cell("d", labels=[])])
    assert [c["digest"] for c in journal] == ["a", "c", "d"]


def test_labels_come_back_and_a_labelled_cell_is_no_failure(tmp_path: Path) -> None:
    label = Measurement("a", "d", LATENCY, 0.5, 0.01, 20, versions={"x": "1"})
    journal = Journal(tmp_path / "j")
    journal.append([cell("a", failed="hung"), cell("b", failed="crashed"), cell("a", labels=[asdict(label)])])
    assert list(journal.measurements()) == [label]
    assert journal.failures() == {("b", "d"): "crashed"}


def test_a_journal_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        Journal(tmp_path / "missing" / "j").append([cell("a")])
