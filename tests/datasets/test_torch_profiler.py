"""PyTorch eager on the CPU: the modes compute the same, and memory is the network's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import parser

from hardsight.datasets.families import FAMILIES
from hardsight.datasets.profilers import get_profiler, torch_cpu
from hardsight.datasets.profilers._cpu import inputs
from hardsight.datasets.profilers.torch_cpu import TorchProfiler
from hardsight.datasets.weights import fill_weights
from hardsight.device import Device
from hardsight.errors import BackendError
from hardsight.ingest import read_onnx
from hardsight.metrics import Metric


def device(mode: str, threads: int = 1) -> Device:
    return Device(name=f"host/torch/{mode}", kind="cpu", threads=threads)


def net(signature: str, body: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {signature} {{ {body} }}')


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`load` here rather than in a worker: threads are put back, this process's peak stays."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch_cpu, "_forget_peak", lambda: None)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("mode", "threads"), [("fp32-t1", 1), ("fp32-t2", 2), ("channels-last-t1", 1)])
def test_every_mode_computes_the_model(in_process: None, tmp_path: Path, mode: str, threads: int) -> None:
    path = str(tmp_path / "m.onnx")
    onnx.save(fill_weights(FAMILIES["inverted_bottleneck"].sample(np.random.default_rng(5))), path)
    session = ort.InferenceSession(path)
    shapes = {i.name: i.shape for i in session.get_inputs()}
    run = TorchProfiler.load(path, mode, threads, shapes)
    found = run()
    expected = session.run(None, inputs(shapes, dict.fromkeys(shapes, np.float32)))[0]
    assert torch.get_num_threads() == threads
    assert isinstance(found, torch.Tensor) and found.is_inference()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_channels_last_reaches_images_weights_and_results(in_process: None, tmp_path: Path) -> None:
    path = str(tmp_path / "m.onnx")
    weights = ", ".join(["0.1"] * 54)
    body = f"w = Constant<value = float[2,3,3,3] {{{weights}}}>() y = Conv(x, w)"
    onnx.save(net("(float[1,3,8,8] x) => (float[1,2,6,6] y)", body), path)
    for mode, expected in (("fp32-t1", False), ("channels-last-t1", True)):
        y = TorchProfiler.load(path, mode, 1, {"x": [1, 3, 8, 8]})()
        assert isinstance(y, torch.Tensor)
        assert y.is_contiguous(memory_format=torch.channels_last) is expected


def test_quantized_models_are_refused() -> None:
    profiler = get_profiler(device("fp32-t1"))
    body = "s = Constant<value = float {0.1}>() q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)"
    with pytest.raises(BackendError, match="does not take ONNX files that are quantized"):
        profiler.measure(net("(float[1,4] x) => (float[1,4] y)", body), device("fp32-t1"))


def test_memory_is_the_networks_and_labels_carry_the_version() -> None:
    """40 MB of weights: reading the ONNX file would at least double it, importing PyTorch add 200 MB."""
    model = net("(float[n,1000] x) => (float[n,10000] y)", "y = MatMul(x, w)")
    model.graph.initializer.add(
        name="w", dims=[1000, 10000], data_type=1, data_location=onnx.TensorProto.EXTERNAL
    ).external_data.add(key="location", value="none")
    profiler = TorchProfiler()
    labels = {
        m.metric: m for m in profiler.measure(model, device("fp32-t1"), budget_s=0.2, shapes={"x": [3, 1000]})
    }
    profiler.close()
    assert 40e6 < labels[Metric.PEAK_MEMORY].value < 75e6
    assert 0 < labels[Metric.LATENCY].value < 10
    assert labels[Metric.LATENCY].versions["torch"].startswith("2.")
    assert labels[Metric.LATENCY].digest == read_onnx(model, shapes={"x": [3, 1000]}).digest
