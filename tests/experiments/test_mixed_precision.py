"""The experiment trains, ranks and tabulates what it says."""

from __future__ import annotations

import math

import onnx
import pytest

from hardsight.experiments.mixed_precision import __main__ as experiment
from hardsight.experiments.mixed_precision import checks
from hardsight.experiments.mixed_precision.networks import network
from hardsight.nas.data import load_data


@pytest.fixture(scope="module")
def mlp() -> onnx.ModelProto:
    return network("mlp", load_data(checks.SPEC, 0), 0, epochs=3)


def test_two_bits_hurt_a_trained_network(mlp: onnx.ModelProto) -> None:
    found = checks.drops(mlp, 0, weights_only=True)
    assert len(found) == 4 * 3
    by_width = {d.precision: d for d in found if d.layer == 3}
    assert by_width["int2"].loss > by_width["int4"].loss
    assert checks.rank(found) > 0.5
    assert -1 <= checks.agreement(found) <= 1


def test_ranks_by_hand() -> None:
    found = [
        checks.Drop(i, "int8", s, loss, 0.0, (0.0, 0.0))
        for i, (s, loss) in enumerate([(1, 3), (2, 5), (3, 4)])
    ]
    assert checks.rank(found) == pytest.approx(0.5)  # 1 - 6 (0 + 1 + 1) / (3 (9 - 1))
    assert math.isnan(checks.rank(found, "accuracy"))


def test_brute_force_by_hand() -> None:
    program = checks.random_program(2, 2, seed=1)
    totals = {c: program.total("cost", c) for c in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    assert checks.brute_force(program, max(totals.values())) == 0.0
    cheapest = min(totals, key=totals.__getitem__)
    assert checks.limit_of(program, 0.0) == pytest.approx(totals[cheapest])
    assert checks.brute_force(program, totals[cheapest]) == program.total("sensitivity", cheapest)


def test_tables_have_every_row(mlp: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "NAMES", ("mlp",))
    table = experiment.sensitivity_table({("mlp", 0): mlp}).splitlines()
    assert len(table) == 2 + 5
    assert "mlp, INT8" in table[2]
