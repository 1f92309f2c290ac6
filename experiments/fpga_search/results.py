"""What the searches delivered, and how bits per layer compare with one width for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hardsight.nas.pareto import non_dominated
from hardsight.nas.report import FrontRow, SearchReport

COST = "logic_cells"


@dataclass(frozen=True)
class Network:
    """A delivered network.

    Args:
        search: that found it.
        digest: of the candidate.
        units: of each layer, bits of its weights and of what it reads: ``("12 w3a5", "7 w4a4")``.
        predicted: logic cells.
        lower: end of the interval.
        upper: end of the interval.
        measured: logic cells after synthesis.
        ff: flip-flops after synthesis.
        cycles: of the pipeline after synthesis.
        validation: accuracy, in torch.
        test: accuracy, as the circuit computes.
        agreement: share of the test part where circuit and torch choose the same class.
        kept: whether the synthesised circuit keeps the search's budget.
    """

    search: str
    digest: str
    units: tuple[str, ...]
    predicted: float
    lower: float
    upper: float
    measured: float
    ff: float
    cycles: float
    validation: float
    test: float
    agreement: float
    kept: bool

    @property
    def inside(self) -> bool:
        """Whether the synthesised logic cells are inside the predicted interval."""
        return self.lower <= self.measured <= self.upper


def delivered(search: str, report: SearchReport) -> list[Network]:
    """The verified and synthesised networks of a search, cheapest first."""
    found = [_network(search, report, row) for row in report.rows if COST in row.measured]
    return sorted(found, key=lambda network: network.measured)


def _network(search: str, report: SearchReport, row: FrontRow) -> Network:
    (record,) = [r for r in report.records if r.number == row.trial]
    widths = [layer["width"] for layer in record.candidate.params["hidden"]]  # type: ignore[union-attr,index,call-overload]
    outputs = [*widths, record.candidate.params["classes"]]
    estimate = row.predicted[COST]
    return Network(
        search=search,
        digest=row.digest[:8],
        units=tuple(f"{n} {bits}" for n, (_, bits) in zip(outputs, row.bits, strict=True)),
        predicted=estimate.value,
        lower=estimate.lower or 0.0,
        upper=estimate.upper or float("inf"),
        measured=row.measured[COST][0],
        ff=row.measured["ff"][0],
        cycles=row.measured["cycles"][0],
        validation=row.validation_accuracy,
        test=row.test_accuracy,
        agreement=row.test_agreement if row.test_agreement is not None else float("nan"),
        kept=row.kept[COST],
    )


def front(networks: Sequence[Network], accuracy: str) -> list[Network]:
    """Those that no other is at least as accurate and as cheap as, by synthesised logic cells."""
    if not networks:
        return []
    points = np.array([[n.measured, -getattr(n, accuracy)] for n in networks])
    return [n for n, keep in zip(networks, non_dominated(points), strict=True) if keep]


def saving(
    mixed: Sequence[Network], eight: Sequence[Network], slack: float = 0.0
) -> tuple[Network, Network] | None:
    """The best 8-bit network and the cheapest mixed one as accurate; both judged on validation.

    Args:
        mixed: networks with bits per layer.
        eight: networks with 8 bits throughout.
        slack: by which the mixed one may be less accurate.

    Returns:
        the 8-bit and the mixed one; None where no mixed one is as accurate.
    """
    best = max(eight, key=lambda n: (n.validation, -n.measured))
    equal = [n for n in mixed if n.validation >= best.validation - slack]
    return (best, min(equal, key=lambda n: n.measured)) if equal else None


def dominated(mixed: Sequence[Network], uniform: Sequence[Network], accuracy: str) -> tuple[int, int]:
    """How many of the uniform front some mixed network is at least as accurate and as cheap as; and of how many."""
    others = front(uniform, accuracy)

    def beaten(other: Network) -> bool:
        return any(
            n.measured <= other.measured and getattr(n, accuracy) >= getattr(other, accuracy) for n in mixed
        )

    return sum(map(beaten, others)), len(others)


def plain(networks: Mapping[str, Sequence[Network]]) -> dict[str, list[dict[str, Any]]]:
    """For a JSON file."""
    return {search: [asdict(n) for n in of] for search, of in networks.items()}
