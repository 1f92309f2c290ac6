"""Networks whose first weights are learned so that few gradient steps on a device suffice: MAML and Meta-SGD."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, vmap

from hardsight.prediction import FloatArray
from hardsight.predictors.features import IntArray
from hardsight.predictors.few_shot._base import FewShotMethod, Space
from hardsight.predictors.few_shot.meta_learner import MetaConfig, MetaLearner, Variant
from hardsight.predictors.few_shot.scale import as_costs, centre_and_scale, standardised, usual_sd

CONFIG = MetaConfig()
_LEAST_EPISODES = 20  # a cycle of learning rates needs some steps


class Trained(NamedTuple):
    """What meta-training leaves.

    Args:
        learner: first weights and steps.
        x: ``(n, f)`` all architectures.
        references: ``(references,)`` which describe a device.
        usual: deviation of the logarithms of costs.
    """

    learner: MetaLearner
    x: torch.Tensor
    references: IntArray
    usual: float


@lru_cache(maxsize=4)
def meta_trained(space: Space, variant: Variant, tuned: int, config: MetaConfig) -> Trained:
    """The learner of a space, trained on its known devices; the same object for the same space.

    Args:
        space: the architectures.
        variant: of the method.
        tuned: measurements that the inner loop gets.
        config: size and schedule.
    """
    n, m = len(space.measured), space.sources.shape[1]
    x = torch.from_numpy(space.one_hot.astype(np.float32))
    order = reference_order(space)[: variant.references]
    episodes = max(_LEAST_EPISODES, min(config.most_episodes, n * m // config.costs_per_episode))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        learner = MetaLearner(x.shape[1], variant, config)
        learned = [p for p in learner.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(learned, lr=config.meta_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.meta_rate, total_steps=episodes, pct_start=0.1
        )
        for batch in _episodes(space, order, tuned, episodes, config):
            support, y, description, query, y_query = batch
            loss = vmap(learner)(x[support], y, description, x[query], y_query).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()
    return Trained(learner, x, order, usual_sd(space))


def reference_order(space: Space) -> IntArray:
    """All architectures in an order that is the same for all devices; the first of them describe a device.

    Those that were measured on the known devices come first.
    """
    rng = np.random.default_rng(0)
    others = np.setdiff1d(np.arange(len(space)), space.measured)
    return np.concatenate([rng.permutation(space.measured), rng.permutation(others)])


def _episodes(
    space: Space, references: IntArray, tuned: int, episodes: int, config: MetaConfig
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Support, its labels, descriptions, queries and their labels of some known devices at a time."""
    rng = np.random.default_rng(config.seed)
    logs, usual, rows = space.log_sources, usual_sd(space), space.measured
    m = logs.shape[1]
    queries = min(config.queries, len(rows) - tuned)
    for _ in range(episodes):
        devices = rng.permutation(m)[: config.tasks]
        drawn = np.stack([rng.choice(rows, tuned + queries, replace=False) for _ in devices])
        costs = logs[drawn, devices[:, None]]
        described = logs[references][:, devices].T
        known = np.concatenate([costs[:, :tuned], described], axis=1)
        centre, scale = centre_and_scale(known, usual)
        labels = _floats((costs - centre) / scale)
        indices = torch.from_numpy(drawn)
        yield (
            indices[:, :tuned],
            labels[:, :tuned],
            _floats((described - centre) / scale),
            indices[:, tuned:],
            labels[:, tuned:],
        )


def _floats(values: FloatArray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


class MetaLearned(FewShotMethod):
    """What the methods share: meta-train on the known devices, adapt to the measurements, back to costs."""

    learned_rates: bool

    def predict(self, space: Space, chosen: IntArray, y: FloatArray, rng: np.random.Generator) -> FloatArray:
        trained = meta_trained(space, self.variant(len(y)), len(y) - self.references(len(y)), CONFIG)
        described = nearest(space, trained.references, chosen)
        rest = np.setdiff1d(np.arange(len(y)), described)
        target = _floats(standardised(y, trained.usual))
        weights = trained.learner.adapted(trained.x[chosen[rest]], target[rest], target[described])
        with torch.inference_mode():
            predicted = functional_call(trained.learner.net, weights, (trained.x, target[described]))
        return as_costs(predicted.double().numpy(), chosen, y, trained.usual)

    def references(self, k: int) -> int:
        """How many of ``k`` measurements describe the device."""
        return 0

    def variant(self, k: int) -> Variant:
        """Of the method, with ``k`` measurements."""
        return Variant(self.learned_rates, self.references(k), modulated=self.references(k) > 0)


class Maml(MetaLearned):
    """Model-agnostic meta-learning (Finn, Abbeel, Levine, ICML 2017), of second order, as a baseline of HELP's.

    The network and the number of inner steps are HELP's; what `hardsight.predictors.few_shot.help` says of how it
    differs from its paper holds here too.
    """

    name = "maml"
    learned_rates = False


class MetaSgd(MetaLearned):
    """MAML with a learned rate for each weight (Li, Zhou, Chen, Li, "Meta-SGD", 2017), as a baseline of HELP's."""

    name = "meta-sgd"
    learned_rates = True


def nearest(space: Space, wanted: IntArray, among: IntArray) -> IntArray:
    """For each wanted architecture the place in ``among`` of the one that costs most alike on the known devices.

    No place is given twice; the wanted one itself is its own nearest. ``among`` must hold at least as many.
    """
    logs = space.log_sources
    apart = ((logs[wanted][:, None, :] - logs[among][None, :, :]) ** 2).sum(axis=2)
    apart[wanted[:, None] == among[None, :]] = -1
    places = np.zeros(len(wanted), dtype=np.int64)
    for i in np.argsort(apart.min(axis=1), kind="stable") if len(wanted) else ():
        places[i] = apart[i].argmin()
        apart[:, places[i]] = np.inf
    return places
