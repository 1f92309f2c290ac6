"""Training with quantization in the loop, and the exactness of what is exported."""

from pathlib import Path

import numpy as np
import onnx
import optuna
import pytest
import torch
from nas_fakes import logits

from hardsight.candidate import Candidate
from hardsight.nas.data import DataSpec, LabelledData, load_data
from hardsight.nas.evaluators import Evaluation, TrialFailure
from hardsight.nas.evaluators.module import NetworkModule, initializer_values
from hardsight.nas.evaluators.qat import Options, QatEvaluator
from hardsight.nas.export import network_to_onnx
from hardsight.nas.network import INPUT, Layer, Network
from hardsight.nas.spaces import Task
from hardsight.nas.spaces.quant_cnn import QuantCnnSpace

SPACE = QuantCnnSpace(Task((1, 8, 8), 10))


@pytest.fixture(scope="module")
def data() -> LabelledData:
    return load_data(DataSpec(), seed=0)


def candidate(**changes: object) -> Candidate:
    """Mixed precision: every border between fp32 and int8, one residual of each."""
    chosen = dict(SPACE.anchors()[-1]) | {
        "s0_depth": 2,
        "s0_b0_expansion": 2,
        "s0_b1_precision": "fp32",
        "s1_depth": 2,
        "s2_b0_precision": "fp32",
    }
    return SPACE.suggest(optuna.trial.FixedTrial(chosen | changes))


@pytest.fixture(scope="module")
def trained(data: LabelledData) -> tuple[QatEvaluator, Evaluation]:
    evaluator = QatEvaluator(SPACE, data, epochs=4)
    return evaluator, evaluator.evaluate(candidate(), seed=0)


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_onnxruntime_agrees_with_the_trained_module(
    data: LabelledData, trained: tuple[QatEvaluator, Evaluation], level: str
) -> None:
    evaluator, evaluation = trained
    samples, _ = data.part("test")
    expected = evaluator.predict(evaluation, "test")
    found = logits(evaluator.to_onnx(evaluation), samples, level)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99
    assert np.abs(found - expected).mean() < 0.01 * expected.std()


def test_it_learns(trained: tuple[QatEvaluator, Evaluation]) -> None:
    assert trained[1].accuracy > 0.8  # guessing gives 0.1


def test_exported_integers_are_the_trained_ones(trained: tuple[QatEvaluator, Evaluation]) -> None:
    evaluator, evaluation = trained
    held = {t.name: onnx.numpy_helper.to_array(t) for t in evaluator.to_onnx(evaluation).graph.initializer}
    assert held["stem.weight"].dtype == np.int8
    assert held["stem.bias"].dtype == np.int32
    assert len(set(held["stem.weight_scale"].tolist())) > 1  # one per channel
    assert held["s0_b1_depthwise.weight"].dtype == np.float32
    np.testing.assert_allclose(
        held["stem.bias_scale"], held["input.scale"] * held["stem.weight_scale"], rtol=1e-6
    )
    assert (held["input.zero_point"], held["stem.zero_point"], held["s0_b0_project.zero_point"]) == (
        0,
        0,
        128,
    )


def test_negative_and_vanishing_normalisation_fold_exactly() -> None:
    """γ < 0 flips the integers, γ = 0 leaves the bias alone, a large bias still fits into int32."""
    network = Network.of_precisions(
        "one", (3, 6, 6), ((Layer("conv", "conv", (INPUT,), channels=4, kernel=3, relu=True), "int8"),
                           (Layer("pool", "pool", ("conv",)), "int8"),
                           (Layer("classifier", "linear", ("pool",), channels=2), "fp32")),
    )  # fmt: skip
    torch.manual_seed(0)
    module = NetworkModule(network, calibration_steps=1).train()
    module.quantizing = True
    samples = torch.rand(32, 3, 6, 6)
    module(samples)
    module(samples)
    norm = module.norms["conv"]
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -1.0, 0.0, 1e-9]))
        norm.bias.copy_(torch.tensor([0.1, 0.5, 0.7, 1.2]))
    values = initializer_values(module)
    assert (
        np.sign(values["conv.weight"][1]).sum()
        == -np.sign(module.layers["conv"].quant_weight().int().numpy()[1]).sum()
    )
    with torch.no_grad():
        expected = module(samples).numpy()
    found = logits(network_to_onnx(network, values), samples.numpy(), "ORT_ENABLE_ALL")
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_same_seed_same_weights(data: LabelledData) -> None:
    evaluator = QatEvaluator(SPACE, data, epochs=1, options=Options(batch=256))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (evaluator.evaluate(candidate(), seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())  # the caller's generator is left alone
    assert all((one.weights[k] == same.weights[k]).all() for k in one.weights)
    assert any((one.weights[k] != other.weights[k]).any() for k in one.weights)


def test_saved_evaluation_loads_and_exports_the_same(
    tmp_path: Path, trained: tuple[QatEvaluator, Evaluation]
) -> None:
    evaluator, evaluation = trained
    evaluation.save(tmp_path / "w.safetensors")
    loaded = Evaluation.load(tmp_path / "w.safetensors")
    assert (loaded.candidate.digest, loaded.accuracy) == (evaluation.candidate.digest, evaluation.accuracy)
    assert evaluator.to_onnx(loaded) == evaluator.to_onnx(evaluation)


def test_divergence_and_time_fail_the_trial_alone(data: LabelledData) -> None:
    with pytest.raises(TrialFailure, match="diverged"):
        QatEvaluator(SPACE, data, epochs=2, options=Options(learning_rate=1e30)).evaluate(candidate(), 0)
    with pytest.raises(TrialFailure, match="out of time"):
        QatEvaluator(SPACE, data, epochs=2, time_limit_s=1e-6).evaluate(candidate(), 0)
