"""The torchvision experiment: scores, tables, resuming. Torchvision itself is optional."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hardsight.errors import BackendError, InputError
from hardsight.experiments.outside import __main__ as outside
from hardsight.experiments.outside import models
from hardsight.experiments.outside.tables import model_table, scores, summary_table, winners

FP32, INT8 = outside.MODES


def row(model: str, device: str, predicted: float, value: float) -> dict[str, Any]:
    return {
        "model": model, "device": device, "predicted": predicted, "value": value,
        "lower": 0.8 * predicted, "upper": 1.2 * predicted,
    }  # fmt: skip


ROWS = [
    row("a", FP32, 1.0e-3, 1.0e-3),
    row("a", INT8, 0.5e-3, 0.4e-3),
    row("b", FP32, 2.0e-3, 4.0e-3),
    row("b", INT8, 3.0e-3, 3.0e-3),
    {"model": "c", "device": FP32, "failed": "too large"},
]


def test_scores() -> None:
    found = scores([r for r in ROWS if r["device"] == FP32 and "failed" not in r])
    assert found["n"] == 2
    assert found["mape"] == pytest.approx(0.25)
    assert found["within_10"] == found["coverage"] == 0.5
    assert winners(ROWS) == (1, 2)  # of b, fp32 was predicted to be faster


def test_tables_name_what_failed() -> None:
    text = summary_table(ROWS)
    assert "| 2 | 1 | 25.0% |" in text
    assert "rightly: 1 of 2" in text
    assert "too large" in model_table(ROWS)


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, str]] = []

    def export(name: str, folder: Path) -> Path:
        if name == "huge":
            raise BackendError("too large")
        return folder / f"{name}.onnx"

    def measure(path: Path, *, device: str, **_: object) -> dict[str, SimpleNamespace]:
        measured.append((path.stem, device))
        return {"latency_s": SimpleNamespace(value=2e-3, spread=0.01, versions={"onnxruntime": "1"})}

    def predict(path: Path, *, device: str) -> dict[str, SimpleNamespace]:
        assert device in outside.MODES.values()
        return {"latency_s": SimpleNamespace(value=2.2e-3, lower=1e-3, upper=3e-3)}

    monkeypatch.setattr(outside, "_adapt", lambda *_: None)
    monkeypatch.setattr(models, "names", lambda: ["small", "huge"])
    monkeypatch.setattr(models, "export", export)
    monkeypatch.setattr(outside.api, "measure", measure)
    monkeypatch.setattr(outside.api, "predict", predict)
    (tmp_path / "measured.jsonl").write_text(
        "\n"
        + json.dumps({"model": "small", "device": FP32, "value": 2e-3, "spread": 0.0})
        + '\n{"model": "sm'
    )
    readme = tmp_path / "README.md"
    readme.write_text("".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in ("summary", "models")))
    outside.main([], tmp_path, readme)
    assert measured == [("small", INT8)]
    assert "| 1 | 1 | 10.0% |" in readme.read_text()
    outside.main([], tmp_path, readme)
    assert len(measured) == 1


def test_an_unknown_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "names", lambda: ["resnet18"])
    with pytest.raises(InputError, match="torchvision has no 'resnet19'"):
        outside.main(["resnet19"], tmp_path)


def test_exported_networks_have_no_weights(tmp_path: Path) -> None:
    from hardsight.ingest import read_onnx

    try:
        models.names()
    except BackendError as error:
        pytest.skip(str(error))
    path = models.export("squeezenet1_1", tmp_path)
    assert path.stat().st_size < 200_000
    graph = read_onnx(path)
    assert graph.macs == pytest.approx(349e6, rel=0.02)  # its authors say 349 M
    assert models.export("squeezenet1_1", tmp_path) == path
