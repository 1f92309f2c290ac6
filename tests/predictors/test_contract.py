"""What every predictor promises. A new predictor is enrolled by its line in `PREDICTORS` or `BASELINES`."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from worlds import DEVICE, chain, relu, world

from hardsight.errors import NotSupportedError, StorageError, UnknownNameError
from hardsight.graph import OperatorGraph, TensorSpec
from hardsight.metrics import Metric
from hardsight.predictors import BASELINES, PREDICTORS, Predictor, make_predictor
from hardsight.predictors.conformal import Conformal, split_families
from hardsight.predictors.graphnet import GraphNetConfig, GraphNetPredictor
from hardsight.predictors.persist import load_saved, save_predictor
from hardsight.predictors.transformer import TransformerConfig, TransformerPredictor

NAMES = [*PREDICTORS, *BASELINES]
TABLE = world(60)


def make(name: str) -> Predictor:
    if name == "graphnet":
        return GraphNetPredictor(GraphNetConfig(hidden=16, members=2, epochs=30, least_steps=0, batch=16))
    if name == "transformer":
        return TransformerPredictor(
            TransformerConfig(width=16, layers=1, attention_heads=2, epochs=60, least_steps=0, batch=8)
        )
    return make_predictor(name)


@cache
def fitted(name: str) -> Conformal:
    train, held = split_families(TABLE, ["mixed"])
    return Conformal(make(name).fit(train)).conformalize(held)


@pytest.fixture(params=NAMES)
def predictor(request: pytest.FixtureRequest) -> Conformal:
    return fitted(request.param)


def fresh(n: int = 6, seed: int = 99) -> list[OperatorGraph]:
    rng = np.random.default_rng(seed)
    return [chain(rng, "plain") for _ in range(n)]


def test_predicts_seen_kinds_of_networks(predictor: Conformal) -> None:
    table = world(24, seed=5, noise=0.0)
    graphs, label = table.labelled(DEVICE, Metric.LATENCY)
    error = np.abs(predictor.point(graphs, DEVICE, Metric.LATENCY) / label - 1)
    assert np.median(error) < 0.25


def test_a_batch_equals_its_parts(predictor: Conformal) -> None:
    graphs = fresh()
    whole = predictor.predict(graphs, DEVICE)
    parts = [predictor.predict([g], DEVICE) for g in graphs]
    np.testing.assert_allclose(whole.value, np.concatenate([p.value for p in parts]), rtol=1e-6)
    np.testing.assert_allclose(whole.upper, np.concatenate([p.upper for p in parts]), rtol=1e-6)


def test_order_of_operators_does_not_matter(predictor: Conformal) -> None:
    """Two independent branches, listed one way and the other."""
    a, b = relu("a", -1, 8, 16, "Exp"), relu("b", -1, 32, 16, "Exp")
    b = dataclasses.replace(b, inputs=((-1, 1),))
    inputs = (TensorSpec("a", (1, 8, 16, 16), "float", 32), TensorSpec("b", (1, 32, 16, 16), "float", 32))
    one = OperatorGraph("one", (a, b), inputs, (), ((0, 0), (1, 0)))
    two = OperatorGraph("two", (b, a), inputs, (), ((1, 0), (0, 0)))
    assert one.digest == two.digest
    np.testing.assert_allclose(
        predictor.predict([one], DEVICE).value, predictor.predict([two], DEVICE).value, rtol=1e-6
    )


def test_a_wider_level_contains_a_narrower_one(predictor: Conformal) -> None:
    graphs = fresh()
    narrow, wide = predictor.predict(graphs, DEVICE, 0.5), predictor.predict(graphs, DEVICE, 0.9)
    assert (wide.lower <= narrow.lower).all()
    assert (narrow.lower <= narrow.value).all()
    assert (narrow.value <= narrow.upper).all()
    assert (narrow.upper <= wide.upper).all()
    assert (wide.upper > narrow.upper).any()


def test_too_few_calibration_scores_give_no_interval(predictor: Conformal) -> None:
    """15 scores cannot support 99 %: NaN, not a guess."""
    answer = predictor.predict(fresh(1), DEVICE, 0.99)
    assert np.isnan(answer.upper).all()
    assert answer.row(0)["latency_s"].upper is None


def test_layers_sum_to_the_total(predictor: Conformal) -> None:
    for graph in fresh(3):
        costs = predictor.layer_costs(graph, DEVICE)
        assert costs.shape == (len(graph.operators),)
        assert (costs >= 0).all()
        np.testing.assert_allclose(
            costs.sum(), predictor.point([graph], DEVICE, Metric.LATENCY)[0], rtol=1e-5
        )


def test_an_unknown_operator_is_named_and_never_free(predictor: Conformal) -> None:
    base = fresh(1)[0]
    last = base.operators[-1]
    shape = last.output_shapes[0]
    odd = tuple(
        dataclasses.replace(
            relu(f"odd{i}", len(base.operators) - 1 + i, shape[1], shape[2], "Odd", known=False)
        )
        for i in range(3)
    )
    longer = OperatorGraph(
        "longer", base.operators + odd, base.inputs, base.outputs, ((len(base.operators) + 2, 0),)
    )
    answer = predictor.predict([base, longer], DEVICE)
    assert answer.unknown_ops[1] == {"Odd": 3}
    if predictor.name == "transformer":
        return  # nothing adds up in it: tokens unlike any in training may lower what it says of the whole
    if predictor.name != "forest":  # trees are step functions: they may not move, but must not fall
        assert answer["latency_s"].value[1, 0] > answer["latency_s"].value[0, 0]
    assert answer["latency_s"].value[1, 0] >= 0.9 * answer["latency_s"].value[0, 0]


def test_save_and_load_give_the_same_answers(predictor: Conformal, tmp_path: Path) -> None:
    save_predictor(predictor, tmp_path / "p")
    loaded = load_saved(tmp_path / "p")
    graphs = fresh()
    before, after = predictor.predict(graphs, DEVICE), loaded.predict(graphs, DEVICE)
    np.testing.assert_array_equal(before.value, after.value)
    np.testing.assert_allclose(before.upper, after.upper, rtol=1e-4)
    assert not [f for f in (tmp_path / "p").rglob("*") if f.suffix in {".pkl", ".pt", ".joblib"}]


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_answer(name: str) -> None:
    small = world(20)
    first, second = make(name).fit(small), make(name).fit(small)
    graphs = fresh()
    np.testing.assert_array_equal(
        first.point(graphs, DEVICE, Metric.LATENCY), second.point(graphs, DEVICE, Metric.LATENCY)
    )


def test_an_unseen_device_is_refused(predictor: Conformal) -> None:
    with pytest.raises(NotSupportedError, match="has not seen device 'moon/x/y'; it knows: lab"):
        predictor.predict(fresh(1), "moon/x/y")


def test_conformalize_before_fit_is_refused() -> None:
    with pytest.raises(NotSupportedError, match="call fit before conformalize"):
        Conformal(make("ridge")).conformalize(TABLE)


def test_another_schema_is_refused_with_the_way_out(tmp_path: Path) -> None:
    save_predictor(fitted("ridge"), tmp_path / "p")
    meta = tmp_path / "p" / "meta.json"
    meta.write_text(meta.read_text().replace('"schema": "', '"schema": "old'))
    with pytest.raises(StorageError, match="Train it again"):
        load_saved(tmp_path / "p")


def test_a_folder_cannot_name_code_to_load(tmp_path: Path) -> None:
    save_predictor(fitted("ridge"), tmp_path / "p")
    path = tmp_path / "p" / "meta.json"
    meta = json.loads(path.read_text())
    meta["predictor"]["kind"] = "os:system"
    path.write_text(json.dumps(meta))
    with pytest.raises((StorageError, UnknownNameError), match="os:system"):
        load_saved(tmp_path / "p")


def test_graphnet_in_numpy_equals_pytorch() -> None:
    torch = pytest.importorskip("torch")
    from hardsight.predictors.encoding import encode_graphs
    from hardsight.predictors.graphnet import forward, normalised
    from hardsight.predictors.graphnet_train import CostNet

    predictor = fitted("graphnet").predictor
    assert isinstance(predictor, GraphNetPredictor)
    weights = predictor.members[0]
    rows = encode_graphs(fresh()).rows
    net = CostNet(rows.shape[1], np.ones(len(predictor.heads), np.float32), predictor.config).eval()
    net.load_state_dict({k: torch.from_numpy(np.array(weights[k])) for k in net.state_dict()})
    with torch.no_grad():
        expected = net(torch.from_numpy(normalised(rows, weights["mean"], weights["scale"]))).numpy()
    found, _ = forward(weights, rows, predictor.config.layers)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
