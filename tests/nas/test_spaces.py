"""Every space: whatever a trial picks can be written, read, told apart, trained and run."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import optuna
import pytest
from nas_fakes import logits

from hardsight.candidate import Candidate
from hardsight.datasets.weights import fill_weights
from hardsight.ingest import read_onnx
from hardsight.nas.data import DataSpec, LabelledData, load_data
from hardsight.nas.evaluators.qat import Options, QatEvaluator
from hardsight.nas.spaces import SPACES, NetworkSpace, SearchSpace, Task, get_space

TASKS = {
    "images": Task((1, 8, 8), 10),
    "signals": Task((2, 64), 3, signed=True),
    "tables": Task((16,), 7, signed=True),
}
BENCHMARKS = dict.fromkeys(("nas_bench_201", "nas_bench_macro"), Task((3, 32, 32), 10))
"""Spaces that are not for any image; their networks are large, so few are looked at."""
CONV = {"block": "conv", "width": [8, 16], "depth": [1, 2]}
TRANSFORMER = {"block": "transformer", "width": 16, "depth": [1, 2], "stride": [1, 2], "heads": [1, 2]}
HYBRID = {
    "activations": ["relu", "hard_swish", "gelu"],
    "stages": [
        CONV,
        {"block": "mbconv", "width": 8, "stride": 2, "expansion": [1, 2], "squeeze": [True, False]},
        {"block": "bottleneck", "width": [8, 16], "expansion": 2},
        TRANSFORMER,
    ],
}
OPTIONS = {"stages": HYBRID, "stages_1d": HYBRID}
"""Of spaces that have no defaults."""
TINY = {
    "quant_cnn": {"resolutions": [8], "max_depth": 2, "widths": [[8, 8], [8, 16]]},
    "stages": {**HYBRID, "resolutions": [8]},
    "mbconv": {"resolutions": [8], "stages": HYBRID["stages"][:2]},
    "resnet": {
        "resolutions": [8],
        "stages": [CONV, {"block": "residual", "width": 16, "depth": 2, "stride": 2}],
    },
    "vit": {"resolutions": [16], "stages": [{"block": "transformer", "width": 16, "depth": 2, "stride": 4}]},
    "stages_1d": {"stages": [CONV, TRANSFORMER]},
    "cnn1d": {},
    "compound": {"family": "resnet", "scales": [0.5, 1]},
}
"""Options for spaces that are trained for runtimes with fp32 and int8."""


def space_of(name: str, precisions: tuple[str, ...] = (), **options: object) -> SearchSpace:
    kind = get_space(name)
    precisions = precisions or (("int2", "int4", "int8") if kind.fixed_point else ("fp32", "int8"))
    task = BENCHMARKS.get(name, TASKS[kind.samples])
    return kind.for_task(
        Task(task.shape, task.classes, precisions, task.signed), **(options or OPTIONS.get(name, {}))
    )


def sampled(space: SearchSpace, n: int, seed: int = 0) -> list[tuple[optuna.Trial, Candidate]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [(trial, space.suggest(trial)) for trial in (study.ask() for _ in range(n))]


@pytest.mark.parametrize("name", SPACES)
def test_every_candidate_exports_and_reads_back(name: str) -> None:
    space = space_of(name)
    for _, candidate in sampled(space, 4 if name in BENCHMARKS else 20):
        assert Candidate.from_json(candidate.to_json()).digest == candidate.digest
        model = space.to_onnx(candidate)
        onnx.checker.check_model(fill_weights(model), full_check=True)
        graph = read_onnx(model)
        assert graph.macs > 0
        assert graph.unknown_ops == {}
        assert graph.outputs[0].shape == (1, space.task.classes)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SPACES)
def test_every_trial_is_asked_the_same_and_anchors_answer_all_of_it(name: str) -> None:
    space = space_of(name)
    asked = {tuple(sorted(trial.params)) for trial, _ in sampled(space, 10)}
    assert len(asked) == 1
    for anchor in space.anchors():
        assert {tuple(sorted(anchor))} == asked
        space.to_onnx(space.suggest(optuna.trial.FixedTrial(dict(anchor))))


@pytest.mark.parametrize("name", TINY)
def test_fp32_only_device_gives_fp32_only_candidates(name: str) -> None:
    space = space_of(name, ("fp32",))
    assert "int8" not in "".join(candidate.to_json() for _, candidate in sampled(space, 5))


@pytest.mark.parametrize("name", TINY)
def test_onnxruntime_computes_in_integers_what_the_candidate_says_and_no_more(
    name: str, tmp_path: Path
) -> None:
    space = space_of(name, **TINY[name])
    assert isinstance(space, NetworkSpace)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    for _, candidate in sampled(space, 6):
        layers = [layer for layer in space.network(candidate).layers if layer.has_weights]
        model = fill_weights(space.to_onnx(candidate))
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)
        wanted = Counter((layer.kind, layer.weight_bits) for layer in layers)
        assert found["QLinearConv"] == wanted["conv", 8]
        assert found["Conv"] + found["FusedConv"] == wanted["conv", 32]
        # a product of two activations in attention may be in integers, too: it is exact
        assert found["QGemm"] == wanted["linear", 8]
        assert found["Gemm"] == wanted["linear", 32]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LabelledData]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 100)
    phases = rng.uniform(0, 2 * np.pi, (300, 2, 1))
    waves = np.sin(2 * np.pi * 4 * (labels[:, None, None] + 1) * np.arange(64) / 64 + phases)
    path = tmp_path_factory.mktemp("signals") / "waves.npz"
    np.savez(path, x=waves + 0.5 * rng.standard_normal(waves.shape), y=labels)
    return {
        "images": load_data(DataSpec(limit=600), 0),
        "signals": load_data(DataSpec(source=str(path), kind="signals"), 0),
    }


@pytest.mark.parametrize("name", TINY)
def test_onnxruntime_agrees_with_a_trained_candidate_of_mixed_precision(
    name: str, data: dict[str, LabelledData]
) -> None:
    space = space_of(name, **TINY[name])
    assert isinstance(space, NetworkSpace)
    candidate = next(c for _, c in sampled(space, 20, seed=1) if {"fp32", "int8"} <= set(precisions(c)))
    held = data[space.samples]
    evaluator = QatEvaluator(space, held, epochs=4, options=Options(batch=32))
    evaluation = evaluator.evaluate(candidate, seed=0)
    assert evaluation.accuracy > 1.5 / len(held.classes)  # better than guessing
    samples, _ = held.part("test", space.network(candidate).input_shape)
    expected = evaluator.predict(evaluation, "test")
    model = evaluator.to_onnx(evaluation)
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        found = logits(model, samples, level)
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99
        assert np.abs(found - expected).mean() < 0.02 * expected.std()


def precisions(candidate: Candidate) -> list[str]:
    return [word for word in ("fp32", "int8") if word in candidate.to_json()]
