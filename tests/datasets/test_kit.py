"""The measurement kit, there and back: packed, run without Hardsight, killed, resumed, taken in, refused."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hardsight.cli import main
from hardsight.datasets import kit, kit_script
from hardsight.datasets.families import FAMILIES, TEACHING
from hardsight.datasets.profilers import _worker
from hardsight.datasets.schema import VERSION
from hardsight.datasets.store import GraphStore, load_failures, load_shipped, load_table, shipped_folder
from hardsight.errors import BackendError, DataError, InputError, StorageError
from hardsight.metrics import Metric
from hardsight.predictors.measured import read_measured

NAME = "my-board/onnxruntime/fp32-t1"
SCRIPT = Path(kit_script.__file__)


def smallest(n: int) -> list[str]:
    """Digests of the package's networks of the fewest MACs: neither single operators nor FPGA designs."""
    graphs = load_shipped().graphs
    assert isinstance(graphs, GraphStore)
    facts = {d: f for d, f in graphs.facts.items() if f.family in set(FAMILIES) - set(TEACHING)}
    return sorted(facts, key=lambda d: (facts[d].macs or 1e18, d))[:n]


def networks(n: int) -> dict[str, onnx.ModelProto]:
    graphs = load_shipped().graphs
    assert isinstance(graphs, GraphStore)
    return {d: onnx.load_from_string(graphs.stored[d].onnx) for d in smallest(n)}


# -- packing ------------------------------------------------------------------------------------------


def test_a_kit_holds_networks_with_weights_and_what_describes_them(tmp_path: Path) -> None:
    made = kit.write_kit(tmp_path / "sub" / "kit.zip", kit.kit_device(NAME), networks(2))
    assert (made.networks, made.left_out) == (2, {})
    with zipfile.ZipFile(made.path) as archive:
        files = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    described = json.loads(files["kit.json"])
    assert (described["kit"], described["schema"], described["device"]) == (kit_script.KIT, VERSION, NAME)
    assert [n["digest"] for n in described["networks"]] == smallest(2)
    for network in described["networks"]:
        model = onnx.load_from_string(files[network["file"]])
        assert all(t.data_location != onnx.TensorProto.EXTERNAL for t in model.graph.initializer)
        assert set(network["shapes"]) == {value.name for value in model.graph.input}
    assert files["measure.py"] == SCRIPT.read_bytes()
    assert f"Hardsight measurement kit for {NAME}" in files["README.txt"].decode()
    again = kit.write_kit(tmp_path / "again.zip", kit.kit_device(NAME), networks(2))
    assert again.path.read_bytes() == made.path.read_bytes()
    assert not list(tmp_path.rglob("*.part"))


def test_an_int8_kit_holds_quantized_networks(tmp_path: Path) -> None:
    model = networks(1)
    made = kit.write_kit(tmp_path / "kit.zip", kit.kit_device("my-board/onnxruntime/int8-t2"), model)
    with zipfile.ZipFile(made.path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".onnx"))
        types = {node.op_type for node in onnx.load_from_string(archive.read(name)).graph.node}
    assert "QuantizeLinear" in types


def test_a_network_that_cannot_be_converted_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = networks(2)
    refused = next(iter(given))
    given[refused].graph.name = "refused"

    def convert(model: onnx.ModelProto, int8: bool) -> tuple[str, bytes]:
        if model.graph.name == "refused":
            raise BackendError("the tool fails on it")
        return "tflite", b"a file"

    monkeypatch.setitem(kit._CONVERTERS, "litert", convert)
    device = kit.kit_device("my-phone/litert/fp32-t1")
    made = kit.write_kit(tmp_path / "kit.zip", device, given)
    assert (made.networks, made.left_out) == (1, {refused: "the tool fails on it"})
    with pytest.raises(BackendError, match=r"none of 1 networks could be packed .*the tool fails on it"):
        kit.write_kit(tmp_path / "none.zip", device, {refused: given[refused]})
    assert [p.name for p in tmp_path.iterdir()] == ["kit.zip"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("b/openvino/fp32-t1", "has runtime 'openvino'; a kit measures with onnxruntime or litert"),
        ("b/onnxruntime/bf16-t1", "has mode 'bf16-t1'; a kit measures fp32 or int8"),
        ("b/onnxruntime/fp32", "a kit measures fp32 or int8 with a number of threads"),
        ("b/onnxruntime/fp32-t0", "with a number of threads"),
    ],
)
def test_a_device_that_no_kit_measures_is_refused(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        kit.kit_device(name)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write the kit"):
        kit.write_kit(tmp_path / "file" / "kit.zip", kit.kit_device(NAME), networks(1))


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("host/onnxruntime/fp32-t1", "a kit is for another machine"),
        ("xeon-amx/onnxruntime/fp32-t1", "is a device of the package"),
        ("My Board", "is not a device name"),
    ],
)
def test_names_that_a_kit_must_not_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], device: str, said: str
) -> None:
    assert main(["kit", "--device", device, "--out", str(tmp_path / "kit.zip")]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# -- the script ---------------------------------------------------------------------------------------


def test_the_script_is_python_3_9_and_needs_nothing_but_numpy() -> None:
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 9))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").split(".")[0])
    assert modules - sys.stdlib_module_names == {"numpy"}


def test_the_script_takes_medians_as_the_profilers_do() -> None:
    rng = np.random.default_rng(0)
    for n in (3, 4, 20, 21, 55):
        samples = rng.lognormal(size=n).tolist()
        assert kit_script.median_spread(samples) == pytest.approx(_worker.median_spread(samples))
    for name in ("MIN_SAMPLES", "TARGET_SPREAD", "MIN_SAMPLE_S", "WARMUP_S"):
        assert getattr(kit_script, name) == getattr(_worker, name)


def test_the_script_names_the_units_of_this_version() -> None:
    assert {m: Metric(m).unit for m in kit_script.UNITS} == kit_script.UNITS
    assert set(kit._CONVERTERS) == set(kit_script.RUNTIMES)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with numpy and ONNX Runtime, and without Hardsight."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=os.name != "nt")
    (site,) = folder.glob("lib/python*/site-packages")
    for package in ("numpy", "onnxruntime"):
        home = Path(__import__(package).__file__).parent
        for part in (home, home.parent / f"{package}.libs", *home.parent.glob(f"{package}-*.dist-info")):
            if part.exists():
                (site / part.name).symlink_to(part)
    python = str(folder / "bin" / "python")
    without = subprocess.run([python, "-I", "-c", "import hardsight"], capture_output=True, check=False)
    assert b"No module named 'hardsight'" in without.stderr
    return python


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit of three networks, unpacked elsewhere; its script takes memory once, to be quick."""
    folder = tmp_path_factory.mktemp("kit")
    kit.write_kit(folder / "kit.zip", kit.kit_device(NAME), networks(3))
    with zipfile.ZipFile(folder / "kit.zip") as archive:
        archive.extractall(folder)
    script = folder / "hardsight-kit" / "measure.py"
    script.write_text(script.read_text().replace("MEMORY_RUNS = 5", "MEMORY_RUNS = 1"))
    return folder / "hardsight-kit"


def command(python: str, packed: Path, *words: str) -> list[str]:
    return [python, "-I", str(packed / "measure.py"), "--time", "0.05", *words]


def run(python: str, packed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(python, packed, *words), capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def results(python: str, packed: Path) -> Path:
    """What a run wrote that was killed after its first network, tore a line, and was started again."""
    out = packed / "results-fp32-t1.jsonl"
    first = subprocess.Popen(command(python, packed), stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (out.exists() and out.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    begun = out.read_bytes()
    assert begun.count(b"\n") < 4, "it was to be killed in the middle"
    with out.open("ab") as file:
        file.write(b'{"digest": "torn')
    second = run(python, packed)
    assert second.returncode == 0, second.stderr
    assert out.read_bytes().startswith(begun[: begun.rfind(b"\n") + 1])
    assert "torn" not in out.read_text()
    assert re.search(r"[12] of 3 networks to go", second.stdout)
    return out


def lines_of(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()]


def test_a_killed_run_goes_on_where_it_stopped(python: str, packed: Path, results: Path) -> None:
    header, *lines = lines_of(results)
    assert [line["digest"] for line in lines] == header["networks"] == smallest(3)
    assert header["device"] == NAME
    assert header["versions"]["onnxruntime"]
    assert all(line["measurements"]["latency_s"]["value"] > 0 for line in lines)
    before = results.read_bytes()
    assert "0 of 3 networks to go" in run(python, packed).stdout
    assert results.read_bytes() == before


def test_another_setting_is_not_mixed_into_the_same_file(python: str, packed: Path, results: Path) -> None:
    before = results.read_bytes()
    done = run(python, packed, "--threads", "2", "--out", str(results))
    assert done.returncode == 2
    assert "was begun with another setting of 'device'" in done.stderr
    assert results.read_bytes() == before


def test_a_changed_network_is_refused(python: str, packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    (path, *_) = (copy / "models").iterdir()
    path.write_bytes(path.read_bytes() + b"x")
    (copy / "results-fp32-t1.jsonl").unlink(missing_ok=True)
    done = run(python, copy)
    assert done.returncode == 2
    assert "is not the file that was packed" in done.stderr


def test_a_network_that_fails_costs_its_line(python: str, packed: Path, tmp_path: Path) -> None:
    """The first is no model at all, the second kills its process."""
    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    (copy / "results-fp32-t1.jsonl").unlink(missing_ok=True)
    described = json.loads((copy / "kit.json").read_text())
    first, second, _ = described["networks"]
    (copy / first["file"]).write_bytes(b"no model")
    first["sha256"] = hashlib.sha256(b"no model").hexdigest()
    (copy / "kit.json").write_text(json.dumps(described))
    script = (copy / "measure.py").read_text()
    crash = f"    if {second['digest']!r} in path:\n        os.kill(os.getpid(), signal.SIGSEGV)\n"
    script = script.replace(
        "    options = module.SessionOptions()\n", crash + "    options = module.SessionOptions()\n"
    )
    (copy / "measure.py").write_text(script)
    done = run(python, copy)
    assert done.returncode == 0
    assert "Done, 2 failed" in done.stdout
    _, bad, crashed, good = lines_of(copy / "results-fp32-t1.jsonl")
    assert "failed" in bad
    assert crashed["failed"] == "the process ended with code 139 and without an answer"
    assert "measurements" in good
    measured = read_measured(copy / "results-fp32-t1.jsonl", load_shipped().graphs)
    assert set(measured.failures) == {(d, NAME) for d in smallest(2)}
    assert measured.table.digests == smallest(3)[2:]


# -- what comes back ----------------------------------------------------------------------------------


def test_results_make_a_device(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))
    assert main(["adapt", "--measurements", str(results), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["device"], report["samples"]) == (NAME, 3)
    from hardsight.device import get_device

    assert get_device(NAME).threads == 1
    words = ["adapt", "--measurements", str(results), "--name", "other/onnxruntime/fp32-t1", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["device"] == "other/onnxruntime/fp32-t1"
    words = ["adapt", "--measurements", str(results), "--name", "other/onnxruntime/int8-t4", "--json"]
    assert main(words) == 2
    assert "give a name that ends in /onnxruntime/fp32-t1" in capsys.readouterr().err


def test_results_join_a_data_set(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    assert main(["dataset", "import", str(results)]) == 2
    assert "give --out FOLDER" in capsys.readouterr().err
    assert main(["dataset", "import", str(results), "--out", str(out)]) == 0
    assert "6 new labels of my-board" in capsys.readouterr().out
    assert main(["dataset", "import", str(results), "--data", str(out)]) == 0
    assert "0 new labels of my-board/onnxruntime/fp32-t1, 6 were there already" in capsys.readouterr().out
    grown = load_table(out)
    assert len(grown) == len(load_shipped()) + 6
    rows = grown.select(device=NAME, metric=Metric.LATENCY).rows
    assert rows["digest"].tolist() == smallest(3)
    assert rows["time"].str.endswith("+00:00").all()
    assert json.loads(rows["versions"].iloc[0])["onnxruntime"]
    assert len(load_failures(out)) == len(load_failures(shipped_folder()))
    words = ["dataset", "import", str(results), "--out", str(out), "--name", "board/onnxruntime/int8-t1"]
    assert main(words) == 2
    assert "names another mode" in capsys.readouterr().err
    words = ["dataset", "import", str(results), "--out", str(out), "--name", "xeon-amx/onnxruntime/fp32-t1"]
    assert main(words) == 2
    assert "is a device of the package" in capsys.readouterr().err


def written(**values: Any) -> str:
    header = {
        "kit": kit_script.KIT,
        "schema": VERSION,
        "hardsight": "0",
        "device": NAME,
        "threads": 1,
        "units": kit_script.UNITS,
        "versions": {"onnxruntime": "1", "cpu": "a"},
        "networks": smallest(3),
    }
    return json.dumps({**header, **values})


def line(digest: str, **values: Any) -> str:
    label = {"latency_s": {"value": 1e-3, "spread": 0.01, "repeats": 20}}
    record = {"digest": digest, "device": NAME, "time": "2026-01-01T00:00:00+00:00", "measurements": label}
    return json.dumps({**record, **values})


def file_of(folder: Path, header: str, *lines: str) -> Path:
    path = folder / "results.jsonl"
    path.write_text("\n".join((header, *lines)) + "\n")
    return path


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"kit": 2}, "of kit version 2, and this Hardsight reads 1; build the kit here .* and measure again"),
        ({"kit": None}, "of kit version None"),
        ({"schema": VERSION + 1}, f"of schema version {VERSION + 1}, and this Hardsight reads {VERSION}"),
        ({"threads": 4}, "was measured with 4 threads"),
        ({"units": {"latency_s": "ms"}}, "says that latency_s is in ms; expected s"),
        ({"units": {"speed": "m/s"}}, "says that speed is in m/s; expected no such metric"),
        ({"units": {}}, "line 2: the header states no unit of latency_s"),
        ({"device": 3}, r"the header is damaged \(device: "),
        ({"device": "a/b"}, "'a/b' is not a device name"),
        ({"device": "b/openvino/fp32-t1"}, "a kit measures with onnxruntime or litert"),
        (
            {"device": "b/onnxruntime/fp32-t1"},
            f"line 2: the line is of {NAME} and the header of b/onnxruntime",
        ),
        ({"versions": {"cpu": 3}}, r"the header is damaged \(versions.cpu: "),
        ({"networks": []}, "line 2: no network of the kit has the digest"),
    ],
)
def test_a_header_that_does_not_match_is_refused(tmp_path: Path, header: dict[str, Any], said: str) -> None:
    path = file_of(tmp_path, written(**header), line(smallest(1)[0]))
    with pytest.raises(DataError, match=f"results.jsonl.*{said}"):
        read_measured(path, load_shipped().graphs)


def test_a_kit_of_another_data_set_is_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path, written(networks=["0" * 32]), line("0" * 32))
    with pytest.raises(DataError, match=r"line 2: .*the kit is of another data set; build one here"):
        read_measured(path, load_shipped().graphs)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: line("0" * 32), "no network of the kit has the digest '00000000"),
        (lambda d: line(""), "no network of the kit has the digest ''"),
        (lambda d: line(d[0]), "line 2 is of the same network, .*; remove one of them"),
        (lambda d: line(d[1])[:-20], "the record: Invalid JSON.*run the kit's measure.py again"),
        (
            lambda d: line(d[1], device="b/onnxruntime/fp32-t1"),
            "the line is of b/onnxruntime/fp32-t1 and the header",
        ),
        (lambda d: line(d[1], measurements={}), "neither 'measurements' nor 'failed'"),
        (lambda d: line(d[1], measurements={"latency_s": {"value": 0.0}}), "finite and positive"),
        (lambda d: line(d[1], measurements={"latency_s": {"value": "1 ms"}}), "latency_s.value: "),
        (lambda d: line(d[1], measurements={"latency_ms": {"value": 1.0}}), "latency_ms"),
        (
            lambda d: line(d[1], measurements={"energy_j": {"value": 1.0}}),
            "the header states no unit of energy_j",
        ),
        (lambda d: written(), "no network of the kit has the digest ''"),
    ],
)
def test_a_line_that_does_not_match_is_refused(
    tmp_path: Path, spoil: Callable[[list[str]], str], said: str
) -> None:
    path = file_of(tmp_path, written(), line(smallest(1)[0]), spoil(smallest(3)))
    with pytest.raises(DataError, match=f"results.jsonl, line 3: .*{said}"):
        read_measured(path, load_shipped().graphs)


def test_results_without_a_label_give_the_first_reason(tmp_path: Path) -> None:
    failed = [line(d, measurements={}, failed=f"no memory for {d[:3]}") for d in smallest(2)]
    path = file_of(tmp_path, written(), *failed)
    with pytest.raises(
        DataError, match=f"no measurement; the first .* failed: no memory for {smallest(1)[0][:3]}"
    ):
        read_measured(path, load_shipped().graphs)


def test_lines_of_this_machine_need_a_name_to_join_a_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(line(smallest(1)[0], device="host/onnxruntime/fp32-t1", versions={"cpu": "a"}))
    words = ["dataset", "import", str(path), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "give --name NEW, for example --name my-board/onnxruntime/fp32-t1" in capsys.readouterr().err
    assert main([*words, "--name", NAME]) == 0
    assert load_table(tmp_path / "out").select(device=NAME).rows["versions"].tolist() == ['{"cpu": "a"}']


@pytest.mark.slow
def test_the_command_packs_the_networks_that_adapting_here_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hardsight.device import get_device
    from hardsight.predictors.adapt import reference_networks

    out = tmp_path / "kit.zip"
    assert main(["kit", "--device", NAME, "--out", str(out), "--networks", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["networks"] == 2
    with zipfile.ZipFile(out) as archive:
        described = json.loads(archive.read("hardsight-kit/kit.json"))
    here = reference_networks(get_device("host/onnxruntime/fp32-t1"), 2)
    assert [n["digest"] for n in described["networks"]] == list(here)


@pytest.mark.slow
def test_a_litert_kit_holds_tflite_files(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="converts networks to TFLite")
    from onnx import parser

    from hardsight.ingest import read_onnx

    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) <float[4, 3, 1, 1] w = {1,1,1,1,1,1,1,1,1,1,1,1}>
        { y = Conv(x, w) }"""
    )
    digest = read_onnx(model).digest
    made = kit.write_kit(tmp_path / "kit.zip", kit.kit_device("my-phone/litert/int8-t1"), {digest: model})
    with zipfile.ZipFile(made.path) as archive:
        data = archive.read(f"hardsight-kit/models/{digest}.tflite")
    assert data[4:8] == b"TFL3"
