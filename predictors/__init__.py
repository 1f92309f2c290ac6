"""Surrogates: predictors, intervals around them, and their adaptation to new devices."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

from hardsight.device import HOST, device_folder, get_device
from hardsight.errors import NotCalibratedError, NotSupportedError
from hardsight.predictors._base import Predictor
from hardsight.registry import find

__all__ = [
    "BASELINES",
    "PREDICTORS",
    "Predictor",
    "load_predictor",
    "load_shipped_predictor",
    "make_predictor",
    "shipped_folder",
]

# Short name to class; a new predictor is one line here and one in `persist.KINDS`.
PREDICTORS = {
    "roofline": "hardsight.predictors.linear:RooflinePredictor",
    "ridge": "hardsight.predictors.linear:RidgePredictor",
    "forest": "hardsight.predictors.forest:ForestPredictor",
    "graphnet": "hardsight.predictors.graphnet:GraphNetPredictor",
}
# What others do, for the accuracy tables only: too slow or too weak to be tried by every `hardsight train`.
BASELINES = {
    "kernel-forest": "hardsight.predictors.kernel_forest:KernelForestPredictor",
    "transformer": "hardsight.predictors.transformer:TransformerPredictor",
}


def make_predictor(name: str) -> Predictor:
    """A fresh, unfitted predictor of that name, in `PREDICTORS` or `BASELINES`.

    Raises:
        UnknownNameError: listing the names there are.
    """
    predictor = find("predictor", name, {**PREDICTORS, **BASELINES})()
    assert isinstance(predictor, Predictor)
    return predictor


def shipped_folder() -> Path:
    """Folder of the predictor that comes with the package."""
    return Path(str(resources.files("hardsight.predictors"))) / "shipped"


@cache
def load_shipped_predictor() -> Predictor:
    """The predictor that comes with the package; knows the devices of the shipped data set."""
    from hardsight.predictors.persist import load_saved

    return load_saved(shipped_folder())


def load_predictor(device: str) -> Predictor:
    """The predictor that answers for a device.

    Args:
        device: name of a shipped or adapted device.

    Raises:
        UnknownNameError: no such device.
        NotCalibratedError: this machine, before ``hardsight adapt --here``.
        NotSupportedError: a device without a predictor.
    """
    from hardsight.predictors.persist import load_saved

    get_device(device)
    folder = device_folder(device) / "predictor"
    if folder.exists():
        return load_saved(folder)
    if device.startswith(f"{HOST}/"):
        raise NotCalibratedError(
            f"'{device}' has not been calibrated: a prediction for it would be another machine's. "
            f"Run 'hardsight adapt --here --device {device}' (about a minute), "
            f"or name one of: {', '.join(sorted({d for d, _ in load_shipped_predictor().targets}))}"
        )
    predictor = load_shipped_predictor()
    if not any(d == device for d, _ in predictor.targets):
        raise NotSupportedError(
            f"no predictor covers '{device}'; covered: {', '.join(sorted({d for d, _ in predictor.targets}))}"
        )
    return predictor
