"""Accuracies from tables: made-up ones in the published form, and the published where they are."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from nas_fakes import FakePredictor, fake_measure

from hardsight.candidate import Candidate
from hardsight.device import Device
from hardsight.errors import DataError, InputError, JobError, NotSupportedError
from hardsight.measurement import Measurement
from hardsight.metrics import Metric
from hardsight.nas.evaluators.table import TableEvaluator
from hardsight.nas.job import Job, parse_job
from hardsight.nas.report_page import front_cells
from hardsight.nas.search import prepare, run_search

DATA = Path(os.environ.get("HARDSIGHT_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()
PUBLISHED = pytest.mark.skipif(
    not (DATA / "nb201-accuracy" / "nb201_accuracy.csv").exists(), reason="the public tables are not here"
)
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both spaces whole; accuracy is higher with more and larger operations."""
    monkeypatch.setenv("HARDSIGHT_DATA", str(tmp_path))
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))
    codes = np.array(list(itertools.product(range(5), repeat=6)))
    cells = ["|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*(OPERATIONS[c] for c in row)) for row in codes]
    accuracy = 10 + codes.sum(axis=1) * 2.0
    frame = pd.DataFrame({"arch_str": cells, "unique_class": range(len(cells))})
    for i, name in enumerate(("cifar10", "cifar100", "imagenet16_120")):
        frame[f"{name}_test"] = accuracy - i
    (tmp_path / "nb201-accuracy").mkdir()
    frame.to_csv(tmp_path / "nb201-accuracy" / "nb201_accuracy.csv", index_label="index")
    chains = list(itertools.product(range(3), repeat=8))
    chain = np.array(chains).sum(axis=1) + 70.0
    (tmp_path / "nas-bench-macro").mkdir()
    pd.DataFrame(
        {
            "arch": ["".join(map(str, c)) for c in chains],
            "test_acc_1": chain,
            "test_acc_2": chain - 1,
            "test_acc_3": chain - 2,
            "mean_acc": chain - 1,
            "std": 1.0,
            "params": 1,
            "flops": 1,
        }
    ).to_csv(tmp_path / "nas-bench-macro" / "nas_bench_macro_cifar10.csv", index=False)
    return tmp_path


def a_job(**changes: object) -> Job:
    raw: dict[str, object] = {"space": "nas_bench_201", "evaluator": "table", "trials": 5, "front_size": 2}
    return parse_job({**raw, **changes})


def anchor(evaluator: TableEvaluator) -> Candidate:
    return evaluator.space.suggest(optuna.trial.FixedTrial(dict(evaluator.space.anchors()[0])))


@pytest.mark.parametrize(
    ("dataset", "classes", "side", "percent"),
    [("cifar10", 10, 32, 22.0), ("cifar100", 100, 32, 21.0), ("ImageNet16-120", 120, 16, 20.0)],
)
def test_a_cell_has_the_accuracy_of_its_data_set(
    tables: Path, dataset: str, classes: int, side: int, percent: float
) -> None:
    setting = prepare(a_job(evaluator={"name": "table", "dataset": dataset}), FakePredictor())
    assert (setting.data.name, len(setting.data.classes), setting.data.shape) == (
        dataset,
        classes,
        (3, side, side),
    )
    evaluator = setting.evaluator
    assert isinstance(evaluator, TableEvaluator)
    evaluation = evaluator.evaluate(anchor(evaluator), seed=3, epochs=7)  # six times skip_connect: 10 + 6 * 2
    assert evaluation.accuracy == pytest.approx(percent / 100)
    assert evaluator.test_accuracy(evaluation) == pytest.approx(percent / 100)
    with pytest.raises(NotSupportedError, match="no network to run"):
        evaluator.predict(evaluation, "test")


def test_the_report_has_other_trainings_than_the_search(tables: Path) -> None:
    evaluator = prepare(a_job(space="nas_bench_macro"), FakePredictor()).evaluator
    assert isinstance(evaluator, TableEvaluator)
    evaluation = evaluator.evaluate(anchor(evaluator), 0)
    assert evaluation.accuracy == pytest.approx(0.70)
    assert evaluator.test_accuracy(evaluation) == pytest.approx(0.685)  # mean of 69 and 68


def test_a_search_on_a_table_ends_in_a_front_and_says_that_nothing_was_trained(tables: Path) -> None:
    job = a_job(space="nas_bench_macro", sampler="nsga2")
    report = run_search(job, tables / "study", predictor=FakePredictor(), measure=fake_measure)
    assert len(report.rows) == 2
    assert all(row.test_accuracy == pytest.approx(row.validation_accuracy - 0.015) for row in report.rows)
    assert all(row.test_agreement is None for row in report.rows)
    assert any("Nothing was trained" in line for line in report.sentences())
    assert "Accuracy test (table)" in front_cells(report)[0]
    assert report.data["samples"] == {"train": 0, "validation": 0, "test": 0}


def test_a_device_of_a_table_is_looked_up_not_measured(tables: Path) -> None:
    device = Device(name="toy/table/fp32", kind="cpu", provenance="published")
    asked: list[str] = []

    def look_up(path: Path, on: Device) -> list[Measurement]:
        asked.append(on.name)
        return [Measurement("0", on.name, Metric.LATENCY, 1e-4, 0.0, 1, provenance="published")]

    job = a_job(space="nas_bench_macro", device=device.name, constraints={"latency": "1s"})
    report = run_search(job, tables / "study", predictor=FakePredictor(), device=device, measure=look_up)
    assert asked == [device.name] * 2
    assert report.measured_on == device.name
    assert any("looked up in its public table" in line for line in report.sentences())
    assert any("2 of 2 networks keep" in line for line in report.sentences())
    with pytest.raises(InputError, match="for a job that names 'other/table/fp32'"):
        prepare(a_job(device="other/table/fp32"), FakePredictor(), device=device)


def test_the_table_may_lie_in_a_folder_of_the_job(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARDSIGHT_DATA")
    with pytest.raises(DataError, match="hardsight dataset fetch nb201-accuracy"):
        prepare(a_job(), FakePredictor())
    folder = str(tables / "nb201-accuracy")
    prepare(a_job(evaluator={"name": "table", "folder": folder}), FakePredictor())


def test_a_network_that_the_table_lacks_is_named(tables: Path) -> None:
    path = tables / "nb201-accuracy" / "nb201_accuracy.csv"
    frame = pd.read_csv(path)
    frame[~frame["arch_str"].str.fullmatch(r"\W*(skip_connect~\d\W*)+")].to_csv(path, index=False)
    evaluator = prepare(a_job(), FakePredictor()).evaluator
    assert isinstance(evaluator, TableEvaluator)
    with pytest.raises(DataError, match=r"no accuracy of '\|skip_connect~0\|"):
        evaluator.evaluate(anchor(evaluator), 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluator": {"name": "table", "dataset": "mnist"}}, "'cifar100'.*not 'mnist'"),
        ({"evaluator": {"name": "table", "datset": "cifar10"}}, "Did you mean 'dataset'"),
        ({"space": "quant_cnn"}, "nas_bench_201 and nas_bench_macro, not of space 'quant_cnn'"),
        ({"data": {"limit": 200}}, "needs no data"),
        (
            {"space": "nas_bench_macro", "evaluator": {"name": "table", "dataset": "cifar100"}},
            "cifar10 only",
        ),
    ],
)
def test_jobs_that_no_table_answers_are_refused(tables: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(JobError, match=words):
        prepare(a_job(**changes), FakePredictor())


def test_a_changed_table_is_refused_on_resume(tables: Path) -> None:
    job = a_job(space="nas_bench_macro", trials=2)
    run_search(job, tables / "study", predictor=FakePredictor(), measure=fake_measure)
    path = tables / "nas-bench-macro" / "nas_bench_macro_cifar10.csv"
    path.write_text(path.read_text().replace("70.0", "70.5"))
    with pytest.raises(InputError, match="has changed"):
        run_search(job, tables / "study", resume=True, predictor=FakePredictor(), measure=fake_measure)


@PUBLISHED
def test_the_published_best_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDSIGHT_DATA", str(DATA))
    evaluator = prepare(a_job(evaluator={"name": "table", "dataset": "cifar100"}), FakePredictor()).evaluator
    assert isinstance(evaluator, TableEvaluator)
    assert len(evaluator.table.test) == 15_625
    assert max(evaluator.table.test.values()) == pytest.approx(0.7351, abs=1e-4)  # NATS-Bench's Table 6
