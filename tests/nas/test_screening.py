"""The screening sampler: Optuna's own contract, what it promises, and closed forms against sums."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from nas_fakes import FakeEvaluator, FakePredictor, make_job
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import TrialState

from hardsight.errors import InputError
from hardsight.nas import screening, search, worker
from hardsight.nas._accuracy_model import GaussianProcess, Inputs, Kernel, likely_kernel
from hardsight.nas._encoding import Encoding
from hardsight.nas._improvement import Bend, expected_improvement
from hardsight.nas.pareto import hypervolume
from hardsight.nas.samplers import make_sampler
from hardsight.nas.screening import Known, ScreeningSampler
from hardsight.nas.study import StudyFolder

LAYERS, CHOICES = 6, (0, 1, 2, 3)
SPACE = {f"layer_{i}": CategoricalDistribution(CHOICES) for i in range(LAYERS)}
TABLE = dict(zip(itertools.product(CHOICES, repeat=LAYERS), range(4**LAYERS), strict=True))


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


class TestOptunasContract(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], ScreeningSampler]:
        return partial(ScreeningSampler, lambda params: Known(), seed=0, screened=20, start=2)


def error(params: Mapping[str, Any]) -> float:
    """Choices add up, neighbours work together, and choice 0 in both first layers breaks the network."""
    codes = [params[name] for name in SPACE]
    gain = sum((1 + 0.3 * i) * np.sqrt(code) for i, code in enumerate(codes))
    gain += sum(0.5 for a, b in itertools.pairwise(codes) if a == b)
    return 0.9 if codes[:2] == [0, 0] else float(0.6 - 0.02 * gain)


def cost(params: Mapping[str, Any]) -> float:
    return float(sum(params[name] ** 2 * (LAYERS - i) for i, name in enumerate(SPACE)) + 1)


def size(params: Mapping[str, Any]) -> float:
    return float(sum(params.values()))


def known(params: Mapping[str, Any]) -> Known:
    return Known((None, cost(params)))


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {name: trial.suggest_categorical(name, CHOICES) for name in SPACE}


def two(trial: optuna.Trial) -> tuple[float, float]:
    params = suggest(trial)
    return error(params), cost(params)


def study_of(sampler: optuna.samplers.BaseSampler, objectives: int = 2) -> optuna.Study:
    return optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)


def proposals(study: optuna.Study) -> list[dict[str, Any]]:
    return [t.params for t in study.trials]


def volume(study: optuna.Study) -> float:
    return hypervolume(np.array([t.values for t in study.trials]), (1.0, 200.0))


def test_far_better_than_random() -> None:
    ours, others = [], []
    for seed in range(2):
        for sampler, found in (
            (ScreeningSampler(known, seed), ours),
            (make_sampler("random", seed, 40), others),
        ):
            study = study_of(sampler)
            study.optimize(two, n_trials=40)
            found.append(volume(study))
    every = [dict(zip(SPACE, codes, strict=True)) for codes in TABLE]
    top = hypervolume(_front(np.array([[error(p), cost(p)] for p in every])), (1.0, 200.0))
    assert top - max(others) > 3 * (top - min(ours))


def _front(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    ordered = points[np.lexsort(points.T)]
    best = np.minimum.accumulate(ordered[:, 0])
    return ordered[np.append(True, ordered[1:, 0] < best[:-1])]


def test_same_seed_same_proposals_and_a_resumed_study_goes_on_as_it_would_have() -> None:
    whole = study_of(ScreeningSampler(known, 1, screened=300))
    whole.optimize(two, n_trials=14)
    parts = study_of(ScreeningSampler(known, 1, screened=300))
    parts.optimize(two, n_trials=7)
    parts.sampler = ScreeningSampler(known, 1, screened=300)
    parts.optimize(two, n_trials=7)
    other = study_of(ScreeningSampler(known, 2, screened=300))
    other.optimize(two, n_trials=14)
    assert proposals(parts) == proposals(whole)
    assert proposals(other) != proposals(whole)


def test_three_objectives_of_which_two_are_known() -> None:
    def three(trial: optuna.Trial) -> tuple[float, float, float]:
        params = suggest(trial)
        return cost(params), error(params), -size(params)

    sampler = ScreeningSampler(lambda p: Known((cost(p), None, -size(p))), 0, space=SPACE)
    study = study_of(sampler, 3)
    study.optimize(three, n_trials=25)
    assert len({tuple(p.values()) for p in proposals(study)}) == 25


def test_objectives_that_are_maximised_and_several_unknown() -> None:
    study = optuna.create_study(
        directions=["maximize", "minimize", "minimize"],
        sampler=ScreeningSampler(lambda p: Known((None, None, size(p))), 0, 500, space=SPACE),
    )

    def objective(trial: optuna.Trial) -> tuple[float, float, float]:
        params = suggest(trial)
        return -error(params), cost(params), size(params)

    study.optimize(objective, n_trials=25)
    assert max(t.values[0] for t in study.trials) > -0.35  # the best there is has 0.26


def test_one_objective() -> None:
    study = study_of(ScreeningSampler(lambda p: Known((None,), (cost(p) / 60 - 1,)), 0, space=SPACE), 1)
    study.optimize(lambda trial: error(suggest(trial)), n_trials=30)
    every = [dict(zip(SPACE, codes, strict=True)) for codes in TABLE]
    best = min(error(p) for p in every if cost(p) <= 60)
    assert all(cost(p) <= 60 for p in proposals(study))
    assert study.best_value < best + 0.01


def test_four_objectives_are_refused() -> None:
    study = study_of(ScreeningSampler(lambda p: Known(), 0, space=SPACE), 4)
    with pytest.raises(InputError, match="at most three"):
        study.ask().relative_params  # noqa: B018


def test_constraints_are_kept_and_where_none_can_be_the_nearest_is_proposed() -> None:
    study = study_of(ScreeningSampler(lambda p: Known((None, cost(p)), (cost(p) / 40 - 1,)), 0, space=SPACE))
    study.optimize(two, n_trials=20)
    assert all(cost(p) <= 40 for p in proposals(study))
    study = study_of(ScreeningSampler(lambda p: Known((None, cost(p)), (cost(p),)), 0, space=SPACE))
    study.optimize(two, n_trials=20)
    assert np.mean([cost(p) for p in proposals(study)]) < 20  # of all architectures: 75


def test_values_of_trials_that_break_a_constraint_are_not_believed() -> None:
    """A search tells the error of guessing for what it did not train."""
    fair, spoiled = (study_of(ScreeningSampler(known, 0, space=SPACE)) for _ in range(2))
    for i, codes in enumerate(itertools.islice(TABLE, 0, None, 137)):
        params = dict(zip(SPACE, codes, strict=True))
        for study, values in ((fair, None), (spoiled, [0.0, cost(params)])):
            state = TrialState.COMPLETE if values or i % 3 else TrialState.FAIL
            value = [error(params), cost(params)] if i % 3 else values
            trial = optuna.trial.create_trial(
                state=state, params=params, distributions=SPACE, values=value,
                system_attrs={"constraints:latency_s": 0.0 if i % 3 else 1.0},
            )  # fmt: skip
            study.add_trial(trial)
    assert fair.ask(SPACE).params == spoiled.ask(SPACE).params


def test_nothing_is_proposed_twice_while_something_new_is_left() -> None:
    space = {
        "a": CategoricalDistribution([0, 1, 2]),
        "b": IntDistribution(1, 7, step=3),
        "c": FloatDistribution(0, 1, step=0.5),
    }
    study = study_of(ScreeningSampler(lambda p: Known((None, p["b"])), 0, screened=300, space=space))
    study.enqueue_trial({"a": 0, "b": 1, "c": 0.0})
    for number in range(27):
        trial = study.ask(space)
        if number % 5 == 4:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, [trial.params["a"], trial.params["b"]])
    assert len({tuple(p.values()) for p in proposals(study)}) == 27
    assert study.ask(space).params["b"] in (1, 4, 7)  # all are known: any will do


def test_parameters_that_mean_the_same_candidate_count_once() -> None:
    """Where the first layer is 0 the second has no effect."""

    def identity(params: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(0 if name == "layer_1" and not params["layer_0"] else v for name, v in params.items())

    def costs(params: Mapping[str, Any]) -> Known:
        return Known((None, cost(params)), (float(params["layer_0"]),), identity(params))

    study = study_of(ScreeningSampler(costs, 0, space=SPACE))
    study.optimize(two, n_trials=40)
    assert len({identity(p) for p in proposals(study)}) == 40


def test_running_trials_are_not_proposed_again_and_count_as_expected() -> None:
    study = study_of(ScreeningSampler(known, 0, space=SPACE))
    study.optimize(two, n_trials=12)
    running = [study.ask(SPACE).params for _ in range(6)]
    assert len({tuple(p.values()) for p in running}) == 6
    costs = sorted(cost(p) for p in running)
    assert costs[-1] > costs[0] + 10  # without belief in the first, all would lie beside it


def test_the_first_trials_spread_over_the_cost() -> None:
    study = study_of(ScreeningSampler(known, 0, space=SPACE, start=5))
    study.optimize(two, n_trials=5)
    costs = sorted(cost(p) for p in proposals(study))
    assert costs[0] < 20 < 60 < costs[2] < 90 < 105 < costs[-1]


def dead(params: Mapping[str, Any]) -> bool:
    """Half of all candidates, and the cheapest: what a search without a notion of failing keeps hoping for."""
    return bool(params["layer_0"] <= 1)


def share_of_dead(
    sampler: ScreeningSampler, outcome: Callable[[Mapping[str, Any]], tuple[float, float]]
) -> float:
    study = study_of(sampler)
    study.optimize(lambda trial: outcome(suggest(trial)), n_trials=36, catch=(ArithmeticError,))
    return float(np.mean([dead(t.params) for t in study.trials[16:]]))


def test_what_ends_no_better_than_guessing_is_soon_avoided() -> None:
    def outcome(params: Mapping[str, Any]) -> tuple[float, float]:
        return 0.9 if dead(params) else error(params), cost(params)

    told = np.mean([share_of_dead(ScreeningSampler(known, s, 300, hopeless=0.89), outcome) for s in range(3)])
    untold = np.mean([share_of_dead(ScreeningSampler(known, s, 300), outcome) for s in range(3)])
    assert told <= 0.1
    assert told < untold


def test_what_fails_is_soon_avoided() -> None:
    def outcome(params: Mapping[str, Any]) -> tuple[float, float]:
        if dead(params):
            raise ArithmeticError
        return error(params), cost(params)

    assert np.mean([share_of_dead(ScreeningSampler(known, s, 300), outcome) for s in range(3)]) <= 0.1


def test_a_killed_trial_that_is_tried_again_did_not_fail() -> None:
    def run(kill: bool) -> list[dict[str, Any]]:
        study = study_of(ScreeningSampler(known, 0, 300))
        study.optimize(two, n_trials=10)
        if kill:
            lost = study.trials[4]
            study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.FAIL, params=lost.params, distributions=lost.distributions
                )
            )
        trials = study.get_trials()
        rows = screening._past(study, study.ask()._cached_frozen_trial, study.sampler._memory)
        return [dict(t.params) for t in trials[:10]] + [{"failed": len(rows.failed)}]

    assert run(kill=True) == run(kill=False)


def test_a_cost_function_for_other_objectives_is_refused() -> None:
    study = study_of(ScreeningSampler(lambda p: Known((None,)), 0, space=SPACE))
    with pytest.raises(InputError, match="1 values for 2 objectives"):
        study.ask(SPACE)
    with pytest.raises(InputError, match="0 screened"):
        ScreeningSampler(known, screened=0)
    with pytest.raises(InputError, match="needs a cost function"):
        make_sampler("screening", 0, 10)


def test_a_search_proposes_only_what_keeps_the_limit_and_trains_no_network_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SCREENED", 8)
    job = make_job(sampler="screening", trials=6, constraints={"latency_s": "60us"})
    evaluator = FakeEvaluator()
    setting, folder = search.prepare(job, FakePredictor(), evaluator), StudyFolder(tmp_path)
    folder.create(job)
    _, study = search._open(setting, folder)
    worker.work(setting, study, folder.weights)
    assert len(evaluator.calls) == len(set(evaluator.calls)) == len(study.trials) == 6


def test_encoding_there_and_back() -> None:
    space = {
        "category": CategoricalDistribution(["x", "y", None]),
        "whole": IntDistribution(2, 11, step=3),
        "log": IntDistribution(1, 1000, log=True),
        "float": FloatDistribution(-1, 1),
        "small": FloatDistribution(1e-5, 1e-1, log=True),
        "one": IntDistribution(4, 4),
    }
    encoding, rng = Encoding(space), np.random.default_rng(0)
    rows = encoding.random(200, rng)
    rows = np.concatenate([rows, encoding.mutated(rows, rng), encoding.crossed(rows, rows[::-1], rng)])
    for row in rows:
        params = encoding.params(row)
        assert all(space[name]._contains(space[name].to_internal_repr(v)) for name, v in params.items())
        again = encoding.params(encoding.row(params))
        assert again == pytest.approx(params) if params["category"] else True
    assert {encoding.params(row)["whole"] for row in rows} == {2, 5, 8, 11}
    assert (encoding.mutated(rows, rng) != rows).any(axis=1).mean() > 0.7
    features = encoding.features(rows[:50])
    apart = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    assert apart.max() <= len(space)


@pytest.mark.parametrize("known_objectives", [0, 1, 2])
def test_expected_improvement_is_the_mean_improvement(known_objectives: int) -> None:
    rng = np.random.default_rng(known_objectives)
    front = _non_dominated(rng.random((9, 1 + known_objectives)))
    reference = [1.1] * (1 + known_objectives)
    costs, mean, sd = rng.random((3, known_objectives)), rng.random(3), np.array([0.05, 0.2, 0.6])
    bend = Bend(0.4, 2.0)
    expected = expected_improvement(mean, sd, costs, front, reference, bend)
    before = hypervolume(front, reference)
    for i in range(3):
        drawn = bend.released(mean[i] + sd[i] * rng.normal(size=1500))
        points = np.column_stack([drawn, np.tile(costs[i], (1500, 1))])
        gains = [hypervolume(np.concatenate([front, p[None]]), reference) - before for p in points]
        assert expected[i] == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / 1500**0.5 + 1e-4)


def _non_dominated(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    from hardsight.nas.pareto import non_dominated

    return points[non_dominated(points)]


def test_the_model_learns_an_additive_function_and_knows_what_it_knows() -> None:
    encoding, rng = Encoding(SPACE), np.random.default_rng(0)
    rows = encoding.random(140, rng)
    y = rows @ np.arange(1.0, LAYERS + 1)
    inputs = Inputs(encoding.features(rows), encoding.counts(rows), rows[:, :1], LAYERS)
    seen, values = inputs.first(60), y[:60]
    model = GaussianProcess(likely_kernel(seen, values, rng), seen, values[:, None])
    mean, sd = (target[:, 0] for target in model.predict(inputs))
    assert np.corrcoef(mean[60:], y[60:])[0, 1] > 0.97
    assert sd[:60].mean() < sd[60:].mean()
    assert np.mean(np.abs(mean[60:] - y[60:]) < 3 * sd[60:]) > 0.9
    assert GaussianProcess(Kernel(), seen, values[:, None]).predict(inputs)[1].shape == (140, 1)
