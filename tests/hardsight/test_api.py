from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

import hardsight as hs
from hardsight import api
from hardsight.errors import InputError, ModelError, NotSupportedError, UnknownNameError
from hardsight.serialize import measurement_record, prediction_record

HERE = api.HERE


def test_predict_gives_value_interval_and_identity(model: Path, fake_predictor: Any) -> None:
    answer = hs.predict(model, device=HERE, shapes={"x": (4, 8)})
    # 4 * 8 * 2 = 64 MACs at a microsecond each
    assert answer["latency_s"].value == pytest.approx(64e-6)
    assert answer["latency_s"].upper == pytest.approx(1.1 * 64e-6)
    assert answer["peak_memory_bytes"].upper is None
    assert answer.digest == hs.read_onnx(model, shapes={"x": (4, 8)}).digest
    assert answer.model == str(model)
    assert answer.layers is None


def test_an_unbound_batch_is_one_and_said_so(model: Path, fake_predictor: Any) -> None:
    answer = hs.predict(model, device=HERE)
    assert answer["latency_s"].value == pytest.approx(16e-6)
    assert any("N" in text for text in answer.assumptions)


def test_layers_sum_to_the_total(model: Path, fake_predictor: Any) -> None:
    answer = hs.predict(model, device=HERE, layers=True)
    assert [layer.op_type for layer in answer.layers] == ["MatMul", "Relu"]
    assert sum(layer.latency_s for layer in answer.layers) == pytest.approx(answer["latency_s"].value)
    assert sum(layer.macs for layer in answer.layers) == 16


def test_file_bytes_and_proto_give_the_same(model: Path, fake_predictor: Any) -> None:
    sources = [model, str(model), model.read_bytes(), onnx.load(model)]
    answers = hs.predict_many(sources, device=HERE)
    assert len({a.digest for a in answers}) == 1
    assert len({a["latency_s"] for a in answers}) == 1
    assert hs.predict_many([], device=HERE) == []


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, 90.0])
def test_a_level_outside_is_refused(model: Path, fake_predictor: Any, level: float) -> None:
    with pytest.raises(InputError, match="level"):
        hs.predict(model, device=HERE, level=level)


def test_a_bad_model_is_a_model_error(home: Path, fake_predictor: Any) -> None:
    (home / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        hs.predict(home / "bad.onnx", device=HERE)


def test_check_judges_the_upper_end(model: Path, fake_predictor: Any) -> None:
    # predicted 16 µs, upper end 17.6 µs
    assert hs.check(model, device=HERE, budgets={"latency_s": 18e-6}).kept
    broken = hs.check(model, device=HERE, budgets={"latency_s": 17e-6, "size_bytes": 64})
    assert [v.kept for v in broken.verdicts] == [False, True]
    assert broken.verdicts[0].excess == pytest.approx(0.6e-6)


def test_check_refuses_what_it_cannot_judge(model: Path, fake_predictor: Any) -> None:
    for budgets in ({"energy_j": 1.0}, {"peak_memory_bytes": 1e9}):
        with pytest.raises(NotSupportedError):
            hs.check(model, device=HERE, budgets=budgets)
    with pytest.raises(InputError, match="no budget"):
        hs.check(model, device=HERE, budgets={})


def test_this_machine_is_listed_and_waits_for_adaptation(home: Path) -> None:
    (status,) = hs.devices(HERE)
    assert status.can_measure
    assert not status.can_predict
    assert HERE in [s.device.name for s in hs.devices()]
    with pytest.raises(UnknownNameError, match=f"Did you mean '{HERE}'"):
        hs.devices("host/onnxruntime/fp32-1")


@pytest.mark.parametrize("name", ["mine", "Mine/a/b", "../a/b", "a/b/c/d", "a/b/", "a b/c/d"])
def test_a_bad_name_is_refused_before_measuring(home: Path, name: str) -> None:
    with pytest.raises(InputError, match="hardware/runtime/mode"):
        hs.adapt(name=name)


def test_shapes() -> None:
    assert api.parse_shapes(["in=1,3,224,224", "a=b=2"]) == {"in": (1, 3, 224, 224), "a=b": (2,)}
    assert api.parse_shapes(["scalar="]) == {"scalar": ()}


@pytest.mark.parametrize("texts", [["in"], ["=1,2"], ["in=1,x"], ["in=0,3"], ["in=-1,3"], ["in=1", "in=2"]])
def test_bad_shapes(texts: list[str]) -> None:
    with pytest.raises(InputError):
        api.parse_shapes(texts)


def test_layers_of_a_model_without_operators_are_an_empty_list(home: Path, fake_predictor: Any) -> None:
    nothing = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> n (float[2] x) => (float[2] x) {}'
    )
    assert prediction_record(hs.predict(nothing, device=HERE, layers=True))["layers"] == []
    assert "layers" not in prediction_record(hs.predict(nothing, device=HERE))


@pytest.mark.parametrize("metric", ["foo", "energy_j"])
def test_an_answer_says_what_it_holds(model: Path, fake_predictor: Any, metric: str) -> None:
    answer = hs.predict(model, device=HERE)
    measured = api.ModelMeasurement("m", "d", HERE, (), {})
    table = fake_predictor.predict([hs.read_onnx(model)], HERE)
    with pytest.raises(NotSupportedError, match="covered: latency_s, peak_memory_bytes"):
        answer[metric]
    with pytest.raises(KeyError, match="covered: latency_s, peak_memory_bytes"):
        table[metric]
    with pytest.raises(KeyError, match="covered: nothing"):
        measured[metric]
    assert answer.get(metric) is None
    assert metric not in answer


def test_wrong_types_are_refused_in_words(model: Path) -> None:
    for question in (hs.predict, hs.measure):
        with pytest.raises(InputError, match="device is None; give a name"):
            question(model, device=None)  # type: ignore[operator]
    with pytest.raises(InputError, match="shapes is 'x=1,8'"):
        hs.read_onnx(model, shapes="x=1,8")  # type: ignore[arg-type]
    for shape in ("18", "x", 18, (1, None), (1, float("inf"))):
        with pytest.raises(ModelError, match="unusable"):
            hs.read_onnx(model, shapes={"x": shape})  # type: ignore[dict-item]


def test_a_name_is_guessed_whatever_its_case() -> None:
    assert "Did you mean 'Conv'?" in str(UnknownNameError("kind", "CONV", ["Conv", "Gemm"]))


def test_dir_lists_what_is_public() -> None:
    assert dir(hs) == sorted(hs.__all__)


def test_a_node_without_a_type_is_refused(model: Path) -> None:
    proto = onnx.load(model)
    proto.graph.node[1].op_type = ""
    with pytest.raises(ModelError, match="no operator type"):
        hs.read_onnx(proto)


def test_a_missing_interval_is_explained(model: Path, fake_predictor: Any) -> None:
    said = [text for text in hs.predict(model, device=HERE).assumptions if "interval" in text]
    assert said == ["no 90 % interval for peak_memory_bytes: the calibration cannot support that level"]


def test_a_measurement_records_its_shapes(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardsight.datasets import profilers

    fake = SimpleNamespace(check=lambda: None, measure=lambda *a, **k: [], unavailable=dict)
    monkeypatch.setattr(profilers, "get_profiler", lambda device: fake)
    answer = hs.measure(model, shapes={"x": (4, 8)})
    assert measurement_record(answer)["shapes"] == {"x": [4, 8]}
