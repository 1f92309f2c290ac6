"""The few-shot experiment on made-up tables: what is kept, what is written, what is chosen under a constraint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardsight.errors import InputError, UnknownNameError
from hardsight.experiments.few_shot import __main__ as experiment
from hardsight.experiments.few_shot import ceiling, cells, constrained, convert
from hardsight.experiments.few_shot.constrained import Setting
from hardsight.experiments.few_shot.definitions import TABLES, Case, Table
from hardsight.experiments.few_shot.published import HELP_SEARCH, Found, Published
from hardsight.experiments.few_shot.tables import search_section
from hardsight.predictors.few_shot import METHODS, scoring
from hardsight.predictors.few_shot.scoring import run, score
from hardsight.predictors.few_shot.tables import Tables

LAYERS, CHOICES, N = 5, 3, 150


def write(folder: Path) -> Tables:
    """Costs that add up over layers, on three known devices and two new ones."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, CHOICES, (N, LAYERS))
    costs = {}
    for device in ("a", "b", "c", "new", "newer"):
        of_choice = np.array([1, 2, 4]) * rng.lognormal(0, 0.2, CHOICES)
        costs[device] = (of_choice[codes].sum(axis=1) + 1) * rng.lognormal(0, 0.01, N)
    archs = pd.DataFrame(codes, columns=[f"op_{i}" for i in range(LAYERS)])
    convert.write(folder, "toy", archs, costs, {"T1": ["new", "newer"], "T2": ["newer"]})
    return Tables(folder)


def table_of(folder: Path, **more: object) -> Table:
    tables = write(folder)
    cases = [Case(tables, tables.task(name)) for name in ("T1", "T2")]
    published = (Published("Somebody", "20", {"T1": 0.123}),)
    return replace(Table("toy", lambda _: cases, (20, 5), published), **more)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "_TREES", 5)


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "_track", lambda *_: None)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """The only table there is."""
    table = table_of(tmp_path / "data", methods=("copy", "sources"))
    monkeypatch.setitem(TABLES, "toy", table)
    monkeypatch.setattr(experiment, "NAMES", ("toy",))
    return table


def make(tmp_path: Path, *methods: str, draws: int = 2) -> str:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table: toy -->\n<!-- end -->\n")
    experiment.main(["toy"], methods, draws, tmp_path / "runs", readme)
    return readme.read_text()


def test_the_readme_has_methods_published_rows_and_the_ceiling(tmp_path: Path, toy: Table) -> None:
    text = make(tmp_path)
    after_20, after_5 = text.split("Rank correlation after ")[1:]
    assert "| copy | 0." in after_20
    assert "±" in after_20
    assert "| Somebody (20) | 0.123 | – | – |" in after_20
    assert "Somebody" not in after_5.split("Share of the ceiling")[0]
    assert "| T2 | `newer` |" in after_5
    assert "| ours |" not in text  # nobody asked for it
    top = next(line for line in after_20.splitlines() if line.startswith("| ceiling"))
    assert float(top.split("|")[2]) > 0.95


@pytest.mark.usefixtures("untracked")
def test_only_what_is_missing_is_made(tmp_path: Path, toy: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(tmp_path)
    path = cells.path_of(tmp_path / "runs", toy, "copy")
    lines = path.read_text().splitlines()
    assert len(lines) == (2 + 1) * 2  # devices of both tasks, at 20 and 5 measurements
    path.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])  # a kill tore the last
    made = []
    monkeypatch.setattr(cells, "run", lambda *args, **more: made.append(args[1:]) or run(*args, **more))
    assert make(tmp_path) == first
    assert [(task.name, task.targets, method, samples) for task, method, samples in made] == [
        ("T2", ("newer",), "copy", 5)
    ]
    made.clear()
    make(tmp_path, "counts")
    assert {method for _, method, _ in made} == {"counts"}
    make(tmp_path, "copy", draws=3)
    assert {method for _, method, _ in made} == {"counts", "copy"}


@pytest.mark.usefixtures("untracked")
def test_scores_of_fewer_draws_are_not_mixed_in(tmp_path: Path, toy: Table) -> None:
    make(tmp_path, "copy", "sources", draws=1)
    text = make(tmp_path, "copy", draws=2)
    assert "| copy |" in text
    assert "| sources |" not in text


def test_columns_can_be_devices(tmp_path: Path) -> None:
    from hardsight.experiments.few_shot.tables import few_shot_section

    table = table_of(tmp_path / "data", by_device=True, trimmed=True, samples=(5,), published=())
    cases = table.load(tmp_path)[:1]
    cells.make(table, cases, "copy", 2, tmp_path, lambda *_: None)
    scores = cells.read(table, cases, ["copy", "sources"], 2, tmp_path)
    scores |= cells.ceilings(table, cases, tmp_path, lambda *_: None)
    text = few_shot_section(table, cases, scores)
    assert "|  | new | newer | mean |" in text
    mean = scores["copy"]["T1", 5]["new"].spearman_trimmed.mean()
    assert f"| copy | {mean:.3f} ±" in text


def test_asked_architectures_are_not_measured_and_others_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = write(tmp_path)
    task = replace(tables.task("T1"), known=range(60), query=range(60, 100))
    space = tables.space(task)
    assert not np.isnan(space.sources[:60]).any()
    assert np.isnan(space.sources[60:]).all()
    assert tables.space(replace(task, targets=("new",))) is space
    truth = tables.costs(task, "new")
    assert not np.isnan(truth).any()
    scored = []
    monkeypatch.setattr(scoring, "score", lambda p, t, where: scored.append(where) or score(p, t, where))
    found = run(tables, task, "counts", 50, draws=1)["new"]
    assert found.spearman[0] > 0.9
    assert scored[0].tolist() == list(range(60, 100))
    run(tables, task, "counts", 110, draws=1)  # all but the forty
    with pytest.raises(InputError, match="too few"):
        run(tables, task, "counts", 111, draws=1)


def test_the_middle_is_what_help_leaves() -> None:
    truth = np.arange(1.0, 101)
    predicted = truth.copy()
    predicted[:10] = predicted[:10][::-1]
    whole, middle, error = score(predicted, truth, np.arange(100))
    assert middle == pytest.approx(1)
    assert whole < 1
    assert error > 0


def test_the_most_accurate_that_keeps_the_constraint() -> None:
    latency, accuracy = np.array([3.0, 1, 2, 1]), np.array([90.0, 60, 70, 80])
    assert constrained.choose(latency, accuracy, 2) == 3
    assert constrained.choose(latency, accuracy, 2, looked_at=2) == 2
    assert constrained.choose(latency, accuracy, 0.5) is None


def test_search_keeps_constraints_more_often_by_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = write(tmp_path / "data")
    task = tables.task("T1")
    truth = tables.costs(task, "new")
    limit = float(np.median(truth))
    monkeypatch.setitem(HELP_SEARCH, "new", (Found(limit, limit + 1, 50.0),))
    for device in [device for device in HELP_SEARCH if device != "new"]:
        monkeypatch.delitem(HELP_SEARCH, device)
    rng = np.random.default_rng(1)
    accuracy = 60 + truth + rng.normal(0, 0.1, N)  # slower is better, so the constraint decides
    of = [Setting("candidates", np.arange(N), accuracy, task, {"top three": 3, "best": None})]
    rows = constrained.run(tables, of, 4, tmp_path, lambda *_: None)
    assert len(rows) == 4 * 2 * 2
    shares = constrained.summary(rows)
    assert shares["candidates/best/bound/kept"] > shares["candidates/best/mean/kept"]
    assert shares["candidates/best/bound/kept"] == 1
    best, latency = constrained.optima(tables, of[0])["new", limit]
    assert latency <= limit
    text = search_section(tables, of, rows)
    assert f"| `new` | {limit:g} | 50.0 at {limit + 1:.1f}, broken |" in text
    assert f"| {best:.1f} at {latency:.1f} |" in text
    kept = (tmp_path / "search" / "ours.jsonl").read_text()
    assert constrained.run(tables, of, 4, tmp_path, lambda *_: None) == rows
    assert (tmp_path / "search" / "ours.jsonl").read_text() == kept
    assert len(constrained.run(tables, of, 1, tmp_path, lambda *_: None)) == 4


def test_throughputs_become_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {f"block{i}_{part}": [1, 3] for i in range(7) for part in ("e", "k", "l", "se")}
    rates = {
        f"throughput_{d}_mean": [100.0, np.nan]
        for d in ("zcu102", "vck190", "tpuv2", "tpuv3", "a100", "3090")
    }
    folder = tmp_path / "accel-nasbench"
    folder.mkdir()
    others = ("id", "val_top1", "val_top5", "train_time", "macs", "params", "default_split")
    more = (
        "latency_zcu102_mean",
        "latency_vck190_mean",
        *(f"throughput_{d}_std" for d in ("a100", "3090", "tpuv2", "tpuv3")),
    )
    frame = pd.DataFrame(columns | rates | {name: [0, 0] for name in (*others, *more)})
    frame.to_csv(folder / "accel_nasbench.csv", index=False)
    monkeypatch.setenv("HARDSIGHT_DATA", str(tmp_path))
    convert.write_accel_nasbench(tmp_path / "out")
    tables = Tables(tmp_path / "out")
    task = tables.task("accel/tpuv2")
    assert set(task.sources) == {"zcu102", "vck190", "tpuv3", "a100", "3090"}
    cost = tables.costs(task, "tpuv2")
    assert cost[0] == pytest.approx(0.01)
    assert np.isnan(cost[1])
    assert set(tables.space(task).kinds) == {"e", "k", "l", "se"}


def test_a_machine_of_hat_is_held_out_with_all_its_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hardsight.datasets.sources.hat import Hat

    row = {
        "encoder_embed_dim": 512, "encoder_layer_num": 6, "encoder_ffn_embed_dim_avg": 1024.0,
        "encoder_self_attention_heads_avg": 4.0, "decoder_embed_dim": 512, "decoder_ffn_embed_dim_avg": 1024.0,
        "decoder_self_attention_heads_avg": 4.0, "decoder_ende_attention_heads_avg": 4.0,
        "decoder_arbitrary_ende_attn_avg": 1.0, "latency_mean_encoder": 5.0, "latency_mean_decoder": 50.0,
    }  # fmt: skip
    rows = [
        row | {"task": task, "machine": machine, "decoder_layer_num": layers}
        for task, machine in (("x", "cpu"), ("x", "gpu"), ("y", "gpu"))
        for layers in (2, 3)
    ]
    monkeypatch.setattr(Hat, "find", lambda self: tmp_path)
    monkeypatch.setattr(Hat, "table", lambda self, folder: pd.DataFrame(rows))
    convert.write_hat(tmp_path / "out")
    splits = json.loads((tmp_path / "out" / "splits.json").read_text())["leave one out"]["hat"]
    assert splits["hat/gpu"] == {"source": ["cpu_x"], "target": ["gpu_x", "gpu_y"]}
    tables = Tables(tmp_path / "out")
    assert np.nansum(tables.costs(tables.task("hat/gpu"), "gpu_y")) == 110
    archs = pd.read_csv(tmp_path / "out" / "hat_archs.csv")
    assert list(archs["decoder_ffn_2"]) == [-1, 512] * 3  # 2048, 512, 512 is likelier than thrice 1024


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="nasflat"):
        experiment.main(["nasflap"], folder=tmp_path)
    with pytest.raises(UnknownNameError, match="ours"):
        experiment.main([], ["hours"], folder=tmp_path)
    with pytest.raises(InputError, match="0 draws"):
        experiment.main([], draws=0, folder=tmp_path)
    assert set(METHODS) >= {"ours", "copy"}


def test_every_table_has_its_place_in_the_readme() -> None:
    text = experiment.README.read_text()
    for name in experiment.NAMES:
        assert f"<!-- table: {name} -->" in text
