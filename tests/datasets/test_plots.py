"""Pictures of coverage: the numbers behind them, and that they are drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardsight.cli import main
from hardsight.datasets import plots
from hardsight.datasets.store import GraphFacts
from hardsight.errors import StorageError
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric

A, B = "a/onnxruntime/fp32-t1", "b/vela/int8"
FACTS = {
    "0": GraphFacts("vgg", "", 100, "fp32"),
    "1": GraphFacts("vgg", "0", 100, "int8"),
    "2": GraphFacts("mlp", "", 10, "fp32"),
    "3": GraphFacts("mlp", "", 0, "fp32"),
}


@pytest.fixture
def table() -> MeasurementTable:
    labels = [Measurement(d, A, Metric.LATENCY, 1e-3 * (int(d) + 1), 0.01, 20) for d in "0123"]
    labels += [Measurement("0", A, Metric.PEAK_MEMORY, 1e6, 0.0, 1)]
    labels += [Measurement("1", B, Metric.CYCLES, 5, 0.0, 1, provenance="simulated")]
    return MeasurementTable.from_measurements(labels, {})


def test_the_data_behind_the_pictures(table: MeasurementTable) -> None:
    assert [(s.family, s.macs) for s in plots.sizes(FACTS)] == [
        ("mlp", {"fp32": (10, 0)}),
        ("vgg", {"fp32": (100,), "int8": (100,)}),
    ]
    grid = plots.grid(table, FACTS)
    assert (grid.devices, grid.families, grid.graphs) == ((A, B), ("mlp", "vgg"), (2, 2))
    assert grid.labelled == ((2, 2), (0, 1))
    (costs,) = plots.costs(table, FACTS)
    assert costs.points == (("fp32", 100, 1e-3), ("int8", 100, 2e-3), ("fp32", 10, 3e-3))
    assert [(s.device, s.metric, s.spreads) for s in plots.spreads(table)] == [
        (A, "latency_s", (0.01,) * 4),
        (A, "peak_memory_bytes", ()),
        (B, "cycles", ()),
    ]


def test_pictures_show_their_data(table: MeasurementTable) -> None:
    (axes, _) = plots.draw_grid(plots.grid(table, FACTS)).axes
    assert axes.images[0].get_array().tolist() == [[1.0, 1.0], [0.0, 0.5]]
    assert [t.get_text() for t in axes.texts] == ["2", "2", "–", "1"]
    (axes,) = plots.draw_sizes(plots.sizes(FACTS)).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["mlp", "vgg"]
    (axes,) = plots.draw_costs(plots.costs(table, FACTS)).axes
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == 3
    (axes,) = plots.draw_spreads(plots.spreads(table)).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == [A]
    assert "2 more have no spread" in axes.get_xlabel()


def test_nothing_measured_gives_empty_pictures(tmp_path: Path) -> None:
    empty = MeasurementTable.from_measurements([], {})
    assert len(plots.save_plots(tmp_path, empty, FACTS)) == 4


def test_on_the_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    table: MeasurementTable,
) -> None:
    from hardsight import jobs
    from hardsight.datasets import store

    monkeypatch.setattr(jobs, "load_dataset", lambda folder: table)
    monkeypatch.setattr(store, "load_facts", lambda folder: FACTS)
    assert main(["dataset", "plot", "--data", "data", "--out", str(tmp_path / "out")]) == 0
    names = {Path(line).name for line in capsys.readouterr().out.split("\n") if line}
    assert names == {"sizes.png", "coverage.png", "latency.png", "spread.png"}
    assert all((tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, table: MeasurementTable) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write the pictures"):
        plots.save_plots(tmp_path / "file" / "out", table, FACTS)
