from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import hardsight as hs
from hardsight import explanation as module
from hardsight import predictors
from hardsight.cli import main
from hardsight.device import Device
from hardsight.errors import NotCalibratedError, NotSupportedError, UnknownNameError
from hardsight.explanation import Explanation, explain
from hardsight.explanation_figure import figure_png, panels
from hardsight.explanation_page import page
from hardsight.explanation_text import sentences
from hardsight.graph import Operator, OperatorGraph
from hardsight.metrics import Metric
from hardsight.predictors.features import peak_live_bytes
from hardsight.predictors.memory_peak import memory_peak

HERE = "host/onnxruntime/fp32-t1"
INT8 = "host/onnxruntime/int8-t1"
DOOR = "xeon-amx/openvino/bf16-t1"

# The first product reads 2048 x 256 floats and a weight of 256 x 512; the Relu behind it is merged.
NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[2048, 256] x) => (float[2048, 2] y)
<float[256, 512] w, float[512, 2] v>
{
    h = MatMul(x, w)
    r = Relu(h)
    e = Exp(r)
    s = Add(e, r)
    y = MatMul(s, v)
}
"""

QDQ = """
<ir_version: 10, opset_import: ["" : 21]>
qdq (float[1, 64] x) => (float[1, 32] y)
<float s = {0.1}, uint8 z = {128}, int8[64, 32] w, float ws = {0.1}, int8 wz = {0}>
{
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear(w, ws, wz)
    m = MatMul(d, wd)
    mq = QuantizeLinear(m, s, z)
    y = DequantizeLinear(mq, s, z)
}
"""


def saved(text: str, path: Path) -> Path:
    """Write a model; tensors declared without a value become weights whose data is elsewhere."""
    proto = parser.parse_model(text.strip())
    made = {output for node in proto.graph.node for output in node.output}
    for value in list(proto.graph.value_info):
        if value.name not in made:
            kind = value.type.tensor_type
            weight = onnx.TensorProto(
                name=value.name, data_type=kind.elem_type, dims=[d.dim_value for d in kind.shape.dim]
            )
            weight.data_location = onnx.TensorProto.EXTERNAL
            weight.external_data.add(key="location", value="weights.bin")
            proto.graph.initializer.append(weight)
            proto.graph.value_info.remove(value)
    onnx.save(proto, path)
    return path


@pytest.fixture
def net(home: Path) -> Path:
    return saved(NET, home / "net.onnx")


@pytest.fixture
def qdq(home: Path) -> Path:
    return saved(QDQ, home / "qdq.onnx")


class Lab(predictors.Predictor):
    """So many seconds on each device, whatever the network, ± 20 % in logarithms; energy and memory on this machine."""

    name = "lab"

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def fit(self, table: Any) -> Lab:
        return self

    @property
    def targets(self) -> list[tuple[str, Metric]]:
        costs = [(HERE, Metric.PEAK_MEMORY), (HERE, Metric.ENERGY)]
        return [*((name, Metric.LATENCY) for name in self.seconds), *costs]

    def point(self, graphs: Sequence[Any], device: str, metric: Metric) -> Any:
        value = {Metric.PEAK_MEMORY: 2.0**25, Metric.ENERGY: 0.5}
        return np.full(len(graphs), value.get(metric) or self.seconds[device])

    def interval(self, graphs: Any, device: str, metrics: Any, value: Any, level: float) -> Any:
        return value * math.exp(-0.2), value * math.exp(0.2)

    def save_state(self, folder: Path) -> dict[str, Any]:
        return {}

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Lab:
        return cls({})


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Latency per device, for the test to change; a device that is not in it is not calibrated."""
    known = {HERE: 0.01, INT8: 0.005}

    def load(device: str) -> Lab:
        if device == "nope":
            raise UnknownNameError("device", device, known)
        if device.startswith("host/") and device not in known:
            raise NotCalibratedError(f"'{device}' has not been calibrated")
        return Lab(known)

    monkeypatch.setattr(predictors, "load_predictor", load)
    return known


# -- layers and types -----------------------------------------------------------------------------


def test_layers_and_types_sum_to_the_total(net: Path, seconds: Any) -> None:
    found = hs.explain(net, HERE)
    assert isinstance(found, hs.Explanation)
    assert found.answer["latency_s"].value == 0.01
    assert sum(layer.latency_s for layer in found.layers) == pytest.approx(0.01)
    assert sum(cost.latency_s for cost in found.types) == pytest.approx(0.01)
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)
    assert [cost.op_type for cost in found.types] == ["MatMul", "Add", "Exp", "Relu"]
    assert [(cost.operators, cost.merged) for cost in found.types] == [(2, 0), (1, 0), (1, 0), (1, 1)]


def test_roofline_positions(net: Path, seconds: Any) -> None:
    heavy, relu, exp, _, light = explain(net, HERE).layers
    # 2048 * 256 * 512 MACs over 4 bytes of 2048 * 256 + 256 * 512 + 2048 * 512 elements
    assert heavy.macs == 2**28
    assert heavy.bytes == 4 * (2**19 + 2**17 + 2**20)
    assert heavy.intensity_macs_per_byte == pytest.approx(
        2**28 / heavy.bytes
    )  # 39.4, right of the ridge at 5
    assert heavy.roofline_s == pytest.approx(2**28 / 5e10)
    assert (heavy.bound, heavy.precision) == ("compute", "fp32")
    assert (relu.merged, relu.merged_into, relu.latency_s, relu.bound) == (True, heavy.name, 0, None)
    assert (exp.bound, exp.precision, exp.macs) == ("memory", None, 0)
    # 2048 * 512 * 2 MACs over 4 bytes of 2048 * 512 + 512 * 2 + 2048 * 2 elements: 0.5
    assert light.intensity_macs_per_byte == pytest.approx(0.4976, abs=1e-4)
    assert light.bound == "memory"


def test_limits_are_the_devices_own_where_it_has_them(net: Path) -> None:
    graph = hs.read_onnx(net)
    own = Device(name="a/b/c", kind="npu", peak_macs_per_s={"fp32": 1e9}, bandwidth_bytes_per_s=2e9)
    roofline = module._roofline(graph, own)
    assert roofline == ({"fp32": 1e9}, 2e9, None, ())
    assert roofline.ridge_macs_per_byte("fp32") == 0.5
    assert roofline.memory_s(4e9, 2e9) == 3
    other = Device(name="a/b/c", kind="npu", peak_macs_per_s={"int8": 1e9})
    assert module._roofline(graph, other).generic == ("peak", "bandwidth")


def test_weights_and_activations_may_come_from_two_memories(net: Path) -> None:
    """An Ethos-U55 reads weights from flash, a byte a cycle, and activations from SRAM, eight a cycle."""
    ethos = hs.devices("ethos-u55-128/vela/int8")[0].device
    roofline = module._roofline(hs.read_onnx(net), ethos)
    assert (roofline.bandwidth_bytes_per_s, roofline.weight_bandwidth_bytes_per_s) == (4e9, 5e8)
    assert roofline.memory_s(4e9, 5e7) == 1
    assert roofline.memory_s(4e8, 5e8) == 1


def test_a_mode_that_converts_moves_fewer_bytes(net: Path, qdq: Path) -> None:
    graph = hs.read_onnx(net)
    run, said = module._as_run(graph, Device(name="a/b/int8-t1", kind="cpu"))
    assert [op.bytes * 4 for op in run.operators] == [op.bytes for op in graph.operators]
    assert "8 bits" in said[0]
    half, _ = module._as_run(graph, Device(name="a/b/eager-fp16", kind="gpu"))
    assert [op.bytes * 2 for op in half.operators] == [op.bytes for op in graph.operators]
    assert module._precision(half.operators[0], "eager-fp16") == "fp16"
    assert module._as_run(graph, Device(name="a/b/fp32-t1", kind="cpu")) == (graph, ())
    quantized = hs.read_onnx(qdq)  # runs as it is
    assert module._as_run(quantized, Device(name="a/b/int8-t1", kind="cpu")) == (quantized, ())


def test_a_quantized_file(qdq: Path, seconds: Any) -> None:
    found = explain(qdq, HERE)
    (product,) = [layer for layer in found.layers if layer.op_type == "MatMul"]
    assert product.precision == "int8"
    merged = {layer.op_type: layer.merged_into for layer in found.layers if layer.merged}
    assert merged == {"DequantizeLinear": product.name, "QuantizeLinear": product.name}
    assert "quantized already (1 of 1" in found.int8.sentence
    assert found.int8.speedup is None


# -- memory ---------------------------------------------------------------------------------------


def unary(name: str, source: int, size: int, op_type: str = "Exp") -> Operator:
    return Operator(name, op_type, ((source, 0),), ((size,),), ((size,),), bytes_in=size, bytes_out=size)


def test_who_is_alive_at_the_peak() -> None:
    # a (10) is read by b and, at the end, by d; the view v of b keeps b (50) alive until c (30) has read it
    operators = (
        unary("a", -1, 10),
        unary("b", 0, 50),
        unary("v", 1, 50, "Reshape"),
        unary("c", 2, 30),
        Operator("d", "Add", ((3, 0), (0, 0)), ((30,), (10,)), ((30,),), bytes_out=30),
    )
    graph = OperatorGraph("g", operators, (), (), ((4, 0),))
    peak = memory_peak(graph)
    assert peak.live_bytes == (10, 60, 60, 90, 70)
    assert (peak.at, peak.bytes) == ("c", 90)
    assert [(t.operator, t.bytes, t.last_reader) for t in peak.tensors] == [
        ("b", 50, "c"),
        ("c", 30, "d"),
        ("a", 10, "d"),
    ]
    assert peak_live_bytes(graph)[0] == 90


def test_the_peak_is_the_features_peak_where_nothing_is_merged() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        operators = []
        for i in range(int(rng.integers(1, 12))):
            sources = tuple((int(s), 0) for s in rng.integers(-1, i, size=int(rng.integers(1, 3))))
            kind = str(rng.choice(["Exp", "Add", "Reshape", "Concat"]))
            operators.append(Operator(f"o{i}", kind, sources, (), (), bytes_out=int(rng.integers(0, 100))))
        ends = ((int(rng.integers(0, len(operators))), 0),)
        graph = OperatorGraph("g", tuple(operators), (), (), ends)
        peak = memory_peak(graph)
        assert peak.bytes == peak_live_bytes(graph)[0] == sum(t.bytes for t in peak.tensors)


def test_a_merged_operator_has_no_tensor_of_its_own(net: Path, seconds: Any) -> None:
    peak = explain(net, HERE).memory_peak
    # r, e and s are 2048 x 512 floats each; h is r, for the Relu is merged
    assert peak.bytes == 3 * 2048 * 512 * 4
    assert [t.op_type for t in peak.tensors] == ["MatMul", "Exp", "Add"]


# -- INT8 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("int8_s", "said"),
    [
        # the interval of the ratio is exp(± sqrt(2) * 0.2), a factor of 1.33
        (0.005, "INT8 is predicted to be 2 times as fast here (90 % interval 1.51 to 2.65)"),
        (0.02, "slower here, not faster: it takes 2 times as long (90 % interval 1.51 to 2.65)"),
        (0.009, "too close to call"),
        (0.011, "too close to call: predicted to be 0.909 times as fast (90 % interval 0.685 to 1.21)"),
    ],
)
def test_the_gain_is_predicted_and_may_be_a_loss(
    net: Path, seconds: dict[str, float], int8_s: float, said: str
) -> None:
    seconds[INT8] = int8_s
    for device in (HERE, INT8):  # asked from either side
        gain = explain(net, device).int8
        assert said in gain.sentence
        assert (gain.fp32_device, gain.int8_device) == (HERE, INT8)
        assert gain.speedup is not None
        assert gain.speedup.value == pytest.approx(0.01 / int8_s)
    assert ("too close" in gain.sentence) == (0.75 < 0.01 / int8_s < 1.33)


def test_a_gain_that_is_not_known_says_why(net: Path, seconds: dict[str, float]) -> None:
    del seconds[INT8]
    gain = explain(net, HERE).int8
    assert gain.sentence == (
        f"What INT8 gains is not known: '{INT8}' has not been calibrated; "
        f"run 'hardsight adapt --here --device {INT8}'."
    )
    seconds["ethos-u55-128/vela/int8"] = 0.1
    assert (
        "has no fp32 and INT8 modes beside each other"
        in explain(net, "ethos-u55-128/vela/int8").int8.sentence
    )
    seconds[DOOR] = 0.1
    assert (
        "no predictor covers the latency of 'xeon-amx/openvino/fp32-t1'" in explain(net, DOOR).int8.sentence
    )


# -- what is said ---------------------------------------------------------------------------------


def test_sentences(net: Path, seconds: Any) -> None:
    text = "\n".join(sentences(explain(net, HERE)))
    for part in (
        "10.0 ms; its 90 % interval is 8.19 ms to 12.2 ms",
        "The three costliest of 5 operators",
        "generic CPU core's",
        "1 of 5 operators (Relu) is taken to be merged",
        "Activations peak at 12.0 MiB while",
        "Weights in the file: 516 KiB",  # 4 * (256 * 512 + 512 * 2) bytes
        "The predicted peak memory, 32.0 MiB",
        "Predicted energy: 500 mJ",
        "Most of it goes into",
    ):
        assert part in text


def test_a_device_without_a_latency_has_nothing_to_explain(net: Path, seconds: dict[str, float]) -> None:
    del seconds[HERE]
    seconds[HERE.replace("t1", "t2")] = 1.0
    with pytest.raises(NotCalibratedError):
        explain(net, HERE)
    with pytest.raises(NotSupportedError, match="no time to explain"):
        explain(net, "xeon-amx/torch/fp32-t1")


# -- pictures and page ----------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(net: Path, seconds: Any) -> None:
    proto = onnx.load(net, load_external_data=False)
    proto.graph.node[0].name = "<script>alert('$title')</script>"
    onnx.save(proto, net)
    text = page(explain(net, HERE), top=2)
    found = Page()
    found.feed(text)
    assert found.open == []
    tags = [tag for tag, _ in found.tags]
    assert not {"script", "link", "iframe"} & set(tags)
    assert "&lt;script&gt;" in text
    images = [attributes for tag, attributes in found.tags if tag == "img"]
    assert len(images) == 4
    assert all(image["alt"] and str(image["src"]).startswith("data:image/png;base64,") for image in images)
    assert "http" not in text
    assert tags.count("caption") == tags.count("table") == 5
    assert all(attributes.get("scope") for tag, attributes in found.tags if tag == "th")
    assert ("html", {"lang": "en"}) in found.tags


def size_of(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def test_pictures(net: Path, seconds: Any) -> None:
    found = explain(net, HERE)
    wide, high = size_of(figure_png(found))
    assert wide > 1200
    assert high > 900
    assert len(panels(found)) == 4
    assert size_of(figure_png(found, [panels(found)[2][1]])) < (wide, high)


def test_a_network_without_macs_or_operators_is_drawn(home: Path, seconds: Any) -> None:
    still = saved(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) { y = Exp(x) }', home / "e"
    )
    found = explain(still, HERE)
    assert len(panels(found)) == 3  # no roofline
    size_of(figure_png(found))
    page(found)


# -- the command ----------------------------------------------------------------------------------


def test_json_is_the_promised_object(net: Path, seconds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(net), "-d", HERE, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert list(record) == [
        "model", "digest", "device", "predictor", "predictions", "unknown_ops", "assumptions", "sentences",
        "layers", "types", "roofline", "memory", "int8_gain",
    ]  # fmt: skip
    assert len(record["layers"]) == 5
    assert record["layers"][0]["bound"] == "compute"
    assert sum(layer["latency_s"] for layer in record["layers"]) == pytest.approx(0.01)
    assert record["roofline"]["ridge_macs_per_byte"] == {"fp32": 5.0}
    assert record["roofline"]["generic"] == ["peak", "bandwidth"]
    assert record["memory"]["peak_live_bytes"] == 3 * 2**22
    assert record["int8_gain"]["speedup"]["value"] == pytest.approx(2.0)
    assert record["int8_gain"]["int8"]["value"] == 0.005


def test_files_and_table(net: Path, seconds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = net.with_suffix(".html"), net.with_suffix(".png")
    words = ["explain", str(net), "-d", HERE, "--top", "2", "--out", str(out), "--plot", str(plot)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for text in ("MatMul", "compute", "2 more kernels take", f"Written: {out}", "2 times as fast"):
        assert text in shown
    size_of(plot.read_bytes())
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{net}", "-d", "nope"], 2, "unknown device 'nope'"),
        (["{net}", "-d", "host/ncnn/fp32-t1"], 4, "not been calibrated"),
        (["missing.onnx", "-d", HERE], 2, "missing.onnx"),
        (["{net}", "-d", HERE, "--out", "no/such/folder.html"], 6, "no/such/folder.html"),
        (["{net}", "-d", HERE, "--out", "{net}"], 2, "does not end in .html"),
        (["{net}", "-d", HERE, "--plot", "{net}"], 2, "does not end in .png"),
        (["{net}", "-d", HERE, "--plot", "no/such/folder.png"], 6, "no/such/folder.png"),
        (["{net}", "-d", HERE, "--top", "0"], 2, "--top"),
        (["{net}", "-d", HERE, "--level", "2"], 2, "level"),
    ],
)
def test_bad_input_is_one_sentence(
    net: Path, seconds: Any, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert main(["explain", *(word.format(net=net) for word in words)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert said in line


def test_the_explanation_is_frozen(net: Path, seconds: Any) -> None:
    found: Explanation = explain(net, HERE)
    with pytest.raises(AttributeError):
        found.layers = ()  # type: ignore[misc]


def test_energy_is_shared_out_over_layers_and_types(net: Path, seconds: Any) -> None:
    found = explain(net, HERE)
    total = found.answer["energy_j"].value
    assert sum(layer.energy_j or 0 for layer in found.layers) == pytest.approx(total, rel=1e-6)
    assert sum(cost.energy_j or 0 for cost in found.types) == pytest.approx(total, rel=1e-6)
