"""A small synthetic world: chains of operators whose true cost is known, so that tests need no measuring."""

from __future__ import annotations

import numpy as np

from hardsight.graph import Operator, OperatorGraph, TensorSpec
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric

DEVICE = "lab/onnxruntime/fp32-t1"
FAMILIES = ("plain", "thin", "dense", "mixed")


def conv(name: str, source: int, c_in: int, c_out: int, side: int, kernel: int = 3) -> Operator:
    return Operator(
        name,
        "Conv",
        ((source, 0),),
        ((1, c_in, side, side),),
        ((1, c_out, side, side),),
        ((c_out, c_in, kernel, kernel),),
        {"kernel_shape": (kernel, kernel), "strides": (1, 1), "group": 1},
        weight_bits=32,
        macs=c_in * c_out * kernel**2 * side**2,
        bytes_in=4 * c_in * side**2,
        bytes_out=4 * c_out * side**2,
        bytes_weights=4 * c_in * c_out * kernel**2,
    )


def relu(name: str, source: int, c: int, side: int, op_type: str = "Relu", known: bool = True) -> Operator:
    shape = (1, c, side, side)
    size = 4 * c * side**2
    return Operator(
        name, op_type, ((source, 0),), (shape,), (shape,), bytes_in=size, bytes_out=size, known=known
    )


def chain(rng: np.random.Generator, family: str) -> OperatorGraph:
    """Convolutions, each followed by two unary operators (so that one of them is never merged away)."""
    side = int(rng.choice([8, 16, 32]))
    depth = int(rng.integers(1, 8))
    width = {"plain": 32, "thin": 8, "dense": 96, "mixed": int(rng.choice([8, 32, 96]))}[family]
    width += 4 * int(rng.integers(0, 8))
    operators: list[Operator] = []
    c_in = 3
    for i in range(depth):
        source = len(operators) - 1
        operators.append(conv(f"c{i}", source, c_in, width, side))
        operators.append(relu(f"r{i}", source + 1, width, side))
        operators.append(relu(f"e{i}", source + 2, width, side, "Exp"))
        c_in = width
    return OperatorGraph(
        family,
        tuple(operators),
        (TensorSpec("x", (1, 3, side, side), "float", 32),),
        (TensorSpec("y", (1, c_in, side, side), "float", 32),),
        ((len(operators) - 1, 0),),
        sum(op.bytes_weights for op in operators),
    )


def true_latency(graph: OperatorGraph, *, macs_per_s: float = 4e10, bytes_per_s: float = 8e9) -> float:
    merged = {op.name for op in graph.operators if op.op_type == "Relu"}
    return sum(
        op.macs / macs_per_s + (0 if op.name in merged else op.bytes / bytes_per_s + 2e-6)
        for op in graph.operators
    )


def world(
    n: int = 60, seed: int = 0, noise: float = 0.02, device: str = DEVICE, scale: float = 1.0, **law: float
) -> MeasurementTable:
    """``n`` graphs of four families with noisy labels of latency and memory."""
    rng = np.random.default_rng(seed)
    graphs: dict[str, OperatorGraph] = {}
    families: dict[str, str] = {}
    labels: list[Measurement] = []
    while len(graphs) < n:
        family = FAMILIES[len(graphs) % len(FAMILIES)]
        graph = chain(rng, family)
        if graph.digest in graphs:
            continue
        graphs[graph.digest], families[graph.digest] = graph, family
        value = scale * true_latency(graph, **law) * float(np.exp(noise * rng.standard_normal()))
        memory = (
            2e6 + 2.0 * graph.weight_bytes + 1.5 * max(op.bytes_in + op.bytes_out for op in graph.operators)
        )
        labels.append(Measurement(graph.digest, device, Metric.LATENCY, value, 0.01, 20))
        labels.append(Measurement(graph.digest, device, Metric.PEAK_MEMORY, memory, 0.0, 1))
    return MeasurementTable.from_measurements(labels, graphs, families)
