"""Every family: its members are valid, run, repeat, differ, and spread over orders of magnitude."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from hardsight.datasets.families import FAMILIES, Family
from hardsight.datasets.families._family import MAX_MACS, MAX_WEIGHT_BYTES
from hardsight.datasets.quantize import random_feeds
from hardsight.datasets.weights import fill_weights, strip_weights
from hardsight.ingest import read_onnx

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


def small(family: Family) -> Family:
    """The same structures at sizes that run in milliseconds."""
    return replace(family, macs_range=(1e6, 2e7))


def generator(family: Family, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(family.name.encode())])


def test_there_are_enough_families_and_each_is_documented() -> None:
    assert len(FAMILIES) >= 30
    assert all(name == family.name and family.citation for name, family in FAMILIES.items())


@every_family
@pytest.mark.parametrize("seed", [0, 1])
def test_members_are_valid_and_run_as_declared(family: Family, seed: int) -> None:
    model = fill_weights(small(family).sample(generator(family, seed)))
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    outputs = session.run(None, random_feeds(model))
    declared = [[d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output]
    assert [list(output.shape) for output in outputs] == declared
    assert all(np.isfinite(output).all() for output in outputs)


@every_family
def test_a_seed_repeats_and_another_differs(family: Family) -> None:
    first, again, other = (small(family).sample(generator(family, seed)) for seed in (5, 5, 6))
    assert first.SerializeToString() == again.SerializeToString()
    digests = {read_onnx(model).digest for model in (first, again, other)}
    assert len(digests) == 2


@every_family
def test_members_read_without_weights_and_with_the_builders_macs(family: Family) -> None:
    """The builder's own count and the reader's rules are written apart and must agree."""
    net = small(family).sample_net(generator(family, 7))
    graph = read_onnx(net.model())
    assert graph.unknown_ops == {}
    # layers on plain tensors count nothing in the builder but may in the reader, a little
    assert graph.macs == pytest.approx(net.macs, rel=0.1) or family.name == "single_operator"


@every_family
def test_stripping_a_filled_member_gives_the_same_architecture(family: Family) -> None:
    model = small(family).sample(generator(family, 8))
    assert read_onnx(strip_weights(fill_weights(model))).digest == read_onnx(model).digest


def spread(family: Family, n: int) -> np.ndarray:
    nets = [family.sample_net(generator(family, seed)) for seed in range(n)]
    assert all(net.macs <= MAX_MACS and net.weight_bytes <= MAX_WEIGHT_BYTES for net in nets)
    return np.log10([net.macs for net in nets])


@every_family
def test_sizes_spread(family: Family) -> None:
    decades = spread(family, 8)
    assert np.ptp(decades) > 1.5


@pytest.mark.slow
@every_family
def test_sizes_are_about_log_uniform_over_three_decades(family: Family) -> None:
    decades = spread(family, 60)
    assert np.ptp(decades) > 3.0
    counts, _ = np.histogram(decades, bins=[5.5, 7.0, 8.0, 9.7])
    assert counts.min() >= 8  # a third each would be 20
