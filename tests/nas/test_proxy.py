"""Scores without training, and the search that trains only what they favour."""

import math

import numpy as np
import optuna
import pytest
import torch
from nas_fakes import FakePredictor, fake_measure, make_job
from torch import nn

from hardsight.candidate import Candidate
from hardsight.errors import JobError
from hardsight.nas.data import DataSpec, LabelledData, load_data
from hardsight.nas.evaluators import TrialFailure
from hardsight.nas.evaluators.module import NetworkModule
from hardsight.nas.evaluators.proxies import (
    PROXIES,
    grad_norm,
    jacob_cov,
    macs,
    naswot,
    parameters,
    snip,
    synflow,
)
from hardsight.nas.evaluators.proxy import Options, ProxyEvaluator
from hardsight.nas.network import INPUT, Layer, Network
from hardsight.nas.search import prepare, run_search
from hardsight.nas.spaces import Task
from hardsight.nas.spaces.quant_cnn import QuantCnnSpace

SPACE = QuantCnnSpace(Task((1, 8, 8), 10))
NETWORK = Network(
    "n",
    (2, 6, 6),
    (
        Layer("conv", "conv", (INPUT,), channels=4, kernel=3, relu=True),
        Layer("pool", "pool", ("conv",)),
        Layer("classifier", "linear", ("pool",), channels=3),
    ),
)


@pytest.fixture(scope="module")
def data() -> LabelledData:
    return load_data(DataSpec(limit=200), seed=0)


def smallest() -> Candidate:
    return SPACE.suggest(optuna.trial.FixedTrial(SPACE.anchors()[-1]))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(8, 2, 6, 6, generator=generator), torch.arange(8) % 3


def linear(*weights: list[list[float]]) -> nn.Sequential:
    layers = []
    for weight in weights:
        layer = nn.Linear(len(weight[0]), len(weight), bias=False)
        layer.weight.data = torch.tensor(weight)
        layers.append(layer)
    return nn.Sequential(*layers)


def test_sizes_by_hand() -> None:
    module = NetworkModule(NETWORK)
    # 4·2·3·3 weights, 2·4 of normalisation, 3·4 + 3 of the classifier; 36 positions of the window
    assert parameters(module, *batch()) == 72 + 8 + 15
    assert macs(module, *batch()) == 36 * 72 + 12


def test_synflow_by_hand() -> None:
    # |W| = [[1, 2], [3, 4]], then [1, 1]: the output is 10 for an input of ones, and each layer's Σ w·g is the output
    module = linear([[1.0, -2.0], [-3.0, 4.0]], [[-1.0, 1.0]])
    assert synflow(module, torch.zeros(1, 2), torch.zeros(1)) == pytest.approx(math.log(2 * 10))
    assert module[0].weight[0, 1] == -2


def test_gradients_by_hand() -> None:
    # logits are 0 for an input of ones: the softmax is a half each, the gradient ±½ everywhere
    module = linear([[1.0, -1.0], [2.0, -2.0]])
    x, y = torch.ones(1, 2), torch.tensor([0])
    assert grad_norm(module, x, y) == pytest.approx(1.0)
    assert snip(module, x, y) == pytest.approx(0.5 * (1 + 1 + 2 + 2))


def test_samples_that_look_alike_score_low() -> None:
    torch.manual_seed(0)
    module = NetworkModule(NETWORK)
    x, y = batch()
    alike = x[:1].expand_as(x) + 1e-3 * x
    assert naswot(module, x, y) > naswot(module, alike, y)
    wide = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 1))
    flat = nn.Sequential(nn.Linear(4, 1))  # one gradient for all samples
    x = torch.randn(16, 4)
    assert jacob_cov(wide, x, y) > jacob_cov(flat, x, y)


def test_a_network_that_ignores_its_input_scores_lowest() -> None:
    class Blind(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(x), 3, requires_grad=True)

    x, y = batch()
    assert jacob_cov(Blind(), x, y) < jacob_cov(NetworkModule(NETWORK), x, y)


@pytest.mark.parametrize("name", PROXIES)
def test_scores_repeat_and_leave_the_module_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    module = NetworkModule(NETWORK)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    one, two = (PROXIES[name](module, *batch()) for _ in range(2))
    assert one == two
    assert math.isfinite(one)
    after = module.state_dict()
    assert all(torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before)
    assert all(p.grad is None for p in module.parameters())


def test_only_the_best_share_of_what_costs_no_more_is_trained(
    data: LabelledData, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = ProxyEvaluator(SPACE, data, 1, Options(proxy="parameters", share=0.5))
    score = evaluator.score(smallest(), 0)
    assert score == sum(p.numel() for p in NetworkModule(SPACE.network(smallest()).floating()).parameters())
    better, worse = {"parameters": score + 1}, {"parameters": score - 1}
    skipped = evaluator.evaluate_among(smallest(), 0, [worse, better, better])  # third of four
    assert (skipped.accuracy, skipped.epochs, skipped.pruned) == (0.1, 0, True)
    assert skipped.details == {"parameters": score}
    trained = evaluator.evaluate_among(smallest(), 0, [worse, worse, better, {"synflow": 1e9}])
    assert (trained.epochs, trained.pruned, trained.details) == (1, False, skipped.details)
    monkeypatch.setitem(PROXIES, "parameters", lambda *_: math.nan)
    with pytest.raises(TrialFailure, match="parameters is nan"):
        evaluator.evaluate_among(smallest(), 0, [])


@pytest.mark.parametrize("options", [{"proxy": "accuracy"}, {"share": 0}, {"shares": 0.5}])
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(JobError, match=f"evaluator.{next(iter(options))}"):
        prepare(make_job(evaluator={"name": "proxy", **options}), FakePredictor())


def test_a_search_trains_a_share(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    for module in ("report_figure", "report_page"):
        monkeypatch.setattr(f"hardsight.nas.{module}.figure_png", lambda *_: b"\x89PNG")
    job = make_job(
        trials=6, objectives=["error"], evaluator={"name": "proxy", "proxy": "naswot", "share": 0.3}
    )
    report = run_search(job, tmp_path, predictor=FakePredictor(), measure=fake_measure)
    assert report.counts["not trained"] >= 2
    assert report.epochs_saved == (report.counts["not trained"], 6 - report.counts.get("seen before", 0))
    scores = np.array([r.details["naswot"] for r in report.records if not r.reused])
    assert np.isfinite(scores).all()
    assert {row.trial for row in report.rows}.isdisjoint({r.number for r in report.records if r.pruned})
