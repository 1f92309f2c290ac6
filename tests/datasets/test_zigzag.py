"""ASIC accelerators by ZigZag: the layers made from a graph, what is refused, the cache, and ZigZag itself."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.families import FAMILIES
from hardsight.datasets.profilers import get_profiler, zigzag
from hardsight.datasets.profilers._zigzag_layers import layers, macs, unpriced
from hardsight.datasets.profilers.zigzag import ARCHITECTURES, ZigzagProfiler
from hardsight.device import Device, shipped_devices
from hardsight.errors import BackendError, StorageError, UnknownNameError
from hardsight.ingest import read_onnx
from hardsight.metrics import Metric

GOLDEN: dict[str, list[list[Any]]] = json.loads(
    (Path(__file__).parent / "golden" / "zigzag_tiny.json").read_text()
)
DEVICES = {d.hardware: d for d in shipped_devices().values() if d.runtime == "zigzag"}
TPU = DEVICES["tpu-like"]

Build = Callable[[OnnxBuilder], str]


def _model(build: Build) -> onnx.ModelProto:
    builder = OnnxBuilder("net")
    builder.output(build(builder))
    return builder.model()


def _found(model: onnx.ModelProto) -> list[tuple[dict[str, Any], int]]:
    return [(json.loads(text), count) for text, count in layers(read_onnx(model)).items()]


def tiny(b: OnnxBuilder) -> str:
    """What the golden file was made from: a dense and a depthwise convolution, MatMul and Gemm."""
    x = b.relu(b.conv(b.input("x", (1, 4, 12, 12)), 8, 3, stride=2))
    x = b.node("Flatten", b.node("GlobalAveragePool", b.conv(x, 8, 3, groups=8)))
    return b.linear(b.node("MatMul", x, b.weight("w", (8, 72))), 10)


# --- layers ----------------------------------------------------------------------------------------------

MULTIPLY: dict[str, Build] = {
    "conv": lambda b: b.conv(b.input("x", (2, 6, 9, 7)), 8, 3),
    "conv 1x1 stride 2": lambda b: b.conv(b.input("x", (1, 6, 9, 7)), 8, 1, stride=2),
    "depthwise": lambda b: b.conv(b.input("x", (1, 6, 9, 7)), 6, 3, groups=6),
    "grouped": lambda b: b.conv(b.input("x", (1, 6, 9, 7)), 9, 3, groups=3),
    "dilated": lambda b: b.conv(b.input("x", (1, 6, 9, 7)), 8, 3, dilation=2),
    "oblong": lambda b: b.conv(b.input("x", (1, 6, 9, 7)), 8, (1, 5), stride=(2, 1)),
    "conv 1d": lambda b: b.conv(b.input("x", (3, 6, 20)), 8, 5, stride=2),
    "transposed": lambda b: b.conv_transpose(b.input("x", (1, 6, 5, 4)), 8, 4),
    "gemm": lambda b: b.linear(b.input("x", (3, 10)), 7),
    "matmul 3d": lambda b: b.linear(b.input("x", (2, 3, 10)), 7),
    "matmul 4d": lambda b: b.linear(b.input("x", (2, 3, 5, 10)), 7),
    "matmul 5d": lambda b: b.linear(b.input("x", (2, 2, 3, 5, 10)), 7),
    "attention": lambda b: b.node("MatMul", b.input("q", (2, 4, 5, 8)), b.input("k", (2, 4, 8, 6))),
    "broadcast": lambda b: b.node("MatMul", b.input("q", (2, 4, 5, 8)), b.input("k", (8, 6))),
    "weights first": lambda b: b.node("MatMul", b.weight("w", (9, 8)), b.input("x", (2, 8, 6))),
    "weights per batch": lambda b: b.node("MatMul", b.input("x", (2, 5, 8)), b.weight("w", (2, 8, 6))),
    "lstm": lambda b: b.node(
        "LSTM",
        b.input("x", (11, 2, 5)),
        b.weight("w", (2, 12, 5)),
        b.weight("r", (2, 12, 3)),
        n_outputs=3,
        direction="bidirectional",
        hidden_size=3,
    )[0],
    "gru": lambda b: b.node(
        "GRU",
        b.input("x", (11, 2, 5)),
        b.weight("w", (1, 9, 5)),
        b.weight("r", (1, 9, 3)),
        n_outputs=2,
        hidden_size=3,
    )[0],
}


@pytest.mark.parametrize("name", MULTIPLY)
def test_layers_hold_every_multiplication(name: str) -> None:
    model = _model(MULTIPLY[name])
    assert sum(macs(layer) * count for layer, count in _found(model)) == read_onnx(model).macs > 0


def test_a_convolution_becomes_its_loops() -> None:
    """Width is x: an image of 14 rows and 11 columns under a kernel of 3 rows and 5 columns."""

    def build(b: OnnxBuilder) -> str:
        weights = b.weight("w", (8, 3, 3, 5))
        return b.node(
            "Conv", b.input("x", (2, 6, 14, 11)), weights, group=2, strides=[2, 1], pads=[1, 0, 1, 0]
        )

    ((layer, count),) = _found(_model(build))
    sizes = dict(zip(layer["loop_dims"], layer["loop_sizes"], strict=True))
    assert count == 1
    assert sizes == {"B": 2, "G": 2, "K": 4, "C": 3, "OX": 7, "OY": 7, "FX": 5, "FY": 3}
    assert layer["dimension_relations"] == ["ix=1*ox+1*fx", "iy=2*oy+1*fy"]
    assert dict(zip(layer["pr_loop_dims"], layer["pr_loop_sizes"], strict=True)) == {"IX": 11, "IY": 14}


def test_a_transposed_convolution_is_one_with_more_channels() -> None:
    """Stride 2 divides kernel 4: 2 x 2 times the channels of a 2 x 2 kernel at the input's size."""
    ((layer, _),) = _found(_model(MULTIPLY["transposed"]))
    sizes = dict(zip(layer["loop_dims"], layer["loop_sizes"], strict=True))
    assert (sizes["K"], sizes["C"], sizes["FX"], sizes["OX"], sizes["OY"]) == (8 * 4, 6, 2, 4, 5)


@pytest.mark.parametrize(
    ("name", "equation", "sizes"),
    [
        ("matmul 4d", "O[b][h][d][k]+=I[b][h][d][c]*W[c][k]", [10, 5, 7, 2, 3]),
        ("attention", "O[b][h][d][k]+=I[b][h][d][c]*W[b][h][c][k]", [8, 5, 6, 2, 4]),
        ("weights first", "O[b][d][k]+=I[b][d][c]*W[c][k]", [8, 6, 9, 2]),
        ("weights per batch", "O[b][d][k]+=I[b][d][c]*W[b][c][k]", [8, 5, 6, 2]),
    ],
)
def test_weights_are_shared_by_the_batch_only_where_they_are(
    name: str, equation: str, sizes: list[int]
) -> None:
    ((layer, _),) = _found(_model(MULTIPLY[name]))
    assert (layer["equation"], layer["loop_sizes"]) == (equation, sizes)


def test_a_recurrent_network_multiplies_by_its_state_in_every_step() -> None:
    (whole, once), (step, steps) = _found(_model(MULTIPLY["lstm"]))
    assert (whole["loop_sizes"], once) == ([5, 11 * 2, 2 * 12], 1)
    assert (step["loop_sizes"], steps) == ([3, 2, 12], 11 * 2)


def test_layers_of_one_shape_are_one() -> None:
    def build(b: OnnxBuilder) -> str:
        x = b.input("x", (1, 8, 9, 9))
        for _ in range(3):
            x = b.relu(b.conv(x, 8, 3))
        return x

    ((_, count),) = _found(_model(build))
    assert count == 3


REFUSED: dict[str, tuple[Build, str]] = {
    "nothing": (lambda b: b.relu(b.input("x", (1, 8))), "no convolution or matrix product"),
    "3d": (lambda b: b.conv(b.input("x", (1, 2, 4, 4, 4)), 3, 3), "Conv .*no form as a ZigZag layer"),
    "odd transpose": (
        lambda b: b.conv_transpose(b.input("x", (1, 6, 5, 4)), 8, 3),
        "ConvTranspose .*no form as a ZigZag layer",
    ),
    "einsum": (
        lambda b: b.node("Einsum", b.input("x", (2, 3)), b.input("z", (3, 4)), equation="ij,jk->ik"),
        "Einsum .*no form as a ZigZag layer",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_zigzag_would_pass_over_in_silence_is_refused(name: str) -> None:
    build, reason = REFUSED[name]
    with pytest.raises(BackendError, match=reason):
        layers(read_onnx(_model(build)))


def test_an_operator_of_unknown_cost_is_refused() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
        net (float[4,4] x) => (float[4,4] y) { z = MatMul(x, x)  y = mine.Magic(z) }"""
    )
    with pytest.raises(BackendError, match=r"without a cost rule: mine\.Magic \(1\)"):
        layers(read_onnx(model))


def test_unpriced_operators_are_listed_but_views_are_not() -> None:
    assert unpriced(read_onnx(_model(tiny))) == "Relu 1, GlobalAveragePool 1"  # no Flatten: it moves nothing


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_members_with_layers(family: str) -> None:
    """Where a member is refused, the reason is one of those above."""
    model = FAMILIES[family].sample(np.random.default_rng(1))
    graph = read_onnx(model)
    try:
        found = layers(graph)
    except BackendError as error:
        assert family in ("single_operator", "small_block", "unet"), error
    else:
        assert sum(macs(json.loads(text)) * n for text, n in found.items()) == graph.macs


# --- the profiler, with another worker -------------------------------------------------------------------

FAKE = """
import json, sys
for line in sys.stdin:
    size = json.loads(line)["layer"]["loop_sizes"]
    print(json.dumps({"cycles": sum(size) + 0.25, "energy_pj": 2.0 * sum(size)}), flush=True)
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes the worker run the given program; by default one that prices a layer by the sum of its loops."""

    def use(program: str) -> None:
        monkeypatch.setattr(zigzag, "_WORKER", (sys.executable, "-c", program))

    monkeypatch.setattr(ZigzagProfiler, "check", lambda self: None)
    monkeypatch.setattr(zigzag, "_version", lambda: "3.9.1")
    use(FAKE)
    yield use


TWICE = _model(lambda b: b.linear(b.linear(b.input("x", (1, 4)), 4), 4))  # loops 4, 1, 4: a sum of 9


def test_labels_are_sums_over_layers_in_si_units(fake: None) -> None:
    labels = {m.metric: m for m in ZigzagProfiler().measure(TWICE, TPU)}
    assert {metric: m.value for metric, m in labels.items()} == pytest.approx(
        {Metric.CYCLES: 2 * 10, Metric.ENERGY: 2 * 18e-12, Metric.LATENCY: 20 / 700e6}
    )
    label = labels[Metric.ENERGY]
    assert label.digest == read_onnx(TWICE).digest
    assert (label.device, label.provenance, label.repeats) == (TPU.name, "simulated", 1)
    assert label.versions == {"zigzag-dse": "3.9.1", "unpriced_operators": ""}


def test_without_a_clock_there_is_no_latency(fake: None) -> None:
    profiler, meta = ZigzagProfiler(), DEVICES["meta-prototype-like"]
    assert {m.metric for m in profiler.measure(TWICE, meta)} == {Metric.CYCLES, Metric.ENERGY}
    with pytest.raises(BackendError, match=r"does not tell latency_s of meta.*clock is not published"):
        profiler.measure(TWICE, meta, [Metric.LATENCY])


def test_only_metrics_and_architectures_that_zigzag_knows(fake: None) -> None:
    profiler = ZigzagProfiler()
    (label,) = profiler.measure(TWICE, TPU, [Metric.CYCLES])
    assert label.metric is Metric.CYCLES
    with pytest.raises(BackendError, match="does not tell peak_memory_bytes"):
        profiler.measure(TWICE, TPU, [Metric.PEAK_MEMORY])
    with pytest.raises(UnknownNameError, match="Did you mean 'tpu-like'"):
        profiler.measure(TWICE, Device(name="tpu-lke/zigzag/int8", kind="asic"))


def test_a_layer_is_priced_once_for_all_processes(fake: Callable[[str], None], tmp_path: Path) -> None:
    first = ZigzagProfiler(tmp_path).measure(TWICE, TPU)
    fake("raise SystemExit(3)")
    again = ZigzagProfiler(tmp_path).measure(TWICE, TPU)
    assert [m.value for m in again] == [m.value for m in first]
    with pytest.raises(BackendError, match="ended without an answer"):  # another device is another price
        ZigzagProfiler(tmp_path).measure(TWICE, DEVICES["dimc"])


def test_what_zigzag_refuses_is_the_reason_and_is_kept(fake: Callable[[str], None], tmp_path: Path) -> None:
    fake(
        """import sys\nfor _ in sys.stdin: print('{"error": "NoValidLoopOrderingFoundException"}', flush=True)"""
    )
    for _ in range(2):
        with pytest.raises(BackendError, match="'net' on tpu-like/zigzag/int8: NoValidLoop"):
            ZigzagProfiler(tmp_path).measure(TWICE, TPU)
        fake("raise SystemExit(3)")


def test_a_crash_costs_one_cell(fake: Callable[[str], None], tmp_path: Path) -> None:
    profiler = ZigzagProfiler(tmp_path)
    fake("import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 11)")
    with pytest.raises(BackendError, match=r"ended without an answer \(exit status -11\)"):
        profiler.measure(TWICE, TPU)
    fake(FAKE)
    assert profiler.measure(TWICE, TPU)


def test_a_hang_costs_one_cell(fake: Callable[[str], None]) -> None:
    profiler = ZigzagProfiler(timeout_s=0.3)
    fake("import time; time.sleep(60)")
    begin = time.monotonic()
    with pytest.raises(BackendError, match="still searching after 0 s"):
        profiler.measure(TWICE, TPU)
    assert time.monotonic() - begin < 30
    fake(FAKE)
    profiler._timeout_s = 60
    assert profiler.measure(TWICE, TPU)


def test_a_damaged_cache_says_what_to_do(fake: None, tmp_path: Path) -> None:
    (tmp_path / "zigzag.sqlite").write_text("no database at all, but long enough to be looked at" * 9)
    with pytest.raises(StorageError, match="delete it"):
        ZigzagProfiler(tmp_path).measure(TWICE, TPU)


def test_the_reason_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zigzag, "find_spec", lambda name: None)
    with pytest.raises(
        BackendError, match=r"needs the packages 'zigzag-dse' and 'six': pip install 'hardsight\[asic\]'"
    ):
        ZigzagProfiler().measure(TWICE, TPU)


def test_devices_and_architectures_are_the_same() -> None:
    assert set(DEVICES) == set(ARCHITECTURES)
    for device in DEVICES.values():
        assert (device.kind, device.provenance, device.mode) == ("asic", "simulated", "int8")
        assert isinstance(get_profiler(device), ZigzagProfiler)


# --- ZigZag itself ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZigzagProfiler]:
    pytest.importorskip("zigzag", reason="needs zigzag-dse")
    profiler = ZigzagProfiler(tmp_path_factory.mktemp("zigzag"))
    yield profiler
    profiler.close()


def _values(profiler: ZigzagProfiler, model: onnx.ModelProto, device: Device) -> dict[Metric, float]:
    return {m.metric: m.value for m in profiler.measure(model, device)}


@pytest.mark.parametrize("hardware", GOLDEN)
def test_agrees_with_zigzags_own_entry_point(profiler: ZigzagProfiler, hardware: str) -> None:
    """The golden file holds name, cycles and picojoules of each layer of `tiny` (whose kernels are square) from
    ``get_hardware_performance_zigzag`` with ``lpf_limit=3``, which tries every loop order."""
    values = _values(profiler, _model(tiny), DEVICES[hardware])
    assert values[Metric.CYCLES] == sum(math.ceil(cycles) for _, cycles, _ in GOLDEN[hardware])
    energy_pj = sum(energy for _, _, energy in GOLDEN[hardware])
    assert values[Metric.ENERGY] == pytest.approx(1e-12 * energy_pj, rel=1e-12)


def test_value_info_is_not_needed(profiler: ZigzagProfiler) -> None:
    model = _model(tiny)
    assert model.graph.value_info
    del model.graph.value_info[:]
    assert _values(profiler, model, TPU) == _values(profiler, _model(tiny), TPU)


def test_a_convolution_on_one_pixel_by_hand(profiler: ZigzagProfiler) -> None:
    """32 to 32 channels fill the TPU-like array of 32 x 32 once.

    DRAM moves 64 bits a cycle: 128 words of weights, 4 of inputs, 4 of outputs. Cycles: 128 to load, in the last of
    which the array computes; 4 + 1 to store; 31 + 31 to drain both sides of the systolic array. Energy: 700 pJ a
    read and 750 pJ a write of DRAM; a write and a read of 1,024 weight registers, 0.095 pJ each; a write and two
    reads of 1,024 output registers, 0.021 pJ each; 1,024 MACs, 0.04 pJ each. A part of an SRAM word is free.
    """
    model = _model(lambda b: b.conv(b.input("x", (1, 32, 1, 1)), 32, 1))
    values = _values(profiler, model, TPU)
    assert values[Metric.CYCLES] == 128 + 5 + 62
    dram = 128 * 700 + 4 * 700 + 4 * 750
    registers = 1024 * 2 * 0.095 + 1024 * 3 * 0.021
    assert values[Metric.ENERGY] == pytest.approx(1e-12 * (dram + registers + 1024 * 0.04))


UNITS_AND_MAC_PJ = {  # array sizes multiplied, unit_energy: from the shipped hardware files
    "tpu-like": (32 * 32, 0.04),
    "eyeriss-like": (14 * 12, 0.5),
    "edge-tpu-like": (8 * 8 * 4 * 4, 0.04),
    "ascend-like": (16 * 16 * 2 * 2, 0.04),
    "tesla-npu-like": (32 * 32 * 4, 0.04),
    "meta-prototype-like": (32 * 2 * 4 * 4, 0.04),
    "dimc": (128 * 128 // 8, 0.0),  # eight cycles for the bits of an input
    "aimc": (128 * 128 // 4, 0.0),
}


@pytest.mark.parametrize("hardware", ARCHITECTURES)
def test_no_array_is_faster_than_its_units(profiler: ZigzagProfiler, hardware: str) -> None:
    """A convolution that fills the arrays: 128 to 128 channels on 16 x 16."""
    model = _model(lambda b: b.conv(b.input("x", (1, 128, 16, 16)), 128, 1))
    work = 128 * 128 * 16 * 16
    units, mac_pj = UNITS_AND_MAC_PJ[hardware]
    values = _values(profiler, model, DEVICES[hardware])
    assert work / units <= values[Metric.CYCLES] <= 100 * work / units
    assert work * mac_pj * 1e-12 < values[Metric.ENERGY] < work * 100e-12
    if (peak := DEVICES[hardware].peak_macs_per_s) and (clock := DEVICES[hardware].clock_hz):
        assert peak["int8"] == pytest.approx(units * clock, rel=1e-3)


@pytest.mark.parametrize("hardware", ["dimc", "aimc"])
def test_the_clock_of_an_array_in_memory_is_zigzags(hardware: str) -> None:
    pytest.importorskip("zigzag", reason="needs zigzag-dse")
    from hardsight.datasets.profilers._zigzag_worker import architecture

    accelerator, _ = architecture(*ARCHITECTURES[hardware])
    period_s = accelerator.operational_array.tclk * 1e-9
    assert DEVICES[hardware].clock_hz == pytest.approx(1 / period_s, rel=1e-6)


def test_a_kept_price_is_the_price(profiler: ZigzagProfiler, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = _values(profiler, _model(tiny), TPU)
    monkeypatch.setattr(zigzag, "_WORKER", (sys.executable, "-c", "raise SystemExit(3)"))
    assert _values(ZigzagProfiler(profiler.cache), _model(tiny), TPU) == fresh


def test_a_float_graph_and_its_quantized_twin_cost_the_same(profiler: ZigzagProfiler) -> None:
    def build(b: OnnxBuilder, precision: str) -> str:
        x = b.input("x", (1, 8, 6, 6))
        if precision == "int8":
            x = b.dequantize(b.quantize(x))
        return b.conv(x, 8, 3, precision=precision)  # type: ignore[arg-type]

    twins = [_model(lambda b, p=p: build(b, p)) for p in ("fp32", "int8")]  # type: ignore[misc]
    assert len({read_onnx(twin).digest for twin in twins}) == 2
    first, second = (_values(profiler, twin, TPU) for twin in twins)
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("hardware", ARCHITECTURES)
def test_the_short_search_finds_what_the_whole_one_finds(hardware: str) -> None:
    """Layers of every kind above, and two big enough for six loops."""
    pytest.importorskip("zigzag", reason="needs zigzag-dse")
    from hardsight.datasets.profilers._zigzag_worker import price

    models = [_model(build) for build in MULTIPLY.values()]
    models.append(_model(lambda b: b.conv(b.input("x", (1, 96, 20, 20)), 96, 3, stride=2)))
    models.append(_model(lambda b: b.conv(b.input("x", (1, 40, 20, 20)), 40, 5)))
    for model in models:
        for layer, _ in _found(model):
            assert price(layer, *ARCHITECTURES[hardware]) == price(
                layer, *ARCHITECTURES[hardware], exhaustive=True
            )
