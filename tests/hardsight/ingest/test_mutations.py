"""10,000 damaged files: each is read or refused by a typed error, in time, in little memory, always alike."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from collections import Counter

import pytest
from mutator import mutant, seed_models
from mutator.bombs import BOMBS
from mutator.drive import command, drive, environment, reproduce
from mutator.examine import DEVICE
from mutator.raw import RAW
from mutator.structure import STRUCTURE
from onnx import ModelProto, numpy_helper

import hardsight
from hardsight.errors import ModelError
from hardsight.ingest import read_onnx


def test_a_number_gives_the_same_file_for_ever():
    """A changed seed model, mutation or list of them makes other files: then, and only then, change this."""
    files = hashlib.sha256()
    for number in range(300):
        files.update(mutant(number).data)
    assert files.hexdigest()[:16] == "3693ea8550e25089"


@pytest.mark.parametrize("change", STRUCTURE, ids=lambda change: change.__name__)
def test_every_change_of_structure_changes_a_model(change):
    assert any(_changed(change, data, seed) for seed in range(5) for data in seed_models().values())


def _changed(change, data, seed):
    model = ModelProto.FromString(data)
    change(model, random.Random(seed))
    return model != ModelProto.FromString(data)


@pytest.mark.parametrize("damage", RAW, ids=lambda damage: damage.__name__)
def test_every_damage_of_bytes_changes_a_file(damage):
    data = seed_models()["convolution"]
    assert any(damage(data, random.Random(seed)) != data for seed in range(5))


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_no_bomb_is_a_large_file(bomb):
    assert all(len(bomb(random.Random(seed))) < 2**23 for seed in range(3))


@pytest.mark.parametrize("name", seed_models())
def test_the_sound_models_are_read(name, tmp_path):
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(seed_models()[name])
    if name == "embedded":  # its table of sizes lies in a file beside it
        (tmp_path / "weights.bin").write_bytes(b"".join(n.to_bytes(8, "little") for n in (0, 4, 16)))
    assert hardsight.predict(path, device=DEVICE)["latency_s"].value > 0


def _examine(first, stop, capsys, record_property):
    faults, results = [], Counter()
    for outcome in drive(first, stop):
        results[outcome.result] += 1
        if outcome.fault:
            faults.append(f"{outcome.fault.strip()}\n  reproduce: {reproduce(outcome.number)}")
    with capsys.disabled():
        print(
            f"\n{stop - first} damaged files: "
            + ", ".join(f"{n} {what}" for what, n in results.most_common())
        )
    record_property("results", json.dumps(results))
    assert not faults, "\n".join([f"{len(faults)} of them:", *faults[:20]])
    assert results["read"] > 0.1 * (stop - first)
    assert results["ModelError"] > 0.1 * (stop - first)


def test_five_hundred_damaged_files(capsys, record_property):
    _examine(0, 500, capsys, record_property)


@pytest.mark.slow
def test_ten_thousand_damaged_files(capsys, record_property):
    _examine(0, 10_000, capsys, record_property)


def _answers(*arguments, hash_seed="0"):
    done = subprocess.run(
        command("mutator.answers", *arguments),
        env=environment(PYTHONHASHSEED=hash_seed),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


COUNT = 120


@pytest.fixture(scope="module")
def answers():
    return _answers(COUNT)


def test_same_file_same_answer_in_any_process_and_order(answers):
    assert len(answers) == COUNT + len(seed_models())
    others = _answers(COUNT, "--reversed", hash_seed="4711")
    assert {name for name in answers if answers[name] != others[name]} == set()


@pytest.mark.parametrize("batch", [7, 1000])
def test_same_file_same_answer_in_any_batch(answers, batch):
    others = _answers(COUNT, "--batch", batch)
    assert {name for name in answers if answers[name] != others[name]} == set()


def test_damaged_constants_are_no_crash():
    model = ModelProto.FromString(seed_models()["convolution"])
    shape = next(t for t in model.graph.initializer if t.name == "t")
    shape.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(shape), "t"))
    shape.raw_data = shape.raw_data[:-3]
    with pytest.raises(ModelError):
        read_onnx(model)
