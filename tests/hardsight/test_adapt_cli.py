"""What ``hardsight adapt`` prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardsight import api
from hardsight.cli import main
from hardsight.predictors.adapt import AdaptReport

NEW = "board/onnxruntime/fp32-t1"


@pytest.mark.parametrize(
    ("samples", "residual", "said"),
    [
        (1, float("nan"), ("adapted with 1 network\n", "unknown: one network")),
        (2, 0.5, ("adapted with 2 networks\n", "± 50.0 %")),
    ],
)
def test_one_network_is_worded_as_one(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    samples: int,
    residual: float,
    said: tuple[str, ...],
) -> None:
    report = AdaptReport(
        NEW,
        "known/a/b",
        samples,
        {"latency_s": 2.0},
        {"latency_s": residual},
        (),
        Path("folder"),
        {"latency_s": "known/a/b"},
    )
    monkeypatch.setattr(api, "adapt", lambda **_: report)
    assert main(["adapt", "--here"]) == 0
    out = capsys.readouterr().out
    assert all(text in out for text in said)


def test_help_says_when_a_name_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", "--help"]) == 0
    assert "needed with --measurements" in " ".join(capsys.readouterr().out.split())
