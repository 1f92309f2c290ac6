"""A few-shot answer asked by graph."""

from __future__ import annotations

import numpy as np
import pytest

from hardsight.datasets.sources._graphs_nas_bench_macro import graph
from hardsight.errors import InputError, NotCoveredError
from hardsight.predictors.few_shot.gaussian import Posterior
from hardsight.predictors.few_shot.predictor import FewShotPredictor

GRAPHS = [graph("00000000"), graph("10000000")]
BELIEVED = Posterior(np.log([2.0, 5.0]), np.array([0.3, 0.0]), 0.4)


def predictor() -> FewShotPredictor:
    return FewShotPredictor("toy/table/fp32", [g.digest for g in GRAPHS], BELIEVED, unit=1e-3)


def test_values_and_intervals_by_hand() -> None:
    answer = predictor().predict(GRAPHS[::-1], "toy/table/fp32", level=0.9)
    assert answer.value[:, 0] == pytest.approx([5e-3, 2e-3])
    # 1.645 standard deviations: of the noise alone, and of hypot(0.3, 0.4)
    assert answer.upper[:, 0] == pytest.approx(
        [5e-3 * np.exp(1.645 * 0.4), 2e-3 * np.exp(1.645 * 0.5)], rel=1e-3
    )
    assert answer.lower[:, 0] == pytest.approx(
        [5e-3 / np.exp(1.645 * 0.4), 2e-3 / np.exp(1.645 * 0.5)], rel=1e-3
    )


def test_a_wider_level_contains_a_narrower() -> None:
    narrow, wide = (predictor().predict(GRAPHS, "toy/table/fp32", level) for level in (0.5, 0.95))
    assert (wide.lower < narrow.lower).all()
    assert (wide.upper > narrow.upper).all()


def test_what_was_not_learned_is_refused() -> None:
    with pytest.raises(NotCoveredError, match="measured was 'toy/table/fp32'"):
        predictor().predict(GRAPHS, "other/table/fp32")
    with pytest.raises(NotCoveredError, match="none of the 2 networks"):
        predictor().predict([graph("20000000")], "toy/table/fp32")
    with pytest.raises(InputError, match="1 graphs and 2 answers"):
        FewShotPredictor("toy/table/fp32", ["a"], BELIEVED)
