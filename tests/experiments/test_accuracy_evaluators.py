"""The benchmark of evaluators: what is kept, resumed and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hardsight.errors import InputError
from hardsight.experiments.accuracy_evaluators import __main__ as experiment
from hardsight.experiments.accuracy_evaluators import runs
from hardsight.experiments.accuracy_evaluators.published import Nb201
from hardsight.experiments.accuracy_evaluators.tables import table
from hardsight.nas.evaluators.proxies import PROXIES, parameters

N = 5


def rows() -> list[dict[str, Any]]:
    """The first full training ranks as the candidates' numbers do, `short` and `macs` the other way round."""
    found: list[dict[str, Any]] = []

    def add(method: str, scores: list[float], cpu_s: float, **more: Any) -> None:
        found.extend(
            {"method": method, "candidate": i, "score": s, "cpu_s": cpu_s, **more}
            for i, s in enumerate(scores)
        )

    up = [0.5, 0.6, 0.7, 0.8, 0.9]
    curve = [[2, 0.1], [4, 0.5], [8, 0.9]]
    for seed in runs.FULL_SEEDS:
        add(f"full-{seed}", up, 10.0, curve=curve)
    add("short", up[::-1], 2.5)
    for i in range(N):
        stops = [[2, up[i]], [4, up[i]], [8, up[-i - 1]]]
        found.append({"method": "rungs", "candidate": i, "curve": stops, "cpu_s": 12.0})
    add("supernet", up, 1.0, training_s=0.0)
    found[-N] |= {"cpu_s": 101.0, "training_s": 100.0}
    add("tuned", up, 3.0)
    for name in PROXIES:
        add(name, [-x if name == "macs" else x for x in up], 0.01)
    return found


def test_table_says_correlation_and_share_of_the_cost() -> None:
    text = table(reversed(rows()))
    cells = {
        line.split(" | ")[0].strip("| "): [cell.strip(" |") for cell in line.split(" | ")[1:]]
        for line in text.splitlines()
        if line.startswith("|")
    }
    assert cells["full training, other seed: the ceiling"][::3] == ["1.00", "1.000"]
    assert cells["`qat`, 2 epochs"][::3] == ["-1.00", "0.250"]
    assert cells["`halving`, rung of 2 epochs"][::3] == ["1.00", "0.300"]
    assert cells["`halving`, rung of 8 epochs"][::3] == ["-1.00", "1.200"]
    assert cells["`supernet`, inherited"][::3] == ["1.00", "0.100"]
    assert cells["`macs`"][::3] == ["-1.00", "0.001"]
    assert "as much as 10 full trainings" in text


def test_what_is_kept_is_not_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def judge(candidate: Any) -> dict[str, Any]:
        called.append(candidate.digest)
        return {"score": 1.0}

    monkeypatch.setattr(runs, "judges", lambda _: [("fake", judge)])
    for count in (3, 4):
        runs.make(tmp_path, count, lambda *_: None)
    assert called == [c.digest for c in runs.candidates(4)]


def test_too_few_candidates_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be ranked"):
        experiment.main(2)


def test_nas_bench_201_network_has_the_published_size() -> None:
    # the table's first cell: 0.615386 million
    assert parameters(Nb201((0, 2, 3, 2, 3, 1)), *[None] * 2) == 615386
