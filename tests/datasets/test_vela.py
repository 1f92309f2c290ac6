"""Ethos-U NPUs by Vela: its reports as stored, what is refused, and (where it is installed) the compiler itself."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import parser

from hardsight.datasets.profilers import PROFILERS, vela
from hardsight.datasets.profilers.vela import SYSTEMS, VelaProfiler, read_report
from hardsight.device import shipped_devices
from hardsight.errors import BackendError
from hardsight.ingest import read_onnx
from hardsight.metrics import Metric

GOLDEN = Path(__file__).parent / "golden"
DEVICES = {name: device for name, device in shipped_devices().items() if device.runtime == "vela"}
TINY_ON_U55_128 = {  # the files beside, columns multiplied by 1024 where they are in KiB
    Metric.LATENCY: 1.9436e-05,
    Metric.CYCLES: 9718,
    Metric.SRAM: 8.53125 * 1024,
    Metric.FLASH: 1248,
    Metric.TRAFFIC: 1488,
}
TINY_ON_U85_512 = {
    Metric.LATENCY: 1.448e-05,
    Metric.CYCLES: 14480,
    Metric.SRAM: 9.15625 * 1024,
    Metric.FLASH: 2224,
    Metric.TRAFFIC: 34544,
}
MODEL = parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) {y = Relu(x)}'
)


@pytest.mark.parametrize(
    ("accelerator", "expected"), [("ethos-u55-128", TINY_ON_U55_128), ("ethos-u85-512", TINY_ON_U85_512)]
)
def test_reports_are_read_in_si_units(accelerator: str, expected: dict[Metric, float]) -> None:
    report = read_report(GOLDEN / f"vela_tiny_{accelerator}")
    assert report.values == pytest.approx(expected)
    assert not report.cpu_operators


def test_flash_of_the_report_is_the_column_where_there_is_one() -> None:
    folder = GOLDEN / "vela_tiny_ethos-u55-128"
    header, row = (folder / "vela_tiny_summary_Ethos_U55_High_End_Embedded.csv").read_text().splitlines()
    kib = dict(zip(header.split(","), row.split(","), strict=True))["off_chip_flash_memory_used"]
    assert read_report(folder).values[Metric.FLASH] == float(kib) * 1024


def test_operators_left_to_the_cpu_are_counted_by_kind() -> None:
    assert read_report(GOLDEN / "vela_sqrt_ethos-u55-128").cpu_operators == {"Sqrt": 1}


def test_a_name_with_commas_does_not_shift_columns(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "vela_sqrt_ethos-u55-128", tmp_path, dirs_exist_ok=True)
    (layers,) = tmp_path.glob("*_per-layer.csv")
    layers.write_text(layers.read_text().replace("litert_torch", "CPU,a,CPU"))
    assert read_report(tmp_path).cpu_operators == {"Sqrt": 1}


@pytest.mark.parametrize("missing", ["constants.json", "*_summary_*.csv", "*_per-layer.csv"])
def test_an_incomplete_report_is_refused(tmp_path: Path, missing: str) -> None:
    shutil.copytree(GOLDEN / "vela_tiny_ethos-u55-128", tmp_path, dirs_exist_ok=True)
    next(tmp_path.glob(missing)).unlink()
    with pytest.raises(BackendError, match=r"cannot be read.*use ethos-u-vela 5\.2"):
        read_report(tmp_path)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "vela_tiny_ethos-u55-128", tmp_path, dirs_exist_ok=True)
    (layers,) = tmp_path.glob("*_per-layer.csv")
    layers.write_text(layers.read_text().replace("Target", "Where"))
    with pytest.raises(BackendError, match="Target"):
        read_report(tmp_path)


def test_nine_devices_state_what_they_are() -> None:
    assert len(DEVICES) == 9
    assert {vela._series(d.hardware) for d in DEVICES.values()} == set(SYSTEMS)
    for device in DEVICES.values():
        system, memory = SYSTEMS[vela._series(device.hardware)]
        assert system in device.description and memory in device.description
        assert device.kind == "npu" and device.provenance == "simulated" and device.mode == "int8"
        macs = int(device.hardware.rpartition("-")[2])
        assert device.clock_hz and device.peak_macs_per_s == {"int8": macs * device.clock_hz}
    assert PROFILERS["vela"].endswith("vela:VelaProfiler") and VelaProfiler.anywhere


def test_clocks_and_bandwidths_are_those_of_velas_own_file() -> None:
    """Peak bandwidth is clock x scale x 8 bytes x ports (16 bytes on the U65 and U85)."""
    architecture = pytest.importorskip("ethosu.vela.architecture_features", reason="needs ethos-u-vela")
    ini = str(Path(architecture.CONFIG_FILES_PATH) / "Arm" / "vela.ini")
    for device in DEVICES.values():
        system, memory = SYSTEMS[vela._series(device.hardware)]
        features = architecture.ArchitectureFeatures(
            vela_config_files=[ini],
            accelerator_config=device.hardware,
            system_config=system,
            memory_mode=memory,
            max_blockdep=3,
            verbose_config=False,
            arena_cache_size=None,
        )
        assert features.core_clock == device.clock_hz
        assert features.num_macs_per_cycle * features.ncores == int(device.hardware.rpartition("-")[2])
        area = architecture.MemArea.OffChipFlash if "u55" in device.name else architecture.MemArea.Dram
        assert features.memory_bandwidths_per_second[area] == device.bandwidth_bytes_per_s


class Stub(VelaProfiler):
    """Neither converts nor compiles: the reports are those of ``network`` in the golden folder."""

    def __init__(self, network: str, conversion: BackendError | None = None) -> None:
        super().__init__()
        self.conversions = 0

        @contextlib.contextmanager
        def tflite(model: Any, digest: str, shapes: Any, *, int8: bool) -> Iterator[tuple[Path, str]]:
            assert int8
            self.conversions += 1
            if conversion:
                raise conversion
            yield Path("model.tflite"), "random"

        def compile_(path: Path, folder: Path, accelerator: str) -> None:
            shutil.copytree(GOLDEN / f"vela_{network}_{accelerator}", folder, dirs_exist_ok=True)

        self._litert.tflite = tflite  # type: ignore[method-assign]
        self._compiler.compile = compile_  # type: ignore[method-assign]

    def check(self) -> None:
        pass


def test_labels_are_simulated_and_carry_the_digest_of_the_graph_as_given() -> None:
    labels = Stub("tiny").measure(MODEL, DEVICES["ethos-u55-128/vela/int8"])
    assert {m.metric: m.value for m in labels} == pytest.approx(TINY_ON_U55_128)
    for label in labels:
        assert label.digest == read_onnx(MODEL).digest
        assert label.provenance == "simulated" and label.spread == 0.0 and label.repeats == 1
        assert label.versions["cpu_operators"] == "0" and label.versions["weights"] == "random"
    (only,) = Stub("tiny").measure(MODEL, DEVICES["ethos-u85-512/vela/int8"], [Metric.CYCLES])
    assert (only.metric, only.value) == (Metric.CYCLES, 14480)


def test_a_tflite_file_is_compiled_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "network.tflite"
    path.write_bytes(b"TFL3")
    profiler = Stub("tiny")
    labels = profiler.measure(path, DEVICES["ethos-u55-128/vela/int8"])
    assert {m.metric: m.value for m in labels} == pytest.approx(TINY_ON_U55_128)
    assert {m.digest for m in labels} == {hashlib.sha256(b"TFL3").hexdigest()}
    assert profiler.conversions == 0
    with pytest.raises(BackendError, match=r"network.tflite.*does not price: Sqrt \(1\)"):
        Stub("sqrt").measure(path, DEVICES["ethos-u55-128/vela/int8"])


def test_a_model_with_unpriced_operators_is_refused() -> None:
    with pytest.raises(BackendError, match=r"leaves 1 operators to the CPU.*does not price: Sqrt \(1\)"):
        Stub("sqrt").measure(MODEL, DEVICES["ethos-u55-128/vela/int8"])


def test_what_one_configuration_lacks_its_likes_lack_too() -> None:
    profiler = Stub("sqrt")
    with pytest.raises(BackendError):
        profiler.measure(MODEL, DEVICES["ethos-u55-128/vela/int8"])
    with pytest.raises(BackendError, match="Sqrt"):  # for which there are no files
        profiler.measure(MODEL, DEVICES["ethos-u65-512/vela/int8"])
    with pytest.raises(FileNotFoundError):  # other hardware is tried
        profiler.measure(MODEL, DEVICES["ethos-u85-512/vela/int8"])
    assert profiler.conversions == 2


def test_a_failed_conversion_is_not_tried_again_on_the_next_configuration() -> None:
    profiler = Stub("tiny", BackendError("no words for it"))
    for name in ("ethos-u55-128/vela/int8", "ethos-u85-512/vela/int8"):
        with pytest.raises(BackendError, match="no words for it"):
            profiler.measure(MODEL, DEVICES[name])
    assert profiler.conversions == 1


def test_other_hardware_is_refused() -> None:
    device = DEVICES["ethos-u55-128/vela/int8"].model_copy(update={"name": "ethos-n78/vela/int8"})
    with pytest.raises(BackendError, match=r"does not compile for 'ethos-n78'.*ethos-u55"):
        Stub("tiny").measure(MODEL, device)


@pytest.fixture(scope="module")
def compiler() -> Iterator[Any]:
    pytest.importorskip("ethosu.vela", reason="needs ethos-u-vela")
    compiler = vela._Compiler()
    yield compiler
    compiler.close()


@pytest.mark.parametrize("accelerator", ["ethos-u55-128", "ethos-u85-512"])
def test_the_compiler_still_says_what_is_stored(compiler: Any, tmp_path: Path, accelerator: str) -> None:
    compiler.compile(GOLDEN / "vela_tiny.tflite", tmp_path, accelerator)
    assert read_report(tmp_path) == read_report(GOLDEN / f"vela_tiny_{accelerator}")


def test_what_the_compiler_refuses_is_a_backend_error(compiler: Any, tmp_path: Path) -> None:
    (tmp_path / "torn.tflite").write_bytes(b"no model")
    with pytest.raises(BackendError, match="Vela could not compile for ethos-u55-32: "):
        compiler.compile(tmp_path / "torn.tflite", tmp_path, "ethos-u55-32")
    with pytest.raises(BackendError, match="invalid choice"):
        compiler.compile(GOLDEN / "vela_tiny.tflite", tmp_path, "ethos-u55-48")


@pytest.mark.slow
def test_a_network_gets_labels_on_every_configuration(tmp_path: Path) -> None:
    for package in ("ethosu.vela", "litert_torch", "ai_edge_quantizer"):
        pytest.importorskip(package, reason=f"needs {package}")
    from hardsight.datasets.builder import OnnxBuilder

    net = OnnxBuilder("tiny")
    x = net.input("image", (1, 3, 32, 32))
    net.output(net.relu(net.conv(x, 8, 3, stride=2)))
    model: onnx.ModelProto = net.model()
    profiler = VelaProfiler(tmp_path)
    cycles = {}
    for name, device in DEVICES.items():
        labels = {m.metric: m.value for m in profiler.measure(model, device)}
        assert set(labels) == set(TINY_ON_U55_128)
        assert labels[Metric.LATENCY] == pytest.approx(labels[Metric.CYCLES] / device.clock_hz)  # type: ignore[operator]
        cycles[name] = labels[Metric.CYCLES]
    assert cycles["ethos-u55-256/vela/int8"] < cycles["ethos-u55-32/vela/int8"]
    assert len(list(tmp_path.glob("*/*.tflite"))) == 1  # converted once
    profiler.close()
