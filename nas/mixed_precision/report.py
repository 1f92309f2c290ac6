"""What `quantize` found, as a table, as sentences and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hardsight.budgets import SIZE, Verdict, unit_of
from hardsight.metrics import Metric
from hardsight.nas.mixed_precision.samples import Quality
from hardsight.prediction import Estimate
from hardsight.units import format_quantity

_LATENCY = str(Metric.LATENCY)


class LayerChoice(NamedTuple):
    """One layer.

    Args:
        name: of its node.
        op_type: of its node.
        precision: chosen.
        sensitivity: precision to what it alone changes, in nats (or the error's share of the outputs' variance).
        cost: precision to the change of each quantity when this layer alone has it, conversions included.
        cost_among_quantized: quantity to its change in the last precision, all neighbours being quantized too.
    """

    name: str
    op_type: str
    precision: str
    sensitivity: Mapping[str, float]
    cost: Mapping[str, Mapping[str, float]]
    cost_among_quantized: Mapping[str, float]


class Tried(NamedTuple):
    """One network of the trade-off or of the measurement.

    Args:
        precisions: number of layers by precision.
        sensitivity: sum over layers.
        predicted: quantity to its estimate.
        quality: on the validation part.
        measured: quantity to seconds, bytes or joules, and the spread between two rounds; empty when not measured.
        chosen: whether it is the delivered one.
    """

    precisions: Mapping[str, int]
    sensitivity: float
    predicted: Mapping[str, Estimate]
    quality: Quality
    measured: Mapping[str, tuple[float, float]]
    chosen: bool


@dataclass(frozen=True)
class QuantizeReport:
    """A network with a precision per layer, before and after.

    Args:
        model: what was given.
        device: name.
        aim: the quantity that judges a gain.
        layers: in topological order.
        tried: networks compared; the first has every layer in its finest precision: the one given, on a CPU.
        verdicts: the budgets, of the prediction for the delivered network.
        before: quality of the first of them, on the test part.
        after: of the delivered one.
        gap: of the integer program: how far from the least sum of sensitivities (or cost) at most.
        gain: the delivered network is quantized, and nothing shows that this does not pay.
        out: file written; None when nothing was.
        notes: what the reader must know, as sentences.
    """

    model: str
    device: str
    aim: str
    layers: tuple[LayerChoice, ...]
    tried: tuple[Tried, ...]
    verdicts: tuple[Verdict, ...]
    before: Quality
    after: Quality
    gap: float
    gain: bool
    out: str | None
    notes: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        """True when every budget holds."""
        return all(verdict.kept for verdict in self.verdicts)

    @property
    def chosen(self) -> Tried:
        """The delivered network."""
        return next(tried for tried in self.tried if tried.chosen)

    @property
    def ratio(self) -> float | None:
        """Measured before over after, of what judges the gain; None when it was not measured."""
        before, after = (x.measured.get(self._judged) for x in (self.tried[0], self.chosen))
        return before[0] / after[0] if before and after else None

    @property
    def _judged(self) -> str:
        return _LATENCY if self.aim == SIZE else self.aim

    def sentences(self) -> list[str]:
        """The result in words."""
        chosen = self.chosen
        said = []
        for verdict in self.verdicts:
            if not verdict.kept:
                unit = unit_of(verdict.quantity)
                said.append(
                    f"The budget cannot be kept: the closest choice of precisions is predicted at "
                    f"{format_quantity(verdict.upper, unit)} (upper end) for {verdict.quantity}, "
                    f"{format_quantity(verdict.excess, unit)} above the limit of "
                    f"{format_quantity(verdict.limit, unit)}."
                )
        if self.gain:
            said.append(f"Chosen: {_counts(chosen)}.")
        elif self.kept and len(self.tried) == 1:
            said.append("The network keeps its budgets as it is, so nothing is quantized.")
        else:
            said.append(f"No gain: {self._proof()}; the network is best left as it is.")
        if chosen is not self.tried[0] and self.ratio is not None:
            unit = unit_of(self._judged)
            before, after = (x.measured[self._judged][0] for x in (self.tried[0], chosen))
            said.append(
                f"Measured {self._judged}: {format_quantity(before, unit)} before, {format_quantity(after, unit)} "
                f"after, {self.ratio:.3g} times less."
            )
        what = self.before.what
        said.append(
            f"{what.capitalize()} on {self.before.n} test samples: {100 * self.before.value:.2f} % before, "
            f"{100 * self.after.value:.2f} % after."
        )
        return [*said, *self.notes]

    def _proof(self) -> str:
        """The network given beside the cheapest quantized one, measured if they were."""
        taken = all(self.aim in tried.measured for tried in self.tried)
        costs = [t.measured[self.aim][0] if taken else t.predicted[self.aim].value for t in self.tried]
        best = min(range(1, len(costs)), key=costs.__getitem__)
        unit = unit_of(self.aim)
        return (
            f"{format_quantity(costs[0], unit)} as it is, {format_quantity(costs[best], unit)} with "
            f"{_counts(self.tried[best])}, {'measured' if taken else 'predicted'}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, in SI units."""
        return {
            "model": self.model,
            "device": self.device,
            "aim": self.aim,
            "gain": self.gain,
            "kept": self.kept,
            "gap": self.gap,
            "ratio": self.ratio,
            "out": self.out,
            "layers": [layer._asdict() for layer in self.layers],
            "tried": [
                {
                    **tried._asdict(),
                    "predicted": {q: estimate._asdict() for q, estimate in tried.predicted.items()},
                    "quality": tried.quality._asdict(),
                    "measured": {q: {"value": v, "spread": s} for q, (v, s) in tried.measured.items()},
                }
                for tried in self.tried
            ],
            "budgets": [{**v._asdict(), "kept": v.kept, "excess": v.excess} for v in self.verdicts],
            "quality": {"before": self.before._asdict(), "after": self.after._asdict()},
            "notes": self.sentences(),
        }


def _counts(tried: Tried) -> str:
    return ", ".join(
        f"{n} layer{'' if n == 1 else 's'} in {precision}" for precision, n in tried.precisions.items()
    )
