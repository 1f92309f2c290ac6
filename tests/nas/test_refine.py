"""A search that learns from its own measurements."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from nas_fakes import DEVICE, FakeEvaluator, FakePredictor, make_job

from hardsight.device import Device
from hardsight.errors import InputError, JobError, NotSupportedError
from hardsight.ingest import read_onnx
from hardsight.measurement import Measurement
from hardsight.metrics import Metric
from hardsight.nas.job import Job
from hardsight.nas.join import join_search
from hardsight.nas.refine import load_refined
from hardsight.nas.report import SearchReport, load_report
from hardsight.nas.search import run_search
from hardsight.nas.status import search_status
from hardsight.nas.study import StudyFolder
from hardsight.predictors import Predictor, load_shipped_predictor
from hardsight.predictors.adapted import AdaptedPredictor, Fitted

pytestmark = pytest.mark.usefixtures("no_pictures")

SLOWER = 2.0


class Bench:
    """Twice as slow as was predicted, give or take a few per cent that differ from network to network."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.calls: list[str] = []

    def true_latency(self, path: Path) -> float:
        graph = read_onnx(path)
        off = np.random.default_rng(int(graph.digest[:8], 16)).normal(0, 0.02)
        return float(self.predictor.point([graph], DEVICE, Metric.LATENCY)[0] * SLOWER * np.exp(off))

    def __call__(self, path: Path, device: Device) -> list[Measurement]:
        self.calls.append(path.stem)
        return [Measurement("0", device.name, Metric.LATENCY, self.true_latency(path), 0.01, 20)]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """Of this machine, as an adaptation that changed nothing."""
    shipped = load_shipped_predictor()
    source = next(d for d, m in shipped.targets if m is Metric.LATENCY and d.endswith("/onnxruntime/fp32-t1"))
    made = AdaptedPredictor(shipped.only(source), DEVICE, source)
    made.fitted[Metric.LATENCY] = Fitted(np.zeros(7), np.eye(7) * 1e-6, 1.0, 0.05, 10)
    return made


def search(job: Job, out: Path, predictor: Predictor, **arguments: object) -> SearchReport:
    arguments = {"evaluator": FakeEvaluator(), "measure": Bench(predictor), "refine": True, **arguments}
    return run_search(job, out, predictor=predictor, **arguments)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor) -> Path:
    """A search that was not refined; to be copied."""
    out = tmp_path_factory.mktemp("searched")
    search(make_job(**JOB), out, predictor, refine=False)
    return out


def error(report: SearchReport) -> float:
    return float(
        np.median(
            [row.predicted["latency_s"].value / row.measured["latency_s"][0] - 1 for row in report.rows]
        )
    )


JOB = {"trials": 12, "sampler": "random", "seed": 1}


def test_measurements_correct_the_predictions(tmp_path: Path, searched: Path, predictor: Predictor) -> None:
    out, bench, evaluator = tmp_path / "s", Bench(predictor), FakeEvaluator()
    shutil.copytree(searched, out)
    first = load_report(out)
    assert error(first) == pytest.approx(1 / SLOWER - 1, abs=0.05)
    second = search(make_job(**JOB), out, predictor, resume=True, measure=bench, evaluator=evaluator)
    assert len(second.records) == 12 + 3  # a quarter more
    assert abs(error(second)) < 0.05
    trained = {r.candidate.digest for r in first.records}
    assert trained.isdisjoint(evaluator.calls)
    # all trials are judged by the new predictor, and none is lost
    old, new = ({r.candidate.digest: r for r in report.records} for report in (first, second))
    for digest, record in old.items():
        assert new[digest].accuracy == record.accuracy
        assert new[digest].costs["latency_s"].value / record.costs["latency_s"].value == pytest.approx(
            SLOWER, rel=0.1
        )
        assert new[digest].trial.values[1] == new[digest].costs["latency_s"].value
        assert new[digest].trial.datetime_start == record.trial.datetime_start
    (words,) = [note for note in second.notes if note.startswith("Refined with")]
    off = re.search(r"until then latency was ([0-9.]+)% off", words)
    assert off is not None and float(off[1]) == pytest.approx(100 * (1 - 1 / SLOWER), abs=5)
    assert search_status(out).wanted == 15
    # once in each round, and not again in the second what the first measured; those behind the front have no name
    of_rounds = [name for name in bench.calls if name != "network"]
    assert len(of_rounds) == len(set(of_rounds))
    # the predictor is used from now on
    again = search(make_job(**JOB), out, predictor, resume=True, refine=False)
    assert [r.trial.values for r in again.records] == [r.trial.values for r in second.records]
    assert [note for note in again.notes if note.startswith("Refined")] == [words]


def test_constraints_are_judged_by_the_new_predictions_and_by_measurements(
    tmp_path: Path, searched: Path, predictor: Predictor
) -> None:
    free = load_report(searched)
    uppers = sorted(r.costs["latency_s"].upper for r in free.records)
    limit = uppers[-2]  # of a device that is twice as slow, half of these break it
    report = search(make_job(**JOB, constraints={"latency_s": limit}), tmp_path / "s", predictor)
    for record in report.records:
        assert record.violations["latency_s"] >= record.costs["latency_s"].upper / limit - 1 - 1e-12
    assert sum(not r.feasible for r in report.records) > sum(u > limit for u in uppers)
    assert all(row.kept["latency_s"] for row in report.rows)
    refined = load_refined(StudyFolder(tmp_path / "s"))
    assert refined is not None
    slow = {text for text, costs in refined.measured.items() if costs["latency_s"] > limit}
    assert slow
    assert slow.isdisjoint(r.candidate.to_json() for r in report.records if r.feasible)


def test_untrained_candidates_that_keep_the_limit_after_all_are_tried(
    tmp_path: Path, searched: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "SLOWER", 0.5)  # faster than predicted
    free = load_report(searched)
    limit = sorted(r.costs["latency_s"].upper for r in free.records)[6]
    evaluator = FakeEvaluator()
    job = make_job(**JOB, constraints={"latency_s": limit}, refine_trials=4)
    report = search(job, tmp_path / "s", predictor, evaluator=evaluator)
    before = {r.candidate.digest for r in free.records if r.costs["latency_s"].upper > limit}
    assert before & set(evaluator.calls)
    assert all(r.accuracy is not None for r in report.records if r.feasible)


def test_a_killed_round_goes_on(tmp_path: Path, searched: Path, predictor: Predictor) -> None:
    class Killed(FakeEvaluator):
        def evaluate(self, candidate, seed, epochs=None):  # type: ignore[no-untyped-def]
            if len(self.calls) == 1:
                raise KeyboardInterrupt
            return super().evaluate(candidate, seed, epochs)

    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    with pytest.raises(KeyboardInterrupt):
        search(make_job(**JOB), tmp_path, predictor, resume=True, evaluator=Killed())
    name = StudyFolder(tmp_path).study_name
    assert search_status(tmp_path).trials["finished"] < 15
    assert len(search(make_job(**JOB), tmp_path, predictor, resume=True).records) == 15
    assert StudyFolder(tmp_path).study_name == name  # no round on top of it
    assert len(search(make_job(**JOB), tmp_path, predictor, resume=True).records) > 15


def test_killed_before_the_round_begins(
    tmp_path: Path, searched: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    first = load_report(searched)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("hardsight.nas.refine.write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        search(make_job(**JOB), tmp_path, predictor, resume=True)
    assert load_refined(StudyFolder(tmp_path)) is None
    again = search(make_job(**JOB), tmp_path, predictor, resume=True, refine=False)
    assert [r.trial.values for r in again.records] == [r.trial.values for r in first.records]


def test_workers_use_the_refined_predictor(tmp_path: Path, predictor: Predictor) -> None:
    search(make_job(**JOB), tmp_path, predictor)
    assert join_search(tmp_path, predictor=predictor, evaluator=FakeEvaluator()) == 0
    lost = tmp_path / "predictor" / StudyFolder(tmp_path).study_name
    shutil.rmtree(lost)
    with pytest.raises(JobError, match="this machine predicts latency_s"):
        join_search(tmp_path, predictor=predictor, evaluator=FakeEvaluator())


def test_too_few_networks_are_said_and_the_report_is_kept(tmp_path: Path, predictor: Predictor) -> None:
    report = search(make_job(trials=3), tmp_path, predictor)
    assert report.rows
    assert any("refining needs 5" in note for note in report.notes)
    assert len(report.records) == 3


def test_what_cannot_be_refined_is_refused_before_anything_is_searched(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="FakePredictor"):
        run_search(
            make_job(), tmp_path / "s", refine=True, predictor=FakePredictor(), evaluator=FakeEvaluator()
        )
    assert not (tmp_path / "s").exists()


def test_another_machine_is_refused(tmp_path: Path) -> None:
    shipped = load_shipped_predictor()
    other = next(d for d, m in shipped.targets if d.endswith("/onnxruntime/fp32-t1"))
    with pytest.raises(NotSupportedError, match="--refine needs measurements of"):
        search(make_job(device=other), tmp_path / "s", shipped)
    assert not (tmp_path / "s").exists()
