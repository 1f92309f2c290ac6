"""Building a data set: resumable, nothing doubled, nothing torn, drift noticed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from hardsight.datasets.build import BLOCK, Builder, Recipe, only_builder
from hardsight.datasets.pack import pack
from hardsight.datasets.profilers import Profiler
from hardsight.datasets.profilers._cpu import cpu_name
from hardsight.datasets.store import load_failures, load_table
from hardsight.datasets.summary import summarise_devices
from hardsight.device import Device
from hardsight.errors import BackendError, DataError, InputError, StorageError, UnknownNameError
from hardsight.ingest import read_onnx
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

DEVICE = Device(name="host/onnxruntime/fp32-t1", kind="cpu")
RECIPE = Recipe(families=("mlp", "small_block"), per_family=3)


class FakeProfiler(Profiler):
    """Costs one nanosecond a MAC; fails, dies or drifts on request."""

    takes_qdq = True

    def __init__(
        self,
        die_after: int = 10**9,
        refuse: str = "",
        drift_after: int = 10**9,
        slower: float = 1.0,
    ) -> None:
        self.measured: list[str] = []
        self._slower = slower
        self._die_after, self._refuse, self._drift_after = die_after, refuse, drift_after

    def check(self) -> None:
        return

    def measure(
        self,
        model: Path | onnx.ModelProto,
        device: Device,
        metrics: Sequence[Metric] | None = None,
        *,
        budget_s: float = 10.0,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> list[Measurement]:
        assert isinstance(model, onnx.ModelProto)
        graph = read_onnx(model)
        if len(self.measured) >= self._die_after:
            raise KeyboardInterrupt
        self.measured.append(model.graph.name)
        if graph.digest == self._refuse:
            raise BackendError("the runtime crashed (SIGSEGV)")
        factor = 1.5 if self._drift_after <= len(self.measured) < self._drift_after + 5 else 1.0
        factor *= 1.0 if model.graph.name == "sentinel" else self._slower
        value = factor * (graph.macs + 1) * 1e-9
        versions = {"cpu": cpu_name()}
        return [Measurement(graph.digest, device.name, Metric.LATENCY, value, 0.01, 20, versions=versions)]


def built(folder: Path, recipe: Recipe = RECIPE) -> Builder:
    builder = Builder(folder, recipe)
    builder.generate()
    return builder


def rows_of(builder: Builder) -> list[tuple[Any, ...]]:
    table = builder.pack()
    return sorted(table.rows[["digest", "device", "metric", "value"]].itertuples(index=False, name=None))


def test_an_interrupted_build_gives_the_same_data_set(tmp_path: Path) -> None:
    whole = built(tmp_path / "whole")
    assert whole.measure([(FakeProfiler(), DEVICE)])
    broken = built(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        broken.measure([(FakeProfiler(die_after=BLOCK + 10), DEVICE)])
    with (tmp_path / "broken" / "work" / "journal.jsonl").open("a") as journal:
        journal.write('{"digest": "torn')  # what a kill in mid-write leaves
    again = built(tmp_path / "broken")
    assert again.measure([(FakeProfiler(), DEVICE)])
    assert rows_of(again) == rows_of(whole)


def test_a_finished_build_measures_nothing_again(tmp_path: Path) -> None:
    builder = built(tmp_path)
    builder.measure([(FakeProfiler(), DEVICE)])
    second = FakeProfiler()
    assert builder.measure([(second, DEVICE)])
    assert set(second.measured) <= {"sentinel"}


def test_twins_label_the_int8_mode_of_their_float_graph(tmp_path: Path) -> None:
    builder = built(tmp_path)
    builder.measure([(FakeProfiler(), DEVICE)])
    table = builder.pack()
    twins = [g for g in builder.stored() if g.twin]
    assert twins
    latency = table.rows.set_index(["digest", "device"])["value"]
    for twin in twins:
        own = latency[twin.digest, "host/onnxruntime/fp32-t1"]
        assert latency[twin.digest, "host/onnxruntime/int8-t1"] == own
        assert latency[twin.twin, "host/onnxruntime/int8-t1"] == own


def test_a_mixed_twin_is_measured_as_it_is_and_is_not_what_the_int8_mode_makes(tmp_path: Path) -> None:
    recipe = Recipe(families=("mlp",), per_family=4)
    plain = built(tmp_path / "plain", recipe)
    builder = built(tmp_path / "mixed", replace(recipe, mixed=True))
    graphs = {g.digest: g for g in builder.stored()}
    whole = {g.digest for g in plain.stored()}
    assert set(graphs) == whole | builder.mixed()  # what there was before is the same
    mixed = builder.mixed()
    assert len(mixed) >= 3
    assert not mixed & whole
    assert {graphs[digest].twin for digest in mixed} <= {d for d, g in graphs.items() if not g.twin}
    builder.measure([(FakeProfiler(), DEVICE)])
    latency = builder.pack().rows.set_index(["digest", "device"])["value"]
    plain.measure([(FakeProfiler(), DEVICE)])
    before = plain.pack().rows.set_index(["digest", "device"])["value"]
    assert latency[before.index].equals(before)
    added = latency.drop(before.index)
    for digest in mixed:
        of_its_own = added.pop((digest, "host/onnxruntime/fp32-t1"))
        assert added.pop((digest, "host/onnxruntime/int8-t1")) == of_its_own
    assert added.empty


def test_a_mixed_twin_alone_is_no_label_of_its_float_graph(tmp_path: Path) -> None:
    builder = built(tmp_path, Recipe(families=("mlp",), per_family=3, int8=False, mixed=True))
    builder.measure([(FakeProfiler(), DEVICE)])
    table = builder.pack()
    assert builder.mixed()
    assert set(table.select(device="host/onnxruntime/int8-t1").digests) == builder.mixed()


def test_a_failing_graph_costs_its_cell_and_is_counted(tmp_path: Path) -> None:
    builder = built(tmp_path)
    bad = builder.stored()[0].digest
    builder.measure([(FakeProfiler(refuse=bad), DEVICE)])
    assert builder.failures() == {"the runtime crashed (SIGSEGV)": 1}
    assert bad not in set(builder.pack().select(device=DEVICE.name).digests)


def test_a_block_taken_while_the_machine_drifted_is_measured_again(tmp_path: Path) -> None:
    steady, drifted = built(tmp_path / "a"), built(tmp_path / "b")
    steady.measure([(FakeProfiler(), DEVICE)])
    drifted.measure(
        [(FakeProfiler(drift_after=BLOCK + 4), DEVICE)]
    )  # the sentinel's run after the first block included
    assert rows_of(drifted) == rows_of(steady)


def test_a_second_round_states_how_well_labels_repeat(tmp_path: Path) -> None:
    builder = built(tmp_path, Recipe(families=("mlp", "small_block"), per_family=10, int8=False))
    builder.measure([(FakeProfiler(), DEVICE)])
    once = builder.pack().rows.set_index("digest")
    chosen = builder.stored()[:25]
    second = FakeProfiler(slower=1.05)
    assert builder.measure([(second, DEVICE)], graphs=chosen, again=True)
    assert sum(name != "sentinel" for name in second.measured) >= 25
    twice = builder.pack().rows.set_index("digest")
    assert (twice["value"] == once["value"]).all()
    assert twice["spread"].between(0.03, 0.04).all()  # hypot(1 %, log(1.05) / √2)
    assert builder.measure(
        [(FakeProfiler(die_after=0), DEVICE)], graphs=chosen, again=True
    )  # nothing is left


def test_a_noisy_label_is_listed_or_taken_from_the_second_time(tmp_path: Path) -> None:
    builder = built(tmp_path, Recipe(families=("mlp",), per_family=6, int8=False))
    graphs = builder.stored()
    cells = []
    for i, graph in enumerate(graphs[:3]):
        label = Measurement(graph.digest, DEVICE.name, Metric.LATENCY, 1e-3, 0.5 if i else 0.01, 20)
        memory = Measurement(graph.digest, DEVICE.name, Metric.PEAK_MEMORY, 1e7, 0.0, 5)
        cells.append(
            {"digest": graph.digest, "device": DEVICE.name, "labels": [asdict(label), asdict(memory)]}
        )
    again = Measurement(graphs[2].digest, DEVICE.name, Metric.LATENCY, 2e-3, 0.01, 20)
    cells.append({"digest": again.digest, "device": DEVICE.name, "labels": [asdict(again)], "again": True})
    builder.journal.append(cells)
    table = builder.pack()
    latency = table.select(metric=Metric.LATENCY).rows.set_index("digest")["value"].to_dict()
    assert latency == {graphs[0].digest: 1e-3, graphs[2].digest: 2e-3}
    (failed,) = load_failures(tmp_path).itertuples()
    assert (failed.digest, failed.device) == (graphs[1].digest, DEVICE.name)
    assert "latency_s: its spread stayed above 10%" in failed.reason
    assert summarise_devices(table, load_failures(tmp_path))[0].failed == 1


@pytest.mark.parametrize("labelled_last", [True, False])
def test_a_failure_of_one_builder_is_none_where_another_has_the_label(
    tmp_path: Path, labelled_last: bool
) -> None:
    recipe = Recipe(families=("mlp",), per_family=5, int8=False)
    failing, labelled = built(tmp_path / "failing", recipe), built(tmp_path / "labelled", recipe)
    digests = [g.digest for g in labelled.stored()]

    def cell(number: int, **labels: tuple[float, float]) -> dict[str, Any]:
        found = [Measurement(digests[number], DEVICE.name, Metric(m), *v, 20) for m, v in labels.items()]
        return {"digest": digests[number], "device": DEVICE.name, "labels": [asdict(m) for m in found]}

    crashed = {"device": DEVICE.name, "failed": "crashed"}
    noisy, fine, memory = (1e-3, 0.5), (1e-3, 0.01), (1e7, 0.0)
    failing.journal.append([{"digest": digests[i], **crashed} for i in (0, 1)])
    failing.journal.append([cell(i, latency_s=noisy, peak_memory_bytes=memory) for i in (2, 3)])
    labelled.journal.append([cell(i, latency_s=fine) for i in (0, 2)])
    labelled.journal.append([cell(3, peak_memory_bytes=memory)])
    builders = [failing, labelled] if labelled_last else [labelled, failing]
    table = pack(builders, tmp_path / "out")
    assert set(table.select(metric=Metric.LATENCY).digests) == {digests[0], digests[2]}
    failures = load_failures(tmp_path / "out").set_index("digest")["reason"].to_dict()
    assert failures == {
        digests[1]: "crashed",
        digests[3]: "latency_s: its spread stayed above 10%",
    }


def test_a_folder_is_built_by_one_process(tmp_path: Path) -> None:
    import subprocess
    import sys

    built(tmp_path)
    code = (
        "import sys, pathlib; from hardsight.datasets.build import only_builder\n"
        "with only_builder(pathlib.Path(sys.argv[1])): pass"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    with only_builder(tmp_path):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "another process is building" in done.stderr
    assert subprocess.run(words, check=False).returncode == 0


def test_a_number_of_processes_that_is_none(tmp_path: Path) -> None:
    from hardsight.jobs import build_dataset

    with pytest.raises(InputError, match="jobs is 0"):
        build_dataset(tmp_path / "d", Recipe(families=("mlp",), per_family=1), n_jobs=0)


def test_another_processor_may_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = built(tmp_path)
    builder.measure([(FakeProfiler(), DEVICE)], graphs=builder.stored()[:2])
    monkeypatch.setattr("hardsight.datasets.profilers._cpu.cpu_name", lambda: "another CPU")
    with pytest.raises(InputError, match="labels of host/onnxruntime/fp32-t1 from another processor"):
        builder.measure([(FakeProfiler(), DEVICE)])
    other = Device(name="host/openvino/fp32-t1", kind="cpu")
    assert builder.measure([(FakeProfiler(), other)])


def test_another_recipe_in_the_same_folder_is_refused_in_words(tmp_path: Path) -> None:
    Builder(tmp_path, Recipe(families=("mlp",), per_family=3, int8=False))
    with pytest.raises(InputError) as caught:
        Builder(tmp_path, Recipe(families=("mlp",), per_family=4, int8=False))
    assert str(caught.value) == (
        f"'{tmp_path}' was begun with per-family 3; give --per-family 3 or another folder"
    )
    with pytest.raises(InputError, match="the families mlp, no int8; give --family mlp --no-int8 or another"):
        Builder(tmp_path, Recipe(per_family=3))


def test_a_folder_begun_before_a_setting_was_there_had_its_default(tmp_path: Path) -> None:
    Builder(tmp_path, RECIPE)
    path = tmp_path / "work" / "recipe.json"
    begun = json.loads(path.read_text())
    del begun["mixed"]
    path.write_text(json.dumps(begun))
    Builder(tmp_path, RECIPE)
    with pytest.raises(InputError, match="was begun with no mixed; give --no-mixed or another folder"):
        Builder(tmp_path, replace(RECIPE, mixed=True))


def test_an_unknown_family_is_refused_before_anything_is_written() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown family 'mpl'\. Did you mean 'mlp'\?"):
        Recipe(families=("mlp", "mpl"))


def test_a_full_disk_leaves_no_part_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as out:
            out.write(data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    builder = Builder(tmp_path, RECIPE)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        StorageError, match="No space left on device; free space or give another folder"
    ) as caught:
        builder.generate()
    assert str(caught.value).count("cannot write") == 1
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_without_a_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no data set: it has no measurements\.parquet; give a folder"):
        load_table(tmp_path / "nope")


def test_a_packed_data_set_reads_back_and_a_torn_one_is_refused(tmp_path: Path) -> None:
    builder = built(tmp_path)
    builder.measure([(FakeProfiler(), DEVICE)])
    table = builder.pack(rename={DEVICE.name: "board/onnxruntime/fp32-t1"})
    assert "board/onnxruntime/int8-t1" in table.devices
    graphs, values = load_table(tmp_path).labelled("board/onnxruntime/fp32-t1", Metric.LATENCY)
    assert values == pytest.approx([(g.macs + 1) * 1e-9 for g in graphs])
    (tmp_path / "graphs.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(StorageError, match="cannot read graphs"):
        load_table(tmp_path)


def test_a_data_set_of_another_schema_names_the_way_out(tmp_path: Path) -> None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pandas(pd.DataFrame({"digest": ["a"]})), tmp_path / "measurements.parquet")
    with pytest.raises(StorageError, match="dataset build"):
        load_table(tmp_path)


class FakeSimulator(FakeProfiler):
    """Runs in joblib's processes, too; leaves a file per graph in the cache, as a converter would."""

    anywhere = True
    takes_qdq = False

    def __init__(self, cache: Path | None = None) -> None:
        super().__init__()
        self.cache = cache

    def measure(
        self, model: Path | onnx.ModelProto, device: Device, *args: Any, **more: Any
    ) -> list[Measurement]:
        assert isinstance(model, onnx.ModelProto)
        assert self.cache is not None
        shared = self.cache / f"{read_onnx(model).digest}.converted"
        assert shared.exists() == (
            device.name == "b/fake/int8"
        )  # made for the first device, there for the second
        shared.touch()
        return super().measure(model, device, *args, **more)


def test_simulators_fan_out_resume_and_share_what_they_convert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hardsight.datasets.profilers import PROFILERS

    monkeypatch.setitem(PROFILERS, "fake", "tests:Fake")
    monkeypatch.setattr(
        "hardsight.datasets.profilers.get_profiler", lambda device, cache=None: FakeSimulator(cache)
    )
    devices = [Device(name=f"{n}/fake/int8", kind="npu", provenance="simulated") for n in "ab"]
    builder = built(tmp_path)
    graphs = builder.stored()
    assert not builder.fan_out(devices, n_jobs=1, time_limit_s=-1)
    assert builder.fan_out(devices, n_jobs=1, graphs=graphs[:4])
    assert builder.fan_out(devices, n_jobs=1)
    cells = [(c["digest"], c["device"]) for c in builder.journal]
    assert sorted(cells) == sorted((g.digest, d.name) for g in graphs if not g.twin for d in devices)
    assert not list(builder.cache.iterdir())
    assert {m.provenance for m in builder.journal.measurements()} == {"measured"}  # the fake's own word


def test_a_backend_that_is_not_there_is_named(tmp_path: Path) -> None:
    builder = built(tmp_path, Recipe(families=("mlp",), per_family=1, int8=False))
    with pytest.raises(InputError, match="backend 'mpi' is not one of loky, dask, ray"):
        builder.fan_out([DEVICE], backend="mpi")


def test_any_first_part_of_a_data_set_has_all_families(tmp_path: Path) -> None:
    builder = Builder(tmp_path, Recipe(families=("mlp", "tcn", "small_block"), per_family=2, int8=False))
    members = builder._members()
    assert len(members) == 2 + 2 + 8
    assert {name for name, _ in members[:6]} == {"mlp", "tcn", "small_block"}
