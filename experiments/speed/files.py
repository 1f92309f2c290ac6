"""The files and graphs that are timed: of the shipped data set, in the order of their digests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import onnx

from hardsight.datasets.store import GraphStore, load_shipped
from hardsight.datasets.weights import fill_weights
from hardsight.errors import ModelError
from hardsight.graph import OperatorGraph

LARGE_BYTES = (2_000_000, 10_000_000)
SMALL_BYTES = (0, 200_000)
OPERATORS = (80, 120)


def write_files(folder: Path, count: int) -> dict[str, list[Path]]:
    """``count`` files of each kind, weights inside.

    Returns:
        by kind: weights of 2 to 10 MB; the same files without the shapes of inner tensors, as some exporters
        write them; weights below 200 kB.
    """
    large = [_write(folder / f"large-{i}.onnx", model) for i, model in enumerate(_filled(LARGE_BYTES, count))]
    bare = [_write(folder / f"bare-{i}.onnx", _without_shapes(onnx.load(p))) for i, p in enumerate(large)]
    small = [_write(folder / f"small-{i}.onnx", model) for i, model in enumerate(_filled(SMALL_BYTES, count))]
    return {"2 to 10 MB": large, "2 to 10 MB, inner shapes unstated": bare, "below 200 kB": small}


def graphs(count: int) -> list[OperatorGraph]:
    """``count`` graphs of 80 to 120 operators."""
    known = _store()
    fitting = (graph for graph in map(known.__getitem__, sorted(known)) if _fits(len(graph), OPERATORS))
    return list(islice(fitting, count))


def weightless_model() -> bytes:
    """The first model of 80 to 120 operators."""
    (graph,) = graphs(1)
    return _store().stored[graph.digest].onnx


def _store() -> GraphStore:
    known = load_shipped().graphs
    assert isinstance(known, GraphStore)
    return known


def _fits(number: int, ends: tuple[int, int]) -> bool:
    return ends[0] <= number <= ends[1]


def _filled(size_bytes: tuple[int, int], count: int) -> Iterator[onnx.ModelProto]:
    known = _store()
    fitting = (digest for digest in sorted(known) if _fits(known[digest].weight_bytes, size_bytes))
    return islice(_with_weights(known.stored[digest].onnx for digest in fitting), count)


def _with_weights(stored: Iterator[bytes]) -> Iterator[onnx.ModelProto]:
    for data in stored:
        try:
            yield fill_weights(onnx.load_from_string(data))
        except ModelError:  # a constant that decides a shape is not stored
            continue


def _without_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    del model.graph.value_info[:]
    return model


def _write(path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, path)
    return path
