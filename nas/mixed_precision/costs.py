"""What each layer's precision costs on a device: differences between predictions of whole networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hardsight.budgets import SIZE
from hardsight.graph import OperatorGraph
from hardsight.ingest import read_onnx
from hardsight.nas.costs import EXACT, CostPredictor
from hardsight.nas.mixed_precision.program import Pair, Program
from hardsight.nas.mixed_precision.quantizers import Choice, Quantizer
from hardsight.prediction import Estimate, FloatArray
from hardsight.progress import Progress

_BATCH = 128

Costs = Mapping[str, Estimate]
"""Quantity to its prediction."""


class WholeNetworks:
    """Predicts the network of any choice, each once.

    Args:
        quantizer: of the network.
        predictor: knows the device.
        device: name.
        level: nominal coverage of the intervals.
    """

    def __init__(self, quantizer: Quantizer, predictor: CostPredictor, device: str, level: float) -> None:
        self.quantizer = quantizer
        self._predictor = predictor
        self._device = device
        self._level = level
        self._known: dict[Choice, Costs] = {}
        self._assumptions: dict[Choice, Sequence[str]] = {}

    def __getitem__(self, choice: Choice) -> Costs:
        return self.predict([choice])[0]

    @property
    def known(self) -> Mapping[Choice, Costs]:
        """All that was predicted so far."""
        return self._known

    def assumptions(self, choice: Choice) -> Sequence[str]:
        """What its prediction rests on, and where the network is unlike those that were learned from."""
        self.predict([choice])
        return self._assumptions[choice]

    def predict(self, choices: Sequence[Choice], progress: Progress | None = None) -> list[Costs]:
        """Costs of many choices, their size among them."""
        new = [choice for choice in dict.fromkeys(choices) if choice not in self._known]
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            graphs = []
            for k, choice in enumerate(batch):
                if progress:
                    progress("cost of layers", start + k, len(new))
                graphs.append(self.graph(choice))
            answer = self._predictor.predict(graphs, self._device, self._level)
            for i, (choice, graph) in enumerate(zip(batch, graphs, strict=True)):
                size, row = float(graph.weight_bytes), answer.row(i)
                self._assumptions[choice] = row.assumptions
                self._known[choice] = {
                    **{str(metric): estimate for metric, estimate in row.estimates.items()},
                    SIZE: Estimate(size, size, size, EXACT),
                }
        if progress and new:
            progress("cost of layers", len(new), len(new))
        return [self._known[choice] for choice in choices]

    def graph(self, choice: Choice) -> OperatorGraph:
        """The operators of the model as it runs on the device."""
        return read_onnx(self.quantizer.deployed(choice))


class LayerCosts(NamedTuple):
    """Costs taken apart.

    Args:
        base: quantity to what the network costs with every layer in its first precision.
        change: quantity to ``(l, p)``: what one layer alone in another precision changes, conversions included.
        pairs: what two neighbours save beyond that when both are quantized.
    """

    base: Mapping[str, float]
    change: Mapping[str, FloatArray]
    pairs: tuple[Pair, ...]

    def among_quantized(self, quantity: str, layer: int) -> float:
        """What a layer's last precision changes where all its neighbours are quantized as well."""
        alone = float(self.change[quantity][layer, -1])
        return alone - float(sum(pair.saving[quantity] for pair in self.pairs if layer in (pair.i, pair.j)))

    def program(self, sensitivity: FloatArray, quantizer: Quantizer) -> Program:
        """The integer program; `SENSITIVITY` is one of its quantities."""
        quantized = np.ones(len(quantizer.precisions), dtype=bool)
        quantized[0] = not quantizer.converts
        return Program({SENSITIVITY: sensitivity, **self.change}, self.base, self.pairs, quantized)


SENSITIVITY = "sensitivity"


def layer_costs(
    networks: WholeNetworks, quantities: Iterable[str], progress: Progress | None = None
) -> LayerCosts:
    """Each coefficient is a difference of two predictions of real graphs.

    With ``c`` of the network as it is, ``c_i`` with layer ``i`` quantized, ``c_ij`` with both: a layer alone changes
    ``c_i - c``, and a pair saves ``c_i + c_j - c_ij - c``, which is what needs no conversion between the two.

    Args:
        networks: predicts.
        quantities: metrics that add up over layers, or the size.
        progress: called after each network.
    """
    quantizer = networks.quantizer
    n_precisions = len(quantizer.precisions)
    alone = {
        (i, p): quantizer.alone(i, p) for i in range(len(quantizer.layers)) for p in range(1, n_precisions)
    }
    both = {}
    if quantizer.converts:
        for i, j in quantizer.layers.pairs:
            ends = {i: n_precisions - 1, j: n_precisions - 1}
            both[i, j] = tuple(ends.get(k, 0) for k in range(len(quantizer.layers)))
    networks.predict([quantizer.finest, *alone.values(), *both.values()], progress)
    found = tuple(quantities)
    base = {q: networks[quantizer.finest][q].value for q in found}
    change = {q: np.zeros((len(quantizer.layers), n_precisions)) for q in found}
    for (i, p), choice in alone.items():
        for q in found:
            change[q][i, p] = networks[choice][q].value - base[q]
    pairs = tuple(
        Pair(
            i,
            j,
            {q: base[q] + change[q][i, -1] + change[q][j, -1] - networks[choice][q].value for q in found},
        )
        for (i, j), choice in both.items()
    )
    return LayerCosts(base, change, pairs)
