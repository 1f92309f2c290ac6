from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

import hardsight as hs
from hardsight import api
from hardsight.errors import InputError, ModelError, NotSupportedError, UnknownNameError

HERE = api.HERE


def test_predict_gives_value_interval_and_identity(model: Path, fake_predictor: Any) -> None:
    answer = hs.predict(model, device=HERE, shapes={"x": (4, 8)})
    # 4 * 8 * 2 = 64 MACs at a microsecond each
    assert answer["latency_s"].value == pytest.approx(64e-6)
    assert answer["latency_s"].upper == pytest.approx(1.1 * 64e-6)
    assert answer["peak_memory_bytes"].upper is None
    assert answer.digest == hs.read_onnx(model, shapes={"x": (4, 8)}).digest
    assert answer.model == str(model)
    assert answer.layers == ()


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
