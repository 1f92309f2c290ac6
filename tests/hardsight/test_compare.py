from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import hardsight as hs
from hardsight import predictors
from hardsight.cli import main
from hardsight.comparison import Ratio, compared, metric_named, ratio_of
from hardsight.errors import InputError, ModelError, NotCoveredError, NotSupportedError, UnknownNameError
from hardsight.metrics import Metric
from hardsight.prediction import Estimate, ModelPrediction

FAST, SLOW, PART = "lab/rt/fp32-t1", "lab/rt/fp32-t2", "lab/npu/int8"


def estimate(value: float, off: float | None = 0.1) -> Estimate:
    """``value`` with an interval of ``exp(± off)``."""
    if off is None:
        return Estimate(value, None, None, 0.9)
    return Estimate(value, value * math.exp(-off), value * math.exp(off), 0.9)


def answer(
    model: str, device: str, off: float | None = 0.1, digest: str = "", **values: float
) -> ModelPrediction:
    estimates = {Metric(name): estimate(value, off) for name, value in values.items()}
    return ModelPrediction(estimates, device, "fake", {}, model=model, digest=digest or model)


# -- ratios ---------------------------------------------------------------------------------------


def test_a_ratio_joins_the_log_widths_as_a_root_of_squares() -> None:
    # widths 0.3 and 0.4 in logarithms: sqrt(0.09 + 0.16) = 0.5
    ratio = ratio_of(estimate(6.0, 0.3), estimate(2.0, 0.4))
    assert ratio is not None
    assert ratio == pytest.approx((3.0, 3.0 * math.exp(-0.5), 3.0 * math.exp(0.5), 0.9))


def test_ends_that_are_not_symmetric_meet_their_opposites() -> None:
    cost = Estimate(1.0, math.exp(-0.3), math.exp(0.6), 0.9)
    other = Estimate(1.0, math.exp(-0.8), math.exp(0.4), 0.9)
    ratio = ratio_of(cost, other)
    assert ratio is not None
    assert ratio.lower == pytest.approx(math.exp(-math.hypot(0.3, 0.4)))
    assert ratio.upper == pytest.approx(math.exp(math.hypot(0.6, 0.8)))


def test_exact_costs_that_differ_by_rounding_are_the_same() -> None:
    found = ratio_of(Estimate(1.0, 1.0 - 1e-9, 1.0 - 1e-10, 0.9), Estimate(1.0, 1.0, 1.0, 0.9))
    assert found is not None
    assert found.verdict == "same"


@pytest.mark.parametrize(
    ("off", "other_off", "factor", "verdict"),
    [
        (0.3, 0.4, math.exp(0.51), "more"),
        (0.3, 0.4, math.exp(0.49), "too close to call"),
        (0.3, 0.4, math.exp(-0.51), "less"),
        (0.3, None, 5.0, "no interval"),
    ],
)
def test_the_verdict_is_what_the_interval_can_tell(
    off: float, other_off: float | None, factor: float, verdict: str
) -> None:
    ratio = ratio_of(estimate(factor, off), estimate(1.0, other_off))
    assert ratio is not None
    assert ratio.verdict == verdict


def test_no_ratio_to_nothing() -> None:
    assert ratio_of(estimate(1.0), Estimate(0.0, 0.0, 0.0, 0.9)) is None
    lower_zero = ratio_of(estimate(1.0), Estimate(1.0, 0.0, 2.0, 0.9))
    assert lower_zero == Ratio(1.0, None, None, 0.9)


@pytest.mark.parametrize(("correlation", "low", "high"), [(0.0, 0.885, 0.915), (0.6, 0.97, 1.0)])
def test_ratio_intervals_cover(correlation: float, low: float, high: float) -> None:
    """Errors of known law: independent ones are covered at the level, those that go the same way more often."""
    rng = np.random.default_rng(0)
    n, z = 10_000, 1.6448536  # of a 90 % interval; 0.885 to 0.915 is five standard errors
    sigma = rng.uniform(0.05, 0.4, (n, 2))
    shared, own = rng.normal(size=(n, 1)), rng.normal(size=(n, 2))
    errors = sigma * (math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own)
    inside = 0
    for (a, b), (error, other_error) in zip(z * sigma, errors, strict=True):
        ratio = ratio_of(estimate(3.0, a), estimate(1.0, b))
        assert ratio is not None and ratio.lower is not None and ratio.upper is not None
        inside += ratio.lower <= 3.0 * math.exp(error - other_error) <= ratio.upper
    assert low <= inside / n <= high


# -- tables ---------------------------------------------------------------------------------------


def test_ratios_refer_to_the_first_model_on_the_same_device() -> None:
    found = compared(
        [
            [answer("a", FAST, latency_s=1.0), answer("a", SLOW, latency_s=4.0)],
            [answer("b", FAST, latency_s=3.0), answer("b", SLOW, latency_s=4.2)],
        ]
    )
    (table,) = found.tables
    assert found.models == ("a", "b")
    assert found.devices == (FAST, SLOW)
    ratios = [[cell.ratio for cell in row if cell and cell.ratio] for row in table.rows]
    assert [r.value for r in ratios[1]] == pytest.approx([3.0, 1.05])
    assert [r.verdict for r in ratios[0]] == ["same", "same"]
    assert [r.verdict for r in ratios[1]] == ["more", "too close to call"]


def test_who_wins_where() -> None:
    found = compared(
        [
            [answer("a", FAST, latency_s=1.0), answer("a", SLOW, latency_s=4.0)],
            [answer("b", FAST, latency_s=3.0), answer("b", SLOW, latency_s=3.9)],
        ]
    )
    contests = found.tables[0].contests
    assert [(c.among, c.at, c.best, c.tied) for c in contests] == [
        ("models", FAST, "a", ()),
        ("models", SLOW, "b", ("a",)),
        ("devices", "a", FAST, ()),
        ("devices", "b", FAST, ()),
    ]
    first, second, *_ = found.tables[0].sentences()
    assert first == f"latency on {FAST}: a is lowest; next is b with 3 × (2.6 to 3.46)."
    assert second == f"latency on {SLOW}: b is predicted lowest, too close to call against a."


def test_the_larger_clock_wins() -> None:
    found = compared([[answer("a", FAST, fmax_hz=1e8)], [answer("b", FAST, fmax_hz=3e8)]])
    (contest,) = found.tables[0].contests
    assert contest.best == "b"
    assert contest.tied == ()
    assert "b is highest; next is a with 0.333" in found.tables[0].sentences()[0]


def test_one_architecture_in_two_files_is_the_same_for_certain() -> None:
    found = compared(
        [[answer("a", FAST, latency_s=1.0, digest="d")], [answer("b", FAST, latency_s=1.0, digest="d")]]
    )
    cell = found.tables[0].rows[1][0]
    assert cell is not None
    assert cell.ratio == Ratio(1.0, 1.0, 1.0, 0.9)
    assert "the same network as b" in found.tables[0].sentences()[0]


def test_without_intervals_nothing_is_certain() -> None:
    found = compared([[answer("a", FAST, None, latency_s=1.0)], [answer("b", FAST, None, latency_s=9.0)]])
    (contest,) = found.tables[0].contests
    assert contest.tied == ("b",)
    assert "a is predicted lowest, no interval against b" in found.tables[0].sentences()[0]


def test_a_metric_that_only_one_device_has() -> None:
    both = [answer("a", FAST, latency_s=1.0), answer("a", PART, latency_s=2.0, sram_bytes=1e5)]
    found = compared([both])
    assert [t.metric for t in found.tables] == [Metric.LATENCY, Metric.SRAM]
    assert found.tables[1].rows[0][0] is None
    assert found.tables[1].contests == ()
    assert found.to_dict()["metrics"]["sram_bytes"]["cells"][0] == {
        "model": "a",
        "device": FAST,
        "ratio": None,
    }
    with pytest.raises(NotCoveredError, match="energy_j"):
        compared([both], [Metric.ENERGY])


def test_metrics_have_short_names() -> None:
    assert metric_named("memory") is metric_named("peak_memory_bytes") is Metric.PEAK_MEMORY
    with pytest.raises(UnknownNameError, match="latncy"):
        metric_named("latncy")
    with pytest.raises(InputError, match="nothing to compare"):
        compared([])


# -- the function ---------------------------------------------------------------------------------


class Lab(predictors.Predictor):
    """A microsecond for each MAC, twice that on the slow device, ± 20 % in logarithms."""

    name = "lab"

    def fit(self, table: Any) -> Lab:
        return self

    @property
    def targets(self) -> list[tuple[str, Metric]]:
        return [(FAST, Metric.LATENCY), (SLOW, Metric.LATENCY)]

    def point(self, graphs: Sequence[Any], device: str, metric: Metric) -> Any:
        return np.array([1e-6 * g.macs * (1 if device == FAST else 2) for g in graphs])

    def interval(self, graphs: Any, device: str, metrics: Any, value: Any, level: float) -> Any:
        return value * math.exp(-0.2), value * math.exp(0.2)

    def save_state(self, folder: Path) -> dict[str, Any]:
        return {}

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Lab:
        return cls()


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(device: str) -> Lab:
        if device == PART:
            raise NotSupportedError(f"no predictor covers '{device}'")
        if device not in (FAST, SLOW):
            raise UnknownNameError("device", device, [FAST, SLOW])
        return Lab()

    monkeypatch.setattr(predictors, "load_predictor", load)


@pytest.fixture
def models(home: Path) -> list[Path]:
    paths = []
    for width in (2, 4):  # 8 * 2 = 16 MACs, 8 * 4 = 32 MACs
        text = f"""<ir_version: 8, opset_import: ["" : 17]>
            m{width} (float[N, 8] x, float[8, {width}] w) => (float[N, {width}] y) {{ y = MatMul(x, w) }}"""
        paths.append(home / f"m{width}.onnx")
        onnx.save(parser.parse_model(text), paths[-1])
    return paths


def test_compare(models: list[Path], lab: None) -> None:
    found = hs.compare(models, [FAST, SLOW, FAST], metrics=["latency"])
    assert isinstance(found, hs.Comparison)
    assert found.devices == (FAST, SLOW)
    values = [[cell and cell.estimate.value for cell in row] for row in found.tables[0].rows]
    assert values == [pytest.approx([16e-6, 32e-6]), pytest.approx([32e-6, 64e-6])]
    with pytest.raises(ModelError):
        hs.compare([b"", models[0]], [FAST])
    for wrong in ((models[0], [FAST]), (models, FAST), ([], [FAST])):
        with pytest.raises(InputError):
            hs.compare(*wrong)


def test_json_is_the_promised_object(
    models: list[Path], lab: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *map(str, models), "-d", FAST, "-d", SLOW, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert list(record) == ["models", "devices", "level", "ratio_to", "metrics", "assumption"]
    assert record["ratio_to"] == str(models[0])
    latency = record["metrics"]["latency_s"]
    assert latency["unit"] == "s"
    last = latency["cells"][-1]
    assert (last["model"], last["device"], last["value"]) == (str(models[1]), SLOW, pytest.approx(64e-6))
    assert last["ratio"]["value"] == pytest.approx(2.0)
    assert last["ratio"]["verdict"] == "more"  # 2 > exp(sqrt(2) * 0.2) = 1.33
    assert [c["best"] for c in latency["contests"]] == [str(models[0]), str(models[0]), FAST, FAST]


def test_for_people(models: list[Path], lab: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, models), "-d", FAST, "--metric", "latency"]) == 0
    out = capsys.readouterr().out
    for text in (
        "16.0 µs",
        "13.1 µs to 19.5 µs",
        "2 × (1.51 to 2.65): more",
        "is lowest; next is",
        "independent",
    ):
        assert text in out


def test_a_bad_model_does_not_stop_the_others(
    models: list[Path], lab: None, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = models[0].with_name("bad.onnx")
    bad.write_bytes(b"")
    assert main(["compare", str(bad), *map(str, models), "nope.onnx", "-d", FAST, "--json"]) == 2
    out, err = capsys.readouterr()
    assert [m["model"] for m in json.loads(out)["models"]] == list(map(str, models))
    assert [line.startswith("hardsight: ") for line in err.splitlines()] == [True, True]
    assert main(["compare", str(bad), "-d", FAST]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["-d", "nope"], 2, "unknown device 'nope'"),
        (["-d", FAST, "-d", PART], 4, "no predictor covers"),
        (["-d", FAST, "--metric", "energy"], 4, "no predictor covers energy_j"),
        (["-d", FAST, "--metric", "speed"], 2, "unknown metric 'speed'"),
        ([], 2, "--device"),
    ],
)
def test_bad_input_is_one_sentence(
    models: list[Path], lab: None, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert main(["compare", *map(str, models), *words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert said in line


# -- held-out families ----------------------------------------------------------------------------


@pytest.mark.slow
def test_ratio_intervals_cover_on_families_never_seen() -> None:
    """The assumption of independent errors, on the shipped labels; two minutes of processor time with ridge.

    Run with ``-s`` to see the shares of ratios inside; the docstring of `ratio_of` and the README quote them.
    """
    from hardsight.datasets.store import load_shipped
    from hardsight.predictors.conformal import family_folds
    from hardsight.predictors.evaluation import out_of_family, with_intervals
    from hardsight.predictors.linear import RidgePredictor

    table = load_shipped().select(metric=Metric.LATENCY)
    frame = with_intervals(out_of_family(RidgePredictor, table, family_folds(table, 7)))
    frame["error"] = np.log(frame["label"] / frame["value"])
    frame["half"] = np.log(frame["upper"] / frame["value"])
    rng = np.random.default_rng(0)

    def inside(groups: Any) -> float:
        """Share of ratios inside, over pairs of rows drawn from the same group."""
        hits = []
        for _, rows in groups:
            error, half = rows["error"].to_numpy(), rows["half"].to_numpy()
            a, b = rng.integers(len(rows), size=(2, 4 * len(rows)))
            a, b = a[a != b], b[a != b]
            hits.append(np.abs(error[a] - error[b]) <= np.hypot(half[a], half[b]))
        return float(np.concatenate(hits).mean())

    shares = {
        "any two networks on a device": inside(frame.groupby("device")),
        "two networks of a family on a device": inside(frame.groupby(["device", "family"])),
        "a network on two devices": inside(frame.groupby("digest")),
    }
    print(shares)
    assert all(share > 0.87 for share in shares.values()), shares
