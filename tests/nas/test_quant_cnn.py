"""The space: whatever a trial picks can be written, read and told apart."""

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort
import optuna
import pytest

from hardsight.candidate import Candidate
from hardsight.datasets.weights import fill_weights
from hardsight.errors import InputError, JobError, UnknownNameError
from hardsight.ingest import read_onnx
from hardsight.nas.spaces import SPACES, Task, get_space
from hardsight.nas.spaces.quant_cnn import QuantCnnSpace

TASK = Task((1, 8, 8), 10)


def sampled(space: QuantCnnSpace, n: int) -> list[tuple[optuna.Trial, Candidate]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [(trial, space.suggest(trial)) for trial in (study.ask() for _ in range(n))]


def residual_int8(space: QuantCnnSpace) -> Candidate:
    """Every kind of layer in INT8: expansion, depthwise, projection, residual, pooling, classifier."""
    chosen = dict(space.anchors()[-1])
    chosen |= {"s0_depth": 2, "s0_b0_expansion": 2}
    return space.suggest(optuna.trial.FixedTrial(chosen))


@pytest.mark.parametrize("name", [name for name, space in SPACES.items() if not space.fixed_point])
def test_every_candidate_exports_and_reads_back(name: str) -> None:
    space = get_space(name).for_task(TASK)
    for _, candidate in sampled(space, 25):
        assert Candidate.from_json(candidate.to_json()).digest == candidate.digest
        model = space.to_onnx(candidate)
        onnx.checker.check_model(fill_weights(model), full_check=True)
        graph = read_onnx(model)
        assert graph.macs > 0
        assert graph.unknown_ops == {}
        assert graph.outputs[0].shape == (1, 10)


def test_macs_by_hand() -> None:
    space = QuantCnnSpace(TASK)
    chosen = dict(space.anchors()[0]) | {"s0_b0_expansion": 2}
    graph = read_onnx(space.to_onnx(space.suggest(optuna.trial.FixedTrial(chosen))))
    stem = 8 * 9 * 64  # 1 → 8 channels, 3 x 3, 8 x 8 pixels
    first = 8 * 16 * 64 + 16 * 9 * 64 + 16 * 8 * 64  # expand by 2, depthwise, project to 8
    second = 8 * 9 * 16 + 8 * 16 * 16  # stride 2: 4 x 4 pixels; project to 16
    third = 16 * 9 * 4 + 16 * 24 * 4
    assert graph.macs == stem + first + second + third + 24 * 10


def test_parameters_without_effect_do_not_change_the_candidate() -> None:
    space = QuantCnnSpace(TASK)
    one = dict(space.anchors()[0])
    other = one | {"s1_b2_kernel": 5, "s2_b1_expansion": 4}
    digests = {space.suggest(optuna.trial.FixedTrial(p)).digest for p in (one, other)}
    assert len(digests) == 1


def test_all_trials_have_the_same_parameters() -> None:
    names = {tuple(sorted(trial.params)) for trial, _ in sampled(QuantCnnSpace(TASK), 10)}
    assert len(names) == 1


def test_onnxruntime_fuses_every_int8_layer(tmp_path: Path) -> None:
    space = QuantCnnSpace(TASK)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(fill_weights(space.to_onnx(residual_int8(space))).SerializeToString(), options)
    found = Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)
    # stem, 2 blocks of stage 0 (one expanded), stages 1 and 2: 1 + 3 + 2 + 2 + 2
    assert found["QLinearConv"] == 10
    assert found["QLinearAdd"] == 2
    assert found["QLinearGlobalAveragePool"] == found["QGemm"] == found["QuantizeLinear"] == 1
    assert not {"Conv", "Add", "Relu", "Gemm", "DequantizeLinear"} & set(found)


def test_bits_are_seen_by_the_reader() -> None:
    space = QuantCnnSpace(TASK)
    graph = read_onnx(space.to_onnx(residual_int8(space)))
    assert {op.weight_bits for op in graph.operators if op.op_type in ("Conv", "Gemm")} == {8}


def test_fp32_only_device_gives_fp32_only_candidates() -> None:
    space = QuantCnnSpace(Task((1, 8, 8), 10, ("fp32",)))
    text = "".join(candidate.to_json() for _, candidate in sampled(space, 5))
    assert "int8" not in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_deph": 2}, "Did you mean 'max_depth'"),
        ({"kernels": [4]}, "kernels"),
        ({"widths": [[24, 8]]}, "empty"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(JobError, match=words):
        QuantCnnSpace.for_task(TASK, **options)


def test_precision_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(JobError, match="executes fp32"):
        QuantCnnSpace.for_task(Task((1, 8, 8), 10, ("fp32",)), precisions=["int8"])


def test_foreign_candidates_are_refused() -> None:
    space = QuantCnnSpace(TASK)
    with pytest.raises(InputError, match="space 'other'"):
        space.to_onnx(Candidate("other", {}))
    with pytest.raises(InputError, match="channels"):
        space.to_onnx(Candidate("quant_cnn", {"channels": "many"}))
    with pytest.raises(UnknownNameError, match="quant_cnn"):
        get_space("quant_cn")
