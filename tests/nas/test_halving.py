"""Training that ends early, and what a search makes of it."""

from pathlib import Path

import optuna
import pytest
from nas_fakes import FakeEvaluator, FakePredictor, fake_measure, make_job
from optuna.pruners import HyperbandPruner, MedianPruner, SuccessiveHalvingPruner

from hardsight.candidate import Candidate
from hardsight.errors import JobError
from hardsight.nas.data import DataSpec, LabelledData, load_data
from hardsight.nas.evaluators import Evaluation, TrialFailure, get_evaluator
from hardsight.nas.evaluators.halving import HalvingEvaluator, Options, learning_curves
from hardsight.nas.report import SearchReport, load_report
from hardsight.nas.search import prepare, run_search
from hardsight.nas.spaces import Task
from hardsight.nas.spaces.quant_cnn import QuantCnnSpace

SPACE = QuantCnnSpace(Task((1, 8, 8), 10))
GOOD = {"curve": [[1, 0.99], [2, 0.99], [4, 0.99]]}


@pytest.fixture(scope="module")
def data() -> LabelledData:
    return load_data(DataSpec(limit=200), seed=0)


@pytest.fixture(autouse=True)
def _pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardsight.nas.report_figure.figure_png", lambda *_: b"\x89PNG")
    monkeypatch.setattr("hardsight.nas.report_page.figure_png", lambda *_: b"\x89PNG")


def smallest() -> Candidate:
    return SPACE.suggest(optuna.trial.FixedTrial(SPACE.anchors()[-1]))


def search(out: Path, judge: FakeEvaluator | None, **changes: object) -> SearchReport:
    job = make_job(**changes)
    return run_search(job, out, (out / "job.yaml").exists(), predictor=FakePredictor(), evaluator=judge,
                      measure=fake_measure)  # fmt: skip


@pytest.mark.parametrize(
    ("pruner", "curves", "value", "stops"),
    [
        (SuccessiveHalvingPruner(1, 2), [], 0.1, False),  # nobody to be held against
        (SuccessiveHalvingPruner(1, 2), [[(1, 0.5), (2, 0.7)]], 0.4, True),
        (SuccessiveHalvingPruner(1, 2), [[(1, 0.5), (2, 0.7)]], 0.6, False),
        # of four the best two go on: 0.6 is second, 0.55 third
        (SuccessiveHalvingPruner(1, 2), [[(1, 0.5)], [(1, 0.7), (2, 0.8)], [(1, 0.2)]], 0.6, False),
        (SuccessiveHalvingPruner(1, 2), [[(1, 0.57)], [(1, 0.7), (2, 0.8)], [(1, 0.2)]], 0.55, True),
        (MedianPruner(n_startup_trials=2), [[(1, 0.5), (2, 0.7)], [(1, 0.6), (2, 0.8)]], 0.54, True),
        (MedianPruner(n_startup_trials=2), [[(1, 0.5), (2, 0.7)], [(1, 0.6), (2, 0.8)]], 0.56, False),
    ],
)
def test_stored_curves_decide(
    pruner: optuna.pruners.BasePruner, curves: list[list[tuple[int, float]]], value: float, stops: bool
) -> None:
    trial = learning_curves(curves, pruner, epochs=2).ask()
    trial.report(value, 1)
    assert bool(trial.should_prune()) is stops


def test_hyperband_spares_some_at_the_first_rung() -> None:
    curves = [[(1, 0.9), (2, 0.9), (4, 0.9)]]
    stops = set()
    for n in range(1, 12):
        trial = learning_curves(curves * n, HyperbandPruner(1, 4, 2), epochs=4).ask()
        trial.report(0.1, 1)
        stops.add(trial.should_prune())
    assert stops == {True, False}


def test_a_candidate_that_falls_behind_is_given_up_and_keeps_what_it_reached(data: LabelledData) -> None:
    evaluator = HalvingEvaluator(SPACE, data, epochs=4, options=Options(min_epochs=1))
    assert HalvingEvaluator(SPACE, data, epochs=12).rungs == [6, 12]
    assert evaluator.rungs == [1, 2, 4]
    rivals = [GOOD, GOOD, {"other": 1}]
    first, again = (evaluator.evaluate_among(smallest(), 0, rivals) for _ in range(2))
    assert (first.epochs, first.pruned) == (1, True)
    assert first.details == again.details == {"curve": [(1, first.accuracy)]}
    assert all((first.weights[k] == again.weights[k]).all() for k in first.weights)
    assert evaluator.to_onnx(first).graph.node  # a finished network, its scales known
    alone = evaluator.evaluate_among(smallest(), 0, [])
    assert (alone.epochs, alone.pruned) == (4, False)
    assert alone.details["curve"][0] == first.details["curve"][0]
    assert [epochs for epochs, _ in alone.details["curve"]] == [1, 2, 4]


def test_divergence_fails_the_trial_alone(data: LabelledData) -> None:
    evaluator = HalvingEvaluator(SPACE, data, epochs=2, options=Options(learning_rate=1e30))
    with pytest.raises(TrialFailure, match="diverged"):
        evaluator.evaluate_among(smallest(), 0, [])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_epochs": 4}, "after 4 of 4 epochs nothing is left"),
        ({"reduction": 1}, "evaluator.reduction"),
        ({"pruner": "nop"}, "evaluator.pruner"),
        ({"prunner": "median"}, "Did you mean 'pruner'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], words: str) -> None:
    job = make_job(epochs=4, evaluator={"name": "halving", **options})
    with pytest.raises(JobError, match=words):
        prepare(job, FakePredictor())


def test_every_pruner_by_name(data: LabelledData) -> None:
    kind = get_evaluator("halving")
    for name, pruner in {
        "halving": SuccessiveHalvingPruner, "hyperband": HyperbandPruner, "median": MedianPruner
    }.items():  # fmt: skip
        job = make_job(epochs=4, evaluator={"name": "halving", "pruner": name})
        assert isinstance(kind.for_job(SPACE, data, job)._pruner(), pruner)


def test_pruned_evaluation_survives_its_file(tmp_path: Path) -> None:
    given = Evaluation(smallest(), 0.5, 0, 1, pruned=True, details={"curve": [[1, 0.5]]})
    given.save(tmp_path / "w.safetensors")
    assert Evaluation.load(tmp_path / "w.safetensors") == given


class Pruning(FakeEvaluator):
    """Gives up every other candidate and remembers among which; ``final`` counts trainings to the end."""

    def __init__(self, breaks: bool = False) -> None:
        super().__init__()
        self.breaks = breaks
        self.among: list[list[int]] = []
        self.final: list[str] = []

    def evaluate_among(self, candidate, seed, rivals):  # type: ignore[no-untyped-def]
        self.among.append([r["macs"] for r in rivals])
        found = super().evaluate(candidate, seed)
        macs = int(sum(candidate.digest.encode()))
        return Evaluation(
            candidate, found.accuracy, seed, 1, 0.0, found.weights, macs % 2 == 0, {"macs": macs}
        )

    def evaluate(self, candidate, seed, epochs=None):  # type: ignore[no-untyped-def]
        self.final.append(candidate.digest)
        if self.breaks:
            raise TrialFailure("diverged")
        return super().evaluate(candidate, seed, epochs)


def test_rivals_are_earlier_ones_that_cost_no_more_also_after_resuming(tmp_path: Path) -> None:
    evaluators = [Pruning(), Pruning()]
    for evaluator, trials in zip(evaluators, (5, 9), strict=True):
        search(tmp_path, evaluator, trials=trials, epochs=4, sampler="random")
    report = load_report(tmp_path)
    trained = [r for r in report.records if not r.reused]
    among = [found for evaluator in evaluators for found in evaluator.among]
    assert len(among) == len(trained) > 5
    for i, record in enumerate(trained):
        cheaper = [r for r in trained[:i] if r.costs["latency_s"].value <= record.costs["latency_s"].value]
        assert among[i] == [r.details["macs"] for r in cheaper]
    assert any(len(found) < i for i, found in enumerate(among))
    pruned = sum(r.pruned for r in trained)
    assert report.counts["given up early"] == pruned > 0
    assert report.epochs_saved == (3 * pruned, 4 * len(trained))
    assert any(f"saved {3 * pruned} of" in line for line in report.sentences())


@pytest.mark.parametrize("breaks", [False, True])
def test_nothing_is_delivered_that_was_given_up(tmp_path: Path, breaks: bool) -> None:
    evaluator = Pruning(breaks)
    report = search(tmp_path, evaluator, trials=8, epochs=4, final_epochs=0)
    delivered = {row.digest for row in report.rows}
    on_front = set(evaluator.final)
    given_up = {r.candidate.digest for r in report.records if r.pruned}
    assert on_front
    assert on_front <= given_up  # what was trained to the end is not trained again
    assert bool(delivered & given_up) is not breaks
    assert any("left out" in note for note in report.notes) is breaks


def test_a_search_with_halving_delivers_trained_networks(tmp_path: Path) -> None:
    job = {"trials": 6, "epochs": 4, "final_epochs": 0, "evaluator": {"name": "halving", "min_epochs": 1}}
    job["objectives"] = ["error"]
    report = search(tmp_path / "a", None, **job)
    assert report.counts["given up early"] > 0
    assert report.rows
    assert [r.trial.values for r in report.records] == [
        r.trial.values for r in search(tmp_path / "b", None, **job).records
    ]
