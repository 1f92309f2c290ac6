from __future__ import annotations

import errno
import io
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import typer

from hardsight import __version__, api
from hardsight.cli import main
from hardsight.cli._app import app
from hardsight.cli._boundary import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_UNEXPECTED, guard
from hardsight.cli.reference import COMMANDS, help_of, reference
from hardsight.errors import StorageError
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

HERE = api.HERE
ROOT = Path(__file__).parents[2]


def names_of(group: Any, prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = {prefix}
    for name, command in getattr(group, "commands", {}).items():
        found |= names_of(command, (*prefix, name))
    return found


# -- documentation --------------------------------------------------------------------------------


def test_every_command_is_in_the_reference() -> None:
    assert set(COMMANDS) == names_of(typer.main.get_command(app))


def test_the_reference_is_current() -> None:
    assert (ROOT / "docs/cli.md").read_text() == reference(), "run 'make docs'"


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_and_flag_has_help(words: tuple[str, ...]) -> None:
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{words}: {parameter.name}"
    assert "Usage: hardsight" in help_of(words)


# -- predict --------------------------------------------------------------------------------------


def test_predict_json_is_the_promised_object(
    model: Path, fake_predictor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(model), "--device", HERE, "--shape", "x=4,8", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    record = json.loads(line)
    assert list(record) == [
        "model",
        "digest",
        "device",
        "predictor",
        "predictions",
        "unknown_ops",
        "assumptions",
    ]
    assert record["model"] == str(model)
    assert record["device"] == HERE
    assert record["predictor"] == "fake"
    assert record["predictions"] == {
        "latency_s": {
            "value": pytest.approx(64e-6),
            "lower": pytest.approx(57.6e-6),
            "upper": pytest.approx(70.4e-6),
            "level": 0.9,
        },
        "peak_memory_bytes": {"value": 1000.0, "lower": None, "upper": None, "level": 0.9},
    }
    assert record["unknown_ops"] == {}


def test_predict_json_layers_sum_to_the_total(
    model: Path, fake_predictor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(model), "-d", HERE, "--layers", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {tuple(layer) for layer in record["layers"]} == {("name", "op_type", "latency_s", "macs", "bytes")}
    total = sum(layer["latency_s"] for layer in record["layers"])
    assert total == pytest.approx(record["predictions"]["latency_s"]["value"])


def test_predict_for_people_scales_units(
    model: Path, fake_predictor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(model), "-d", HERE, "--layers"]) == 0
    out = capsys.readouterr().out
    for text in ("16.0 µs", "14.4 µs to 17.6 µs", "1000 B", "none", "MatMul", "Relu"):
        assert text in out


def test_a_bad_model_does_not_stop_the_others(
    model: Path, fake_predictor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = model.with_name("bad.onnx")
    bad.write_bytes(b"")
    code = main(["predict", str(bad), str(model), "missing.onnx", "-d", HERE, "--json"])
    out, err = capsys.readouterr()
    assert code == 2
    assert [json.loads(line)["model"] for line in out.splitlines()] == [str(model)]
    assert [line.startswith("hardsight: ") for line in err.splitlines()] == [True, True]
    assert "bad.onnx" in err
    assert "missing.onnx" in err


# -- measure --------------------------------------------------------------------------------------


def test_measure_json(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    label = Measurement("d" * 32, HERE, Metric.LATENCY, 1e-3, 0.01, 50, versions={"onnxruntime": "1"})
    answer = api.ModelMeasurement("m", "d" * 32, HERE, (label,), {Metric.ENERGY: "no counter"})
    asked: dict[str, Any] = {}
    monkeypatch.setattr(api, "measure", lambda path, **kw: asked.update(kw) or answer)
    assert main(["measure", str(model), "--time", "500ms", "--shape", "x=1,8", "--json"]) == 0
    assert asked == {"device": HERE, "shapes": {"x": (1, 8)}, "budget_s": 0.5}
    record = json.loads(capsys.readouterr().out)
    assert record["measurements"] == {"latency_s": {"value": 1e-3, "spread": 0.01, "repeats": 50}}
    assert record["unavailable"] == {"energy_j": "no counter"}
    assert main(["measure", str(model)]) == 0
    out = capsys.readouterr().out
    assert "± 1.0 %" in out
    assert "energy was not measured: no counter" in out


# -- check ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "code", "said"), [("18us", 0, "kept, 400 ns left"), ("17us", 1, "BROKEN by 600 ns")]
)
def test_check_is_a_gate(
    model: Path, fake_predictor: Any, capsys: pytest.CaptureFixture[str], limit: str, code: int, said: str
) -> None:
    args = ["check", str(model), "-d", HERE, "--max", f"latency={limit}", "--max", "size=64B"]
    assert main(args) == code
    assert said in capsys.readouterr().out
    assert main([*args, "--json"]) == code
    record = json.loads(capsys.readouterr().out)
    assert record["kept"] is (code == 0)
    assert record["budgets"][0]["quantity"] == "latency_s"


def test_check_of_a_bad_model_is_not_a_broken_budget(model: Path, fake_predictor: Any) -> None:
    bad = model.with_name("bad.onnx")
    bad.write_bytes(b"x")
    assert main(["check", str(bad), "-d", HERE, "--max", "latency=1s"]) == 2


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["predict", "{model}", "-d", "nope"], 2, "unknown device 'nope'"),
        (["predict", "{model}", "-d", "host/onnxruntime/int8-t1"], 4, "adapt"),
        (["predict", "{model}"], 2, "--device"),
        (["predict", "{model}", "-d", HERE, "--shape", "x"], 2, "is not a shape"),
        (["check", "{model}", "-d", HERE, "--max", "latency=10"], 2, "no unit"),
        (["devices", "nope"], 2, "unknown device"),
        (["adapt"], 2, "--here"),
        (["adapt", "--here", "--measurements", "x"], 2, "either"),
        (["adapt", "--measurements", "x"], 2, "cannot read measurements from x"),
        (["search", "nojob.yaml"], 2, "nojob.yaml"),
        (["search", "report", "nostudy"], 6, "nostudy"),
        (["dataset", "info", "--data", "nodata"], 2, "'nodata' is no data set"),
        (["evaluate", "--predictor", "nope", "--data", "nodata"], 2, "nodata"),
        (["frobnicate"], 2, "frobnicate"),
        (["predict", "--frobnicate"], 2, "--frobnicate"),
    ],
)
def test_bad_input_is_one_sentence(
    model: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert main([word.format(model=model) for word in words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("hardsight: ")
    assert said in line
    assert "Traceback" not in err


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


def wrapped(cause: Exception) -> Exception:
    error = RuntimeError("outer")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StorageError("full"), 6, "full"),
        (OSError(errno.ENOSPC, "No space left on device", "f"), 6, "cannot use 'f': No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "f"), 6, "Permission denied"),
        (wrapped(OSError(errno.ENOSPC, "No space left on device", "f")), 6, "No space left"),
        (wrapped(sqlite3.OperationalError("database or disk is full")), 6, "disk is full"),
        (ZeroDivisionError("by zero"), EXIT_UNEXPECTED, "ZeroDivisionError: by zero"),
        (MemoryError(), EXIT_UNEXPECTED, "memory"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, ""),
    ],
)
def test_exceptions_become_codes_and_sentences(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    assert guard(raising(error)) == code
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == (1 if said else 0)


def test_debug_shows_the_traceback_wherever_it_stands(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["devices", "nope", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(["--debug", "devices", "nope"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet(home: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "hardsight", "devices", "--json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == EXIT_BROKEN_PIPE


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hardsight {__version__}\n"


def test_devices_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", HERE, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["name"] == HERE
    assert record["threads"] == 1
    assert record["can_measure"] is True
    assert record["can_predict"] is False


# -- many models ----------------------------------------------------------------------------------


def test_models_with_the_same_fault_are_all_named(
    model: Path, fake_predictor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [model.parent / folder / "model.onnx" for folder in ("r1", "r2", "r3")]
    proto = onnx.load(model)
    for path, name in zip(paths, ("H", "H", "8"), strict=True):
        path.parent.mkdir()
        dim = proto.graph.input[0].type.tensor_type.shape.dim[1]
        dim.Clear()
        if name == "8":
            dim.dim_value = 8
        else:
            dim.dim_param = name
        onnx.save(proto, path)
    assert main(["predict", *map(str, paths), "-d", HERE, "--json"]) == 2
    out, err = capsys.readouterr()
    assert [json.loads(line)["model"] for line in out.splitlines()] == [str(paths[2])]
    first, second = err.splitlines()
    assert str(paths[0]) in first
    assert str(paths[1]) in second


def test_another_machine_is_said_once(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", str(model), str(model), "-d", "xeon-amx/onnxruntime/fp32-t1"]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1


# -- terminals and streams ------------------------------------------------------------------------


def test_names_in_a_model_cannot_steer_the_terminal(
    model: Path, fake_predictor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = onnx.load(model)
    proto.graph.node[0].name = "a\x1b[31m\nb[bold]:smile:"
    onnx.save(proto, model)
    assert main(["predict", str(model), "-d", HERE, "--layers"]) == 0
    assert r"a\x1b[31m\nb[bold]:smile:" in capsys.readouterr().out
    assert main(["devices", "a\x1b[31mb"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["dataset"]])
def test_without_a_command_the_help_is_shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("Usage: hardsight")
    assert len(err.splitlines()) > 5


def test_a_usage_error_names_the_help_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "info", "--frobnicate"]) == 2
    assert "See 'hardsight dataset info --help'." in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("check bad.onnx -d xeon-amx/onnxruntime/fp32-t1 --max latency=1s 2>/dev/full", 2),
        ("check bad.onnx -d xeon-amx/onnxruntime/fp32-t1 --max latency=1s 2>&-", 2),
        ("devices --json >/dev/full", 6),
        ("devices --json >&-", 0),
        ("devices >&- 2>&-", 0),
    ],
)
def test_full_and_closed_streams_keep_the_exit_code(home: Path, words: str, code: int) -> None:
    done = subprocess.run(
        f"{sys.executable} -m hardsight {words}", shell=True, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_an_ascii_terminal_is_served(
    model: Path, fake_predictor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["predict", str(model), "-d", HERE]) == 0
    stream.seek(0)
    assert r"16.0 \xb5s" in stream.read()


@pytest.mark.parametrize("second", [["-d", HERE], [f"--device={HERE}"]])
def test_a_second_device_is_refused_where_one_is_asked(
    second: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A budget checked on the last device only would pass by accident."""
    line = ["check", "net.onnx", "--max", "latency=1ms", "--device", "tpu-like/zigzag/int8", *second]
    assert main(line) == 2
    assert "'--device' is given twice; it takes one value" in capsys.readouterr().err
