"""The published spaces: every network is the one that the readers of public tables rebuild."""

from __future__ import annotations

import optuna
import pytest

from hardsight.candidate import Candidate
from hardsight.datasets.sources import _graphs_nas_bench_macro, _graphs_nb201
from hardsight.errors import InputError, JobError
from hardsight.ingest import read_onnx
from hardsight.nas.spaces import SearchSpace, Task, get_space
from hardsight.nas.spaces._benchmark import BenchmarkSpace
from hardsight.nas.spaces.nas_bench_201 import EDGES, NasBench201Space
from hardsight.nas.spaces.nas_bench_macro import NasBenchMacroSpace

CIFAR10 = Task((3, 32, 32), 10)
NAMES = ("nas_bench_201", "nas_bench_macro")
CELL = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"


def sampled(space: SearchSpace, n: int) -> list[Candidate]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [space.suggest(study.ask()) for _ in range(n)]


@pytest.mark.parametrize(("name", "size"), [("nas_bench_201", 5**6), ("nas_bench_macro", 3**8)])
def test_parameters_span_the_whole_space_and_name_every_network(name: str, size: int) -> None:
    space = get_space(name).for_task(CIFAR10)
    assert isinstance(space, BenchmarkSpace)
    trial = optuna.create_study().ask()
    space.suggest(trial)
    product = 1
    for distribution in trial.distributions.values():
        assert isinstance(distribution, optuna.distributions.CategoricalDistribution)
        product *= len(distribution.choices)
    assert product == size
    candidates = sampled(space, 40)
    assert len({space.published(c) for c in candidates}) == len({c.digest for c in candidates})


@pytest.mark.parametrize("name", NAMES)
def test_the_quick_graph_is_that_of_the_file(name: str) -> None:
    space = get_space(name).for_task(CIFAR10)
    for candidate in sampled(space, 3):
        assert space.graph(candidate).digest == read_onnx(space.to_onnx(candidate)).digest


def test_a_cell_is_the_published_one() -> None:
    edges = _graphs_nb201.parse_cell(CELL)
    space = NasBench201Space.for_task(Task((3, 16, 16), 120), batch=2)
    candidate = space.suggest(optuna.trial.FixedTrial(dict(zip(EDGES, edges, strict=True))))
    assert space.published(candidate) == CELL
    published = _graphs_nb201.graph(_graphs_nb201.encode(CELL, batch=2, classes=120, side=16))
    assert space.graph(candidate).digest == published.digest
    assert space.graph(candidate).inputs[0].shape == (2, 3, 16, 16)


def test_a_chain_is_the_published_one() -> None:
    space = NasBenchMacroSpace(CIFAR10)
    kinds = ("identity", "mbconv_e3_k3", "mbconv_e6_k5")
    digits = "01201221"
    candidate = space.suggest(
        optuna.trial.FixedTrial({f"block_{i}": kinds[int(digit)] for i, digit in enumerate(digits)})
    )
    assert space.published(candidate) == digits
    assert space.graph(candidate).digest == _graphs_nas_bench_macro.graph(digits).digest


@pytest.mark.parametrize("name", NAMES)
def test_the_anchor_is_cheapest_of_those_that_let_anything_through(name: str) -> None:
    space = get_space(name).for_task(CIFAR10)
    anchor = space.suggest(optuna.trial.FixedTrial(dict(space.anchors()[0])))
    assert all(space.graph(anchor).macs <= space.graph(c).macs for c in sampled(space, 10))


@pytest.mark.parametrize(
    ("name", "task", "words"),
    [
        ("nas_bench_201", Task((1, 8, 8), 10), "three colours"),
        ("nas_bench_201", Task((16,), 10), "three colours"),
        ("nas_bench_macro", Task((3, 32, 32), 100), "CIFAR-10"),
    ],
)
def test_other_tasks_are_refused(name: str, task: Task, words: str) -> None:
    with pytest.raises(JobError, match=words):
        get_space(name).for_task(task)


def test_wrong_options_and_candidates_are_refused() -> None:
    with pytest.raises(JobError, match="Did you mean 'batch'"):
        NasBench201Space.for_task(CIFAR10, bach=2)
    with pytest.raises(JobError, match="unknown key"):
        NasBenchMacroSpace.for_task(CIFAR10, batch=2)
    space = NasBench201Space(CIFAR10)
    with pytest.raises(InputError, match="space 'other'"):
        space.published(Candidate("other", {}))
    anchor = space.suggest(optuna.trial.FixedTrial(dict(space.anchors()[0])))
    with pytest.raises(InputError, match="op_0_1"):
        space.graph(Candidate(space.name, {**anchor.params, "op_0_1": "conv_7x7"}))
    with pytest.raises(InputError, match="blocks"):
        NasBenchMacroSpace(CIFAR10).published(Candidate("nas_bench_macro", {"blocks": ["identity"]}))
    with pytest.raises(InputError, match="without weights"):
        space.to_onnx(anchor, {})
