"""Which networks are predicted by a model that saw none of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hardsight.datasets.store import GraphStore
from hardsight.measurement import MeasurementTable
from hardsight.predictors.training import FOLDS


def families(table: MeasurementTable) -> MeasurementTable:
    """Every family is left out as a whole, in one of seven groups."""
    return table


def networks(table: MeasurementTable, seed: int = 0) -> MeasurementTable:
    """Networks are left out at random, in seven groups; a float graph and its quantized twin go together.

    The result's families are these groups. Small graphs that teach operators keep theirs, so they are never left out.
    """
    from hardsight.datasets.families import TEACHING

    graphs = table.graphs
    assert isinstance(graphs, GraphStore)
    original = {d: graphs.facts[d].twin or d for d in table.digests}
    own = sorted(set(original.values()))
    group = dict(zip(own, np.random.default_rng(seed).permutation(len(own)) % FOLDS, strict=True))
    groups = {
        d: family if (family := table.families.get(d, "")) in TEACHING else f"group {group[original[d]]}"
        for d in table.digests
    }
    return MeasurementTable(table.rows, table.graphs, groups)


PROTOCOLS: dict[str, Callable[[MeasurementTable], MeasurementTable]] = {
    "families": families,
    "networks": networks,
}
"""Name to what marks the groups; a new protocol is one line here."""
