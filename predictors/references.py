"""Networks to measure on a new device: which, in what order, why these, and when there are enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hardsight.device import Device
from hardsight.errors import DataError, NotSupportedError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor
from hardsight.predictors.adapted import GROUPS, AdaptedPredictor, work_groups
from hardsight.predictors.nearest import best_of, source_devices
from hardsight.units import format_quantity

if TYPE_CHECKING:
    import onnx

MIN_SAMPLES, MAX_SAMPLES = 1, 50
FIRST = 8
"""So many are measured before there can be enough: as many as the correction has parameters, and one."""

WORTH = 0.03
"""By what share more networks must lower the error to expect, to be measured."""

_WINDOW = 3
_MAX_LATENCY_S = 0.02
_MAX_WEIGHT_BYTES = 30e6
_COVERED = 0.2


class Network(NamedTuple):
    """A network that was measured.

    Args:
        digest: its identity.
        family: empty when it is not one of the package's data set.
        predicted_latency_s: on the known device, before adapting.
    """

    digest: str
    family: str
    predicted_latency_s: float


def reference_networks(
    device: Device, samples: int, *, only_float: bool = False
) -> dict[str, onnx.ModelProto]:
    """Networks to measure on a new device, weightless, by digest: what `choose_references` finds in the package's data.

    Args:
        device: to be measured.
        samples: how many (1 to 50).
        only_float: leave out those that are quantized already, for a runtime that quantizes its own way.

    Raises:
        DataError: when ``samples`` is out of range.
        NotSupportedError: when no known device resembles it.
    """
    import onnx

    from hardsight.datasets.store import GraphStore, load_shipped
    from hardsight.predictors import load_shipped_predictor

    if not MIN_SAMPLES <= samples <= MAX_SAMPLES:
        raise DataError(f"samples is {samples}; expected {MIN_SAMPLES} to {MAX_SAMPLES}")
    predictor, table = load_shipped_predictor(), load_shipped()
    graphs = table.graphs
    assert isinstance(graphs, GraphStore)
    if only_float:
        table = table.select(digests=[d for d, facts in graphs.facts.items() if not facts.twin])
    source = source_devices(predictor, device)[0]
    chosen = choose_references(predictor, source, table, samples)
    if not chosen:
        raise NotSupportedError(f"no network of the data set was measured on '{source}'; give --measurements")
    return {digest: onnx.load_from_string(graphs.stored[digest].onnx) for digest in chosen}


def choose_references(predictor: Predictor, device: str, table: MeasurementTable, k: int) -> list[str]:
    """Digests of ``k`` networks that tell most about a new device, in the order to measure them.

    Greedy D-optimal design: each next network is the one that adds most to the determinant of the information
    matrix over [1, share of each group of operators, log latency], as the correction sees them. Networks over
    20 ms or 30 MB of weights are left out. The same table gives the same choice.

    The first `FIRST` are put in order of cost; the others follow by what each still adds. Were all in order of cost,
    who stops early would have seen no large one.
    """
    rows = table.select(device=device, metric=Metric.LATENCY).rows
    rows = rows[rows["value"] < _MAX_LATENCY_S].sort_values("digest")
    digests = list(dict.fromkeys(rows["digest"]))
    # A sample is enough to choose from, and parsing all graphs would take longer than measuring ten.
    pool = [digests[i] for i in np.random.default_rng(0).permutation(len(digests))[: 3 * k + 30]]
    pool = [d for d in pool if table.graphs[d].weight_bytes < _MAX_WEIGHT_BYTES and len(table.graphs[d])]
    if not pool:
        return []
    spent = np.stack([_group_costs(predictor, device, table.graphs[d]) for d in pool])
    cost = spent.sum(axis=1)
    size = (np.log10(cost) + 3) / 2
    design = np.column_stack([np.ones(len(pool)), spent / cost[:, None], size])
    information = 1e-2 * np.eye(design.shape[1])
    chosen: list[int] = []
    for _ in range(min(k, len(pool))):
        inverse = np.linalg.inv(information)
        gain = np.einsum("ni,ij,nj->n", design, inverse, design)
        gain[chosen] = -1
        best = int(np.argmax(gain))
        chosen.append(best)
        information += np.outer(design[best], design[best])
    chosen[:FIRST] = sorted(chosen[:FIRST], key=lambda i: cost[i])
    return [pool[i] for i in chosen]


def _group_costs(predictor: Predictor, device: str, graph: OperatorGraph) -> FloatArray:
    """Predicted latency of the operators of each group ``(g,)``."""
    costs = predictor.layer_costs(graph, device)
    spent = np.bincount(work_groups(graph), weights=costs, minlength=len(GROUPS))
    return np.asarray(spent, dtype=np.float64)


def described(
    predictor: Predictor, device: str, graphs: Sequence[OperatorGraph], families: Mapping[str, str]
) -> tuple[Network, ...]:
    """What the networks are, and what they were predicted to cost on a known device."""
    latency = predictor.point(graphs, device, Metric.LATENCY)
    return tuple(
        Network(g.digest, families.get(g.digest, ""), float(s)) for g, s in zip(graphs, latency, strict=True)
    )


def why(
    predictor: Predictor, device: str, graphs: Sequence[OperatorGraph], families: Mapping[str, str]
) -> str:
    """Why these reference networks, in one sentence."""
    networks = described(predictor, device, graphs, families)
    low, high = (
        format_quantity(end([n.predicted_latency_s for n in networks]), Metric.LATENCY.unit)
        for end in (min, max)
    )
    spent = np.stack([_group_costs(predictor, device, g) for g in graphs])
    most = (spent / spent.sum(axis=1, keepdims=True)).max(axis=0)
    covered = [group for group, share in zip(GROUPS, most, strict=True) if share > _COVERED]
    return (
        f"chosen because together they tell most about a device: {_count(len(networks), 'network')} of "
        f"{_count(len({n.family for n in networks}), 'family', 'families')}, predicted to take {low} to {high} on "
        f"{device}, with much work in {', '.join(covered)}"
    )


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


class _Remembering(AdaptedPredictor):
    """Asks its source once about each graph, for it is fitted to nearly the same ones again and again."""

    def __init__(self, source: Predictor, device: str, source_device: str) -> None:
        super().__init__(source, device, source_device)
        self._seen: dict[tuple[str, Metric], tuple[FloatArray, float]] = {}

    def _parts(self, graphs: Sequence[OperatorGraph], metric: Metric) -> FloatArray:
        return np.stack([self._of(graph, metric)[0] for graph in graphs])

    def _noise(self, graphs: Sequence[OperatorGraph], metric: Metric) -> FloatArray:
        return np.array([self._of(graph, metric)[1] for graph in graphs])

    def _of(self, graph: OperatorGraph, metric: Metric) -> tuple[FloatArray, float]:
        key = graph.digest, metric
        if key not in self._seen:
            parts, noise = super()._parts([graph], metric)[0], super()._noise([graph], metric)[0]
            self._seen[key] = parts, float(noise)
        return self._seen[key]


class Enough:
    """Says when measuring the rest would not help.

    Two things must hold, both worth less than 3 % of the error to expect. By the posterior, which knows how much each
    network that is left would narrow it, measuring all of them would lower that error by less. And the last three
    measurements have moved the predictions for the reference networks by so little (a shift of s beside an error
    of e makes √(s² + e²), so s < √0.06 e): the posterior may trust its prior too much.

    Seven known devices, each adapted to as if it were new, stopped after 12 of 14 networks on average and after 18
    of 30, with 3 % more error on other networks than after all.

    Args:
        source: knows the devices to start from.
        devices: those.
        name: of the new device.
        graphs: all that were chosen, in order.
    """

    def __init__(
        self, source: Predictor, devices: Sequence[str], name: str, graphs: Sequence[OperatorGraph]
    ) -> None:
        self._candidates = [_Remembering(source.only(d), name, d) for d in devices]
        self._name, self._graphs = name, graphs
        self._answers: list[FloatArray] = []

    def reached(self, table: MeasurementTable, left: Sequence[OperatorGraph]) -> bool:
        """Whether to stop; to be asked after every measurement.

        Args:
            table: what has been measured.
            left: graphs that have not been tried.
        """
        latency = table.select(metric=Metric.LATENCY)
        if not left or len(latency.digests) < FIRST - _WINDOW:
            return False
        fit = best_of(self._candidates, latency)[Metric.LATENCY]
        self._answers.append(np.log(fit.point(self._graphs, self._name, Metric.LATENCY)))
        if len(latency.digests) < FIRST or len(self._answers) <= _WINDOW:
            return False
        return self._settled(fit, left)

    def _settled(self, fit: AdaptedPredictor, left: Sequence[OperatorGraph]) -> bool:
        now = fit.expected_error(self._graphs, Metric.LATENCY)
        then = fit.expected_error(self._graphs, Metric.LATENCY, also=left)
        moved = np.sqrt(np.mean((self._answers[-1] - self._answers[-1 - _WINDOW]) ** 2))
        return bool(1 - then / now < WORTH and moved < now * np.sqrt(2 * WORTH))
