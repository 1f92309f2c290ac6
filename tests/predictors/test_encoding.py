"""What the graph network sees of a kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from worlds import chain, conv, relu

from hardsight.graph import Operator, OperatorGraph, TensorSpec
from hardsight.predictors.encoding import HELD, PRIORS, columns_of, encode_graphs
from hardsight.predictors.features import CATEGORIES, TYPES
from hardsight.predictors.kernels import RAW, kernels
from hardsight.predictors.liveness import running_order
from hardsight.predictors.merging import consumers_of

LIVE = RAW.index("live_bytes")
IMAGE = TensorSpec("x", (1, 8, 16, 16), "float", 32)


def graph(*operators: Operator) -> OperatorGraph:
    return OperatorGraph("g", operators, (IMAGE,), (), ((len(operators) - 1, 0),))


def test_a_merged_activation_keeps_the_tensor_of_its_convolution_alive() -> None:
    size = 4 * 8 * 16**2
    net = graph(
        conv("a", -1, 8, 8, 16), relu("r", 0, 8, 16), relu("e", 1, 8, 16, "Exp"), relu("f", 2, 8, 16, "Exp")
    )
    found = kernels(net)
    assert list(found.kept) == [0, 2, 3]
    assert list(found.raw[:, LIVE]) == [size, 2 * size, 2 * size]


def test_the_order_of_a_file_does_not_matter() -> None:
    def branches(first: str, second: str) -> OperatorGraph:
        made = {
            "a": relu("a", -1, 8, 16, "Exp"),
            "b": relu("b", -1, 8, 16, "Sqrt"),
        }
        place = {first: 0, second: 1}
        join = replace(relu("j", 0, 8, 16, "Add"), inputs=((place["a"], 0), (place["b"], 0)))
        return graph(made[first], made[second], join)

    one, other = branches("a", "b"), branches("b", "a")
    assert one.digest == other.digest
    ordered = [tuple(sorted(map(tuple, kernels(net).raw))) for net in (one, other)]
    assert ordered[0] == ordered[1]


def test_results_are_walked_in_the_order_of_their_fingerprints() -> None:
    net = OperatorGraph(
        "g", (relu("a", -1, 8, 16, "Exp"), relu("b", -1, 4, 16, "Sqrt")), (IMAGE,), (), ((0, 0), (1, 0))
    )
    turned = OperatorGraph("g", net.operators[::-1], (IMAGE,), (), ((0, 0), (1, 0)))
    walks = [
        [walked.operators[i].name for i in running_order(walked, consumers_of(walked))]
        for walked in (net, turned)
    ]
    assert walks[0] == walks[1]


def test_parts_of_a_row() -> None:
    rng = np.random.default_rng(0)
    encoded = encode_graphs([chain(rng, "plain"), chain(rng, "mixed")])
    assert np.array_equal(encoded.rows[:, columns_of("category")].sum(axis=1), np.ones(len(encoded.owner)))
    kinds = encoded.rows[:, columns_of("type")]
    assert kinds.shape[1] == len(TYPES)
    assert np.array_equal(kinds.sum(axis=1), np.ones(len(encoded.owner)))
    of_graph = encoded.rows[:, columns_of("graph")]
    assert all(len(np.unique(of_graph[encoded.owner == i], axis=0)) == 1 for i in range(2))
    neighbours = encoded.rows[:, columns_of("neighbours")]
    first = np.flatnonzero(np.diff(encoded.owner, prepend=-1))
    assert not neighbours[first, : len(CATEGORIES)].any()  # nothing stands before the first kernel
    assert neighbours[first + 1, : len(CATEGORIES)].any()


def test_what_memory_holds() -> None:
    net = chain(np.random.default_rng(1), "thin")
    held = dict(zip(HELD, encode_graphs([net]).priors[:, -len(HELD) :].T, strict=True))
    assert set(PRIORS) >= set(HELD)
    assert set(held["all weights"]) == {net.weight_bytes}
    assert held["live"].max() >= max(op.bytes_out for op in net.operators)


def test_a_recurrent_layer_fetches_its_weights_at_every_step() -> None:
    def layer(steps: int) -> OperatorGraph:
        shape = (steps, 1, 8)
        return graph(
            Operator(
                "lstm", "LSTM", ((-1, 0),), (shape,), ((steps, 1, 1, 64),), ((1, 256, 8), (1, 256, 64)),
                {"hidden_size": 64}, weight_bits=32, macs=steps * 256 * 72, bytes_in=32 * steps,
                bytes_out=256 * steps, bytes_weights=4 * 256 * 72,
            )
        )  # fmt: skip

    moved = encode_graphs([layer(10), layer(1000)]).priors[:, PRIORS.index("bytes")]
    assert 90 < moved[1] / moved[0] < 101


def test_a_loop_that_never_runs_costs_nothing_and_breaks_nothing() -> None:
    idle = replace(conv("a", -1, 8, 8, 16), repeats=0)
    seen = encode_graphs([graph(idle, conv("b", 0, 8, 8, 16))])
    assert np.isfinite(seen.priors).all()
    assert not seen.priors[0, : -len(HELD)].any()
    assert seen.priors[1, : -len(HELD)].any()
