"""The integer program against hand-made cases and against every choice there is."""

from __future__ import annotations

import numpy as np
import pytest

from hardsight.experiments.mixed_precision.checks import (
    excess_over_brute_force,
    limit_of,
    random_program,
    timed,
)
from hardsight.nas.mixed_precision.program import MAX_GAP, Pair, Program, closest, solve

FLOAT_FIRST = np.array([False, True])


def three_layers(saving: float) -> Program:
    """Quantizing any layer alone costs 1; two neighbours together save ``saving`` each time they meet."""
    return Program(
        {
            "sensitivity": np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 4.0]]),
            "cost": np.array([[0.0, 1.0]] * 3),
        },
        {"cost": 10.0},
        [Pair(0, 1, {"cost": saving}), Pair(1, 2, {"cost": saving})],
        FLOAT_FIRST,
    )


def test_neighbours_are_quantized_together_or_not_at_all() -> None:
    program = three_layers(saving=2.5)
    assert program.total("cost", (1, 0, 0)) == 11.0
    assert program.total("cost", (1, 1, 0)) == 9.5  # 10 + 1 + 1 - 2.5
    assert program.total("cost", (1, 1, 1)) == 8.0
    found = solve(program, "sensitivity", {"cost": 9.5})
    assert found is not None
    assert found.choice == (1, 1, 0)
    assert found.value == 3.0
    found = solve(program, "cost")
    assert found is not None
    assert (found.choice, found.value) == ((1, 1, 1), 8.0)


def test_a_pair_may_be_dearer_together() -> None:
    program = three_layers(saving=-3.0)
    table = {**program.table, "cost": -np.array([[0.0, 1.0]] * 3)}
    found = solve(program._replace(table=table), "cost")
    assert found is not None
    assert found.choice == (1, 0, 1)  # -2; all three: -3 + 6


def test_no_choice_and_the_closest_one() -> None:
    program = three_layers(saving=2.5)
    assert solve(program, "sensitivity", {"cost": 7.0}) is None
    nearest = closest(program, {"cost": 4.0})
    assert nearest.choice == (1, 1, 1)
    assert nearest.value == pytest.approx(1.0)  # 8 is 100 % above 4
    assert closest(program, {"cost": 16.0}).value == pytest.approx(-0.5)


def test_a_precision_that_a_layer_cannot_have_is_not_chosen() -> None:
    table = {"sensitivity": np.array([[0.0, 1.0, np.nan]] * 2), "cost": np.array([[3.0, 2.0, 1.0]] * 2)}
    found = solve(Program(table), "cost")
    assert found is not None
    assert found.choice == (1, 1)


def test_tiny_numbers_are_told_apart() -> None:
    """Microseconds and sensitivities of 1e-7 lie below HiGHS's absolute tolerances."""
    table = {
        "sensitivity": 1e-9 * np.array([[0.0, 2.0], [0.0, 1.0]]),
        "cost": 1e-8 * np.array([[2.0, 1.0]] * 2),
    }
    found = solve(Program(table), "sensitivity", {"cost": 3.0e-8})
    assert found is not None
    assert found.choice == (0, 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.15, 0.5])
def test_eight_layers_are_within_a_percent_of_brute_force(seed: int, share: float) -> None:
    assert excess_over_brute_force(random_program(8, 3, seed), share) <= 0.01


@pytest.mark.parametrize("seed", range(2))
def test_a_hundred_layers_are_solved_to_the_gap(seed: int) -> None:
    program = random_program(100, 8, seed)
    found = solve(program, "sensitivity", {"cost": limit_of(program, 0.2)})
    assert found is not None
    assert found.gap <= MAX_GAP
    assert program.total("cost", found.choice) <= limit_of(program, 0.2) * (1 + 1e-6)


def test_the_solver_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    timed(random_program(100, 8, 0), 0.3)  # one of those on which HiGHS 1.12 prints
    print("after")
    assert capfd.readouterr().out == "after\n"
