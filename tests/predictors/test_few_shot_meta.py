"""Published meta-learning methods on made-up tables whose devices differ in a way that can be learned."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from hardsight.prediction import FloatArray
from hardsight.predictors.few_shot import Space, make_method, meta, nasflat, scale
from hardsight.predictors.few_shot.meta_learner import MetaLearner, Variant

NAMES = ("help", "meta-sgd", "maml", "nasflat")
LEAST = {"help": 0.8, "meta-sgd": 0.75, "maml": 0.6, "nasflat": 0.95}
LAYERS, CHOICES, N = 5, 4, 300


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too short to learn much; what a test asks for at the same ``k`` is trained once for all tests."""
    few = dataclasses.replace(meta.CONFIG, width=16, most_episodes=20, queries=20)
    monkeypatch.setattr(meta, "CONFIG", few)
    monkeypatch.setattr(nasflat, "CONFIG", dataclasses.replace(nasflat.CONFIG, epochs=20, batch=50))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These networks are too small for two; threads that wait for a busy core make a test ten times longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made_up(devices: int = 6) -> tuple[Space, FloatArray]:
    """Known devices, and one target ``(n,)``: costs add up; devices differ in how fast they are at which choice."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, CHOICES, (N, LAYERS))
    speeds = np.array([0.3, 1, 2, 4]) * rng.lognormal(0, 0.5, (devices + 1, CHOICES))
    work = np.linspace(1, 2, LAYERS)
    costs = np.stack([(s[codes] * work).sum(axis=1) for s in speeds], axis=1)
    columns = tuple(f"op_{i}" for i in range(LAYERS))
    return Space(codes, columns, (tuple("abcd"),) * LAYERS, costs[:, :-1]), costs[:, -1]


SPACE, TRUTH = made_up()


def answer(name: str, k: int, space: Space = SPACE, truth: FloatArray = TRUTH, seed: int = 0) -> FloatArray:
    method, rng = make_method(name), np.random.default_rng(seed)
    chosen = method.choose(space, np.arange(len(space)), k, rng)
    return method.predict(space, chosen, truth[chosen], rng)


@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_ranks_a_device_it_never_saw(name: str, least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = dataclasses.replace(
        meta.CONFIG, width=32, queries=50, most_episodes=200, costs_per_episode=1, meta_rate=5e-3
    )
    monkeypatch.setattr(meta, "CONFIG", longer)
    assert spearmanr(answer(name, 20), TRUTH).statistic > least


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_few_measurements_still_give_costs(name: str, k: int) -> None:
    costs = answer(name, k)
    assert costs.shape == (N,)
    assert np.isfinite(costs).all()
    assert (costs > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_answer_and_leaves_torch_alone(name: str) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    first = answer(name, 10)
    meta.meta_trained.cache_clear()
    nasflat.pre_trained.cache_clear()
    np.testing.assert_array_equal(first, answer(name, 10))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", NAMES)
def test_the_unit_of_the_costs_does_not_matter(name: str) -> None:
    np.testing.assert_allclose(answer(name, 10, truth=1000 * TRUTH), 1000 * answer(name, 10), rtol=1e-3)


def test_inner_steps_bring_the_network_closer_to_the_measurements() -> None:
    learner = MetaLearner(
        CHOICES * LAYERS, Variant(False), dataclasses.replace(meta.CONFIG, inner_rate=0.1, steps=100)
    )
    x = torch.from_numpy(SPACE.one_hot[:20].astype(np.float32))
    y = torch.from_numpy(scale.standardised(TRUTH[:20], 0.5).astype(np.float32))
    nothing = torch.zeros(0)
    before = float(learner.loss(learner.first_weights(nothing), x, y, nothing))
    assert float(learner.loss(learner.adapted(x, y, nothing), x, y, nothing)) < 0.7 * before


def test_the_outer_gradient_goes_through_the_inner_steps() -> None:
    """Against central differences, which know nothing of orders."""
    config = dataclasses.replace(meta.CONFIG, width=4, inner_rate=0.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner = MetaLearner(3, Variant(learned_rates=True), config).double()
        given = [torch.rand(6, 3).double(), torch.rand(6).double(), torch.zeros(0).double()]
        asked = [torch.rand(5, 3).double(), torch.rand(5).double()]
    learner(*given, *asked).backward()
    weight, step = learner.net.second.weight, 1e-6
    assert weight.grad is not None
    slopes = []
    with torch.no_grad():
        for sign in (1, -1):
            weight[1, 2] += sign * step
            slopes.append(float(learner(*given, *asked)))
            weight[1, 2] -= sign * step
    assert float(weight.grad[1, 2]) == pytest.approx((slopes[0] - slopes[1]) / (2 * step), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_one_known_device_and_equal_costs(name: str) -> None:
    alone = Space(SPACE.codes, SPACE.columns, SPACE.values, SPACE.sources[:, :1])
    costs = answer(name, 4, alone, np.full(N, 7.0))
    assert np.isfinite(costs).all()
    assert np.median(costs) == pytest.approx(7, rel=0.5)


def test_training_is_shared_by_devices_and_draws() -> None:
    learner = meta.MetaSgd()
    meta.meta_trained.cache_clear()
    for seed in range(3):
        answer("meta-sgd", 6, seed=seed)
    found = meta.meta_trained.cache_info()
    assert (found.misses, found.hits) == (1, 2)
    assert learner.variant(6) == Variant(learned_rates=True)


def test_references_are_the_same_for_all_devices() -> None:
    method = make_method("help")
    everything = np.arange(N)
    one, two = (method.choose(SPACE, everything, 20, np.random.default_rng(s)) for s in (1, 2))
    assert set(meta.reference_order(SPACE)[:10]) == set(one[:10])
    np.testing.assert_array_equal(one[:10], two[:10])
    assert set(one[10:]) != set(two[10:])
    assert [len(method.choose(SPACE, everything, k, np.random.default_rng(0))) for k in (1, 2, 5, 30)] == [
        1,
        2,
        5,
        30,
    ]


def test_a_reference_that_is_not_allowed_is_replaced_by_what_costs_like_it() -> None:
    missing = meta.reference_order(SPACE)[0]
    allowed = np.setdiff1d(np.arange(N), missing)
    chosen = make_method("help").choose(SPACE, allowed, 20, np.random.default_rng(0))
    logs = SPACE.log_sources
    apart = ((logs[allowed] - logs[missing]) ** 2).sum(axis=1)
    assert chosen[0] in allowed[np.argsort(apart)[:10]]
    assert len(set(chosen)) == 20


def test_each_place_is_the_nearest_only_once() -> None:
    logs = np.array([0.0, 1.0, 1.1, 5.0])
    space = Space(np.arange(4)[:, None], ("op_0",), (tuple("abcd"),), np.exp(logs)[:, None])
    among = np.array([3, 2, 1])
    assert meta.nearest(space, np.array([1, 2]), among).tolist() == [2, 1]
    assert meta.nearest(space, np.array([0, 1]), among).tolist() == [1, 2]  # 1 is itself, so 0 gets 2
    assert meta.nearest(space, np.array([], dtype=np.int64), among).tolist() == []


def test_the_inner_loop_is_gradient_descent_with_a_rate_for_each_weight() -> None:
    config = dataclasses.replace(meta.CONFIG, steps=1, width=3)
    torch.manual_seed(0)
    learner = MetaLearner(2, Variant(learned_rates=True), config)
    with torch.no_grad():
        for i, rate in enumerate(learner.rates):
            rate.fill_(0.1 * i)
    x, y, nothing = torch.randn(4, 2), torch.randn(4), torch.zeros(0)
    value = nn.functional.mse_loss(learner.net(x, nothing), y)
    slopes = torch.autograd.grad(value, list(learner.net.parameters()))
    stepped = learner.adapted(x, y, nothing)
    for (name, weight), rate, slope in zip(
        learner.net.named_parameters(), learner.rates, slopes, strict=True
    ):
        torch.testing.assert_close(stepped[name], weight - rate * slope)


def test_maml_learns_no_rates_and_help_moves_the_last_layers() -> None:
    maml = MetaLearner(2, Variant(learned_rates=False), meta.CONFIG)
    assert not any(rate.requires_grad for rate in maml.rates)
    helped = MetaLearner(2, Variant(True, references=3, modulated=True), meta.CONFIG)
    one, two = helped.first_weights(torch.zeros(3)), helped.first_weights(torch.ones(3))
    moved = {name for name in one if not torch.equal(one[name], two[name])}
    assert moved == {
        f"{layer}.{part}" for layer in ("first", "second", "last") for part in ("weight", "bias")
    }


def test_the_new_device_starts_as_the_one_that_ranks_alike() -> None:
    chosen = np.arange(20)
    assert nasflat.likest(SPACE, chosen, SPACE.sources[chosen, 3] ** 2) == [3]
    assert nasflat.likest(SPACE, chosen[:2], TRUTH[:2]) == list(range(6))


def test_a_hinge_counts_pairs_in_the_wrong_order() -> None:
    config = dataclasses.replace(nasflat.CONFIG, ranking=1.0, margin=0.1)
    label = torch.tensor([[0.0, 1.0]])
    assert nasflat.loss(torch.tensor([[0.0, 1.0]]), label, config) == 0
    # Both orders of the one pair lose 0.1 + 1, the two pairs of one with itself nothing: 2 * 1.1 / 4.
    assert nasflat.loss(torch.tensor([[1.0, 0.0]]), label, config) == pytest.approx(0.55)


def test_back_to_costs_one_odd_measurement_moves_little() -> None:
    logs = np.linspace(-1, 1, 101)
    chosen = np.arange(0, 101, 10)
    y = np.exp(3 + 0.5 * logs[chosen])
    usual = float(0.5 * logs.std())
    np.testing.assert_allclose(
        scale.as_costs(7 * logs - 2, chosen, y, usual), np.exp(3 + 0.5 * logs), rtol=0.08
    )
    odd = y.copy()
    odd[3] *= 20
    with_odd = scale.as_costs(7 * logs - 2, chosen, odd, usual)
    assert np.median(np.abs(np.log(with_odd) - 3 - 0.5 * logs)) < 0.3  # its own logarithm is off by 3
    assert np.median(scale.as_costs(np.zeros(101), chosen, y, usual)) == pytest.approx(np.exp(3))
    assert scale.as_costs(logs, chosen[5:6], y[5:6], usual)[50] == pytest.approx(np.exp(3))


def test_the_front_door_does_not_load_torch() -> None:
    code = "import sys, hardsight.predictors.few_shot.tables; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
