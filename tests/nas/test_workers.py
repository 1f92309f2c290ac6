"""Many workers on one study: none of its trials is lost or done twice, whoever dies."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest
from nas_fakes import FakeEvaluator, FakePredictor, FullDisk, fake_measure, make_job

from hardsight.candidate import Candidate
from hardsight.cli import main
from hardsight.errors import BackendError, HardsightError, InputError, JobError, StorageError
from hardsight.experiments.search_workers.postgres import Server, running_server
from hardsight.experiments.search_workers.runs import Killer
from hardsight.nas import storage, worker
from hardsight.nas.evaluators import Evaluation
from hardsight.nas.job import Job
from hardsight.nas.join import join_search
from hardsight.nas.report import SearchReport
from hardsight.nas.search import run_search
from hardsight.nas.status import SearchStatus, search_status, stop_search
from hardsight.nas.study import StudyFolder, finished

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg")
    try:
        with running_server() as started:
            yield started
    except BackendError as error:
        pytest.skip(str(error))


def search(job: Job, out: Path, **arguments: object) -> SearchReport:
    arguments = {
        "predictor": FakePredictor(), "evaluator": FakeEvaluator(), "measure": fake_measure, **arguments
    }  # fmt: skip
    return run_search(job, out, **arguments)


def study_of(out: Path) -> optuna.Study:
    folder = StudyFolder(out)
    return folder.load(folder.job())


def begun(tmp_path: Path, **changes: object) -> tuple[Path, optuna.Study]:
    """A search that was stopped before its first trial, to go on with or to disturb."""
    job = make_job(timeout=1e-6, **changes)
    search(job, tmp_path / "s")
    study = study_of(tmp_path / "s")
    study.set_user_attr(worker.DEADLINE, None)
    return tmp_path / "s", study


@pytest.mark.parametrize("kind", [pytest.param("journal", marks=pytest.mark.slow), "postgresql"])
def test_four_workers_two_of_them_killed_lose_and_double_nothing(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("server").url if kind == "postgresql" else None
    job = make_job(trials=16, storage=url, sampler="random")
    killer = Killer(tmp_path, at=(2, 6))
    report = search(job, tmp_path, workers=4, evaluator=FakeEvaluator(delay_s=0.5), progress=killer)
    assert len({t.number for t in killer.killed}) == 2
    assert killer.retries() == [1, 1]
    assert len(report.records) == 16
    assert report.verified
    trials = study_of(tmp_path).get_trials()
    assert [t.state.name for t in trials if t.params].count("COMPLETE") == 16
    assert {t.state.name for t in trials} == {"COMPLETE", "FAIL"}
    lost = {t.number for t in trials if t.state.name == "FAIL" and t.params}
    assert lost == {t.number for t in killer.killed}
    assert len({r.worker for r in report.records}) >= 3
    status = search_status(tmp_path)
    assert (status.trials["finished"], status.trials["lost"], status.trials["running"]) == (16, 2, 0)


def test_a_database_that_comes_back_is_waited_for(tmp_path: Path, server: Server) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if (what, done) == ("search", 2):
            server.stop()
            threading.Timer(1.5, server.start).start()

    report = search(make_job(trials=5, storage=server.url), tmp_path, progress=interrupt)
    assert len(report.records) == 5
    assert len(study_of(tmp_path).get_trials()) == 5


def test_a_database_that_stays_away_ends_the_search_which_resumes(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pulls(FakeEvaluator):
        def evaluate(self, candidate: Candidate, seed: int, epochs: int | None = None) -> Evaluation:
            if len(self.calls) == 2:
                server.stop()
            return super().evaluate(candidate, seed, epochs)

    monkeypatch.setattr(storage, "RETRY_DELAYS_S", (0.01, 0.01))
    job = make_job(trials=5, storage=server.url)
    with pytest.raises(StorageError, match="go on with --resume; finished trials are kept"):
        search(job, tmp_path, evaluator=Pulls())
    server.start()
    before = [r.candidate.digest for r in finished(study_of(tmp_path))]
    assert len(before) == 2
    report = search(job, tmp_path, resume=True)
    assert len(report.records) == 5
    assert [r.candidate.digest for r in report.records][:2] == before


def test_operations_are_tried_again_while_the_storage_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import IntegrityError, OperationalError

    waited: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", waited.append)
    answers: list[object] = [OperationalError("", None, Exception("gone")), 7]

    def operation() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert storage._retried(operation)() == 7
    assert waited == [1]
    answers[:] = [IntegrityError("", None, Exception("twice"))]
    with pytest.raises(IntegrityError):
        storage._retried(operation)()
    waited.clear()
    answers[:] = [OperationalError("", None, Exception("gone"))] * 9
    with pytest.raises(OperationalError):
        storage._retried(operation)()
    assert waited == list(storage.RETRY_DELAYS_S)
    assert sum(waited) == 60


def test_a_worker_joins_by_name_and_storage(tmp_path: Path) -> None:
    out = tmp_path / "s"
    program = textwrap.dedent(
        f"""
        import sys; sys.path.append({str(Path(__file__).parent)!r})
        from pathlib import Path
        from nas_fakes import *
        from hardsight.nas import report_figure, report_page
        from hardsight.nas.search import run_search
        report_figure.figure_png = report_page.figure_png = lambda *_: b"PNG"
        run_search(make_job(trials=14), Path({str(out)!r}), predictor=FakePredictor(), measure=fake_measure,
                   evaluator=FakeEvaluator(delay_s=0.4), progress=lambda what, done, total: print(done, flush=True))
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if int(line) >= 1:
                break
        done = join_search(
            study=StudyFolder(out).study_name,
            storage=str(out / "study.journal"),
            predictor=FakePredictor(),
            evaluator=FakeEvaluator(delay_s=0.2),
        )
        first.stdout.read()
    assert first.returncode == 0
    assert done >= 2
    records = finished(study_of(out))
    assert len(records) == 14
    assert sum(r.worker == worker.worker_name() for r in records) == done
    assert search_status(out).verified


def test_a_worker_that_would_search_something_else_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def write(name: str) -> str:
        np.savez(tmp_path / name, x=rng.random((40, 8, 8)), y=np.arange(40) % 2)
        return str(tmp_path / name)

    out, study = begun(tmp_path, data={"source": write("a.npz")})
    fakes = {"predictor": FakePredictor(), "evaluator": FakeEvaluator()}

    class Slower(FakePredictor):
        def predict(self, graphs, device, level=0.9):  # type: ignore[no-untyped-def]
            p = super().predict(graphs, device, level)
            return type(p)(2 * p.value, 2 * p.lower, 2 * p.upper, p.metrics, device, level, "slower")

    with pytest.raises(InputError, match="which search"):
        join_search()
    with pytest.raises(StorageError, match="does not hold the study 'none'"):
        join_search(study="none", storage=str(out / "study.journal"), **fakes)
    with pytest.raises(InputError, match=r"data set .* has changed"):
        join_search(out, data=write("b.npz"), **fakes)
    with pytest.raises(JobError, match="'host' means another machine"):
        join_search(out, predictor=Slower(), evaluator=FakeEvaluator())
    (tmp_path / "a.npz").rename(tmp_path / "moved.npz")
    with pytest.raises(InputError, match="does not exist"):
        join_search(out, **fakes)
    assert join_search(out, data=str(tmp_path / "moved.npz"), **fakes) == 6
    text = (out / "job.yaml").read_text()
    (out / "job.yaml").write_text(text.replace("epochs: 1\n", "epochs: 2\n", 1))
    with pytest.raises(JobError, match="epochs: 1 → 2"):
        join_search(out, **fakes)
    assert len(finished(study)) == 6


def test_a_silent_worker_of_another_machine_loses_its_trial_and_its_late_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, study = begun(tmp_path, trials=4, sampler="random")
    silent = study.ask()
    silent.set_user_attr("worker", "elsewhere:1")
    FakeEvaluator().space.suggest(silent)
    study._storage.set_trial_system_attr(silent._trial_id, "heartbeat", time.time() - storage.GRACE_S + 30)
    worker.rescue(study)
    assert study.get_trials()[silent.number].state.name == "RUNNING"  # not silent for long enough
    study._storage.set_trial_system_attr(silent._trial_id, "heartbeat", time.time() - storage.GRACE_S - 1)
    assert join_search(out, predictor=FakePredictor(), evaluator=FakeEvaluator()) == 4
    with pytest.raises((ValueError, optuna.exceptions.UpdateFinishedTrialError)):
        study.tell(silent.number, [0.1, 0.1])
    trials = study.get_trials()
    assert trials[silent.number].state.name == "FAIL"
    (again,) = [t for t in trials if t.system_attrs.get("failed_trial") == silent.number]
    assert (again.state.name, again.params) == ("COMPLETE", silent.params)
    assert again.user_attrs["worker"] == worker.worker_name()


def test_a_trial_that_was_given_away_is_dropped_by_its_first_worker(tmp_path: Path) -> None:
    class Sleepy(FakeEvaluator):
        """Another worker takes its second trial away while it trains."""

        def evaluate(self, candidate: Candidate, seed: int, epochs: int | None = None) -> Evaluation:
            if len(self.calls) == 1:
                other = study_of(tmp_path)
                (own,) = other.get_trials(states=(optuna.trial.TrialState.RUNNING,))
                storage.retry(other, other.tell(own.number, state=optuna.trial.TrialState.FAIL))
            return super().evaluate(candidate, seed, epochs)

    report = search(make_job(trials=5), tmp_path, evaluator=Sleepy())
    assert len(report.records) == 5
    digests = [r.candidate.digest for r in report.records if not r.reused]
    assert len(digests) == len(set(digests))
    assert len(study_of(tmp_path).get_trials()) == 6


def test_a_trial_that_kills_every_worker_fails_alone(tmp_path: Path) -> None:
    out, study = begun(tmp_path, trials=3)
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    tried: list[dict[str, object]] = []
    while not finished(study):
        trial = study.ask()
        trial.set_user_attr("worker", f"{worker._machine()}:{dead.pid}")
        FakeEvaluator().space.suggest(trial)
        tried.append(trial.params)
        worker.rescue(study)
    (record,) = finished(study)
    assert record.failure == "its worker died 3 times"
    assert tried.count(record.trial.params) == 3
    report = search(make_job(trials=3), out, resume=True)
    assert report.counts["failed, its worker died 3 times"] == 1
    assert len(report.records) == 3


def test_of_two_that_want_the_last_trial_the_second_gets_none(tmp_path: Path) -> None:
    _, study = begun(tmp_path, trials=2, space={"name": "quant_cnn", "resolutions": [8], "max_depth": 1})
    for _ in range(3):
        study.ask()
    first, last, late = study.get_trials(deepcopy=False)[:3]
    objective = worker._Objective(None, study, None)  # type: ignore[arg-type]
    trial = optuna.Trial(study, late._trial_id)
    with pytest.raises(worker._Superfluous):
        objective._claim(trial)
    objective._claim(optuna.Trial(study, last._trial_id))
    study.tell(first.number, state=optuna.trial.TrialState.FAIL)  # lost: its place is free
    objective._claim(trial)


def test_stop_ends_with_what_there_is_and_resume_goes_on(tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("search", 3):
            stop_search(tmp_path)

    job = make_job(trials=8)
    report = search(job, tmp_path, progress=stop)
    assert len(report.records) == 3
    assert report.verified
    status = search_status(tmp_path)
    assert status.stopped
    assert (status.wanted, status.trials["finished"], status.trials["running"]) == (8, 3, 0)
    assert status.best_error == min(1 - r.accuracy for r in report.records)
    assert status.hypervolume == report.hypervolumes[-1]
    assert [w.finished for w in status.workers] == [3]
    assert (status.working, status.per_hour, status.left_s) == (False, None, None)
    assert (status.verified, status.verified_after) == (True, 3)
    assert len(search(job, tmp_path, resume=True).records) == 8
    assert not search_status(tmp_path).stopped


def test_what_a_kill_left_behind_is_seen_without_changing_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, study = begun(tmp_path, trials=8)
    job = StudyFolder(out).job()
    seen: list[SearchStatus] = []

    def look(what: str, done: int, total: int) -> None:
        if what != "search":
            return
        seen.append(search_status(out))
        if done == 4:
            stop_search(out)

    longer = job.model_copy(update={"timeout": None})
    search(longer, out, resume=True, evaluator=FakeEvaluator(delay_s=0.2), progress=look)
    assert all(s.working for s in seen)
    assert [s.per_hour is None for s in seen] == [True, True, True, False, False]
    assert 0 < seen[3].per_hour <= 3600 / 0.2  # type: ignore[operator]
    assert seen[3].left_s == pytest.approx(5 * 3600 / seen[3].per_hour)  # type: ignore[operator]
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    study.set_user_attr(worker.STOP, False)  # as --resume does
    for name in ("elsewhere:1", f"{worker._machine()}:{dead.pid}"):
        lost = study.ask()
        FakeEvaluator().space.suggest(lost)
        lost.set_user_attr("worker", name)
    study.tell(lost.number - 1, state=optuna.trial.TrialState.FAIL)
    done = study.ask()
    done.set_user_attr("failure", "diverged")
    study.tell(done, state=optuna.trial.TrialState.FAIL)
    status = search_status(out)
    assert study.get_trials()[lost.number].state.name == "RUNNING"
    assert (status.trials["running"], status.trials["lost"], status.working) == (0, 2, False)
    assert (status.verified, status.verified_after) == (False, 4)
    assert (status.per_hour, status.left_s) == (None, None)
    assert main(["search", "status", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Nobody works on it; --resume goes on. The front was verified after 4 trials, not since." in shown
    lost.set_user_attr("worker", worker.worker_name())  # of a process that lives
    assert search_status(out).working
    assert search_status(out).trials["running"] == 1


def test_time_ends_a_search_and_resume_gives_it_again(tmp_path: Path) -> None:
    job = make_job(trials=500, timeout="0.5s", sampler="random")
    first = len(search(job, tmp_path, evaluator=FakeEvaluator(delay_s=0.05)).records)
    assert 1 <= first < 500
    assert first < len(search(job, tmp_path, resume=True).records)


def test_a_line_that_a_full_disk_cut_off_is_forgotten(tmp_path: Path) -> None:
    first = search(make_job(trials=3), tmp_path)
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(b'{"op_code":5,"wor')
    again = search(make_job(trials=5), tmp_path, resume=True)
    assert [r.candidate for r in again.records[:3]] == [r.candidate for r in first.records]
    assert len(again.records) == 5


def test_a_worker_that_fails_ends_the_search_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="disk full"):
        search(make_job(), tmp_path / "a", workers=2, evaluator=FullDisk())
    with pytest.raises(InputError, match="0 workers"):
        search(make_job(), tmp_path / "b", workers=0)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "is no URL"),
        ("grpc://host", "grpc://HOST:PORT"),
        ("postgresql+nodriver://host/x", "is no URL|needs a package"),
        ("oracle+cx_oracle://host/x", "needs a package"),
    ],
)
def test_storages_that_cannot_be_used(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(HardsightError, match=words):
        search(make_job(storage=url), tmp_path)


def test_the_proxy_serves_a_search(tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    program = (
        "from optuna.storages import get_storage, run_grpc_proxy_server\n"
        f"run_grpc_proxy_server(get_storage('sqlite:///{tmp_path / 'all.db'}'), host='127.0.0.1', port={port})"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as proxy:
        try:
            for _ in range(600):
                with socket.socket() as asked:
                    if not asked.connect_ex(("127.0.0.1", port)):
                        break
                time.sleep(0.1)
            report = search(make_job(trials=4, storage=f"grpc://127.0.0.1:{port}"), tmp_path / "s")
        finally:
            proxy.terminate()
    assert len(report.records) == 4
    assert report.verified
    running = [r.trial.system_attrs.get("heartbeat") for r in report.records]
    assert all(beat is not None for beat in running)


def test_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = search(make_job(trials=3), tmp_path / "s")
    given: list[object] = []
    monkeypatch.setattr("hardsight.jobs.search", lambda *a, **k: given.append((a, k)) or report)
    for words in (["job.yaml", "--workers", "3"], ["--workers", "3", "job.yaml"], ["./stop", "--workers=3"]):
        assert main(["search", *words]) == 0
    assert [(str(a[0]), k["workers"]) for a, k in given] == [("job.yaml", 3), ("job.yaml", 3), ("stop", 3)]
    assert main(["search", "job.yaml", "--workers", "0"]) == 2
    capsys.readouterr()
    assert main(["search", "status", str(tmp_path / "s")]) == 0
    shown = capsys.readouterr().out
    for words in ("3 of 3 trials finished", "Best error", "The front is verified", "s ago"):
        assert words in shown
    assert main(["search", "status", str(tmp_path / "s"), "--json"]) == 0
    assert '"wanted": 3' in capsys.readouterr().out
    assert main(["search", "stop", str(tmp_path / "s")]) == 0
    assert "finished already" in capsys.readouterr().out
    assert not search_status(tmp_path / "s").stopped
    begun(tmp_path / "other")
    for words in ("Nobody works on it", "told to stop already"):
        assert main(["search", "stop", str(tmp_path / "other" / "s")]) == 0
        assert words in " ".join(capsys.readouterr().out.split())
    assert main(["search", "stop", str(tmp_path)]) == 6
    assert main(["search", "worker"]) == 2


def test_what_waits_for_its_second_try_is_not_proposed_again() -> None:
    from hardsight.nas.screening import Known, ScreeningSampler

    study = optuna.create_study(
        directions=["minimize"], sampler=ScreeningSampler(lambda _: Known((None,)), 0, screened=64)
    )
    for _ in range(4):
        study.optimize(lambda t: t.suggest_int("a", 0, 9), n_trials=1)
    lost = study.ask()
    lost.suggest_int("a", 0, 9)
    storage.retry(study, study.tell(lost, state=optuna.trial.TrialState.FAIL))
    seen = {t.params["a"] for t in study.get_trials()}
    # the retried one waits: Optuna would give it out first, so the sampler is asked directly
    new = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
    study.add_trial(new)
    running = study.get_trials()[-1]
    space = study.sampler.infer_relative_search_space(study, running)
    assert study.sampler.sample_relative(study, running, space)["a"] not in seen
