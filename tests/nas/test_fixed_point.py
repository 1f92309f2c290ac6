"""Networks in fixed point: the spaces, training, and the circuit that computes what torch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import optuna
import pytest
from nas_fakes import make_job
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from hardsight.candidate import Candidate
from hardsight.datasets.builder import QONNX
from hardsight.datasets.weights import fill_weights
from hardsight.device import get_device
from hardsight.errors import InputError, JobError
from hardsight.ingest import read_onnx
from hardsight.nas.data import DataSpec, LabelledData, load_data
from hardsight.nas.evaluators import Evaluation
from hardsight.nas.evaluators.fixed_point import FixedPointModule
from hardsight.nas.evaluators.qat import Options, QatEvaluator
from hardsight.nas.export_qonnx import network_to_qonnx
from hardsight.nas.network import FLOAT_BITS, INPUT, Layer, Network
from hardsight.nas.report_page import front_cells
from hardsight.nas.runtimes import run_circuit, runtime_of
from hardsight.nas.search import prepare, run_search
from hardsight.nas.spaces import Task, get_space
from hardsight.nas.spaces._fixed_point import FixedPointSpace
from hardsight.predictors import load_predictor

XCUP = "xcup/da4ml/lc5"
PRECISIONS = get_device(XCUP).precisions
TASKS = {
    "quant_mlp": Task((6,), 3, PRECISIONS, signed=True),
    "fpga_cnn": Task((1, 8, 8), 10, PRECISIONS),
}


def space_of(name: str, **options: Any) -> FixedPointSpace:
    space = get_space(name).for_task(TASKS[name], **options)
    assert isinstance(space, FixedPointSpace)
    return space


def sampled(space: FixedPointSpace, n: int) -> list[tuple[optuna.Trial, Candidate]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [(trial, space.suggest(trial)) for trial in (study.ask() for _ in range(n))]


def smallest(space: FixedPointSpace) -> Candidate:
    return space.suggest(optuna.trial.FixedTrial(dict(space.anchors()[0])))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, told by sums of features."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(int) + (x[:, 2] - x[:, 3] > 1)
    path = tmp_path_factory.mktemp("data") / "table.npz"
    np.savez(path, x=x, y=y)
    return path


# --- spaces --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_candidates_hold_all_numbers_and_cost_something(name: str) -> None:
    space = space_of(name)
    predictor = load_predictor(XCUP)
    graphs, names = [], set()
    for trial, candidate in sampled(space, 25):
        again = Candidate.from_json(candidate.to_json())
        assert again == candidate
        network = space.network(again)
        assert all(2 <= layer.weight_bits <= 8 for layer in network.layers)
        assert network.layers[-1].output_bits == FLOAT_BITS
        onnx.checker.check_model(fill_weights(space.to_onnx(candidate)))
        graphs.append(read_onnx(space.to_onnx(candidate)))
        names.add(tuple(sorted(trial.params)))
    assert len(names) == 1  # samplers model a fixed set of parameters
    assert {graph.outputs[0].shape for graph in graphs} == {(1, TASKS[name].classes)}
    assert all(not graph.unknown_ops and graph.macs > 0 for graph in graphs)
    answer = predictor.predict(graphs, XCUP)
    for i in range(len(graphs)):
        costs = {str(metric): estimate for metric, estimate in answer.row(i).estimates.items()}
        assert 0 < costs["logic_cells"].lower <= costs["logic_cells"].upper < np.inf


def test_bits_reach_the_graph() -> None:
    space = space_of("quant_mlp")
    chosen = dict(space.anchors()[0]) | {
        "depth": 2, "input_bits": 7, "hidden0_weight_bits": 3, "hidden0_activation_bits": 5,
        "hidden1_weight_bits": 4, "hidden1_activation_bits": 6, "classifier_weight_bits": 8,
    }  # fmt: skip
    graph = read_onnx(space.to_onnx(space.suggest(optuna.trial.FixedTrial(chosen))))
    gemms = [op for op in graph.operators if op.op_type == "Gemm"]
    assert [(op.weight_bits, op.input_bits) for op in gemms] == [(3, 7), (4, 5), (8, 6)]


@pytest.mark.parametrize("name", TASKS)
def test_uniform_networks_have_one_width(name: str) -> None:
    space = space_of(name, uniform=True, bits=[8, 3])
    widths = set()
    for _, candidate in sampled(space, 12):
        network = space.network(candidate)
        held = {layer.weight_bits for layer in network.layers} | set(network.quantized.values())
        assert len(held) == 1
        widths |= held
    assert widths == {3, 8}


def test_deep_networks_end_at_a_single_position() -> None:
    space = space_of("fpga_cnn", max_depth=6, resolutions=[4], kernels=[2])
    depths = {len(space.network(candidate).layers) for _, candidate in sampled(space, 20)}
    assert max(depths) == 3  # 4 → 2 → 1 pixels, classifier


def test_shapes_by_hand() -> None:
    layers = (
        Layer("a", "conv", (INPUT,), 4, 4, channels=3, kernel=3, stride=2, relu=True),  # 7 → 4, padded
        Layer("b", "conv", ("a",), 4, 4, channels=2, kernel=2, relu=True),  # 4 → 3
        Layer("c", "linear", ("b",), 4, channels=5),
    )
    network = Network("n", (1, 7, 7), layers, 4, fixed_point=True)
    shapes = {name: tensor.shape for name, tensor in network.tensors.items()}
    assert shapes == {INPUT: (1, 7, 7), "a": (3, 4, 4), "b": (2, 3, 3), "c": (5,)}
    assert network.weight_shape(layers[2]) == (5, 18)
    assert read_onnx(network_to_qonnx(network)).macs == 3 * 9 * 16 + 2 * 3 * 4 * 9 + 18 * 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": [2, 16]}, "bits"),
        ({"widths": [9, 3]}, "empty"),
        ({"unifrom": True}, "Did you mean 'uniform'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(JobError, match=words):
        space_of("quant_mlp", **options)


def test_bits_that_the_device_lacks_are_refused() -> None:
    four = Task((6,), 3, ("int4", "int8"))
    space = get_space("quant_mlp").for_task(four)
    assert isinstance(space, FixedPointSpace)
    assert {candidate.params["input_bits"] for _, candidate in sampled(space, 12)} == {4, 8}
    for task, bits in ((four, [3]), (Task((6,), 3, ("fp32",)), None)):
        with pytest.raises(JobError, match="the device executes"):
            get_space("quant_mlp").for_task(task, bits=bits)


def test_foreign_candidates_are_refused() -> None:
    with pytest.raises(InputError, match="space 'fpga_cnn'"):
        space_of("quant_mlp").network(smallest(space_of("fpga_cnn")))
    with pytest.raises(InputError, match="'classes'"):
        space_of("quant_mlp").network(Candidate("quant_mlp", {"features": 3, "input_bits": 16}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": "quant_mlp"}, "for tables"),
        ({"space": "quant_cnn"}, "not for FPGAs"),
        ({"space": "fpga_cnn", "device": "host/onnxruntime/fp32-t1"}, "is for FPGAs"),
        ({"space": {"name": "fpga_cnn", "bits": [9]}}, "bits"),
    ],
)
def test_jobs_that_cannot_be_done_are_refused(changes: dict[str, object], words: str) -> None:
    job = make_job(**{"device": XCUP, "objectives": ["error", "logic_cells"], **changes})
    with pytest.raises(JobError, match=words):
        prepare(job)


def test_layers_without_a_form_in_fixed_point_are_refused() -> None:
    pooled = Network("n", (2, 4, 4), (Layer("pool", "pool", (INPUT,)),), 4, fixed_point=True)
    in_float = Network("n", (3,), (Layer("l", "linear", (INPUT,), channels=2),), 4, fixed_point=True)
    for build in (network_to_qonnx, FixedPointModule):
        with pytest.raises(InputError, match="'pool'"):
            build(pooled)
        with pytest.raises(InputError, match="weights of 32 bits"):
            build(in_float)


# --- training and the circuit --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(table: Path) -> dict[str, LabelledData]:
    return {
        "quant_mlp": load_data(DataSpec(source=str(table)), 0),
        "fpga_cnn": load_data(DataSpec(limit=800), 0),
    }


@pytest.fixture(scope="module", params=TASKS)
def trained(request: pytest.FixtureRequest, data: dict[str, LabelledData]) -> tuple[QatEvaluator, Evaluation]:
    space = space_of(request.param)
    chosen = dict(space.anchors()[0]) | {"depth": 2, "input_bits": 5}
    chosen |= {key: 3 for key in chosen if "activation" in key} | {"classifier_weight_bits": 4}
    chosen |= {key: 4 for key in chosen if key.endswith(("_width", "_channels", "_weight_bits"))}
    chosen |= {"resolution": 8} if request.param == "fpga_cnn" else {}
    evaluator = QatEvaluator(space, data[request.param], epochs=8, options=Options(batch=32))
    return evaluator, evaluator.evaluate(space.suggest(optuna.trial.FixedTrial(chosen)), seed=0)


def test_the_circuit_computes_what_torch_does(
    tmp_path: Path, trained: tuple[QatEvaluator, Evaluation]
) -> None:
    pytest.importorskip("da4ml", reason="needs the extra 'fpga'")
    evaluator, evaluation = trained
    model = evaluator.to_onnx(evaluation)
    assert runtime_of(model).run is run_circuit
    path = tmp_path / "network.onnx"
    path.write_bytes(model.SerializeToString())
    shape = evaluator.space.network(evaluation.candidate).input_shape
    samples, _ = evaluator.data.part("validation", shape)
    found, expected = run_circuit(path, samples), evaluator.predict(evaluation, "validation")
    assert expected.std() > 0
    np.testing.assert_array_equal(found, expected)


def test_the_file_means_what_torch_computes(trained: tuple[QatEvaluator, Evaluation]) -> None:
    """By onnx's reference and QONNX's own definition of Quant."""
    quantizer = pytest.importorskip("qonnx.custom_op.general.intquant", reason="needs the extra 'dev'")

    class Quant(OpRun):
        op_domain = QONNX

        def _run(self, *inputs, signed=None, narrow=None, rounding_mode=None):  # type: ignore[no-untyped-def]
            y = quantizer.int_quant(*inputs, signed, narrow, rounding_mode)
            return (np.asarray(y, np.float32),)

    evaluator, evaluation = trained
    reference = ReferenceEvaluator(evaluator.to_onnx(evaluation), new_ops=[Quant])
    shape = evaluator.space.network(evaluation.candidate).input_shape
    samples, _ = evaluator.data.part("validation", shape)
    expected = evaluator.predict(evaluation, "validation")
    for sample, logits in zip(samples[:20], expected, strict=False):
        found = reference.run(None, {INPUT: sample[None]})[0][0]
        np.testing.assert_allclose(found, logits, rtol=1e-6, atol=1e-6)


def test_the_weightless_graph_is_the_trained_one(trained: tuple[QatEvaluator, Evaluation]) -> None:
    evaluator, evaluation = trained
    weightless = evaluator.space.to_onnx(evaluation.candidate)
    assert read_onnx(weightless).digest == read_onnx(evaluator.to_onnx(evaluation)).digest


def test_numbers_lie_on_the_levels_of_their_width(trained: tuple[QatEvaluator, Evaluation]) -> None:
    evaluator, evaluation = trained
    held = {
        t.name: numpy_helper.to_array(t).astype(np.float64)
        for t in evaluator.to_onnx(evaluation).graph.initializer
    }
    network = evaluator.space.network(evaluation.candidate)
    for layer in network.layers:
        scale = held[f"{layer.name}.weight_scale"]
        levels = held[f"{layer.name}.weight"] / scale
        assert np.array_equal(levels, np.rint(levels))
        assert 1 <= np.abs(levels).max() <= 2 ** (layer.weight_bits - 1) - 1
        step = held[f"{layer.inputs[0]}.scale"] * scale.reshape(-1)
        assert np.array_equal(held[f"{layer.name}.bias_scale"], step)
        assert np.array_equal(held[f"{layer.name}.bias"] / step, np.rint(held[f"{layer.name}.bias"] / step))
        for value in (scale, step):
            assert (np.frexp(value)[0] == 0.5).all()  # powers of two


def test_it_learns(trained: tuple[QatEvaluator, Evaluation]) -> None:
    assert trained[1].accuracy > 1.5 / len(trained[0].data.classes)


# --- search --------------------------------------------------------------------------------------------------


def test_search_ends_in_synthesised_circuits(tmp_path: Path, table: Path) -> None:
    pytest.importorskip("da4ml", reason="needs the extra 'fpga'")
    job = make_job(
        data=str(table),
        space={"name": "quant_mlp", "widths": [3, 4], "max_depth": 1, "bits": [2, 3]},
        device=XCUP,
        objectives=["error", "logic_cells"],
        constraints={"logic_cells": 3000},
        trials=3,
        epochs=2,
        front_size=1,
    )
    report = run_search(job, tmp_path)
    (row,) = report.rows
    assert report.measured_on == XCUP
    assert row.measured["logic_cells"][0] > 5
    assert row.measured["cycles"][0] >= 1
    assert row.kept == {"logic_cells": True}
    assert row.test_agreement == 1
    assert "logic_cells" in report.compared
    assert "measured_logic_cells_inside_interval" in report.summary_metrics()
    headings, cells = front_cells(report)
    assert "Accuracy test (da4ml)" in headings
    bits = cells[0][-1].split()
    assert len(bits) == 2
    assert all(text in {f"w{w}a{a}" for w in (2, 3) for a in (2, 3)} for text in bits)
    assert "Predicted logic cells" in (tmp_path / "report.html").read_text()
