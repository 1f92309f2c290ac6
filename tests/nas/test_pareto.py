"""Fronts and volumes worked out by hand."""

import numpy as np
import pytest

from hardsight.nas.pareto import hypervolume, non_dominated, spread

NINE = np.array(
    [[1, 9], [2, 5], [2, 6], [3, 5], [4, 3], [4, 3], [6, 2], [7, 2], [9, 1]], np.float64
)  # (2, 6) and (3, 5) lose to (2, 5), (7, 2) to (6, 2); the twins (4, 3) both stay


def test_non_dominated_of_nine_points() -> None:
    assert non_dominated(NINE).tolist() == [True, True, False, False, True, True, True, False, True]


def test_hypervolume_in_two_dimensions() -> None:
    # staircase below (10, 10): 1·1 + 2·5 + 2·7 + 3·8 + 1·9 for x in [1,2) [2,4) [4,6) [6,9) [9,10)
    assert hypervolume(NINE, (10, 10)) == pytest.approx(1 + 10 + 14 + 24 + 9)


def test_hypervolume_in_three_dimensions() -> None:
    # two unit cubes from (0,0,1) and (1,1,0) below (2,2,2): 2·2·1 + 1·1·2 − overlap 1·1·1
    assert hypervolume(np.array([[0.0, 0, 1], [1, 1, 0]]), (2, 2, 2)) == pytest.approx(5)


def test_points_beyond_the_reference_count_nothing() -> None:
    assert hypervolume(np.array([[3.0, 0.0]]), (2, 2)) == 0


def test_spread_takes_the_ends_first() -> None:
    points = np.array([[0.0, 10], [1, 9], [5, 5], [9, 1], [10, 0]])
    assert spread(points, 3) == [0, 2, 4]
    assert spread(points, 99) == [0, 1, 2, 3, 4]
