"""``hardsight quantize``: exit codes, JSON, tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hardsight.cli import main
from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.weights import fill_weights

HERE = "host/onnxruntime/fp32-t1"


@pytest.fixture
def words(home: Path) -> list[str]:
    net = OnnxBuilder("mlp")
    net.output(net.linear(net.relu(net.linear(net.input("x", (1, 6)), 8)), 3))
    onnx.save(fill_weights(net.model()), home / "m.onnx")
    x = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    np.savez(home / "data.npz", x=x)
    out = str(home / "q.onnx")
    return ["quantize", "m.onnx", "--device", HERE, "--data", "data.npz", "--out", out, "--no-measure"]


def test_json_says_no_gain_and_the_given_network_is_written(
    words: list[str], fake_predictor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == 0  # the fake counts MACs, which quantization leaves as they are
    record = json.loads(capsys.readouterr().out)
    assert record["gain"] is False
    assert record["notes"][0].startswith("No gain")
    assert [layer["precision"] for layer in record["layers"]] == ["fp32", "fp32"]
    assert Path("q.onnx").read_bytes() == onnx.load("m.onnx").SerializeToString()


def test_a_budget_on_size_is_kept_or_exits_with_1(
    words: list[str], fake_predictor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--max", "size=300B"]) == 0
    shown = capsys.readouterr().out
    assert "chosen" in shown
    assert "Written: " in shown
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load("q.onnx").graph.node)
    Path("q.onnx").unlink()
    assert main([*words, "--max", "size=20B"]) == 1
    assert "cannot be kept" in capsys.readouterr().out
    assert not Path("q.onnx").exists()


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--max", "memory=1MB"], 4, "is predicted, but not as a sum"),
        (["--max", "energy=5mJ"], 4, "is not predicted, so"),
        (["--max", "latency=3"], 2, "no unit"),
        (["--data", "none.npz"], 2, "does not exist"),
        (["--device", "ethos-u55-128/vela/int8"], 4, "no precision to choose"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str],
    fake_predictor: Any,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    code: int,
    said: str,
) -> None:
    line = [*words, *more]
    if more[0] == "--device":
        at = words.index("--device")
        line = [*words[:at], *more, *words[at + 2 :]]
    assert main(line) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
