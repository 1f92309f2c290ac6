"""What ``hardsight adapt`` prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hardsight import api
from hardsight.cli import main
from hardsight.datasets.store import load_shipped
from hardsight.metrics import Metric
from hardsight.predictors import load_shipped_predictor
from hardsight.predictors.adapt import AdaptReport, choose_references

KNOWN = "epyc-zen5/onnxruntime/fp32-t1"
NEW = "board/onnxruntime/fp32-t1"


@pytest.mark.parametrize(
    ("samples", "residual", "expected", "said"),
    [
        (1, float("nan"), 0.7, ("adapted with 1 network\n", "unknown: one network", "a factor of 2.0")),
        (2, 0.5, 0.3, ("adapted with 2 networks\n", "± 50.0 %", "± 30.0 %")),
    ],
)
def test_one_network_is_worded_as_one(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    samples: int,
    residual: float,
    expected: float,
    said: tuple[str, ...],
) -> None:
    report = AdaptReport(
        NEW,
        "known/a/b",
        samples,
        {"latency_s": 2.0},
        {"latency_s": residual},
        {"latency_s": expected},
        (),
        Path("folder"),
        {"latency_s": "known/a/b"},
        (),
    )
    monkeypatch.setattr(api, "adapt", lambda **_: report)
    assert main(["adapt", "--here"]) == 0
    out = capsys.readouterr().out
    assert all(text in out for text in said)


def test_help_says_when_a_name_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", "--help"]) == 0
    assert "needed with --measurements" in " ".join(capsys.readouterr().out.split())


Record = dict[str, Any]


@cache
def labels() -> tuple[tuple[str, float], ...]:
    """Eight networks, three times as slow as they are predicted to be on a known device."""
    table, predictor = load_shipped(), load_shipped_predictor()
    digests = choose_references(predictor, KNOWN, table, 8)
    latency = predictor.point([table.graphs[d] for d in digests], KNOWN, Metric.LATENCY)
    return tuple((d, 3 * float(s)) for d, s in zip(digests, latency, strict=True))


def records() -> list[Record]:
    return [{"digest": d, "measurements": {"latency_s": {"value": s}}} for d, s in labels()]


def adapt(folder: Path, rows: Sequence[Record], *more: str) -> int:
    path = folder / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return main(["adapt", "--measurements", str(path), "--name", NEW, *more])


def scaled(factor: float) -> Callable[[list[Record]], list[Record]]:
    return lambda rows: [valued(row, factor * row["measurements"]["latency_s"]["value"]) for row in rows]


def valued(row: Record, value: float) -> Record:
    return {**row, "measurements": {"latency_s": {"value": value}}}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))
    return tmp_path


def test_the_answer_says_what_to_expect_and_which_networks_it_rests_on(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adapt(home, records()) == 0
    out = capsys.readouterr().out
    assert "expected on others" in out
    assert "two of three other networks are off by less" in out
    assert adapt(home, records(), "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["scale"]["latency_s"] == pytest.approx(3, rel=0.05)
    assert 0 < record["expected_error"]["latency_s"] < 0.4
    assert [n["digest"] for n in record["networks"]] == [d for d, _ in labels()]
    families = load_shipped().families
    for network, (digest, latency_s) in zip(record["networks"], labels(), strict=True):
        assert network["family"] == families[digest]
        assert record["source_device"].startswith(KNOWN[:-1])
        assert network["predicted_latency_s"] == pytest.approx(latency_s / 3, rel=0.9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (scaled(1e3), "are they in milliseconds, a factor of 1,000? expected s;"),
        (scaled(1e6), "are they in microseconds, a factor of 1,000,000?"),
        (lambda rows: rows + [valued(row, 1.0) for row in rows[:1]], "contradictory values of latency_s"),
        (lambda rows: [valued(row, 2e-3) for row in rows], "all 8 values of latency_s are 0.002"),
        (lambda rows: [*rows[:-1], valued(rows[-1], -1.0)], "line 8: "),
        (lambda rows: [*rows[:-1], valued(rows[-1], 0.0)], "line 8: "),
        (lambda rows: [*rows[:-1], valued(rows[-1], float("nan"))], "line 8: "),
        (lambda rows: [*rows[:-1], valued(rows[-1], float("inf"))], "line 8: "),
        (lambda rows: [*rows[:-1], *scaled(1e3)(rows[-1:])], "times what the other networks let expect"),
    ],
)
def test_wrong_measurements_are_refused_in_one_sentence(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[list[Record]], list[Record]],
    said: str,
) -> None:
    assert adapt(home, change(records())) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not (home / "home").exists()


def test_units_may_be_insisted_on(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = scaled(1e3)(records())
    assert adapt(home, slow, "--trust-units") == 0
    assert "00 times those of every known device; taken as they are" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows + rows[:1], "1 line repeats a network; its median is used"),
        (lambda rows: rows[:4], "4 measurements are too few for an interval"),
        (lambda rows: rows[:1], "1 measurement is too few for an interval"),
    ],
)
def test_dubious_measurements_are_named(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[list[Record]], list[Record]],
    said: str,
) -> None:
    assert adapt(home, change(records())) == 0
    assert said in capsys.readouterr().out


def test_measurements_of_one_family_are_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, predictor = load_shipped(), load_shipped_predictor()
    known = table.select(device=KNOWN).digests
    digests = [d for d in known if table.families[d] == "ghost"][:6]
    latency = predictor.point([table.graphs[d] for d in digests], KNOWN, Metric.LATENCY)
    rows = [valued({"digest": d}, 2 * float(s)) for d, s in zip(digests, latency, strict=True)]
    assert adapt(home, rows) == 0
    assert "all 6 networks are of one family (ghost): the error on other" in capsys.readouterr().out


@pytest.mark.parametrize("samples", ["0", "51"])
def test_samples_out_of_range_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], samples: str
) -> None:
    assert main(["adapt", "--here", "--samples", samples]) == 2
    assert f"samples is {samples}; expected 1 to 50" in capsys.readouterr().err
