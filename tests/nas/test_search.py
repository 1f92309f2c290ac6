"""The search from a job to its report, with fakes for what others test."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from nas_fakes import FakeEvaluator, FakePredictor, fake_measure, make_job

from hardsight.cli._boundary import main
from hardsight.errors import InputError, JobError, NotSupportedError, StorageError
from hardsight.metrics import Metric
from hardsight.nas.job import Job
from hardsight.nas.report import SearchReport, load_report, trial_rows, write_report
from hardsight.nas.report_page import front_table
from hardsight.nas.search import run_search
from hardsight.nas.study import StudyFolder
from hardsight.prediction import Prediction

pytestmark = pytest.mark.usefixtures("no_pictures")


def search(job: Job, out: Path, **arguments: object) -> SearchReport:
    arguments = {
        "predictor": FakePredictor(), "evaluator": FakeEvaluator(), "measure": fake_measure, **arguments
    }  # fmt: skip
    return run_search(job, out, **arguments)


def outcomes(report: SearchReport) -> list[tuple[str, list[float]]]:
    return [(r.candidate.digest, r.trial.values) for r in report.records]


def test_five_trials_with_real_training_end_in_a_verified_front_and_a_page(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    job = make_job(trials=5, epochs=3, final_epochs=4, constraints={"latency_s": "1ms"})
    report = search(job, tmp_path / "s", evaluator=None, progress=lambda *what: seen.append(what))
    assert len(report.records) == 5
    assert report.rows
    assert report.verified
    for row in report.rows:
        onnx.checker.check_model(onnx.load(tmp_path / "s" / row.file), full_check=True)
        assert row.test_agreement >= 0.95  # of 40 images
        assert row.validation_accuracy > 0.2
        assert row.measured["latency_s"] == (1e-4, 0.01)
        assert row.kept == {"latency_s": True}
    assert ("search", 5, 5) in seen
    assert seen[-1][0] == "verify front"
    trials = pd.read_parquet(tmp_path / "s" / "trials.parquet")
    assert len(trials) == 5
    assert trials["on_front"].sum() >= len(report.rows)
    html = (tmp_path / "s" / "report.html").read_text()
    assert "data:image/png;base64," in html
    assert all(outside not in html for outside in ("http://", "https://", "<script"))
    assert (tmp_path / "s" / "front.png").read_bytes().startswith(b"\x89PNG")
    assert front_table(report).row_count == len(report.rows)


def test_page_is_made_again_without_training(tmp_path: Path) -> None:
    first = search(make_job(), tmp_path)
    page = (tmp_path / "report.html").read_text()
    for name in ("report.html", "front.png", "trials.parquet"):
        (tmp_path / name).unlink()
    again = write_report(tmp_path)
    assert again.rows == first.rows
    assert (tmp_path / "report.html").read_text() == page
    assert trial_rows(again) == trial_rows(first)


def test_same_seed_same_search(tmp_path: Path) -> None:
    one, same, other = (
        search(make_job(seed=seed, trials=12), tmp_path / str(i)) for i, seed in enumerate((1, 1, 2))
    )
    assert outcomes(one) == outcomes(same)
    assert outcomes(one) != outcomes(other)


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "tpe", "gp", "screening", "random"])
def test_every_sampler_finishes(tmp_path: Path, sampler: str) -> None:
    report = search(make_job(sampler=sampler, trials=8, constraints={"latency_s": "60us"}), tmp_path)
    assert len(report.records) == 8


def test_seen_candidates_are_not_trained_again(tmp_path: Path) -> None:
    evaluator = FakeEvaluator()
    tiny = {
        "name": "quant_cnn",
        "resolutions": [8],
        "max_depth": 1,
        "widths": [[8, 8]],
        "expansions": [1],
        "kernels": [3],
    }
    report = search(make_job(trials=20, space=tiny, sampler="random"), tmp_path, evaluator=evaluator)
    assert len(evaluator.calls) == len(set(evaluator.calls)) == report.counts["trained"] <= 8
    assert report.counts["trained"] + report.counts["seen before"] == 20


def test_infeasible_candidates_are_not_trained_and_the_closest_is_named(tmp_path: Path) -> None:
    evaluator = FakeEvaluator()
    report = search(make_job(constraints={"latency_s": "1us"}), tmp_path, evaluator=evaluator)
    assert evaluator.calls == []
    assert report.counts == {"infeasible": 6}
    assert report.rows == ()
    closest = report.closest
    assert closest is not None
    limit, upper = closest.misses["latency_s"]
    uppers = [r.costs["latency_s"].upper for r in report.records]
    assert (limit, upper) == pytest.approx((1e-6, min(u for u in uppers if u is not None)))
    assert "No candidate keeps the constraints" in (tmp_path / "report.html").read_text()


def test_the_upper_bound_decides(tmp_path: Path) -> None:
    """A limit between value and upper end of the smallest network: predicted to fit, not surely."""
    smallest = min(r.costs["latency_s"].value for r in search(make_job(), tmp_path / "a").records)
    report = search(make_job(constraints={"latency_s": smallest * 1.1}), tmp_path / "b")
    assert report.counts == {"infeasible": 6}


def test_diverging_trials_fail_alone_and_are_counted(tmp_path: Path) -> None:
    report = search(make_job(), tmp_path, evaluator=FakeEvaluator(fail_from=3))
    assert report.counts["failed, diverged"] >= 1
    assert sum(report.counts.values()) == 6
    assert report.rows


def test_folder_is_not_searched_twice_and_the_job_must_not_change(tmp_path: Path) -> None:
    search(make_job(), tmp_path)
    with pytest.raises(StorageError, match="--resume"):
        search(make_job(), tmp_path)
    with pytest.raises(JobError, match="epochs: 1 → 2"):
        search(make_job(epochs=2), tmp_path, resume=True)
    assert len(search(make_job(), tmp_path, resume=True).records) == 6
    longer = search(make_job(trials=8, timeout="1h", front_size=9), tmp_path, resume=True)
    assert (len(longer.records), longer.job.front_size) == (8, 9)


def test_changed_data_is_refused_on_resume(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def write() -> None:
        np.savez(tmp_path / "d.npz", x=rng.random((40, 8, 8)), y=np.arange(40) % 2)

    write()
    job = make_job(data={"source": str(tmp_path / "d.npz")}, constraints={"latency_s": "1ns"})
    search(job, tmp_path / "s")
    write()
    with pytest.raises(InputError, match="has changed"):
        search(job, tmp_path / "s", resume=True)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"device": "host/onnxruntime/int8-t1"}, JobError, "fp32-t1"),
        ({"objectives": ["error", "energy_j"]}, NotSupportedError, "energy_j"),
        ({"constraints": {"energy_j": 1.0}}, NotSupportedError, "energy_j"),
        ({"space": {"name": "quant_cnn", "depth": 3}}, JobError, "depth"),
        ({"data": "nothing.npz"}, InputError, "does not exist"),
    ],
)
def test_wrong_jobs_leave_nothing_behind(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        search(make_job(**changes), tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_constraint_without_an_interval_is_refused(tmp_path: Path) -> None:
    class Unsure(FakePredictor):
        def predict(self, graphs, device, level=0.9):  # type: ignore[no-untyped-def]
            p = super().predict(graphs, device, level)
            none = np.full_like(p.value, np.nan)
            return Prediction(p.value, none, none, (Metric.LATENCY,), device, level, "unsure")

    with pytest.raises(NotSupportedError, match="interval"):
        search(make_job(constraints={"latency_s": "1ms"}), tmp_path, predictor=Unsure())
    assert search(make_job(), tmp_path / "unconstrained", predictor=Unsure()).rows


def test_kill_and_resume_loses_no_finished_trial(tmp_path: Path) -> None:
    out = tmp_path / "s"
    program = textwrap.dedent(
        f"""
        import sys; sys.path.append({str(Path(__file__).parent)!r})
        from pathlib import Path
        from nas_fakes import *
        from hardsight.nas.search import run_search
        run_search(make_job(trials=10, sampler="random"), Path({str(out)!r}), predictor=FakePredictor(),
                   evaluator=FakeEvaluator(delay_s=0.5), measure=fake_measure,
                   progress=lambda what, done, total: print(done, flush=True))
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 3:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    before = load_report(out)
    assert not before.verified
    assert 3 <= len(before.records) < 10
    report = search(make_job(trials=10, sampler="random"), out, resume=True)
    assert len(report.records) == 10
    assert outcomes(report)[: len(before.records)] == outcomes(before)
    states = [t.state.name for t in StudyFolder(out).open(report.job).get_trials()]
    assert "RUNNING" not in states
    assert states.count("COMPLETE") == 10
    interrupted = StudyFolder(out).open(report.job).get_trials()[len(before.records)]
    if interrupted.state.name == "FAIL" and interrupted.params:  # what ran when it was killed was tried again
        assert any(r.trial.params == interrupted.params for r in report.records)
    assert json.loads((out / "front.json").read_text())["rows"]


def test_report_of_a_folder_without_a_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no search"):
        load_report(tmp_path)
    search(make_job(), tmp_path / "s")
    journal = tmp_path / "s" / "study.journal"
    journal.write_bytes(b"torn\n" * 1000)
    with pytest.raises(StorageError, match=r"cannot read or write .* bring a copy"):
        load_report(tmp_path / "s")
    journal.write_bytes(b"")
    with pytest.raises(StorageError, match="does not hold the study"):
        load_report(tmp_path / "s")
    journal.unlink()
    with pytest.raises(StorageError, match="has a job but no study"):
        load_report(tmp_path / "s")
    (tmp_path / "s" / "study.db").touch()
    with pytest.raises(StorageError, match="an older Hardsight wrote"):
        search(make_job(), tmp_path / "s", resume=True)
    with pytest.raises(StorageError, match="is a file"):
        search(make_job(), tmp_path / "s" / "job.yaml")


def test_torn_front_file_is_refused(tmp_path: Path) -> None:
    search(make_job(), tmp_path)
    for text in ("{", "[]", '{"rows": [{}], "notes": []}'):
        (tmp_path / "front.json").write_text(text)
        with pytest.raises(StorageError, match=r"front\.json' is torn"):
            load_report(tmp_path)


def test_missing_weights_are_trained_again_and_torn_ones_named(tmp_path: Path) -> None:
    first = search(make_job(), tmp_path)
    weights = tmp_path / "weights" / f"{first.rows[0].digest}.safetensors"
    weights.unlink()
    evaluator = FakeEvaluator()
    again = search(make_job(), tmp_path, resume=True, evaluator=evaluator)
    assert evaluator.calls == [first.rows[0].digest]
    assert any("trained again" in note for note in again.notes)
    weights.write_bytes(b"torn")
    with pytest.raises(StorageError, match="delete the file, then go on with --resume"):
        search(make_job(), tmp_path, resume=True)


def test_searches_that_share_a_storage_do_not_mix(tmp_path: Path) -> None:
    shared = {"storage": f"sqlite:///{tmp_path / 'all.db'}"}
    for parent in "ab":
        report = search(make_job(trials=3, **shared), tmp_path / parent / "s")
        assert [r.number for r in report.records] == [0, 1, 2]


def test_time_of_the_search_is_that_of_its_trials(tmp_path: Path) -> None:
    report = search(make_job(trials=3), tmp_path, evaluator=FakeEvaluator(delay_s=0.05))
    assert report.search_s >= 0.05 * report.counts["trained"]
    assert load_report(tmp_path).search_s == report.search_s


class Recorder:
    """Keeps what a search tells its tracker; with ``full``, the store breaks at the first artifact."""

    def __init__(self, full: bool = False) -> None:
        self.full = full
        self.tags: dict[str, str] = {}
        self.artifacts: list[str] = []

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        assert values

    def tag(self, key: str, value: str) -> None:
        self.tags[key] = value

    def flush(self) -> None:
        """Everything was kept at once."""

    def artifact(self, path: Path) -> None:
        if self.full:
            raise StorageError("disk full")
        assert path.exists()
        self.artifacts.append(path.name)


@pytest.mark.parametrize("constraints", [{}, {"latency_s": "1ns"}])
def test_search_is_tracked_with_its_front_as_a_folder(tmp_path: Path, constraints: dict[str, str]) -> None:
    run = Recorder()
    report = search(make_job(constraints=constraints), tmp_path, track=lambda *_: nullcontext(run))
    assert run.tags == {"data_digest": report.data["sha256"]}
    assert set(run.artifacts) == {
        "job.yaml", "trials.parquet", "front.json", "front.png", "report.html", "front"
    }  # fmt: skip


def test_tracker_that_fails_does_not_hide_the_result(tmp_path: Path) -> None:
    @contextmanager
    def closes_badly() -> Iterator[Recorder]:
        yield Recorder()
        raise StorageError("disk full")

    for name, run in (("artifact", nullcontext(Recorder(full=True))), ("end", closes_badly())):
        report = search(make_job(trials=2), tmp_path / name, track=lambda *_, run=run: run)
        assert report.rows
        assert "the MLflow run is incomplete: disk full" in report.notes[-1]


def test_search_without_a_network_ends_with_code_1_and_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = search(make_job(constraints={"latency_s": "1us"}), tmp_path / "a")
    failed = search(make_job(), tmp_path / "b", evaluator=FakeEvaluator(fail_from=0))
    for report, words in ((nothing, "The closest, trial"), (failed, "No candidate has an accuracy")):
        monkeypatch.setattr("hardsight.jobs.search", lambda *_, found=report, **__: found)
        assert main(["search", "job.yaml"]) == 1
        shown = capsys.readouterr().out
        assert words in shown
        assert "Network" not in shown


def test_table_of_the_front_fits_100_columns(tmp_path: Path) -> None:
    from rich.console import Console

    report = search(make_job(trials=12, constraints={"latency_s": "50us"}), tmp_path)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(front_table(report))
    shown = captured.get()
    assert all(row.digest[:8] in shown for row in report.rows)
    assert "limit)" in shown  # measured 100 µs
    assert "validation" in shown
    assert "…" not in shown
