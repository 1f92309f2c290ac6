"""A forest on graph totals, as the simple learned baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self
from zipfile import ZIP_DEFLATED

import numpy as np

from hardsight.errors import StorageError
from hardsight.graph import OperatorGraph
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._base import Predictor
from hardsight.predictors.features import graph_arrays, totals_matrix

_TRUSTED = ["sklearn.tree._tree.Tree"]  # arrays of splits: a crafted one could give nonsense, not run code


class ForestPredictor(Predictor):
    """Extremely randomized trees (Geurts et al. 2006) on the logarithm of the graph totals.

    They learn the log ratio of the label to the generic roofline (latency) or to weights plus
    live activations (memory): trees cannot extrapolate a cost, but a ratio stays in range.

    Args:
        trees: number of trees.
        seed: of the forest.
    """

    name = "forest"

    def __init__(self, trees: int = 200, seed: int = 0) -> None:
        self.trees = trees
        self.seed = seed
        self._models: dict[tuple[str, Metric], Any] = {}

    @property
    def targets(self) -> list[tuple[str, Metric]]:
        return list(self._models)

    def fit(self, table: MeasurementTable) -> Self:
        from sklearn.ensemble import ExtraTreesRegressor

        for device in table.devices:
            for metric in table.select(device=device).metrics:
                graphs, y = table.labelled_above_zero(device, metric)
                if not graphs:
                    continue
                model = ExtraTreesRegressor(
                    self.trees, min_samples_leaf=2, max_features=0.5, random_state=self.seed
                )
                model.fit(_inputs(graphs), np.log(y / _scale(graphs, metric)))
                self._models[device, metric] = model
        return self

    def point(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        ratio: FloatArray = np.exp(self._models[device, metric].predict(_inputs(graphs)))
        return ratio * _scale(graphs, metric)

    def doubt(self, graphs: Sequence[OperatorGraph], device: str, metric: Metric) -> FloatArray:
        """Disagreement of the trees in log space."""
        inputs = _inputs(graphs)
        votes = np.stack([tree.predict(inputs) for tree in self._models[device, metric].estimators_])
        disagreement: FloatArray = 0.05 + votes.std(axis=0)
        return disagreement

    def save_state(self, folder: Path) -> dict[str, Any]:
        names = []
        for i, ((device, metric), model) in enumerate(self._models.items()):
            save_trees(model, folder / f"forest-{i}.skops")
            names.append([device, str(metric)])
        return {"forests": names}

    @classmethod
    def load_state(cls, folder: Path, meta: dict[str, Any]) -> Self:
        made = cls()
        for i, (device, metric) in enumerate(meta["forests"]):
            made._models[device, Metric(metric)] = load_trees(folder / f"forest-{i}.skops")
        return made


def save_trees(model: Any, path: Path) -> None:
    """Write a forest, or a dictionary of forests."""
    import skops.io

    skops.io.dump(model, path, compression=ZIP_DEFLATED, compresslevel=9)


def load_trees(path: Path) -> Any:
    """The inverse of `save_trees`.

    Raises:
        StorageError: when the file holds anything else.
    """
    import skops.io

    foreign = set(skops.io.get_untrusted_types(file=path)) - set(_TRUSTED)
    if foreign:
        raise StorageError(
            f"{path} holds types that a forest never has ({', '.join(sorted(foreign))}); not loaded"
        )
    return skops.io.load(path, trusted=_TRUSTED)


def _inputs(graphs: Sequence[OperatorGraph]) -> FloatArray:
    return np.log1p(totals_matrix(graphs))


def _scale(graphs: Sequence[OperatorGraph], metric: Metric) -> FloatArray:
    if metric is Metric.LATENCY:
        return np.array([graph_arrays(g).prior.sum() + 1e-7 for g in graphs])
    totals = totals_matrix(graphs)
    return np.asarray(totals[:, -5] + totals[:, -4] + 1e5, dtype=np.float64)
