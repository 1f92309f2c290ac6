"""HAT: which Transformer a row of averages stands for, and its labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from hardsight.datasets.sources.hat import Hat, decoder_of, encoder_of, layers_of
from hardsight.errors import DataError
from hardsight.metrics import Metric

DATA = Path(os.environ.get("HARDSIGHT_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()
FOLDER = DATA / "hat-transformer-latency"
needs_data = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the public tables are not in {DATA}")

HEADER = (
    "encoder_embed_dim,encoder_layer_num,encoder_ffn_embed_dim_avg,encoder_self_attention_heads_avg,"
    "decoder_embed_dim,decoder_layer_num,decoder_ffn_embed_dim_avg,decoder_self_attention_heads_avg,"
    "decoder_ende_attention_heads_avg,decoder_arbitrary_ende_attn_avg,"
    "latency_mean_encoder,latency_mean_decoder,latency_std_encoder,latency_std_decoder\n"
)
ROW = "512,2,1024.0,3.0,640,1,512.0,2.0,8.0,3.0,4.0,50.0,0.2,5.0\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))
    for name in Hat.plain:
        (tmp_path / name).write_text(HEADER + ROW)
    return tmp_path


def test_layers_have_the_published_average_and_are_the_likeliest() -> None:
    assert layers_of((2, 4, 8), 1, 4.0) == (4,)
    assert layers_of((2, 4, 8), 6, 14 / 3) == (8, 8, 4, 4, 2, 2)  # 90 orders; 8 4 4 4 4 4 has 6
    assert layers_of((1, 2, 3), 2, 2.0) == (3, 1)  # two orders against one of 2 2
    assert sum(layers_of((512, 1024, 2048, 3072), 6, 1962.6666666666667)) == 11776
    for average in (1.9, 8.5, 4.51):
        with pytest.raises(DataError, match="an average of"):
            layers_of((2, 4, 8), 6, average)


def test_a_row_gives_an_encoder_and_a_decoder(folder: Path) -> None:
    table = Hat().process(folder)
    assert len(table) == 2 * len(Hat.plain)
    graphs, values = table.labelled("titan-xp/hat/fp32", Metric.LATENCY)
    assert sorted(set(values)) == [0.004, 0.05]
    assert {graph.inputs[0].shape for graph in graphs} == {(1, 30), (1, 23), (5, 30), (5, 23)}
    rows = table.rows[table.rows["device"] == "xeon-e5-2640/hat/fp32"]
    encoder = rows[rows["value"] == 0.004].iloc[0]
    assert encoder["repeats"] == 20
    assert encoder["spread"] == pytest.approx(1.96 * 1.2533 * (0.2 / 4.0) / np.sqrt(20))
    assert set(table.rows.loc[table.rows["device"].str.startswith("rasp"), "repeats"]) == {2}
    # attention to three encoder layers, 90 tokens
    longest = max(graphs, key=lambda graph: graph.macs)
    assert any((40, 90, 64) in op.output_shapes for op in longest.operators)


def test_the_originals_are_taken_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for file in Hat.files:
        (tmp_path / file.name).write_text(HEADER + ROW)
    source = Hat()
    source.convert(tmp_path, out)
    assert source.find(out) == out
    assert (out / "wmt14ende_cpu_xeon.csv").read_text() == HEADER + ROW
    (tmp_path / Hat.files[0].name).write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="lacks the columns encoder_embed_dim"):
        source.convert(tmp_path, out)


@needs_data
def test_every_published_row_is_a_transformer() -> None:
    frame = Hat().table(FOLDER)
    assert len(frame) == Hat.rows
    first = frame[(frame["task"] == "wmt14ende") & (frame["machine"] == "cpu_xeon")].iloc[0]
    assert first["latency_mean_decoder"] == 236.7689162492752
    encoder, decoder = encoder_of(first), decoder_of(first)
    assert (encoder.embed, len(encoder.ffn), sum(encoder.ffn)) == (640, 6, 7168)
    assert (decoder.embed, decoder.encoder_embed, len(decoder.heads)) == (640, 640, 3)
    assert decoder.sources == (3, 2, 1)
    for row in frame[::10].to_dict("records"):
        encoder, decoder = encoder_of(row), decoder_of(row)
        assert np.mean(encoder.heads) == pytest.approx(row["encoder_self_attention_heads_avg"])
        assert np.mean(decoder.ffn) == pytest.approx(row["decoder_ffn_embed_dim_avg"])
        assert np.mean(decoder.sources) == pytest.approx(row["decoder_arbitrary_ende_attn_avg"])
