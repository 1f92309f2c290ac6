"""What is checked: sensitivities against true losses, the integer program against all choices, its time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import onnx
from scipy.stats import spearmanr

from hardsight.nas.data import DataSpec
from hardsight.nas.mixed_precision.program import Pair, Program, solve
from hardsight.nas.mixed_precision.quantizers import QdqQuantizer, Quantizer, WeightQuantizer
from hardsight.nas.mixed_precision.samples import Samples, first, load_samples
from hardsight.nas.mixed_precision.sensitivity import probabilities, run, sensitivities

BITS = (8, 4, 3, 2)  # of weights; the first is what the others are held against
CALIBRATION = 128
SPEC = DataSpec(validation=0.3, test=0.3)
"""The digits; more are held out than usual, for a drop of accuracy is seen in few of them."""


class Drop(NamedTuple):
    """One layer in one precision, alone.

    Args:
        layer: index.
        precision: name.
        sensitivity: divergence on samples of the train part.
        loss: increase of the cross-entropy on samples not used for that, in nats.
        accuracy: decrease of the accuracy there, a share.
        halves: increase of the cross-entropy on either half of those samples.
    """

    layer: int
    precision: str
    sensitivity: float
    loss: float
    accuracy: float
    halves: tuple[float, float]


def drops(model: onnx.ModelProto, seed: int, *, weights_only: bool) -> list[Drop]:
    """Sensitivity and true drop of every layer and precision.

    Args:
        model: trained on the digits with this seed's split.
        seed: of the split.
        weights_only: weights of `BITS` in float arithmetic; else INT8 in ONNX Runtime, activations too.
    """
    data = load_samples(SPEC, model, seed)
    calibration = first(data.parts["train"], CALIBRATION)
    quantizer: Quantizer = (
        WeightQuantizer(model, BITS) if weights_only else QdqQuantizer(model, calibration.feeds)
    )
    sensitivity = sensitivities(quantizer, calibration.feeds, classifies=True)
    held = [data.parts["validation"], data.parts["test"]]
    before = [_scores(quantizer.quantized(quantizer.finest), part) for part in held]
    found = []
    for i, p in product(range(len(quantizer.layers)), range(1, len(quantizer.precisions))):
        model = quantizer.quantized(quantizer.alone(i, p))
        after = [_scores(model, part) for part in held]
        losses = [x[0] - y[0] for x, y in zip(after, before, strict=True)]
        lost = [y[1] - x[1] for x, y in zip(after, before, strict=True)]
        found.append(
            Drop(
                i,
                quantizer.precisions[p],
                float(sensitivity[i, p]),
                float(np.mean(losses)),
                float(np.mean(lost)),
                (losses[0], losses[1]),
            )
        )
    return found


def rank(found: Sequence[Drop], of: str = "loss") -> float:
    """Spearman's rank correlation of sensitivity and true drop."""
    return _spearman([d.sensitivity for d in found], [getattr(d, of) for d in found])


def agreement(found: Sequence[Drop]) -> float:
    """Rank correlation of the true loss increase on one half of the held-out samples with that on the other.

    No measure of sensitivity can be expected to do better than the truth agrees with itself.
    """
    return _spearman([d.halves[0] for d in found], [d.halves[1] for d in found])


def _spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """NaN where all of ``x`` or of ``y`` are the same, which has no rank."""
    constant = len(set(x)) < 2 or len(set(y)) < 2
    return float("nan") if constant else float(spearmanr(x, y).statistic)


def _scores(model: onnx.ModelProto, part: Samples) -> tuple[float, float]:
    """Cross-entropy in nats, and accuracy."""
    labels = part.labels
    assert labels is not None
    p = probabilities(run(model, part.feeds)[0])
    losses = -np.log(np.maximum(p[np.arange(len(labels)), labels], 1e-12))
    return float(losses.mean()), float((p.argmax(axis=1) == labels).mean())


def trained_program(model: onnx.ModelProto, seed: int, bits: Sequence[int] = (8, 4, 2)) -> Program:
    """A trained network's sensitivities, and the bytes of its weights, for a few widths."""
    data = load_samples(SPEC, model, seed)
    quantizer = WeightQuantizer(model, bits)
    calibration = first(data.parts["train"], CALIBRATION)
    sensitivity = sensitivities(quantizer, calibration.feeds, classifies=True)
    tensors = {t.name: int(np.prod(t.dims)) for t in quantizer.model.graph.initializer}
    nodes = {n.name: n for n in quantizer.model.graph.node}
    weights = np.array([tensors[nodes[name].input[1]] for name in quantizer.layers.names], np.float64)
    return Program({"sensitivity": sensitivity, "cost": weights[:, None] * np.array(bits) / 8})


def random_program(layers: int, precisions: int, seed: int) -> Program:
    """Layers of log-normal work and sensitivity; fewer bits cost less and hurt more; neighbours share conversions."""
    rng = np.random.default_rng(seed)
    share = np.linspace(1.0, 1.0 / precisions, precisions)
    work = rng.lognormal(0.0, 1.0, (layers, 1))
    cost = work * share * rng.uniform(0.8, 1.2, (layers, precisions))
    growth = 4.0 ** np.arange(precisions)
    sensitivity = rng.lognormal(-3.0, 1.5, (layers, 1)) * growth * rng.uniform(0.7, 1.3, (layers, precisions))
    sensitivity[:, 0] = 0.0
    pairs = [Pair(i, i + 1, {"cost": float(rng.uniform(-0.02, 0.2) * work[i, 0])}) for i in range(layers - 1)]
    quantized = np.arange(precisions) > 0
    return Program({"sensitivity": sensitivity, "cost": cost}, {"cost": 1.0}, pairs, quantized)


def limit_of(program: Program, share: float) -> float:
    """A limit that far from the cheapest (0) to the dearest uniform choice (1)."""
    layers, precisions = program.table["cost"].shape
    cheapest = solve(program, "cost", max_gap=0.0)
    assert cheapest is not None
    dearest = max(program.total("cost", (p,) * layers) for p in range(precisions))
    return cheapest.value + share * (dearest - cheapest.value)


def brute_force(program: Program, limit: float) -> float:
    """The least sensitivity of all choices within the limit, counted without the solver's code."""
    layers, precisions = program.table["cost"].shape
    choices = np.indices((precisions,) * layers).reshape(layers, -1)
    cost, sensitivity = (
        np.take_along_axis(program.table[q], choices, axis=1).sum(axis=0) for q in ("cost", "sensitivity")
    )
    quantized = np.ones(precisions, bool) if program.quantized is None else program.quantized
    for pair in program.pairs:
        cost -= pair.saving["cost"] * (quantized[choices[pair.i]] & quantized[choices[pair.j]])
    within = cost + program.base.get("cost", 0.0) <= limit * (1 + 1e-9)
    return float(sensitivity[within].min())


def excess_over_brute_force(program: Program, share: float) -> float:
    """How much more sensitive the solver's choice is than the best one, a share of that."""
    limit = limit_of(program, share)
    found, best = solve(program, "sensitivity", {"cost": limit}), brute_force(program, limit)
    assert found is not None
    return (found.value - best) / best if best else found.value


def timed(program: Program, share: float) -> tuple[float, float]:
    """Seconds and gap of one solution."""
    limit = limit_of(program, share)
    start = time.perf_counter()
    found = solve(program, "sensitivity", {"cost": limit})
    taken = time.perf_counter() - start
    assert found is not None
    return taken, found.gap
