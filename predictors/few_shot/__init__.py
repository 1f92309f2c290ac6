"""Costs of a whole search space on a device of which a few costs are known."""

from __future__ import annotations

from importlib import import_module

from hardsight.errors import UnknownNameError
from hardsight.predictors.few_shot._base import FewShotMethod, Space

__all__ = ["METHODS", "FewShotMethod", "Space", "make_method"]

METHODS = {
    "ours": "hardsight.predictors.few_shot.gaussian:GaussianProcess",
    "counts": "hardsight.predictors.few_shot.simple:RidgeOnCounts",
    "copy": "hardsight.predictors.few_shot.simple:CopyBestSource",
    "sources": "hardsight.predictors.few_shot.simple:BayesianRidgeOnSources",
}
"""Short name to class; a new method is one line here."""


def make_method(name: str) -> FewShotMethod:
    """A method by name.

    Raises:
        UnknownNameError: listing the names there are.
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    module, cls = METHODS[name].split(":")
    method = getattr(import_module(module), cls)()
    assert isinstance(method, FewShotMethod)
    return method
