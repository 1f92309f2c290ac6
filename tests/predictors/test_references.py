"""Which networks are measured on a new device, in what order, and when that is enough."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from worlds import DEVICE, world

from hardsight.datasets import profilers
from hardsight.datasets.store import load_shipped
from hardsight.device import get_device
from hardsight.graph import OperatorGraph
from hardsight.ingest import read_onnx
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors import load_shipped_predictor, references
from hardsight.predictors.adapt import adapt_here
from hardsight.predictors.conformal import Conformal, family_folds
from hardsight.predictors.evaluation import out_of_family, scores_of
from hardsight.predictors.linear import RidgePredictor
from hardsight.predictors.references import FIRST, choose_references, reference_networks

HERE = "host/onnxruntime/fp32-t1"
NEAREST = "epyc-zen5/onnxruntime/fp32-t1"


@pytest.fixture(scope="module")
def source() -> Conformal:
    table = world(80)
    frame = out_of_family(RidgePredictor, table, family_folds(table, 4))
    return Conformal(RidgePredictor().fit(table), scores_of(frame))


def test_references_are_distinct_cheap_and_repeatable(source: Conformal) -> None:
    table = world(80)
    chosen = choose_references(source, DEVICE, table, 10)
    assert chosen == choose_references(source, DEVICE, table, 10)
    assert len(set(chosen)) == 10
    rows = table.select(device=DEVICE, metric=Metric.LATENCY, digests=chosen).rows
    assert (rows["value"] < 0.02).all()


def test_choosing_references_parses_few_graphs(source: Conformal) -> None:
    table = world(80)

    class Parsed(UserDict[str, OperatorGraph]):
        asked: ClassVar[set[str]] = set()

        def __getitem__(self, digest: str) -> OperatorGraph:
            self.asked.add(digest)
            return super().__getitem__(digest)

    choose_references(source, DEVICE, MeasurementTable(table.rows, Parsed(table.graphs)), 4)
    assert len(Parsed.asked) <= 42


def test_the_first_ones_are_in_order_of_cost(source: Conformal) -> None:
    table = world(80)
    chosen = choose_references(source, DEVICE, table, 20)
    cost = source.point([table.graphs[d] for d in chosen], DEVICE, Metric.LATENCY)
    assert (np.diff(cost[:FIRST]) >= 0).all()
    assert cost[FIRST - 1] > np.median(cost)  # who stops after them has not seen the cheap ones only


@pytest.mark.parametrize("k", [1, 7, 50])
def test_any_number_from_1_to_50(k: int) -> None:
    assert len(reference_networks(get_device(HERE), k)) == k


class Board(profilers.Profiler):
    """Four times the predicted latency of a known device, give or take."""

    def __init__(self, noise: float) -> None:
        self.noise, self.rng = noise, np.random.default_rng(0)

    def check(self) -> None: ...

    def measure(self, model: object, device: object, *_: object, **__: object) -> list[Measurement]:  # type: ignore[override]
        graph = read_onnx(model)  # type: ignore[arg-type]
        value = 4 * float(load_shipped_predictor().point([graph], NEAREST, Metric.LATENCY)[0])
        value *= float(np.exp(self.noise * self.rng.standard_normal()))
        return [Measurement(graph.digest, HERE, Metric.LATENCY, value, 0.01, 20)]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path))
    return monkeypatch


def test_measuring_stops_when_more_would_not_help(home: pytest.MonkeyPatch) -> None:
    home.setattr(profilers, "get_profiler", lambda device: Board(noise=0.05))
    seen: list[tuple[int, int]] = []
    report = adapt_here(HERE, 30, progress=lambda _, done, total: seen.append((done, total)))
    assert FIRST <= report.samples < 25
    assert seen[-1] == (report.samples, report.samples)  # the bar ends full
    assert any(note.startswith(f"stopped after {report.samples} of 30 networks") for note in report.notes)
    chosen = list(reference_networks(get_device(HERE), 30))
    assert [n.digest for n in report.networks] == chosen[: report.samples]
    assert report.scale["latency_s"] == pytest.approx(4, rel=0.1)
    everything = adapt_here(HERE, 14, measure_all=True)
    assert everything.samples == 14
    assert not any(note.startswith("stopped") for note in everything.notes)


def test_few_networks_are_all_measured_and_the_choice_is_explained(home: pytest.MonkeyPatch) -> None:
    home.setattr(profilers, "get_profiler", lambda device: Board(noise=0.0))
    report = adapt_here(HERE, 7)
    assert report.samples == 7
    families = {n.family for n in report.networks}
    assert families <= set(load_shipped().families.values())
    assert f"7 networks of {len(families)} families" in report.notes[0]
    assert f"on {NEAREST}, with much work in conv" in report.notes[0]
    costs = [n.predicted_latency_s for n in report.networks]
    assert costs == sorted(costs)


class Scripted:
    """Predicts 1 s until the last measurement, then ``shift`` more; the rest would lower 10 % of error to ``left``."""

    def __init__(self, shift: float, left: float) -> None:
        self.shift, self.left, self.seen = shift, left, 0

    def point(self, graphs: Sequence[OperatorGraph], *_: object) -> np.ndarray:
        return np.full(len(graphs), np.exp(self.shift if self.seen == FIRST else 0.0))

    def expected_error(self, graphs: object, metric: object, also: object = None) -> float:
        return 0.1 if also is None else self.left


@pytest.mark.parametrize(
    ("shift", "left", "stops"),
    [(0.0, 0.099, True), (0.024, 0.0971, True), (0.0, 0.0969, False), (0.025, 0.0999, False)],
)
def test_enough_is_when_neither_the_rest_nor_the_last_three_matter(
    source: Conformal, monkeypatch: pytest.MonkeyPatch, shift: float, left: float, stops: bool
) -> None:
    table = world(12)
    graphs = [table.graphs[d] for d in table.digests]

    def asked(seen_of: int, left_of: int) -> list[bool]:
        fit = Scripted(shift, left)

        def fitted(_: object, measured: MeasurementTable) -> dict[Metric, Scripted]:
            fit.seen = len(measured.digests)
            return {Metric.LATENCY: fit}

        monkeypatch.setattr(references, "best_of", fitted)
        enough = references.Enough(source, [DEVICE], "new/a/b", graphs)
        return [
            enough.reached(table.select(digests=table.digests[:n]), graphs[n:left_of])
            for n in range(1, seen_of + 1)
        ]

    assert asked(FIRST, 12) == [False] * (FIRST - 1) + [stops]
    assert not any(asked(FIRST, FIRST))  # nothing is left: it is no early stop
