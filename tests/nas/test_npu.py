"""Search for an NPU whose compiler quantizes by itself."""

from pathlib import Path

import onnx
import optuna
import pytest
from nas_fakes import SPACE, FakeEvaluator, FakePredictor, make_job

from hardsight.candidate import Candidate
from hardsight.datasets.profilers import get_profiler
from hardsight.datasets.profilers.vela import VelaProfiler
from hardsight.device import Device, get_device
from hardsight.errors import BackendError
from hardsight.graph import OperatorGraph
from hardsight.measurement import Measurement
from hardsight.metrics import Metric
from hardsight.nas.data import DataSpec, load_data
from hardsight.nas.evaluators.qat import QatEvaluator
from hardsight.nas.job import Job
from hardsight.nas.runtimes import deliver
from hardsight.nas.search import prepare, run_search
from hardsight.nas.spaces import Task, get_space

NPU = "ethos-u55-128/vela/int8"


def npu_job(**changes: object) -> Job:
    return make_job(device=NPU, objectives=["error", "cycles"], **changes)


def some(space: object, number: int) -> list[Candidate]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space.suggest(study.ask()) for _ in range(number)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["quant_cnn", "resnet"])
def test_costs_are_those_of_the_float_network_and_all_layers_are_int8(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[OperatorGraph] = []
    monkeypatch.setattr(VelaProfiler, "check", lambda _: None)
    setting = prepare(npu_job(space={"name": name}, constraints={"sram_bytes": "64kB"}))
    predict = setting.costs.predictor.predict
    monkeypatch.setattr(
        setting.costs.predictor, "predict", lambda g, *rest: asked.extend(g) or predict(g, *rest)
    )
    for candidate in some(setting.space, 3):
        costs = setting.costs(candidate)
        assert {"cycles", "sram_bytes", "flash_bytes", "size_bytes"} <= set(costs)
        network = setting.space.network(candidate)
        assert {layer.weight_bits for layer in network.layers if layer.has_weights} == {8}
        # one byte for each weight, though the predictor is asked about floats
        assert costs["size_bytes"].value < asked[-1].weight_bytes / 2
        assert "QuantizeLinear" not in {op.op_type for op in asked[-1].operators}
        assert asked[-1].macs == setting.space.graph(candidate).macs


def test_missing_tools_are_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardsight.datasets.profilers._cpu.find_spec", lambda _: None)
    with pytest.raises(BackendError, match=r"hardsight\[npu\]"):
        run_search(npu_job(), tmp_path / "s", predictor=FakePredictor(), evaluator=FakeEvaluator())
    assert not (tmp_path / "s").exists()


def test_a_space_with_operators_for_the_cpu_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaves(self: VelaProfiler, model: onnx.ModelProto, device: Device) -> list[Measurement]:
        raise BackendError(f"'{model.graph.name}': Vela leaves 1 operators to the CPU")

    monkeypatch.setattr(VelaProfiler, "check", lambda _: None)
    monkeypatch.setattr(VelaProfiler, "measure", leaves)
    with pytest.raises(BackendError, match=r"space 'vit' is not for .*leaves 1 operators"):
        run_search(npu_job(space="vit"), tmp_path / "s", evaluator=FakeEvaluator())
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_network_is_delivered_run_and_priced(tmp_path: Path) -> None:
    for package in ("litert_torch", "ai_edge_quantizer", "ethosu.vela"):
        pytest.importorskip(package, reason=f"needs {package}")
    options = {key: value for key, value in SPACE.items() if key != "name"}
    space = get_space("quant_cnn").for_task(Task((1, 8, 8), 10, ("int8",)), **options)
    data = load_data(DataSpec(), seed=0)
    evaluator = QatEvaluator(space, data, epochs=4)
    trained = evaluator.evaluate(some(space, 1)[0], seed=0)
    model = evaluator.to_onnx(trained)
    made = deliver(model, get_device(NPU), lambda: data.part("train", (1, 8, 8))[0])
    assert made.suffix == ".tflite" and made.runtime.name == "LiteRT"
    path = tmp_path / "network.tflite"
    path.write_bytes(made.content)
    samples, _ = data.part("test", (1, 8, 8))
    chosen = made.runtime.run(path, samples).argmax(axis=1)
    assert (chosen == evaluator.predict(trained, "test").argmax(axis=1)).mean() > 0.95
    labels = {m.metric: m.value for m in get_profiler(get_device(NPU)).measure(path, get_device(NPU))}
    assert labels[Metric.CYCLES] > 0 and labels[Metric.FLASH] > 0
    again = get_profiler(get_device(NPU)).measure(model, get_device(NPU))
    assert {m.metric: m.value for m in again}[Metric.CYCLES] == pytest.approx(labels[Metric.CYCLES], rel=0.01)
    assert again[0].versions["weights"] == "model, quantized anew"
