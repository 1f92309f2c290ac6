"""hls4ml's rules, against numbers worked out by hand and against the published tables."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from hardsight.datasets.sources._hls4ml import layer
from hardsight.metrics import Metric
from hardsight.predictors._hls4ml_rules import (
    FEATURES,
    TERMS,
    Layer,
    Matrix,
    block_rams,
    closest_reuse_factor,
    dsp_blocks,
    features,
    layers_of,
    legal_reuse_factors,
    rule,
    terms,
    within_unroll_limit,
)
from hardsight.predictors._hls4ml_trees import Trees

DATA = Path(os.environ.get("HARDSIGHT_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()
WA = DATA / "wa-hls4ml-dense" / "dense_shapes_train.csv"
needs_data = pytest.mark.skipif(not WA.is_file(), reason=f"the public tables are not in {DATA}")


def dense(n_in: int, n_out: int, bits: int, reuse: int) -> Layer:
    return Layer("dense", (Matrix(n_in, n_out, reuse),), 1, bits, "unrolled" if reuse == 1 else "folded")


def test_legal_reuse_factors_by_hand() -> None:
    # 6 x 4: divisors of 24; below 6 those that leave a multiple of 4 multipliers (24, 12, 8), from 6 on multiples of 6
    assert legal_reuse_factors(6, 4) == (1, 2, 3, 6, 12, 24)


@pytest.mark.parametrize(
    ("n_in", "n_out", "wanted", "legal"),
    [
        (96, 32, 512, 384),  # as wa-hls4ml publishes them for 512 and 1024
        (96, 32, 1024, 768),
        (160, 160, 1024, 800),
        (16, 1, 128, 16),  # N-TORC: the largest there is
        (4, 4, 3, 2),  # as far from 2 as from 4: the smaller
    ],
)
def test_closest_reuse_factor(n_in: int, n_out: int, wanted: int, legal: int) -> None:
    assert closest_reuse_factor(n_in, n_out, wanted) == legal


def test_layers_are_read_off_graphs() -> None:
    (fc,) = layers_of(layer("dense 96 32 6 512"), "resource")
    assert fc == Layer("dense", (Matrix(96, 32, 384),), 1, 6, "folded")
    (conv,) = layers_of(layer("conv1d 16 32 128 16 4"), "resource")
    assert conv == Layer("conv", (Matrix(48, 32, 4),), 128, 16, "folded")  # 16 channels x kernel 3
    (lstm,) = layers_of(layer("lstm 16 8 32 16 512"), "resource")
    assert lstm == Layer("lstm", (Matrix(16, 32, 512), Matrix(8, 32, 256)), 32, 16, "folded")
    ways = [
        layers_of(layer(f"dense 8 8 8 {r}"), s)[0].way
        for r, s in ((1, "latency"), (4, "latency"), (1, "resource"))
    ]
    assert ways == ["unrolled", "limited", "unrolled"]


def test_dsp_blocks_by_hand() -> None:
    assert dsp_blocks(dense(96, 32, 8, 384)) == 8  # 96 * 32 / 384
    assert dsp_blocks(dense(96, 32, 4, 384)) == 0
    (lstm,) = layers_of(layer("lstm 32 16 8 16 512"), "resource")
    assert dsp_blocks(lstm) == 32 * 64 // 512 + 16 * 64 // 512 + 3 * 16


@pytest.mark.parametrize(
    ("n_in", "n_out", "bits", "reuse", "blocks"),
    [
        (128, 256, 14, 512, 26),  # 64 multipliers x 14 bits = 896 = 24.9 x 36, and the table of results
        (96, 32, 8, 384, 2),  # 64 bits = 1.8 x 36; a table of 384 x 2 bits is too small
        (192, 96, 8, 576, 16),  # 256 bits = 14.2 x 18 at up to 1024 words, and the table
        (224, 32, 8, 448, 4),  # two results per multiplier need 448 bits only
        (32, 32, 8, 1, 0),
        (64, 1, 16, 16, 0),  # 1024 bits stay in look-up tables
    ],
)
def test_block_rams_by_hand(n_in: int, n_out: int, bits: int, reuse: int, blocks: int) -> None:
    assert block_rams(dense(n_in, n_out, bits, reuse)) == blocks


def test_a_rule_is_there_where_hls4ml_decides() -> None:
    folded = dense(16, 24, 8, 32)
    assert rule(folded, Metric.CYCLES) == (32, 1)
    assert rule(folded, Metric.LUT) is None
    assert rule(folded._replace(way="limited"), Metric.CYCLES) is None
    assert rule(folded._replace(positions=10), Metric.CYCLES) == (320, 10)


def test_every_number_is_named_and_not_negative() -> None:
    for own in (dense(96, 32, 8, 384), dense(32, 32, 5, 1)):
        assert len(terms(own)) == len(TERMS)
        assert len(features(own)) == len(FEATURES)
        assert min(terms(own)) >= 0
    named = dict(zip(TERMS, terms(dense(32, 32, 5, 1)), strict=True))
    assert (named["weights_4"], named["weights_6"]) == (512, 512)  # five bits: half of each neighbour
    assert sum(terms(dense(96, 32, 8, 384))[-7:]) == 0  # constants' terms: not of memories


def test_trees_in_numpy_equal_scikit_learn() -> None:
    from sklearn.ensemble import GradientBoostingRegressor

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    y = x[:, 0] * (x[:, 1] > 0)
    model = GradientBoostingRegressor(
        init="zero", n_estimators=60, learning_rate=0.15, max_depth=4, random_state=0
    )
    fresh = rng.normal(size=(50, 5))
    np.testing.assert_allclose(Trees.regression(x, y, 0)(fresh), model.fit(x, y).predict(fresh), rtol=1e-6)


@needs_data
def test_rules_hold_for_the_published_labels() -> None:
    """Folded dense layers: interval, cycles within 2, DSP blocks at 8 bits and more; memories in over 90 %."""
    with WA.open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["strategy"] == "resource" and row["hls_synth_success"] == "TRUE" and row["rf"] != "1"
        ]
    layers = [dense(*(int(row[key]) for key in ("d_in", "d_out", "prec", "rf"))) for row in rows]
    assert len(rows) > 600

    def label(column: str) -> list[float]:
        return [float(row[column]) for row in rows]

    legal = [own.matrices[0].reuse in legal_reuse_factors(*own.matrices[0][:2]) for own in layers]
    assert all(legal)
    assert label("IntervalMax_hls") == [own.matrices[0].reuse for own in layers]
    assert all(
        0 < y - own.matrices[0].reuse <= 2 for y, own in zip(label("WorstLatency_hls"), layers, strict=True)
    )
    wide = [(y, own) for y, own in zip(label("DSP_hls"), layers, strict=True) if own.bits >= 8]
    assert all(y == dsp_blocks(own) for y, own in wide)
    memories = [y == block_rams(own) for y, own in zip(label("BRAM_18K_hls"), layers, strict=True)]
    assert np.mean(memories) > 0.9


def test_the_limit_is_on_constant_weights_alone() -> None:
    assert within_unroll_limit(dense(32, 96, 8, 1))
    assert not within_unroll_limit(dense(64, 64, 8, 1))
    assert within_unroll_limit(dense(256, 256, 8, 512))
