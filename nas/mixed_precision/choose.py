"""From coefficients to a choice: the integer program proposes, predictions of whole networks decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hardsight.budgets import Verdict, judge
from hardsight.nas.mixed_precision.costs import SENSITIVITY, Costs, WholeNetworks
from hardsight.nas.mixed_precision.program import Program, closest, solve
from hardsight.nas.mixed_precision.quantizers import Choice

_ROUNDS = 12
_STEPS = 12


class Kept(NamedTuple):
    """A choice held against budgets.

    Args:
        choice: precision of each layer.
        verdicts: one per budget, of the prediction for the whole network.
        gap: of the integer program that proposed it; 0 for a uniform network.
    """

    choice: Choice
    verdicts: tuple[Verdict, ...]
    gap: float

    @property
    def kept(self) -> bool:
        return all(verdict.kept for verdict in self.verdicts)

    @property
    def excess(self) -> float:
        """The largest part of a limit by which it is exceeded; at most 0 when all are kept."""
        return max(v.upper / v.limit - 1.0 for v in self.verdicts)


def within_budgets(
    program: Program, networks: WholeNetworks, budgets: Mapping[str, float], device: str
) -> Kept:
    """The least sensitive choice whose whole network is predicted to keep the budgets; else the closest.

    What the program adds up is not the prediction of the whole network, and a budget is held against the upper end
    of that one's interval. So each limit is divided by the ratio of the two, taken at the last proposal, until a
    proposal comes again. Every network predicted on the way is a candidate, those with one precision included.

    Args:
        program: with sensitivities and costs.
        networks: predicts.
        budgets: quantity to limit.
        device: for messages.

    Raises:
        NotSupportedError: a budget that cannot be judged.
    """
    quantizer = networks.quantizer

    def held(choice: Choice, gap: float) -> Kept:
        costs = networks[choice]
        size = int(costs["size_bytes"].value)
        return Kept(choice, tuple(judge(budgets, costs, size, device)), gap)

    uniform = [(p,) * len(quantizer.layers) for p in range(len(quantizer.precisions))]
    networks.predict(uniform)
    found = {choice: held(choice, 0.0) for choice in networks.known}
    ratio = _ratios(program, found[quantizer.finest])
    seen: set[Choice] = set()
    for _ in range(_ROUNDS):
        limits = {q: limit / ratio[q] for q, limit in budgets.items()}
        proposed = solve(program, SENSITIVITY, limits) or closest(program, limits)
        if proposed.choice in seen:
            break
        seen.add(proposed.choice)
        found[proposed.choice] = held(proposed.choice, proposed.gap)
        ratio = _ratios(program, found[proposed.choice])
    kept = [candidate for candidate in found.values() if candidate.kept]
    if kept:
        return min(kept, key=lambda x: (program.total(SENSITIVITY, x.choice), x.excess))
    return min(found.values(), key=lambda x: x.excess)


def _ratios(program: Program, candidate: Kept) -> dict[str, float]:
    """By quantity: upper end for the whole network over what the program adds up."""
    ratios = {}
    for verdict in candidate.verdicts:
        added = program.total(verdict.quantity, candidate.choice)
        ratios[verdict.quantity] = verdict.upper / added if added > 0 and verdict.upper > 0 else 1.0
    return ratios


class Point(NamedTuple):
    """A choice on the trade-off curve.

    Args:
        choice: precision of each layer.
        sensitivity: sum over layers.
        costs: predicted for the whole network.
        gap: of the integer program.
    """

    choice: Choice
    sensitivity: float
    costs: Costs
    gap: float


def trade_off(program: Program, networks: WholeNetworks, quantity: str) -> list[Point]:
    """The cheapest choices for bounds on the sum of sensitivities that halve from step to step, and the uniform ones.

    Args:
        program: with sensitivities and costs.
        networks: predicts.
        quantity: to minimise.

    Returns:
        points by falling sensitivity, dominated ones left out; the last one is the network as it is.
    """
    quantizer = networks.quantizer
    gaps: dict[Choice, float] = {(p,) * len(quantizer.layers): 0.0 for p in range(len(quantizer.precisions))}
    cheapest = solve(program, quantity)
    assert cheapest is not None, "without limits there is a choice"
    gaps[cheapest.choice] = cheapest.gap
    bound = program.total(SENSITIVITY, cheapest.choice)
    for _ in range(_STEPS):
        bound /= 2
        proposed = solve(program, quantity, {SENSITIVITY: bound})
        if proposed is not None:
            gaps.setdefault(proposed.choice, proposed.gap)
    networks.predict(list(gaps))
    points = [
        Point(choice, program.total(SENSITIVITY, choice), networks[choice], gap)
        for choice, gap in gaps.items()
    ]
    points.sort(key=lambda point: (point.sensitivity, point.costs[quantity].value))
    front: list[Point] = []
    for point in points:
        if not front or point.costs[quantity].value < front[-1].costs[quantity].value:
            front.append(point)
    return front[::-1]
