"""Spaces of stages: their arithmetic by hand, descriptions in YAML, what is refused; compound scaling."""

import re
from pathlib import Path

import optuna
import pytest
import yaml

from hardsight.candidate import Candidate, Json
from hardsight.errors import InputError, JobError
from hardsight.graph import OperatorGraph
from hardsight.ingest import read_onnx
from hardsight.nas.job import load_job, parse_job
from hardsight.nas.spaces import NetworkSpace, Task, get_space
from hardsight.nas.spaces.compound import CompoundSpace

TASK = Task((1, 8, 8), 10)


def only(name: str = "stages", task: Task = TASK, **options: object) -> OperatorGraph:
    """Graph of the one network of a space in which nothing can be chosen."""
    size = {"resolutions": [8]} if len(task.shape) == 3 else {}
    space = get_space(name).for_task(task, **size, **options, precisions=["fp32"])
    return read_onnx(space.to_onnx(space.suggest(optuna.trial.FixedTrial({}))))


def test_macs_of_a_gated_inverted_bottleneck_by_hand() -> None:
    graph = only(
        stages=[{"block": "mbconv", "width": 6, "stride": 2, "kernel": 5, "expansion": 8, "squeeze": True}]
    )
    expand = 8 * 64  # 1 → 8 channels, 8 x 8 pixels
    depthwise = 8 * 25 * 16  # 4 x 4 pixels
    gate = 8 * 2 + 2 * 8  # a quarter of the channels and back, one pixel
    project = 8 * 6 * 16
    assert graph.macs == expand + depthwise + gate + project + 6 * 10


@pytest.mark.parametrize(
    ("stage", "macs"),
    [
        # 1 → 4 → 4 channels, 4 x 4 pixels, and the shortcut
        ({"block": "residual", "width": 4, "stride": 2}, 9 * 4 * 16 + 9 * 4 * 4 * 16 + 4 * 16 + 4 * 10),
        # 1 → 2 → 2 → 8 channels, and the shortcut
        ({"block": "bottleneck", "width": 8, "expansion": 4}, (2 + 9 * 2 * 2 + 2 * 8 + 8) * 64 + 8 * 10),
        # two 3 x 3 convolutions
        ({"block": "conv", "width": 4, "depth": 2}, (9 * 4 + 9 * 4 * 4) * 64 + 4 * 10),
    ],
)
def test_macs_of_convolutions_by_hand(stage: dict[str, object], macs: int) -> None:
    assert only(stages=[stage]).macs == macs


def test_macs_of_a_transformer_by_hand() -> None:
    stage = {"block": "transformer", "width": 12, "stride": 4, "heads": 3, "expansion": 2}
    patches = 12 * 16 * 4  # 4 patches of 4 x 4 pixels
    projections = 4 * 12 * 12 * 4  # query, key, value, output, for 4 tokens
    attention = 2 * 4 * 4 * 12  # products with keys and values; heads share the channels
    perceptron = 2 * 12 * 24 * 4
    assert only(stages=[stage]).macs == patches + projections + attention + perceptron + 12 * 10


def test_macs_of_a_signal_by_hand() -> None:
    stages = [{"block": "conv", "width": 4, "kernel": 7, "stride": 2}]
    assert only("stages_1d", Task((2, 32), 3), stages=stages).macs == 7 * 2 * 4 * 16 + 4 * 3


def space_of(*stages: dict[str, object], name: str = "stages", **options: object) -> NetworkSpace:
    space = get_space(name).for_task(TASK, resolutions=[8], stages=list(stages), **options)
    assert isinstance(space, NetworkSpace)
    return space


def picked(space: NetworkSpace, precision: str, **changes: object) -> Candidate:
    anchor = next(a for a in space.anchors() if a["head_precision"] == precision)
    return space.suggest(optuna.trial.FixedTrial({**anchor, **changes}))


def test_what_is_not_there_does_not_change_the_candidate() -> None:
    space = space_of({"block": "mbconv", "width": 8, "depth": [1, 2], "kernel": [3, 5]})
    assert (
        picked(space, "fp32").digest == picked(space, "fp32", s0_b1_kernel=5, s0_b1_precision="int8").digest
    )
    assert picked(space, "fp32").digest != picked(space, "fp32", s0_b0_kernel=5).digest


def test_a_patch_is_not_larger_than_the_image() -> None:
    space = space_of(
        {"block": "conv", "width": 8, "stride": 2}, {"block": "transformer", "width": 8, "stride": [4, 8]}
    )
    assert picked(space, "fp32", s1_stride=8).digest == picked(space, "fp32", s1_stride=4).digest


def test_a_lone_float_convolution_between_integers_counts_as_the_integer_one_it_becomes() -> None:
    """ONNX Runtime would quantize its weights by itself, other than they were trained."""
    conv: dict[str, object] = {"block": "conv", "width": 8, "depth": 4}
    space = space_of(conv)
    assert bits(space, picked(space, "int8", s0_b1_precision="fp32")) == [8, 8, 8, 8]
    assert bits(space, picked(space, "int8", s0_b0_precision="fp32")) == [32, 8, 8, 8]
    two = picked(space, "int8", s0_b1_precision="fp32", s0_b2_precision="fp32")
    assert bits(space, two) == [8, 32, 32, 8]
    swish = space_of(conv, activations=["hard_swish"])
    assert bits(swish, picked(swish, "int8", s0_b1_precision="fp32")) == [8, 32, 8, 8]


def bits(space: NetworkSpace, candidate: Candidate) -> list[int]:
    return [layer.weight_bits for layer in space.network(candidate).layers if layer.kind == "conv"]


DESCRIPTION = """
stages:
  - {block: conv, width: [4, 8]}
  - {block: residual, width: 8, kernel: [3, 5]}
"""


def test_a_file_describes_a_space(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(DESCRIPTION)
    (tmp_path / "j.yaml").write_text("space: {name: mine.yaml, resolutions: [8]}")
    job = load_job(tmp_path / "j.yaml")
    assert job.space.name == "stages"
    space = get_space(job.space.name).for_task(TASK, **job.space.options)
    assert set(space.anchors()[0]) == {
        "s0_width", "s0_b0_precision", "s1_b0_kernel", "s1_b0_precision", "head_precision"
    }  # fmt: skip
    # the stored job holds the description itself: another one is another search
    (tmp_path / "mine.yaml").write_text(DESCRIPTION.replace("[4, 8]", "[4, 16]"))
    assert len(job.difference(load_job(tmp_path / "j.yaml"))) == 1
    assert parse_job(job.resolved()).space == job.space


def test_the_example_on_the_page_is_a_space() -> None:
    page = (Path(__file__).parents[2] / "docs" / "job.md").read_text()
    example = re.search(r"`space: mine.yaml`.*?```yaml\n(.*?)```", page, re.S)
    assert example is not None
    get_space("stages").for_task(TASK, **yaml.safe_load(example[1]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "space file '.*mine.yaml' does not exist; docs/job.md"),
        ("- 1", "holds no keys of a space"),
        ("name: 3", "holds no keys of a space"),
        ("stages: [", "not YAML"),
        ("name: mbconv\nname: vit", "stands twice"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "j.yaml").write_text("space: mine.yaml")
    with pytest.raises(JobError, match=words):
        load_job(tmp_path / "j.yaml")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "space.stages: Field required"),
        ({"stages": []}, "space.stages"),
        ({"stages": [{"block": "conv", "widht": 8}]}, "Did you mean 'width'"),
        ({"stages": [{"block": "convolution", "width": 8}]}, "space.stages.0.block: .*'conv'"),
        ({"stages": [{"block": "conv", "width": 8, "heads": 2}]}, "a block 'conv' has no 'heads'.*kernel"),
        ({"stages": [{"block": "conv", "width": 8, "kernel": [3, 4]}]}, "odd, not 4"),
        ({"stages": [{"block": "conv", "width": [8, 0]}]}, "space.stages.0.width.1: .* not 0"),
        (
            {"stages": [{"block": "transformer", "width": [8, 9], "heads": 2}]},
            "width 9 cannot be split into 2",
        ),
        (
            {"stages": [{"block": "transformer", "width": 8, "heads": 1}, {"block": "conv", "width": 8}]},
            "only the last stage",
        ),
        ({"stages": [{"block": "conv", "width": 8}], "activations": ["tanh"]}, "space.activations.0"),
    ],
)
def test_descriptions_that_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(JobError, match=words):
        get_space("stages").for_task(TASK, **options)


def test_candidates_that_no_description_gives_are_refused() -> None:
    space = space_of({"block": "conv", "width": 8})
    params: dict[str, Json] = dict(picked(space, "fp32").params)
    with pytest.raises(InputError, match="blocks"):
        space.to_onnx(Candidate("stages", {**params, "blocks": [{"block": "conv"}]}))


def compound(scale: float, alpha: float = 0.8) -> tuple[OperatorGraph, CompoundSpace]:
    stages = [{"block": "residual", "width": 64, "depth": 8}]
    space = CompoundSpace.for_task(
        Task((3, 32, 32), 10), family="resnet", stages=stages, scales=[scale], alphas=[alpha]
    )
    return read_onnx(space.to_onnx(space.suggest(optuna.trial.FixedTrial(dict(space.anchors()[0]))))), space


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_a_scale_multiplies_the_work(alpha: float) -> None:
    """Up to rounding of width (4), depth (1) and side (4)."""
    base = compound(1.0)[0].macs
    assert compound(4.0, alpha)[0].macs / base == pytest.approx(4, rel=0.2)


def test_scaling_is_heavy_in_width() -> None:
    """Alpha 0.8: a scale of 4 gives 4^0.4 = 1.74 times the width, 4^0.1 = 1.15 the depth, 4^0.05 = 1.07 the side."""
    graph, space = compound(4.0)
    candidate = space.suggest(optuna.trial.FixedTrial(dict(space.anchors()[0])))
    blocks = candidate.params["blocks"]
    assert isinstance(blocks, list)
    assert len(blocks) == 9
    assert {block["width"] for block in blocks if isinstance(block, dict)} == {112}
    assert graph.inputs[0].shape == (1, 3, 36, 36)
