"""The ONNX package's own backend models: every one is read, or refused by a ModelError."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from hardsight.errors import ModelError
from hardsight.ingest import read_onnx

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
RUNTIME_SIZES = ("depends on values that are not in the file", "has unbound dimensions")


@pytest.fixture(scope="module")
def node_cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = [case for case in collect_testcases(None) if case.model is not None]
    assert len(cases) > 1000
    return cases


def _report(kind, read, refused, capsys, record_property):
    record_property(f"{kind} read", read)
    record_property(f"{kind} refused", len(refused))
    with capsys.disabled():
        print(f"\nONNX backend {kind} models: {read} read, {len(refused)} refused by a ModelError")


def test_node_models(node_cases, capsys, record_property):
    read, refused, wrong = 0, {}, []
    for case in node_cases:
        try:
            graph = read_onnx(case.model, name=case.name)
        except ModelError as error:
            refused[case.name] = str(error)
            continue
        read += 1
        assert len(graph.digest) == 32
        if any("depends on the data" in sentence for sentence in graph.assumptions):
            continue
        # The cases bring the arrays that a run gives: their shapes are the truth.
        for spec, array in zip(graph.outputs, case.data_sets[0][1] if case.data_sets else (), strict=False):
            if isinstance(array, np.ndarray) and spec.shape != array.shape:
                wrong.append((case.name, spec.shape, array.shape))
    _report("node", read, refused, capsys, record_property)
    assert not wrong
    assert read / len(node_cases) > 0.985
    # What is refused has sizes that only a run can tell; nothing else may be.
    unexplained = {
        name: text for name, text in refused.items() if not any(why in text for why in RUNTIME_SIZES)
    }
    assert not unexplained


def test_files(capsys, record_property):
    files = sorted(DATA.rglob("*.onnx"))
    assert len(files) > 100
    assert any("light" in str(file) for file in files)
    refused = {}
    for file in files:
        try:
            read_onnx(file)
        except ModelError as error:
            refused[file.name] = str(error)
    _report("light, simple and pytorch", len(files) - len(refused), refused, capsys, record_property)
    assert all(any(why in text for why in RUNTIME_SIZES) for text in refused.values()), refused
    assert len(refused) <= 1


# Published MACs of the original networks, in millions; the light models have their architectures.
KNOWN_MACS = {
    "light_bvlc_alexnet": (655, 0.15),  # grouped AlexNet on 224 pixels
    "light_resnet50": (3860, 0.08),  # He et al. 2015 state 3.8e9 multiply-adds
    "light_vgg19": (19630, 0.02),  # 19.6e9
    "light_densenet121": (2830, 0.05),
    "light_squeezenet": (350, 0.2),  # squeezenet 1.1
    "light_shufflenet": (130, 0.2),  # 1x, 3 groups: 137e6 in the paper
}


@pytest.mark.parametrize("name", KNOWN_MACS)
def test_macs_of_known_networks(name):
    millions, tolerance = KNOWN_MACS[name]
    graph = read_onnx(DATA / "light" / f"{name}.onnx")
    assert graph.macs / 1e6 == pytest.approx(millions, rel=tolerance)
    assert not graph.unknown_ops
