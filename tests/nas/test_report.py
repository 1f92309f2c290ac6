"""What a search's report says and draws, by numbers: blocks, budgets, words, units, JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from nas_fakes import FakeEvaluator, FakePredictor, fake_measure, make_job

from hardsight.nas.evaluators import Evaluation
from hardsight.nas.report import SearchReport, load_report, write_report
from hardsight.nas.report_blocks import INPUT, Block, blocks_of
from hardsight.nas.report_drawing import alternative_text, colour, drawing
from hardsight.nas.report_figure import _screen, panels
from hardsight.nas.report_page import front_cells, page
from hardsight.nas.report_words import cost_words, excess, show, words_of
from hardsight.nas.search import run_search
from hardsight.nas.spaces import NetworkSpace, Task, get_space
from hardsight.nas.verify import _layers
from hardsight.serialize import search_record
from hardsight.units import format_quantity

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _no_pictures(no_pictures: None) -> None:
    """Pictures are looked at elsewhere."""


def search(folder: Path, measure: Any = fake_measure, **changes: object) -> SearchReport:
    return run_search(
        make_job(**changes), folder, predictor=FakePredictor(), evaluator=FakeEvaluator(), measure=measure
    )


def blocks_by_space(name: str, task: Task, **options: Any) -> tuple[Block, ...]:
    """The blocks of a space's smallest network, as verification writes its layers."""
    from types import SimpleNamespace

    import optuna

    space = get_space(name).for_task(task, **options)
    assert isinstance(space, NetworkSpace)
    candidate = space.suggest(optuna.trial.FixedTrial(dict(space.anchors()[0])))
    setting: Any = SimpleNamespace(space=space)
    record: Any = SimpleNamespace(candidate=candidate)
    return blocks_of(json.loads(json.dumps(_layers(setting, record))))


def test_blocks_of_inverted_bottlenecks_add_their_input() -> None:
    stem, first, second, *_, classifier = blocks_by_space("quant_cnn", Task((1, 8, 8), 10))
    assert (stem.name, stem.operations, stem.shape, stem.bits) == ("stem", ("3×3",), "8 channels, 8×8", "32")
    assert first.operations == ("3×3 depthwise", "1×1")  # expansion 1
    assert first.added == (0,)  # stride 1 and as many channels as the stem
    assert (second.added, second.positions) == ((), (4, 4))  # stride 2
    assert (classifier.operations, classifier.shape) == (("mean", "linear"), "10 outputs")


def test_blocks_of_other_kinds_of_networks() -> None:
    patches, block, *_, classifier = blocks_by_space("vit", Task((1, 8, 8), 10))
    assert (patches.name, patches.positions) == ("patches", (2, 2))
    assert block.operations == ("3 linear", "attention", "3 linear")
    assert (block.added, block.shape) == ((0,), "32 channels, 4 positions")
    assert classifier.operations == ("mean", "linear")

    _, residual, projected, *_ = blocks_by_space("resnet", Task((1, 8, 8), 10))
    assert (residual.operations, residual.added) == (("3×3", "3×3"), (0,))
    assert (projected.operations, projected.added) == (("3×3", "3×3", "1×1 shortcut"), (1,))

    signal = blocks_by_space("cnn1d", Task((2, 64), 3))
    assert any(word.startswith("window ") for block in signal for word in block.operations)

    hidden, classifier = blocks_by_space("quant_mlp", Task((16,), 7, ("int2", "int3"), signed=True))
    assert (hidden.operations, hidden.bits) == (("linear",), "w2a2")
    assert (classifier.shape, classifier.added) == ("7 outputs", ())


def layer(name: str, kind: str, *inputs: str, **more: Any) -> dict[str, Any]:
    row = {"name": name, "kind": kind, "inputs": list(inputs), "channels": 4, "positions": [8, 8]}
    weights = {"bits": 8} if kind in ("conv", "linear") else {}
    return {**row, "kernel": 3, "groups": 1, **weights, **more}


def test_an_addition_may_reach_back_over_several_blocks() -> None:
    found = blocks_of(
        [
            layer("first", "conv", "input"),
            layer("second", "conv", "first"),
            layer("third", "conv", "second"),
            layer("sum", "add", "third", "first"),
            layer("again", "add", "sum", "input"),
            layer("last", "linear", "again"),
        ]
    )
    assert [block.name for block in found] == ["first", "second", "third", "last"]
    assert [block.added for block in found] == [(), (), (0, INPUT), ()]


def test_a_gate_is_one_operation() -> None:
    (block,) = blocks_of(
        [
            layer("b0_depthwise", "conv", "input", groups=4),
            layer("b0_squeeze", "pool", "b0_depthwise", positions=[1, 1]),
            layer("b0_reduce", "conv", "b0_squeeze", positions=[1, 1], kernel=1),
            layer("b0_excite", "conv", "b0_reduce", positions=[1, 1], kernel=1),
            layer("b0_gate", "hard_sigmoid", "b0_excite", positions=[1, 1]),
            layer("b0_scale", "mul", "b0_depthwise", "b0_gate"),
            layer("b0_project", "conv", "b0_scale", kernel=1),
        ]
    )
    assert block.operations == ("3×3 depthwise", "gate", "1×1")


def test_layers_of_an_older_version_have_no_drawing() -> None:
    assert blocks_of([{"name": "stem", "kind": "conv", "channels": 8, "bits": 32}]) == ()


def test_a_drawing_has_a_box_per_block_scaled_by_channels_and_resolution() -> None:
    blocks = (
        Block("stem", ("3×3",), 8, (16, 16), "32"),
        Block("b0", ("1×1", "3×3 depthwise", "1×1"), 32, (8, 8), "8", (0,)),
        Block("classifier", ("mean", "linear"), 10, (), "w4a6"),
    )
    svg = drawing("Network <1>", (1, 16, 16), blocks)
    root = ElementTree.fromstring(svg.replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" ', 1))
    boxes = root.findall(f"{SVG}rect")
    widths, heights = ([float(box.get(k, "nan")) for box in boxes] for k in ("width", "height"))
    assert len(boxes) == 3
    assert np.argsort(widths).tolist() == [0, 2, 1]
    assert heights[0] > heights[1] > heights[2]
    tops = [float(box.get("y", "nan")) for box in boxes]
    assert all(top + height < below for top, height, below in zip(tops, heights, tops[1:], strict=False))
    assert len(root.findall(f"{SVG}circle")) == 1  # one addition
    words = root.get("aria-label") or ""
    assert words == alternative_text("Network <1>", blocks)
    assert "b0: 1×1, 3×3 depthwise, 1×1, 32 channels, 8×8, 8 bits, to which stem is added" in words
    assert {text.text for text in root.findall(f"{SVG}text")} >= {"32", "8", "w4a6"}
    height = float((root.get("viewBox") or "").split()[3])
    assert tops[-1] + heights[-1] < height


def luminance(hexadecimal: str) -> float:
    """Relative luminance of WCAG 2.2."""
    channels = [int(hexadecimal[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_more_bits_are_darker_and_their_text_stays_legible() -> None:
    shades = [luminance(colour(f"w{bits}a8")) for bits in (2, 4, 6, 8, 16)]
    assert shades == sorted(shades, reverse=True)
    assert len(set(shades)) == 5
    assert colour("8") == colour("w8a2")
    assert colour("32") not in {colour(f"w{bits}a2") for bits in range(2, 17)}
    ink = luminance("#1b1f24")
    assert all((shade + 0.05) / (ink + 0.05) >= 4.5 for shade in (*shades, luminance(colour("32"))))


def test_budgets_name_who_keeps_and_who_breaks_them(tmp_path: Path) -> None:
    limits = {"latency_s": 1e-3, "size_bytes": 1e9, "peak_memory_bytes": 1e9}
    first = search(tmp_path, trials=2, constraints={"latency_s": 1e-3})
    fast = first.rows[0]
    slow = replace(fast, digest="f" * 32, measured={"latency_s": (1.5e-3, 0.0)}, kept={"latency_s": False})
    rows = (slow, *first.rows)
    report = replace(first, rows=rows, job=first.job.model_copy(update={"constraints": limits}))
    latency, _, memory = report.budgets
    assert latency.kept == tuple(row.digest for row in rows[1:])
    assert latency.broken == {slow.digest: 1.5e-3}
    assert (latency.judged, latency.unmeasured) == (len(rows), ())
    assert memory.unmeasured == tuple(row.digest for row in rows)
    assert memory.judged == 0
    assert (
        f"{len(rows) - 1} of {len(rows)} networks keep latency ≤ 1.00 ms when measured." in report.sentences()
    )
    assert not any("peak memory" in line for line in report.sentences())
    shown = page(report)
    assert f"{slow.digest[:8]} (1.50 ms, 50.0% more)" in shown
    assert "nothing was measured" in shown


def test_the_record_carries_what_the_page_says(tmp_path: Path) -> None:
    report = search(tmp_path, trials=8, constraints={"latency_s": "1s"})
    record = json.loads(json.dumps(search_record(report)))
    assert sum(record["fates"].values()) == record["trials"] == len(record["hypervolumes"]) == 8
    assert record["hypervolumes"][-1] == report.hypervolumes[-1] > 0
    (budget,) = record["budgets"]
    assert (budget["cost"], budget["limit"], budget["broken"]) == ("latency_s", 1.0, {})
    assert sorted(budget["kept"]) == sorted(row["digest"] for row in record["front"])
    row = record["front"][0]
    assert row["macs"] == report.rows[0].macs
    assert [block["name"] for block in row["blocks"]] == list(row["bits"])
    assert {block["bits"] for block in row["blocks"]} <= {"8", "32"}
    assert record["job"]["constraints"] == {"latency_s": 1.0}
    assert record["closest"] is None
    assert record["notes"] == report.sentences()
    shown = page(report)
    for found in record["front"]:
        assert f"Network {found['digest'][:8]}: {found['macs']:,} multiply-accumulates" in shown
    assert shown.count("<svg ") == len(record["front"])
    assert not re.search(r"<script|(src|href)=\"https?:", shown)


def test_without_a_network_the_record_and_the_panels_tell_the_closest(tmp_path: Path) -> None:
    report = search(tmp_path, constraints={"latency_s": "1us"})
    record = search_record(report)
    miss = record["closest"]["misses"]["latency_s"]
    assert miss["upper"] > miss["limit"] == pytest.approx(1e-6)
    assert (record["front"], record["measured_on"] is None or record["verified"]) == ([], True)
    assert len(panels(report)) == 1
    assert "How far" in panels(report)[0][0]
    assert excess(miss["upper"], miss["limit"]) in page(report)


def test_one_network_whose_cost_was_not_measured(tmp_path: Path) -> None:
    report = search(tmp_path, lambda path, device: [], trials=1)
    (row,) = report.rows
    assert set(row.measured) == {"size_bytes"}
    texts = [text for text, _ in panels(report)]
    assert len(texts) == 2  # front and progress
    assert "measured" not in texts[0]
    assert page(report)


class Pruning(FakeEvaluator):
    """Gives every other candidate up, before its training or in it."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.after = epochs

    def evaluate_among(self, candidate: Any, seed: int, rivals: Any) -> Evaluation:
        found = self.evaluate(candidate, seed)
        return replace(found, pruned=True, epochs=self.after, accuracy=0.1) if len(self.calls) % 2 else found


@pytest.mark.parametrize(("epochs", "words"), [(1, "given up early"), (0, "not trained")])
def test_what_was_given_up_is_told_from_what_was_not_begun(tmp_path: Path, epochs: int, words: str) -> None:
    report = run_search(
        make_job(trials=4, epochs=3),
        tmp_path,
        predictor=FakePredictor(),
        evaluator=Pruning(epochs),
        measure=fake_measure,
    )
    assert report.counts[words] == 2
    assert len(report.judged) == (4 if epochs else 2)


def test_words_are_true_of_the_evaluator(tmp_path: Path) -> None:
    report = search(tmp_path, trials=2)
    for evaluator in ("supernet", "table"):
        job = report.job.model_copy(
            update={"evaluator": report.job.evaluator.model_copy(update={"name": evaluator})}
        )
        other = replace(report, job=job)
        assert words_of(evaluator).judged in other.counts
        assert "trained" not in other.counts
        if evaluator == "table":
            assert not any("train" in line for line in other.sentences())
    assert report.counts["trained"] >= 1
    effort = report.sentences()[0]
    assert effort.startswith("2 trials (")
    assert f"{format_quantity(report.search_s, 's')} of trial time summed over all workers" in effort
    assert "final training, export and measuring come on top" in effort
    one = replace(report, records=report.records[:1], verified=False).sentences()[0]
    assert one.startswith("1 trial (")
    assert "on top" not in one


def test_costs_have_words_and_units_that_fit() -> None:
    assert cost_words("logic_cells") == "logic cells"
    assert cost_words("sram_bytes") == "SRAM"
    assert cost_words("size_bytes") == "size"
    assert show("logic_cells", 2510.4) == "2,510"
    assert show("latency_s", 2e-8) == "20.0 ns"
    assert _screen("latency_s", [1e-6, 2e-4]) == (pytest.approx(1e6), " [µs]")
    assert _screen("sram_bytes", [3 * 2**20]) == (2**-20, " [MiB]")
    assert _screen("cycles", [12_000]) == (1.0, "")
    assert excess(1.5, 1.0) == "50.0% more"
    assert excess(9.95, 1.0) == "9.95 times as much"


def test_pictures_of_the_page_have_every_objective(tmp_path: Path) -> None:
    report = search(
        tmp_path, objectives=["error", "latency_s", "size_bytes"], trials=4, constraints={"latency_s": 1}
    )
    texts = [text for text, _ in panels(report)]
    assert [text.split(":")[0] for text in texts[:2]] == ["Error against latency", "Error against size"]
    assert texts[2].startswith("Predicted latency")
    assert (
        (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG\r\n")
    )  # really drawn, as this test's name asks


def test_an_older_front_without_shapes_can_be_reported(tmp_path: Path) -> None:
    search(tmp_path, trials=2)
    path = tmp_path / "front.json"
    stored = json.loads(path.read_text())
    for row in stored["rows"]:
        row["layers"] = [
            {k: v for k, v in told.items() if k in ("name", "kind", "channels", "bits")}
            for told in row["layers"]
            if "bits" in told
        ]
    path.write_text(json.dumps(stored))
    report = load_report(tmp_path)
    assert all(row.blocks == () and row.bits for row in report.rows)
    assert "kept no layers to draw" in page(report)
    write_report(tmp_path)
    assert "Bits per block" in front_cells(report)[0]
