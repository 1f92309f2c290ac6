"""Which dense layers can be synthesized at all, predicted for shapes that were never seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hardsight.datasets.sources._hls4ml import layer
from hardsight.experiments.hls4ml.evaluate import FOLDS, OURS, SEEDS, find
from hardsight.metrics import Metric
from hardsight.prediction import FloatArray
from hardsight.predictors._hls4ml_head import Inputs
from hardsight.predictors._hls4ml_rules import Layer, layers_of, within_unroll_limit
from hardsight.predictors._hls4ml_trees import Trees
from hardsight.predictors.hls4ml import Hls4mlPredictor
from hardsight.progress import Progress

if TYPE_CHECKING:
    import pandas as pd


def published() -> pd.DataFrame:
    """Every synthesis of wa-hls4ml, failures among them: ``device, shape, graph, layer, succeeded``."""
    import pandas as pd

    source, folder = find("wa-hls4ml")
    rows = []
    for row in source.table(folder).itertuples():
        graph = layer(f"dense {row.d_in} {row.d_out} {row.prec} {row.rf}")
        (own,) = layers_of(graph, row.strategy)
        succeeded = str(row.hls_synth_success).upper() == "TRUE"
        rows.append((f"xcvu13p/hls4ml/{row.strategy}", f"{row.d_in}x{row.d_out}", graph, own, succeeded))
    return pd.DataFrame(rows, columns=["device", "shape", "graph", "layer", "succeeded"])


def predict_success(progress: Progress | None = None) -> pd.DataFrame:
    """Probability of success of every published synthesis, from models that saw nothing of its shape.

    Returns:
        One row per synthesis, predictor and seed: ``device, predictor, seed, succeeded, chance``. The rule is
        `within_unroll_limit`; trees see what the heads' trees see; the rate is the mean of the training rows.
    """
    import pandas as pd

    parts = []
    table = published()
    for done, seed in enumerate(SEEDS, 1):
        for device, rows in table.groupby("device"):
            names = sorted(set(rows["shape"]))
            np.random.default_rng(seed).shuffle(names)
            for i in range(FOLDS):
                held = rows["shape"].isin(names[i::FOLDS])
                for name, chance in _chances(rows[~held], rows[held], str(device), seed).items():
                    part = rows.loc[held, ["device", "succeeded"]]
                    parts.append(part.assign(predictor=name, seed=seed, chance=chance))
        if progress:
            progress("feasibility", done, len(SEEDS))
    return pd.concat(parts, ignore_index=True)


def _chances(seen: pd.DataFrame, unseen: pd.DataFrame, device: str, seed: int) -> dict[str, FloatArray]:
    label = seen["succeeded"].to_numpy(bool)
    predictor = Hls4mlPredictor(seed).fit_feasibility(list(seen["graph"]), device, label)
    return {
        OURS: predictor.feasibility(list(unseen["graph"]), device),
        "rule": np.array([within_unroll_limit(own) for own in unseen["layer"]], dtype=np.float64),
        "trees": _by_trees(list(seen["layer"]), label, list(unseen["layer"]), seed),
        "rate": np.full(len(unseen), label.mean()),
    }


def _by_trees(seen: list[Layer], label: npt.NDArray[np.bool_], unseen: list[Layer], seed: int) -> FloatArray:
    if label.all() or not label.any():  # all shapes that can be built are left out
        return np.full(len(unseen), label.mean())
    trees = Trees.classification(Inputs.of(seen, Metric.LUT).features, label, seed)
    chance: FloatArray = 1 / (1 + np.exp(-trees(Inputs.of(unseen, Metric.LUT).features)))
    return chance


def success_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Per device and predictor, mean over the seeds: ``n, auc, accuracy, brier``."""
    import pandas as pd
    from sklearn.metrics import brier_score_loss, roc_auc_score

    each = [
        {
            "device": device,
            "predictor": name,
            "n": len(rows),
            "auc": roc_auc_score(rows["succeeded"], rows["chance"]),
            "accuracy": float(((rows["chance"] >= 0.5) == rows["succeeded"]).mean()),
            "brier": brier_score_loss(rows["succeeded"], rows["chance"]),
        }
        for (device, name, _), rows in frame.groupby(["device", "predictor", "seed"])
    ]
    return pd.DataFrame(each).groupby(["device", "predictor"]).mean().reset_index()
