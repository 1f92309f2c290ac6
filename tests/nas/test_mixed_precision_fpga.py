"""A width per layer on an FPGA: the file is a circuit, and the circuit is what was judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import hardsight as hs
from hardsight.cli import main
from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.fpga.quantizer import Quantizer, constants, is_quant
from hardsight.datasets.weights import fill_weights
from hardsight.nas.data import DataSpec
from hardsight.nas.mixed_precision.qonnx import QonnxQuantizer, power_of_two
from hardsight.nas.mixed_precision.sensitivity import run

DEVICE = "xcup/da4ml/lc5"
BITS = ("int8", "int4", "int2")


def mlp(inputs: int, hidden: int) -> onnx.ModelProto:
    net = OnnxBuilder("mlp")
    x = net.relu(net.linear(net.input("x", (1, inputs)), hidden))
    net.output(net.linear(x, 10))
    return fill_weights(net.model())


def cnn() -> onnx.ModelProto:
    net = OnnxBuilder("cnn")
    x = net.relu(net.conv(net.input("x", (1, 1, 6, 6)), 2, 3))
    x = net.relu(net.add(x, net.conv(x, 2, 3)))
    net.output(net.linear(net.flatten(net.max_pool(x, 2, stride=2)), 3))
    return fill_weights(net.model())


def test_powers_of_two_by_hand() -> None:
    np.testing.assert_array_equal(power_of_two([0.3, 0.5, 0.51, 3.0, 0.0]), [0.5, 0.5, 1.0, 4.0, 2.0**-20])


@pytest.mark.parametrize("choice", [(0, 0, 0), (1, 2, 0)])
def test_the_circuit_computes_what_was_judged(choice: tuple[int, ...]) -> None:
    pytest.importorskip("da4ml", reason="needs the extra 'fpga'")
    from hardsight.datasets.fpga.trace import trace

    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(1, 1, 6, 6)).astype(np.float32)} for _ in range(12)]
    quantizer = QonnxQuantizer(cnn(), BITS, feeds)
    design = quantizer.deployed(choice)
    entry = next(node for node in design.graph.node if is_quant(node) and node.input[0] == "x")
    levels = [Quantizer.read(entry, constants(design))(feed["x"]) for feed in feeds]
    circuit = trace(design, (1, 1, 6, 6)).predict(np.stack(levels).reshape(12, -1), n_threads=1)
    (judged,) = run(quantizer.quantized(choice), feeds)
    np.testing.assert_allclose(circuit, judged, atol=1e-5)


def test_weights_have_the_width_of_their_layer() -> None:
    feeds = [{"x": np.random.default_rng(s).normal(size=(1, 6)).astype(np.float32)} for s in range(4)]
    quantizer = QonnxQuantizer(mlp(6, 8), BITS, feeds)
    graph = hs.read_onnx(quantizer.deployed((2, 1)))
    assert [op.weight_bits for op in graph.operators if op.op_type == "Gemm"] == [2, 4]
    narrow = hs.read_onnx(quantizer.deployed((2, 2)))
    assert narrow.weight_bytes < graph.weight_bytes < hs.read_onnx(quantizer.deployed((0, 0))).weight_bytes


def test_fewer_logic_cells_for_less_accuracy() -> None:
    """Against the shipped predictor: a budget on logic is kept by narrower weights."""
    model, data = mlp(64, 8), DataSpec(limit=200)
    whole = hs.quantize(
        model, device=DEVICE, data=data, budgets={"logic_cells": 1e9}, samples=16, measure=False
    )
    assert whole.chosen.precisions == {"int8": 2}
    upper = whole.chosen.predicted["logic_cells"].upper
    assert upper is not None
    tight = hs.quantize(
        model, device=DEVICE, data=data, budgets={"logic_cells": 0.7 * upper}, samples=16, measure=False
    )
    assert tight.kept
    assert tight.chosen.precisions != {"int8": 2}
    assert tight.chosen.sensitivity > 0
    assert set(tight.layers[0].sensitivity) == {f"int{bits}" for bits in range(2, 9)}


def test_the_table_of_layers_shows_the_chosen_precisions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(mlp(64, 8), tmp_path / "m.onnx")
    words = ["quantize", str(tmp_path / "m.onnx"), "--device", DEVICE, "--out", str(tmp_path / "q.onnx")]
    assert main([*words, "--samples", "16", "--force"]) == 0
    layers, _, networks = capsys.readouterr().out.partition("networks compared")
    header = next(line for line in layers.splitlines() if "sensitivity" in line)
    assert header.count("┃") == 6  # five columns, however many precisions there are
    assert "all layers int8" in header
    assert "1 layers" not in networks


def test_the_written_file_is_the_design_that_was_predicted(tmp_path: Path) -> None:
    """Not its emulation in float, which shows accuracy alone: the same answer from the file as from the report."""
    out = tmp_path / "out.onnx"
    told = hs.quantize(mlp(64, 8), device=DEVICE, data=DataSpec(limit=200), out=out, force=True, samples=16)
    assert any(f"measure OUT --device {DEVICE}" in note for note in told.notes)
    assert not told.chosen.measured
    written = onnx.load(out)
    assert sum(is_quant(node) for node in written.graph.node) >= 4  # input, hidden layer, two weights
    assert not {node.op_type for node in written.graph.node} & {"Div", "Floor", "Clip"}
    assert [d.dim_value for d in written.graph.input[0].type.tensor_type.shape.dim] == [1, 64]
    answer = hs.predict(out, device=DEVICE)
    assert answer.assumptions  # it is small beside the networks that were learned from
    assert {f"the chosen network: {said}" for said in answer.assumptions} <= set(told.notes)
    for metric, estimate in answer.estimates.items():
        assert told.chosen.predicted[metric] == pytest.approx(estimate)
