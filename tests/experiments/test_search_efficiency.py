"""The search experiment on a made-up table: what is kept, resumed, counted and written."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hardsight.errors import InputError, UnknownNameError
from hardsight.experiments.search_efficiency import __main__ as experiment
from hardsight.experiments.search_efficiency import definitions, runs
from hardsight.experiments.search_efficiency.definitions import TABLES, Space, Table
from hardsight.experiments.search_efficiency.tables import efforts, figure_png, overheads, shares

EVALUATIONS = 12


def toy() -> Space:
    """Four choices of three; more costs more and errs less, in the last place most."""
    codes = np.array(list(itertools.product(range(3), repeat=4)))
    points = np.stack([0.9 - codes @ [0.04, 0.05, 0.06, 0.1], 1 + codes.sum(axis=1)], axis=1)
    return definitions.space([tuple(map(str, row)) for row in codes], points, "layer", classes=10)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    """The only one there is, with short searches."""
    made = Table("toy", "Made up", "cost", toy)
    monkeypatch.setattr(experiment, "TABLES", {"toy": made})
    monkeypatch.setattr(experiment, "_track", lambda *_: None)
    monkeypatch.setattr(runs, "make_sampler", runs.make_sampler)
    short = {"evaluations": EVALUATIONS}
    monkeypatch.setattr(runs, "search", lambda *given: SEARCH(*given, **short))
    monkeypatch.setattr(runs, "overhead", lambda *given: 0.001)
    return made


SEARCH = runs.search


def make(folder: Path, *samplers: str, seeds: int = 2) -> str:
    readme = folder / "README.md"
    readme.write_text("<!-- table: toy -->\n<!-- end -->\n")
    experiment.main(["toy"], samplers, seeds, folder / "runs", readme)
    return readme.read_text()


def test_front_reference_and_volume() -> None:
    points = np.array([[0.5, 1.0], [0.3, 2.0], [0.4, 2.0], [0.3, 3.0], [0.1, 3.0]])
    space = definitions.space([("a",), ("b",), ("c",), ("d",), ("e",)], points, "x", classes=10)
    assert space.front.tolist() == [[0.5, 1.0], [0.3, 2.0], [0.1, 3.0]]
    assert space.reference == pytest.approx([0.54, 3.2])
    assert space.volume == pytest.approx(0.04 * 2.2 + 0.2 * 1.2 + 0.2 * 0.2)
    assert space.find({"x_0": "d"}) == 3


def test_curve_grows_to_one_and_counts_needed_evaluations() -> None:
    points = np.array([[0.5, 1.0], [0.3, 2.0], [0.1, 3.0], [0.6, 4.0]])
    space = definitions.space([("a",), ("b",), ("c",), ("d",)], points, "x", classes=10)
    found = runs.curve(space, [3, 1, 0, 2], evaluations=6)
    assert found[0] == 0
    assert (np.diff(found) >= 0).all()
    assert found[3:] == pytest.approx([1.0] * 3)
    other = runs.curve(space, [3, 3], evaluations=6)
    assert runs.needed(np.stack([found, other]), 0.99).tolist() == [4.0, np.inf]


def test_the_readme_has_every_sampler_and_the_picture(tmp_path: Path, table: Table) -> None:
    text = make(tmp_path, "random", "nsga2", "nsga3", "tpe", "screening")
    assert "81 architectures" in text
    for name in ("random", "nsga2", "nsga3", "tpe", "screening"):
        assert f"| {name} | 2 | " in text
    assert "| gp |" not in text
    assert (tmp_path / "hypervolume.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_run_goes_on_and_makes_nothing_again(
    tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "random", seeds=1)
    made: list[int] = []
    short = runs.search
    monkeypatch.setattr(runs, "search", lambda *given: made.append(given[2]) or short(*given))
    make(tmp_path, "random", seeds=3)
    assert made == [1, 2]
    assert "| random | 3 |" in make(tmp_path, "random", seeds=3)
    assert "| random | 2 |" in make(tmp_path, "random", seeds=2)
    assert made == [1, 2]


def test_screening_is_told_the_cost_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = runs.make_sampler

    def spy(name, seed, trials, costs, hopeless):  # type: ignore[no-untyped-def]
        asked.append(costs({f"layer_{i}": "1" for i in range(4)}))
        assert hopeless == pytest.approx(0.98 * 0.9)
        return original(name, seed, trials, costs, hopeless=hopeless)

    monkeypatch.setattr(runs, "make_sampler", spy)
    found = runs.search(toy(), "screening", 0, EVALUATIONS)
    assert asked[0].values == (None, 5.0)
    assert found["trials"] == len(set(found["found"])) == EVALUATIONS


def test_a_search_that_repeats_itself_ends() -> None:
    small = toy()
    few = Space({name: ["0", "1"] for name in small.choices}, small.rows, small.points, 10)
    found = runs.search(few, "random", 0, 17)  # of 16 there are
    assert len(found["found"]) <= 16
    assert found["trials"] == 34


def test_screening_needs_fewer_evaluations_than_random() -> None:
    space = toy()
    curves = {
        name: np.stack([runs.curve(space, runs.search(space, name, s, 24)["found"], 24) for s in range(3)])
        for name in ("random", "screening")
    }
    assert np.median(curves["screening"][:, -1]) > np.median(curves["random"][:, -1]) + 0.02


@pytest.mark.parametrize("sampler", ["random", "nsga2", "screening"])
def test_overhead_is_a_time(sampler: str) -> None:
    assert 0 < runs.overhead(toy(), sampler, after=30, asked=2) < 5


def test_tables_say_when_a_goal_was_not_reached() -> None:
    curves = {"random": np.linspace(0, 0.9, 200)[None].repeat(3, axis=0), "nsga2": np.full((3, 200), 0.5)}
    lines = efforts(curves).splitlines()
    assert lines[0] == "|  | random's | nsga2's | 99% |"
    assert lines[2] == "| random | 200 (200–200) | 112 (112–112) | > 200 |"
    assert lines[3] == "| nsga2 | > 200 | 1 (1–1) | > 200 |"
    assert "| nsga2 | 3 | 50.00 (50.00–50.00) |" in shares(curves)
    assert "| gp | 2.0 | – |" in overheads({"gp": {"mean_s": 0.002}})
    assert figure_png([Table("t", "", "", toy)], [curves]).startswith(b"\x89PNG")


def test_unknown_names_and_no_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="nb202"):
        experiment.main(["nb202"], folder=tmp_path)
    with pytest.raises(UnknownNameError, match="annealing"):
        experiment.main([], ["annealing"], folder=tmp_path)
    with pytest.raises(InputError, match="0 seeds"):
        experiment.main([], seeds=0, folder=tmp_path)


def test_public_tables_are_named_by_their_source() -> None:
    assert set(TABLES) == {"nb201-pixel3", "nb201-1080ti", "nb201-fpga", "nas-bench-macro"}
    assert definitions._operations("|a~0|+|b~0|c~1|+|d~0|e~1|f~2|") == list("abcdef")
    assert replace(TABLES["nb201-fpga"], name="x").name == "x"
