"""The speed experiment times the files and graphs that it names."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from hardsight.errors import BackendError
from hardsight.experiments.speed import __main__ as speed
from hardsight.experiments.speed import files, timing
from hardsight.ingest import read_onnx


def test_files_are_of_their_kind(tmp_path: Path) -> None:
    large, bare, small = files.write_files(tmp_path, 2).values()
    for path, twin in zip(large, bare, strict=True):
        assert files.LARGE_BYTES[0] <= path.stat().st_size <= 1.2 * files.LARGE_BYTES[1]
        assert not onnx.load(twin).graph.value_info
        assert read_onnx(path).digest == read_onnx(twin).digest
    assert all(path.stat().st_size < 2 * files.SMALL_BYTES[1] for path in small)


def test_graphs_have_about_100_operators() -> None:
    graphs = files.graphs(3)
    assert len({graph.digest for graph in graphs}) == 3
    assert all(80 <= len(graph) <= 120 for graph in graphs)
    assert len(read_onnx(files.weightless_model())) == len(graphs[0])


def test_a_rate_counts_what_every_process_does(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(files.weightless_model())
    assert timing.rate(timing.read_share, [([path] * 3,)], repeats=1) > 0


def test_predicting_takes_time() -> None:
    assert timing.warm_prediction_s(files.weightless_model(), speed.DEVICE, calls=2) > 0


def test_a_command_that_fails_is_no_time(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="ended with 2"):
        timing.cold_prediction_s(tmp_path / "none.onnx", speed.DEVICE, calls=1)


@pytest.mark.slow
def test_all_rows(tmp_path: Path) -> None:
    rows = speed.rows(tmp_path, n_files=2, n_graphs=8, calls=2)
    assert len(rows) == 6
    assert all(len(row) == len(speed.COLUMNS) for row in rows)
