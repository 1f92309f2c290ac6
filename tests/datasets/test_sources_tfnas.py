"""TF-NAS: only the measured widths become labels."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from hardsight.datasets.sources.tfnas import TfNas
from hardsight.errors import DataError
from hardsight.metrics import Metric

DATA = Path(os.environ.get("HARDSIGHT_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()
FOLDER = DATA / "tfnas-block-latency"
needs_data = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the public tables are not in {DATA}")


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Upstream's layout: a line through widths 16 and 24, and on below."""
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))
    widths = OrderedDict((width, 0.5 + 0.1 * (width - 16)) for width in range(1, 25))
    content = OrderedDict([("base", 9.5), ("MBInvertedResBlock_112_16_0_24_k3_s2_relu", widths)])
    for part in ("cpu", "gpu"):
        (tmp_path / f"latency_{part}.pkl").write_bytes(pickle.dumps(content))
    return tmp_path


def test_the_pickles_convert(raw: Path) -> None:
    source = TfNas()
    source.convert(raw, raw)
    frame = source.table(raw)
    assert len(frame) == 2 * 25
    assert frame["device"].unique().tolist() == ["xeon_gold_6130_bs1", "titan_rtx_bs32"]
    row = frame.iloc[16]
    assert row[["resolution", "c_in", "c_se", "c_out", "kernel", "stride", "act", "c_mid"]].tolist() == [
        *(112, 16, 0, 24, 3, 2, "relu", 16)
    ]
    assert frame.loc[frame["measured"], "c_mid"].tolist() == [16, 24, 16, 24]
    assert not frame.loc[frame["block"] == "base", "measured"].any()


def test_interpolated_and_extrapolated_rows_are_no_labels(raw: Path) -> None:
    source = TfNas()
    source.convert(raw, raw)
    assert (source.table(raw)["latency_ms"] < 0).any()
    table = source.process(raw)
    graphs, seconds = table.labelled("titan-rtx/tf-nas/fp32", Metric.LATENCY)
    assert seconds == pytest.approx([0.0005, 0.0013])
    assert [graph.inputs[0].shape for graph in graphs] == [(32, 16, 112, 112)] * 2
    convolutions = [[op for op in graph.operators if op.op_type == "Conv"] for graph in graphs]
    assert [len(found) for found in convolutions] == [2, 3]  # as wide as the input: no expansion
    assert set(table.rows["repeats"]) == {1000}


@pytest.mark.parametrize("content", [[1, 2], {"MBInvertedResBlock_112": {1: 2.0}}, {"base": "x"}])
def test_another_pickle_is_refused(raw: Path, content: object) -> None:
    (raw / "latency_gpu.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"latency_gpu\.pkl is not the table expected"):
        TfNas().convert(raw, raw)


@needs_data
def test_the_published_table_is_straight_between_the_measured_widths() -> None:
    frame = TfNas().table(FOLDER)
    assert len(frame) == TfNas.rows
    assert frame["measured"].sum() == 7884
    assert (frame.loc[frame["measured"], "latency_ms"] > 0).all()
    first = frame[(frame["device"] == "xeon_gold_6130_bs1") & (frame["c_in"] == 16) & (frame["kernel"] == 3)]
    assert first["latency_ms"].iloc[0] == -0.5044301343815665
    shape = ["device", "resolution", "c_in", "c_se", "c_out", "kernel", "stride"]
    for _, series in frame[frame["resolution"].isin([112, 28])].groupby(shape):
        known = series[series["measured"]]
        inside = series[series["c_mid"] >= series["c_in"]]
        widths = inside["c_mid"].to_numpy(dtype=float)
        drawn = np.interp(widths, known["c_mid"].to_numpy(dtype=float), known["latency_ms"].to_numpy())
        assert inside["latency_ms"].to_numpy() == pytest.approx(drawn, abs=1e-9)
        assert (np.diff(known["latency_ms"]) >= 0).all()
