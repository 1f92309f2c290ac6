"""Layers, sensitivities and costs by hand; a whole network from data to file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import hardsight as hs
from hardsight import predictors
from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.layers import find_layers, name_nodes
from hardsight.datasets.quantize import quantize_static
from hardsight.datasets.weights import fill_weights
from hardsight.device import get_device
from hardsight.errors import (
    DataError,
    InputError,
    ModelError,
    NotCalibratedError,
    NotSupportedError,
    StorageError,
)
from hardsight.graph import OperatorGraph
from hardsight.metrics import Metric
from hardsight.nas.data import DataSpec
from hardsight.nas.mixed_precision import run as whole
from hardsight.nas.mixed_precision.costs import SENSITIVITY, WholeNetworks, layer_costs
from hardsight.nas.mixed_precision.precisions import precisions_of
from hardsight.nas.mixed_precision.quantizers import QdqQuantizer, WeightQuantizer, round_weight
from hardsight.nas.mixed_precision.samples import Samples, doubts, load_samples, quality
from hardsight.nas.mixed_precision.sensitivity import divergence, probabilities, run, sensitivities
from hardsight.prediction import Prediction

DEVICE = "host/onnxruntime/fp32-t1"


def residual(shape: tuple[int, int, int] = (1, 8, 8)) -> onnx.ModelProto:
    """stem, a block of two convolutions whose input is added to its output, a classifier."""
    net = OnnxBuilder("residual")
    x = net.relu(net.conv(net.input("x", (1, *shape)), 8, 3, name="stem"))
    y = net.conv(net.relu(net.conv(x, 8, 3, name="a")), 8, 3, name="b")
    y = net.relu(net.add(x, y))
    net.output(net.linear(net.flatten(net.global_average_pool(y)), 10, name="head"))
    return fill_weights(net.model())


class Costs:
    """1 ns per MAC in float, ``int8`` of that quantized; each conversion that no layer swallows ``border``; ± 20 %."""

    name = "fake"

    def __init__(self, int8: float = 0.25, border: float = 1e-5) -> None:
        self.int8 = int8
        self.border = border
        self.targets = [(DEVICE, Metric.LATENCY)]

    def point(self, graph: OperatorGraph) -> float:
        from hardsight.predictors.features import is_int8

        work = sum(1e-9 * op.macs * (self.int8 if is_int8(op) else 1.0) for op in graph.operators)
        return work + self.border * sum(op.op_type == "QuantizeLinear" for op in graph.operators)

    def predict(self, graphs: Sequence[OperatorGraph], device: str, level: float = 0.9) -> Prediction:
        value = np.array([[self.point(graph)] for graph in graphs])
        return Prediction(value, 0.8 * value, 1.2 * value, (Metric.LATENCY,), device, level, "fake")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Costs]:
    """Makes a predictor of known costs answer for every device."""

    def make(**settings: float) -> Costs:
        costs = Costs(**settings)
        monkeypatch.setattr(predictors, "load_predictor", lambda device: costs)
        return costs

    return make


def measured_by(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[bool], float]) -> None:
    """Measurements of this machine: a function of whether the network is quantized."""

    def measure(model: onnx.ModelProto) -> dict[str, float]:
        return {"latency_s": seconds(any(node.op_type == "QuantizeLinear" for node in model.graph.node))}

    monkeypatch.setattr(whole, "measurer", lambda device, quantity, budget_s: (measure, ""))


def test_layers_meet_where_no_layer_lies_between() -> None:
    layers = find_layers(name_nodes(residual()))
    assert layers.names == ("/stem", "/a", "/b", "/head")
    # stem feeds a and, past the block, meets b in the addition; both feed head
    assert layers.pairs == ((0, 1), (0, 2), (0, 3), (1, 2), (2, 3))
    assert "/add" in " ".join(layers.nodes(frozenset({0, 2})))
    assert "/add" not in " ".join(layers.nodes(frozenset({0, 1, 3})))


def test_nodes_without_names_get_one_of_their_own() -> None:
    model = residual()
    for node in model.graph.node:
        node.name = ""
    model.graph.node[1].name = "Conv_0"
    names = [node.name for node in name_nodes(model).graph.node]
    assert len(set(names)) == len(names)
    assert "" not in names


def test_divergence_by_hand() -> None:
    right, given = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    # 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75) = 0.5 (0.6931 - 0.4055)
    assert divergence((right,), (given,), classifies=True) == pytest.approx(0.14384, abs=1e-5)
    assert divergence((right,), (right + 3.0,), classifies=True) == pytest.approx(0.0, abs=1e-12)
    # errors 1 and 1 around a variance of 4
    assert divergence((np.array([0.0, 4.0]),), (np.array([1.0, 5.0]),), classifies=False) == 0.25
    np.testing.assert_allclose(probabilities(np.array([[0.2, 0.8]])), [[0.2, 0.8]])


def test_rounding_by_hand() -> None:
    weight = np.array([[1.0, -0.4, 0.1], [0.2, 0.2, -0.1]], np.float32)
    np.testing.assert_allclose(round_weight(weight, 2, 0), [[1.0, 0.0, 0.0], [0.2, 0.2, -0.0]], atol=0.11)
    three = round_weight(weight, 3, 0)  # steps of 1/3 and 0.2/3
    np.testing.assert_allclose(three[0], [1.0, -1 / 3, 0.0], atol=1e-6)
    assert np.abs(round_weight(weight, 8, 1) - weight).max() <= 0.5 / 127


def test_only_the_layer_and_what_follows_it_is_quantized() -> None:
    model = residual()
    data = load_samples(DataSpec(limit=200), model, 0)
    quantizer = QdqQuantizer(model, data.parts["train"].feeds[:8])
    twin = quantizer.quantized(quantizer.alone(1, 1))
    weights = {
        t.name for t in twin.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    }
    assert len(weights) == 1
    assert "a.weight" in weights.pop()
    assert quantizer.quantized(quantizer.finest) is quantizer.model
    found = sensitivities(quantizer, data.parts["train"].feeds[:8], classifies=True)
    assert found.shape == (4, 2)
    assert (found[:, 0] == 0).all()
    assert (found[:, 1] > 0).all()


def test_fewer_bits_hurt_more() -> None:
    model = residual()
    feeds = load_samples(DataSpec(limit=200), model, 0).parts["train"].feeds[:16]
    found = sensitivities(WeightQuantizer(model, (8, 4, 2)), feeds, classifies=True)
    assert (np.diff(found, axis=1) > 0).all()


def test_coefficients_add_up_to_predictions() -> None:
    """With costs that are a sum over layers and conversions, the program's sum is the prediction of the whole."""
    model = residual()
    feeds = load_samples(DataSpec(limit=200), model, 0).parts["train"].feeds[:4]
    quantizer = QdqQuantizer(model, feeds)
    networks = WholeNetworks(quantizer, Costs(), DEVICE, 0.9)
    costs = layer_costs(networks, ["latency_s", "size_bytes"])
    program = costs.program(np.zeros((4, 2)), quantizer)
    for choice in [(0, 0, 0, 0), (0, 1, 0, 0), (0, 1, 1, 0), (1, 0, 1, 0)]:
        assert program.total("latency_s", choice) == pytest.approx(networks[choice]["latency_s"].value)
    a = 8 * 8 * 8 * 8 * 9 * 1e-9  # 64 pixels, 8 x 8 channels, 3 x 3
    assert costs.change["latency_s"][1, 1] > -0.75 * a  # conversions around it cost
    assert costs.among_quantized("latency_s", 1) < costs.change["latency_s"][1, 1]
    assert costs.change["size_bytes"][1, 1] < 0


def write(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def test_a_gain_is_written_and_runs(known: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known()
    measured_by(monkeypatch, lambda quantized: 1e-4 if quantized else 2e-4)
    given, out = write(residual(), tmp_path / "m.onnx"), tmp_path / "new" / "q.onnx"
    report = hs.quantize(given, device=DEVICE, data=DataSpec(limit=300), out=out, max_loss=0.5)
    assert report.gain
    assert report.ratio == pytest.approx(2.0)
    assert report.out == str(out)
    written = onnx.load(out)
    assert any(node.op_type == "QuantizeLinear" for node in written.graph.node)
    feeds = load_samples(DataSpec(limit=300), residual(), 0).parts["test"].feeds
    assert run(written, feeds)[0].shape == (len(feeds), 10)
    record = report.to_dict()
    assert {layer["precision"] for layer in record["layers"]} <= {"fp32", "int8"}
    assert report.before.what == "accuracy"


def test_where_int8_is_slower_the_given_network_is_delivered(
    known: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known()  # predicts a gain, which the measurement refutes
    measured_by(monkeypatch, lambda quantized: 3e-4 if quantized else 2e-4)
    given, out = write(residual(), tmp_path / "m.onnx"), tmp_path / "q.onnx"
    report = hs.quantize(given, device=DEVICE, data=DataSpec(limit=300), out=out, max_loss=0.5)
    assert not report.gain
    assert any(s.startswith("No gain: 200 µs as it is, 300 µs with") for s in report.sentences())
    assert out.read_bytes() == onnx.load(given).SerializeToString()
    forced = hs.quantize(given, device=DEVICE, data=DataSpec(limit=300), out=out, max_loss=0.5, force=True)
    assert not forced.gain
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(out).graph.node)


def test_the_least_sensitive_choice_within_a_budget(known: Any, tmp_path: Path) -> None:
    known(border=0.0)
    given = write(residual(), tmp_path / "m.onnx")
    all_float = Costs().point(hs.read_onnx(given))
    limit = 1.2 * 0.7 * all_float  # on the interval's upper end, which is 20 % above
    report = hs.quantize(
        given, device=DEVICE, data=DataSpec(limit=300), budgets={"latency_s": limit}, measure=False
    )
    assert report.kept
    assert report.chosen.predicted["latency_s"].upper <= limit
    assert 0 < report.chosen.precisions["int8"] < 4
    loose = hs.quantize(
        given, device=DEVICE, data=DataSpec(limit=300), budgets={"latency_s": 1.0}, measure=False
    )
    assert loose.chosen.precisions == {"fp32": 4}
    assert "keeps its budgets as it is" in loose.sentences()[0]


def test_a_budget_that_cannot_be_kept_shows_the_closest(known: Any, tmp_path: Path) -> None:
    known()
    given, out = write(residual(), tmp_path / "m.onnx"), tmp_path / "q.onnx"
    report = hs.quantize(
        given, device=DEVICE, data=DataSpec(limit=300), budgets={"size_bytes": 100.0}, out=out, measure=False
    )
    assert not report.kept
    assert report.out is None
    assert not out.exists()
    (verdict,) = report.verdicts
    assert f"{verdict.excess:.0f}"[0] in report.sentences()[0]
    assert "cannot be kept" in report.sentences()[0]
    assert report.chosen.precisions == {"int8": 4}


def test_sensitivity_is_what_is_minimised(known: Any, tmp_path: Path) -> None:
    """Of four layers, a size that one of the two large ones must give up is taken from the less sensitive."""
    known(border=0.0)
    report = hs.quantize(
        residual(), device=DEVICE, data=DataSpec(limit=300), budgets={"size_bytes": 4000.0}, measure=False
    )
    chosen = {layer.name for layer in report.layers if layer.precision == "int8"}
    large = {layer.name: layer.sensitivity["int8"] for layer in report.layers if layer.name in ("/a", "/b")}
    assert chosen == {min(large, key=large.__getitem__)}
    assert SENSITIVITY not in report.to_dict()["layers"][0]["cost"]["int8"]


@pytest.mark.parametrize(
    ("device", "match"),
    [
        ("ethos-u55-128/vela/int8", "every layer in int8"),
        ("xeon-amx/torch/fp32-t1", "every layer in fp32"),
        ("xeon-amx/onnxruntime/int8-t1", "xeon-amx/onnxruntime/fp32-t1"),
    ],
)
def test_a_device_without_a_choice_says_so(device: str, match: str) -> None:
    with pytest.raises(NotSupportedError, match=match):
        hs.quantize(residual(), device=device)
    assert precisions_of(get_device("xeon-amx/openvino/fp32-t1")) == ("fp32", "int8")


def test_this_machine_must_be_adapted_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path))
    with pytest.raises(NotCalibratedError, match="adapt --here"):
        hs.quantize(residual(), device=DEVICE)


def test_bad_input_is_refused(known: Any, tmp_path: Path) -> None:
    known()

    def attempt(model: object = None, **settings: Any) -> None:
        hs.quantize(model or residual(), device=DEVICE, **settings)  # type: ignore[arg-type]

    with pytest.raises(ModelError, match="quantized already"):
        attempt(quantize_static(residual()))
    with pytest.raises(ModelError, match="no convolution"):
        net = OnnxBuilder("relu")
        net.output(net.relu(net.input("x", (1, 64))))
        attempt(net.model())
    with pytest.raises(DataError, match="samples of 1×8×8, but input 'x' takes 3×8×8"):
        attempt(residual((3, 8, 8)))
    with pytest.raises(NotSupportedError, match="peak_memory_bytes"):
        attempt(budgets={"peak_memory_bytes": 1e6})
    with pytest.raises(InputError, match="max_loss is 2"):
        attempt(max_loss=2)
    with pytest.raises(InputError, match="samples is 0"):
        attempt(samples=0)
    with pytest.raises(ModelError, match="does not exist"):
        attempt(tmp_path / "none.onnx")
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x0a")
    with pytest.raises(ModelError, match="cannot be quantized"):
        attempt(tmp_path / "torn.onnx")
    with pytest.raises(StorageError, match="cannot write"):
        (tmp_path / "file").write_text("")
        attempt(data=DataSpec(limit=200), out=tmp_path / "file" / "q.onnx", measure=False)


def test_the_given_network_is_not_overwritten(known: Any, tmp_path: Path) -> None:
    known()
    given = write(residual(), tmp_path / "m.onnx")
    before = given.read_bytes()
    (tmp_path / "link.onnx").symlink_to(given)
    for out in (given, tmp_path / "." / "x" / ".." / "m.onnx", tmp_path / "link.onnx"):
        with pytest.raises(InputError, match="would be overwritten"):
            hs.quantize(given, device=DEVICE, data=DataSpec(limit=200), out=out, measure=False)
    assert given.read_bytes() == before


def test_ignored_labels_and_guessing_are_said() -> None:
    labels = np.arange(40) % 4
    right = np.eye(4)[labels]
    samples = Samples((), labels, 40)
    assert doubts((right,), samples, 4) == []
    (said,) = doubts((np.roll(right, 1, axis=1),), samples, 4)  # classes in another order
    assert "right on 0.0 % of 40 samples, where the commonest class alone gives 25.0 %" in said
    (said,) = doubts((right[:, :3],), samples, 4)
    assert "of 4 classes, were ignored, since the network has 3 outputs" in said
    (said,) = doubts((right, right), samples, 4)
    assert "no row of class scores" in said
    assert doubts((right,), Samples((), None, 40), 0) == []


def test_resized_images_are_said(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((40, 1, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "large.npz", x=x, y=np.arange(40) % 4)
    source = DataSpec(source=str(tmp_path / "large.npz"))
    assert "images resized from 16×16 to 8×8" in load_samples(source, residual(), 0).notes
    assert not any("resized" in note for note in load_samples(source, residual((1, 16, 16)), 0).notes)


def test_data_without_labels_gives_agreement(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "plain.npz", x=rng.normal(5.0, 2.0, (40, 1, 8, 8)).astype(np.float32))
    model = residual()
    data = load_samples(DataSpec(source=str(tmp_path / "plain.npz")), model, 0)
    assert data.classes == 0
    assert sum(part.n for part in data.parts.values()) == 40
    assert next(iter(data.parts["train"].feeds[0].values())).max() > 1.0  # fed as the file holds them
    outputs = run(model, data.parts["test"].feeds)
    same = quality(outputs, outputs, data.parts["test"], data.classes)
    assert (same.what, same.value) == ("agreement", 1.0)
    assert quality(outputs, (-outputs[0],), data.parts["test"], 0).value < 1.0


def test_a_flat_input_takes_rows_of_a_table(tmp_path: Path) -> None:
    net = OnnxBuilder("mlp")
    net.output(net.linear(net.input("x", (1, 6)), 3))
    rows = ["a,b,c,d,e,f,label", *(f"{i},1,2,3,4,5,{i % 3}" for i in range(30))]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    data = load_samples(DataSpec(source=str(tmp_path / "rows.csv")), fill_weights(net.model()), 0)
    assert data.classes == 3
    first = data.parts["train"].feeds[0]["x"]
    assert first.shape == (1, 6)
    np.testing.assert_allclose(first[0, 1:], [1, 2, 3, 4, 5], atol=1e-5)
