"""Costs of a whole search space on a device of which a few costs are known."""

from __future__ import annotations

from hardsight.predictors.few_shot._base import FewShotMethod, Space
from hardsight.registry import find

__all__ = ["METHODS", "FewShotMethod", "Space", "make_method"]

METHODS = {
    "ours": "hardsight.predictors.few_shot.gaussian:GaussianProcess",
    "counts": "hardsight.predictors.few_shot.simple:RidgeOnCounts",
    "copy": "hardsight.predictors.few_shot.simple:CopyBestSource",
    "sources": "hardsight.predictors.few_shot.simple:BayesianRidgeOnSources",
    "help": "hardsight.predictors.few_shot.help:Help",
    "meta-sgd": "hardsight.predictors.few_shot.meta:MetaSgd",
    "maml": "hardsight.predictors.few_shot.meta:Maml",
    "nasflat": "hardsight.predictors.few_shot.nasflat:Nasflat",
}
"""Short name to class; a new method is one line here."""


def make_method(name: str) -> FewShotMethod:
    """A method by name.

    Raises:
        UnknownNameError: listing the names there are.
    """
    method = find("method", name, METHODS)()
    assert isinstance(method, FewShotMethod)
    return method
