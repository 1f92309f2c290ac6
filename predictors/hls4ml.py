"""FPGA designs by hls4ml: cycles, look-up tables, flip-flops, DSP blocks, memories, and whether synthesis succeeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hardsight.errors import NotSupportedError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor, Target
from hardsight.predictors._hls4ml_head import CANDIDATES, Candidate, Head, Inputs
from hardsight.predictors._hls4ml_rules import Layer, layers_of, strategy_of
from hardsight.predictors._hls4ml_success import Success

_ARRAYS = "hls4ml.safetensors"


class Hls4mlPredictor(Predictor):
    """Layer by layer: hls4ml's own rules, and boosted trees for what the synthesis tool makes of them.

    Each kind of code (`_hls4ml_rules.Layer.stratum`) of each (device, metric) has a `Head`. It is fitted to single
    layers; a network is the sum of its layers, its initiation interval that of the slowest one. Quantizers and
    reshapes are taken to cost nothing, as is ReLU. Devices are named HARDWARE/hls4ml/STRATEGY. The reuse factor is
    the attribute ``reuse_factor`` of a layer's operator; without it, it is 1, as for hls4ml itself.

    Whole networks were never labelled: no interval is calibrated for them.

    Args:
        seed: of the folds that choose candidates, and of the trees.
        candidates: what to choose from, simplest first; one without a rule has to be among them.
    """

    name = "hls4ml"

    def __init__(self, seed: int = 0, candidates: Sequence[Candidate] = CANDIDATES) -> None:
        self.seed = seed
        self.candidates = tuple(candidates)
        self._heads: dict[Target, dict[str, Head]] = {}
        self._success: dict[str, dict[str, Success]] = {}

    @property
    def targets(self) -> list[Target]:
        return list(self._heads)

    def fit(self, table: MeasurementTable) -> Self:
        """Learn every (device, metric) of the table; families of layers decide between candidates.

        Raises:
            NotSupportedError: a device that is none of hls4ml's, or a labelled graph that is no single layer.
        """
        for device in table.devices:
            for metric in table.select(device=device).metrics:
                graphs, y = table.labelled(device, metric)
                layers = _single_layers(graphs, device)
                families = np.array(table.families_of(graphs))
                heads = {}
                for stratum, rows in _by_stratum(layers):
                    x = Inputs.of([layers[i] for i in rows], metric)
                    heads[stratum] = Head.fit(x, y[rows], list(families[rows]), self.seed, self.candidates)
                self._heads[device, metric] = heads
        return self

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        """Counts ``(n,)``; whole numbers where all labels were."""
        heads = self._heads[device, metric]
        layers, owner = _all_layers(graphs, device)
        each = np.zeros(len(layers))
        for stratum, rows in _by_stratum(layers):
            _check_seen(stratum, heads, device)
            each[rows] = heads[stratum](Inputs.of([layers[i] for i in rows], metric))
        total = np.zeros(len(graphs))
        if metric is Metric.INTERVAL_CYCLES:
            np.maximum.at(total, owner, each)
        else:
            np.add.at(total, owner, each)
        return total

    def strata(self, graphs: Sequence[OperatorGraph], device: str) -> list[str]:
        """Which kind of code each graph becomes; layers of one kind err alike, so they share an interval."""
        strategy = strategy_of(device)
        found = (layers_of(graph, strategy) for graph in graphs)
        return [own[0].stratum if len(own) == 1 else f"{len(own)} layers" for own in found]

    def layer_costs(self, graph: OperatorGraph, device: str, metric: Metric = Metric.LATENCY) -> FloatArray:
        """Not available: these devices are predicted in cycles.

        Raises:
            NotSupportedError: always.
        """
        raise NotSupportedError(
            f"'{device}' is predicted in cycles, not in seconds; ask for the metric 'cycles'"
        )

    def fit_feasibility(self, graphs: Sequence[OperatorGraph], device: str, succeeded: npt.ArrayLike) -> Self:
        """Learn which single layers can be synthesized.

        Args:
            graphs: ``n`` single layers, the failures among them.
            device: they were synthesized for.
            succeeded: ``(n,)``.
        """
        labels = np.asarray(succeeded, dtype=bool)
        layers = _single_layers(graphs, device)
        self._success[device] = {
            stratum: Success.fit([layers[i] for i in rows], labels[rows])
            for stratum, rows in _by_stratum(layers)
        }
        return self

    def feasibility(self, graphs: Sequence[OperatorGraph], device: str) -> FloatArray:
        """Probability ``(n,)`` that synthesis succeeds; of a network, that all its layers do on their own.

        Raises:
            NotSupportedError: `fit_feasibility` has not seen the device or the kind of layer.
        """
        if device not in self._success:
            raise NotSupportedError(
                f"no failed syntheses for '{device}' were learned; call fit_feasibility first"
            )
        layers, owner = _all_layers(graphs, device)
        chance = np.ones(len(graphs))
        for stratum, rows in _by_stratum(layers):
            _check_seen(stratum, self._success[device], device)
            np.multiply.at(chance, owner[rows], self._success[device][stratum]([layers[i] for i in rows]))
        return chance

    def save_state(self, folder: Path) -> dict[str, Any]:
        from safetensors.numpy import save_file

        arrays: dict[str, npt.NDArray[Any]] = {}
        heads = []
        for (device, metric), own in self._heads.items():
            for stratum, head in own.items():
                state, parts = head.state(f"{device}.{metric}.{stratum}")
                heads.append([device, str(metric), stratum, state])
                arrays.update(parts)
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / _ARRAYS)
        success = [[device, *item] for device, own in self._success.items() for item in own.items()]
        return {"seed": self.seed, "candidates": self.candidates, "heads": heads, "success": success}

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        from safetensors.numpy import load_file

        arrays = load_file(folder / _ARRAYS)
        made = cls(meta["seed"], [(anchor, correction) for anchor, correction in meta["candidates"]])
        for device, metric, stratum, state in meta["heads"]:
            head = Head.from_state(state, arrays, f"{device}.{metric}.{stratum}")
            made._heads.setdefault((device, Metric(metric)), {})[stratum] = head
        for device, stratum, rates in meta["success"]:
            made._success.setdefault(device, {})[stratum] = Success(*rates)
        return made


def _single_layers(graphs: Sequence[OperatorGraph], device: str) -> list[Layer]:
    strategy = strategy_of(device)
    found = [layers_of(graph, strategy) for graph in graphs]
    for graph, own in zip(graphs, found, strict=True):
        if len(own) > 1:
            raise NotSupportedError(
                f"'{graph.name}' has {len(own)} layers; the hls4ml predictor is fitted to graphs of one layer each"
            )
    return [own[0] for own in found]


def _all_layers(graphs: Sequence[OperatorGraph], device: str) -> tuple[list[Layer], npt.NDArray[np.int64]]:
    """The layers of all graphs, and for each the position of its graph."""
    strategy = strategy_of(device)
    found = [layers_of(graph, strategy) for graph in graphs]
    owner = np.repeat(np.arange(len(graphs)), [len(own) for own in found])
    return [layer for own in found for layer in own], owner


def _by_stratum(layers: Sequence[Layer]) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """Name of each kind of code that occurs, and the positions of its layers."""
    kinds = np.array([layer.stratum for layer in layers], dtype=np.str_)
    return [(str(kind), np.flatnonzero(kinds == kind)) for kind in np.unique(kinds)]


def _check_seen(stratum: str, seen: Iterable[str], device: str) -> None:
    known = list(seen)
    if stratum not in known:
        raise NotSupportedError(
            f"'{device}' has no labels of {stratum} layers; it has some of: {', '.join(known)}"
        )
