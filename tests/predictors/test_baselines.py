"""What others do, for comparison: forests by kind of kernel, and a transformer."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from worlds import DEVICE, chain, world

from hardsight.datasets.families import TEACHING
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors import BASELINES, PREDICTORS, training
from hardsight.predictors.kernel_forest import KernelForestPredictor
from hardsight.predictors.kernels import kernels
from hardsight.predictors.transformer import TransformerConfig, TransformerPredictor, sequences

TINY = TransformerConfig(width=16, layers=1, attention_heads=2, longest=8, epochs=2, least_steps=0, batch=8)


def small_and_networks(factor: float) -> MeasurementTable:
    """Chains of up to two convolutions teach; inside longer ones every kernel costs ``factor`` as much."""
    table = world(120, noise=0.0)
    short = {d for d in table.digests if len(kernels(table.graphs[d]).kept) <= 4}
    families = {d: TEACHING[0] if d in short else table.families[d] for d in table.digests}
    rows = table.rows.copy()
    rows.loc[~rows["digest"].isin(short), "value"] *= factor
    return MeasurementTable(rows, table.graphs, families)


def test_baselines_are_tried_only_when_asked_for() -> None:
    assert not set(BASELINES) & set(PREDICTORS)
    assert inspect.signature(training.train).parameters["names"].default == tuple(PREDICTORS)


def test_kernel_forests_learn_from_small_graphs_and_one_factor_from_networks() -> None:
    table = small_and_networks(0.5)
    predictor = KernelForestPredictor().fit(table)
    assert predictor.targets == [(DEVICE, Metric.LATENCY)]  # memory does not add up
    networks = [d for d in table.digests if table.families[d] not in TEACHING]
    graphs, label = table.select(digests=networks).labelled(DEVICE, Metric.LATENCY)
    value = predictor.point(graphs, DEVICE, Metric.LATENCY)
    assert np.median(value / label) == pytest.approx(1)
    assert np.median(np.abs(value / label - 1)) < 0.2

    alone = table.select(digests=set(table.digests) - set(networks))
    by_itself = KernelForestPredictor().fit(alone).point(graphs, DEVICE, Metric.LATENCY)
    ratio = value / by_itself  # the same forests, without and with the factor
    np.testing.assert_allclose(ratio, ratio[0])
    assert ratio[0] == pytest.approx(0.5, rel=0.2)


def test_a_kernel_costs_the_same_wherever_it_stands() -> None:
    predictor = KernelForestPredictor(trees=10).fit(world(40))
    rng = np.random.default_rng(3)
    graph = max((chain(rng, "plain") for _ in range(8)), key=len)
    costs = predictor.layer_costs(graph, DEVICE)[kernels(graph).kept]
    repeated = costs[2:].reshape(-1, 2)  # after the first, every convolution and every function are alike
    assert len(repeated) > 1
    np.testing.assert_allclose(repeated, np.broadcast_to(repeated[-1], repeated.shape))


def test_transformer_is_blind_to_padding() -> None:
    torch = pytest.importorskip("torch")
    from hardsight.predictors.transformer_train import CostTransformer

    predictor = TransformerPredictor(TINY).fit(world(20))
    net = CostTransformer.of(predictor._weights, TINY)
    x = torch.randn(2, 5, len(net.mean), generator=torch.Generator().manual_seed(0))
    padded = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.inference_mode():
        together, alone = net(x, padded), net(x[1:, :3])
    torch.testing.assert_close(together[1:], alone)


def test_transformer_looks_at_evenly_spaced_kernels_of_a_long_graph() -> None:
    rng = np.random.default_rng(0)
    graph = max((chain(rng, "plain") for _ in range(20)), key=len)
    (whole,), (seen,) = sequences([graph], 99), sequences([graph], 8)
    assert len(whole) == len(kernels(graph).kept) > len(seen) == 8
    np.testing.assert_array_equal(seen[[0, -1]], whole[[0, -1]])


def test_transformer_leaves_out_labels_of_zero() -> None:
    table = world(24)
    latency = table.rows[table.rows["metric"] == str(Metric.LATENCY)]
    counts = latency.assign(metric=str(Metric.DSP), value=np.where(np.arange(len(latency)) % 3 == 0, 0, 7))
    never = latency.assign(metric=str(Metric.BRAM_18K), value=0)
    import pandas as pd

    both = MeasurementTable(pd.concat([latency, counts, never]), table.graphs, table.families)
    predictor = TransformerPredictor(TINY).fit(both)
    assert set(predictor.targets) == {(DEVICE, Metric.LATENCY), (DEVICE, Metric.DSP)}
    value = predictor.point([table.graphs[d] for d in table.digests], DEVICE, Metric.DSP)
    np.testing.assert_array_equal(value, 7)
