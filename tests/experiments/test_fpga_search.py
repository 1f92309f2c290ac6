"""The comparison of bits per layer with one width, on networks whose answers are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardsight.experiments.fpga_search import __main__ as experiment
from hardsight.experiments.fpga_search.figure import picture
from hardsight.experiments.fpga_search.jobs import EIGHT, MIXED, SEARCHES, UNIFORM, job, without_duplicates
from hardsight.experiments.fpga_search.results import Network, dominated, front, saving


def network(cells: float, validation: float, bits: str = "w3a4", **changes: object) -> Network:
    values = {
        "search": MIXED, "digest": "0", "units": (f"4 {bits}", f"7 {bits}"), "predicted": cells, "lower": cells * 0.8,
        "upper": cells * 1.2, "measured": cells, "ff": 1.0, "cycles": 2.0, "validation": validation,
        "test": validation, "agreement": 1.0, "kept": cells <= 3000,
    }  # fmt: skip
    return Network(**{**values, **changes})  # type: ignore[arg-type]


def test_front_leaves_out_what_is_beaten() -> None:
    networks = [network(100, 0.8), network(200, 0.9), network(300, 0.85)]
    assert front(networks, "validation") == networks[:2]
    assert front([], "test") == []


def test_saving_is_against_the_best_8_bit_network() -> None:
    mixed = [network(100, 0.8), network(250, 0.91), network(400, 0.95)]
    eight = [network(500, 0.85, "w8a8"), network(1000, 0.9, "w8a8")]
    assert saving(mixed, eight) == (eight[1], mixed[1])
    assert saving(mixed[:1], eight) is None
    assert saving(mixed[:1], eight, slack=0.11) == (eight[1], mixed[0])


def test_dominated_counts_the_front_of_the_others() -> None:
    mixed = [network(100, 0.8), network(300, 0.9)]
    uniform = [network(100, 0.8), network(200, 0.85), network(350, 0.9), network(400, 0.84)]
    assert dominated(mixed, uniform, "validation") == (
        2,
        3,
    )  # 200 cells with 85 % stand; the last is on no front


def test_sentences_and_table_tell_what_was_missed() -> None:
    found = {
        MIXED: [network(1000, 0.9), network(3100, 0.91)],
        UNIFORM: [network(1500, 0.9, "w8a8", measured=2000.0)],
        EIGHT: [network(1800, 0.8, "w8a8", agreement=0.5)],
    }
    text = " ".join(experiment.sentences(found))
    assert "1 of 2 networks with bits per layer keep 3,000" in text
    assert "3 of 4 synthesised networks are inside" in text
    assert "2.0 times fewer" in text
    assert "50.00%" in text
    assert "(over the budget)" in experiment.rows(found)[1][5]
    assert picture(found, 3000).startswith(b"\x89PNG")


def test_jobs_differ_in_their_space_alone(tmp_path: Path) -> None:
    source = tmp_path / "raw.csv"
    source.write_text("a,Class\n1,x\n1,x\n2,y\n")
    data = without_duplicates(source, tmp_path / "beans.csv")
    assert data.read_text() == "a,Class\n1,x\n2,y\n"
    mixed, uniform, eight = (job(search, data, 30) for search in SEARCHES)
    assert {line.split(":")[0] for line in mixed.difference(uniform)} == {"space.uniform", "space.bits"}
    assert {line.split(":")[0] for line in uniform.difference(eight)} == {
        "space.bits",
        "constraints.logic_cells",
    }
    assert (mixed.trials, eight.trials) == (30, 12)


@pytest.mark.slow
def test_a_search_on_a_few_beans_runs_to_its_circuits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(240, 4))
    lines = [",".join([*map(str, row), "AB"[int(row[0] > row[1])]]) for row in rows]
    source = tmp_path / "raw.csv"
    source.write_text("\n".join(["a,b,c,d,Class", *lines]))
    arguments = ["x", "--data", str(source), "--out", str(tmp_path / "out"), "--trials", "3"]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr(experiment, "FOLDER", tmp_path)
    (tmp_path / "README.md").write_text(
        "".join(f"<!-- table: {t} -->\n<!-- end -->\n" for t in ("fronts", "verdict"))
    )
    experiment.main()
    assert "8 bits" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "fronts.png").exists()
