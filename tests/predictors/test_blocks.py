"""Products in blocks: a row's result is the same bits alone and among others."""

from __future__ import annotations

import numpy as np
import pytest

from hardsight.predictors.blocks import BLOCK, distinct, in_blocks


@pytest.mark.parametrize("n", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 40 * BLOCK + 3])
def test_rows_do_not_depend_on_what_else_is_asked(n: int) -> None:
    rng = np.random.default_rng(n)
    rows, weight = (rng.normal(size=(k, 50)).astype(np.float32) for k in (n, 30))
    found = in_blocks(lambda x: x @ weight.T, rows)
    np.testing.assert_allclose(found, rows @ weight.T, rtol=1e-4, atol=1e-4)
    alone = [in_blocks(lambda x: x @ weight.T, row[None]) for row in rows[-5:]]
    assert found.shape == (n, 30) and all(map(np.array_equal, found[-5:, None], alone))


def test_a_function_sees_full_blocks_only() -> None:
    seen = []
    in_blocks(lambda x: (seen.append(x.shape), x)[1], np.ones((100 * BLOCK + 1, 3)))
    assert {shape[1:] for shape in seen} == {(BLOCK, 3)} and sum(shape[0] for shape in seen) == 101


def test_distinct_rows_are_told_apart_by_every_bit() -> None:
    rows = np.array([[1, 2], [3, 4], [1, 2], [1, np.nextafter(2, 3, dtype=np.float32)], [3, 4]], np.float32)
    first, which = distinct(rows)
    assert first.tolist() == [0, 1, 3] and which.tolist() == [0, 1, 0, 2, 1]
    assert np.array_equal(rows[first][which], rows)
    none, of_none = distinct(rows[:0])
    assert len(none) == len(of_none) == 0
