"""A study's folder → plain rows and numbers; drawing them is left to the other ``report_*`` modules."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.budgets import SIZE
from hardsight.errors import StorageError
from hardsight.metrics import Metric
from hardsight.nas.job import ERROR, Job
from hardsight.nas.pareto import hypervolume, non_dominated
from hardsight.nas.report_blocks import Block, bits_of, blocks_of
from hardsight.nas.report_words import fate, sentences
from hardsight.nas.search import front
from hardsight.nas.storage import quiet_optuna, storage_errors
from hardsight.nas.study import StudyFolder, TrialRecord, finished, write_bytes
from hardsight.prediction import Estimate, FloatArray

Row = dict[str, Any]
LATENCY = str(Metric.LATENCY)


@dataclass(frozen=True)
class FrontRow:
    """One delivered network.

    Args:
        digest: of the candidate.
        trial: that found it.
        file: ONNX file, relative to the study's folder.
        predicted: costs by name.
        measured: value and relative spread by cost; empty where nothing was measured.
        validation_accuracy: share of the validation part, in torch.
        test_accuracy: share of the test part, in the target's runtime.
        test_agreement: share of the test part on which that runtime and torch choose the same class; None
            where a table told the accuracy, and no network ran.
        size_bytes: of all constants.
        file_bytes: of the ONNX file.
        macs: multiply-accumulates of one inference.
        input_shape: of a sample as the network reads it.
        bits: per block in order, name and bits: ``8``, or ``w4a6`` of a layer whose weights have 4 bits and what
            it reads 6.
        kept: by constraint, whether the measured value is within the limit.
        dominated: whether another delivered network is at least as good in everything, now that all are
            verified.
        runtime: that computed the test part.
        blocks: to draw it by; empty where the network is no list of layers, as a published cell.
        choices: of such a network, by name.
    """

    digest: str
    trial: int
    file: str
    predicted: Mapping[str, Estimate]
    measured: Mapping[str, tuple[float, float]]
    validation_accuracy: float
    test_accuracy: float
    test_agreement: float | None
    size_bytes: float
    file_bytes: int
    macs: int
    input_shape: tuple[int, ...]
    bits: tuple[tuple[str, str], ...]
    kept: Mapping[str, bool]
    dominated: bool = False
    runtime: str = "ONNX Runtime"
    blocks: tuple[Block, ...] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)

    def inside(self, metric: str) -> bool | None:
        """Whether the measured value is within the predicted interval; None where one is missing."""
        estimate, measured = self.predicted.get(metric), self.measured.get(metric)
        if measured is None or estimate is None or estimate.lower is None or estimate.upper is None:
            return None
        return estimate.lower <= measured[0] <= estimate.upper


@dataclass(frozen=True)
class Closest:
    """The candidate that misses the constraints by least.

    Args:
        trial: its number.
        digest: of the candidate.
        misses: by broken constraint: the limit and the upper end of the prediction.
    """

    trial: int
    digest: str
    misses: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Budget:
    """A constraint and the delivered networks, by what was measured.

    Args:
        cost: name.
        limit: that the search kept the upper end of the prediction under.
        kept: digests of the networks within it.
        broken: measured value of those above it.
        unmeasured: digests of those that nothing is known of.
    """

    cost: str
    limit: float
    kept: tuple[str, ...]
    broken: Mapping[str, float]
    unmeasured: tuple[str, ...]

    @property
    def judged(self) -> int:
        """How many networks were measured."""
        return len(self.kept) + len(self.broken)


@dataclass(frozen=True)
class SearchReport:
    """What a search found and what it cost.

    Args:
        folder: of the study.
        job: as resolved.
        records: finished trials in order.
        rows: delivered networks, most accurate first.
        verified: whether the front was verified; False in a search that was stopped before.
        verified_after: finished trials when it was; None where that is not known.
        measured_on: device name of the measurements, None where there are none.
        notes: what a reader must know.
        data: name, shape, classes, samples and digest of the data set.
        versions: of the packages, at verification.
    """

    folder: Path
    job: Job
    records: Sequence[TrialRecord] = field(repr=False)
    rows: tuple[FrontRow, ...]
    verified: bool
    verified_after: int | None
    measured_on: str | None
    notes: tuple[str, ...]
    data: Mapping[str, Any]
    versions: Mapping[str, str]

    @cached_property
    def counts(self) -> dict[str, int]:
        """Trials by fate: trained (or looked up), given up early, reused, infeasible, and each kind of failure."""
        return dict(Counter(fate(record, self.job.evaluator.name) for record in self.records))

    @cached_property
    def search_s(self) -> float:
        """Time the finished trials took together."""
        durations = [record.trial.duration for record in self.records]
        return sum(duration.total_seconds() for duration in durations if duration is not None)

    @cached_property
    def train_s(self) -> float:
        """Time that the evaluator spent during the search, most of it on training."""
        return float(sum(record.trial.user_attrs.get("train_s", 0.0) for record in self.records))

    @cached_property
    def epochs_saved(self) -> tuple[int, int]:
        """Epochs of training that the evaluator saved by giving candidates up, and those there would have been."""
        judged = [
            record for record in self.records if record.complete and "epochs" in record.trial.user_attrs
        ]
        saved = sum(self.job.epochs - record.epochs for record in judged if record.pruned)
        return saved, self.job.epochs * len(judged)

    @property
    def cost_objectives(self) -> list[str]:
        return [name for name in self.job.objectives if name != ERROR]

    @property
    def shown_costs(self) -> list[str]:
        """Latency where it is predicted, costs of objectives and constraints, size last."""
        latency = [LATENCY] if self.rows and all(LATENCY in row.predicted for row in self.rows) else []
        names = dict.fromkeys([*latency, *self.cost_objectives, *self.job.constraints])
        return [*(n for n in names if n != SIZE), SIZE]

    @cached_property
    def compared(self) -> list[str]:
        """Of the shown costs, those that are predicted and measured."""
        found = [n for n in self.shown_costs if n != SIZE]
        return [n for n in found if any(n in row.measured and n in row.predicted for row in self.rows)]

    def inside(self, metric: str) -> tuple[int, int]:
        """How many networks' measured values are within the predicted interval, and how many were measured."""
        known = [i for row in self.rows for i in [row.inside(metric)] if i is not None]
        return sum(known), len(known)

    @cached_property
    def budgets(self) -> tuple[Budget, ...]:
        """Which constraints the delivered networks keep."""
        return tuple(_budget(name, limit, self.rows) for name, limit in self.job.constraints.items())

    @cached_property
    def judged(self) -> list[TrialRecord]:
        """Completed trials with an accuracy; one that was given up before any training has none."""
        return [
            r for r in self.records if r.complete and r.accuracy is not None and (r.epochs or not r.pruned)
        ]

    @cached_property
    def closest(self) -> Closest | None:
        """Set when no candidate keeps the constraints: the one whose worst violation is least."""
        if any(r.feasible for r in self.records):  # also one whose training failed
            return None
        broken = [r for r in self.records if r.complete]
        if not broken:
            return None
        best = min(broken, key=lambda r: max(r.violations.values()))
        limits = self.job.constraints
        misses = {n: (limits[n], limits[n] * (1 + v)) for n, v in best.violations.items() if v > 0}
        return Closest(best.number, best.candidate.digest, misses)

    @cached_property
    def best_error(self) -> list[float]:
        """Least validation error of a feasible candidate after each finished trial; 1 before there is one."""
        errors = [1 - r.accuracy if r.feasible and r.accuracy is not None else 1.0 for r in self.records]
        return [float(e) for e in np.minimum.accumulate(errors)] if errors else []

    @cached_property
    def hypervolumes(self) -> list[float]:
        """Share of the objective space that the feasible trials dominate, after each finished trial.

        The reference is the error of guessing, each cost's limit or, without one, the largest cost seen.
        """
        reference = self._reference()
        points: list[list[float]] = []
        out: list[float] = []
        for record in self.records:
            if record.complete and record.feasible and record.accuracy is not None:
                points.append([float(v) for v in record.trial.values])
                kept: FloatArray = np.array(points, np.float64)
                points = kept[non_dominated(kept)].tolist()
                out.append(hypervolume(np.array(points), reference) / math.prod(reference))
            else:
                out.append(out[-1] if out else 0.0)
        return out

    def summary_metrics(self) -> dict[str, float]:
        """Headline numbers for an experiment tracker."""
        found = {
            "trials": float(len(self.records)),
            "search_s": self.search_s,
            "train_s": self.train_s,
            "front_size": float(len(self.rows)),
            "epochs_saved": float(self.epochs_saved[0]),
            **{f"trials_{fate.replace(' ', '_')}": float(n) for fate, n in self.counts.items()},
        }
        if self.rows:
            found["best_test_accuracy"] = max(row.test_accuracy for row in self.rows)
        for name in self.compared:
            inside, known = self.inside(name)
            if known:
                found[f"measured_{without_unit(name)}_inside_interval"] = inside / known
        return found

    def sentences(self) -> list[str]:
        """The outcome in words."""
        return sentences(self)

    def _reference(self) -> list[float]:
        guessing = 1 - 1 / max(2, len(self.data.get("classes", ())))
        reference = []
        for i, name in enumerate(self.job.objectives):
            seen = [float(r.trial.values[i]) for r in self.records if r.complete]
            limit = self.job.constraints.get(name, max(seen, default=1.0) * 1.000001)
            reference.append(guessing if name == ERROR else limit)
        return reference


def load_report(study_dir: Path) -> SearchReport:
    """Read a study's folder; nothing is trained or measured.

    Raises:
        StorageError: when the folder holds no search or is torn.
    """
    folder = StudyFolder(Path(study_dir))
    job = folder.job()
    with quiet_optuna(), storage_errors(folder.path):
        study = folder.load(job)
        records = finished(study)
        facts = {k.removeprefix("data_"): v for k, v in study.user_attrs.items() if k.startswith("data_")}
    verified: Row = {}
    rows: tuple[FrontRow, ...] = ()
    notes: tuple[str, ...] = ()
    if folder.front_file.exists():
        try:
            verified = json.loads(folder.front_file.read_text())
            rows = _rows(job, verified["rows"], {r.number: r for r in records})
            notes = tuple(verified["notes"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                f"'{folder.front_file}' is torn ({type(error).__name__}: {error}); delete it and go on with "
                "--resume"
            ) from error
    return SearchReport(
        folder=folder.path,
        job=job,
        records=records,
        rows=rows,
        verified=bool(verified),
        verified_after=verified.get("trials"),
        measured_on=verified.get("measured_on"),
        notes=notes,
        data=facts,
        versions=verified.get("versions", {}),
    )


def write_report(study_dir: Path) -> SearchReport:
    """Write ``trials.parquet``, ``front.png`` and ``report.html`` from what the folder holds.

    Args:
        study_dir: folder of a search, finished or not.

    Raises:
        StorageError: when the folder holds no search or cannot be written.
    """
    from hardsight.nas.report_figure import figure_png
    from hardsight.nas.report_page import page

    report = load_report(study_dir)
    folder = StudyFolder(report.folder)
    with storage_errors(folder.path):
        write_bytes(folder.trials_file, trials_parquet(report))
        write_bytes(folder.plot_file, figure_png(report))
        write_bytes(folder.page_file, page(report).encode())
    return report


def trial_rows(report: SearchReport) -> list[Row]:
    """One flat row per finished trial: fate, objectives, costs with intervals, violations, parameters."""
    on_front = {r.number for r in front(report.records)}
    return [_trial_row(report.job, record, record.number in on_front) for record in report.records]


def trials_parquet(report: SearchReport) -> bytes:
    """`trial_rows` as a Parquet file."""
    import io

    import pandas as pd

    buffer = io.BytesIO()
    pd.DataFrame(trial_rows(report)).to_parquet(buffer, index=False)
    return buffer.getvalue()


def without_unit(name: str) -> str:
    """``latency_s`` → ``latency``."""
    for suffix in ("_s", "_bytes", "_j"):
        name = name.removesuffix(suffix)
    return name


def _trial_row(job: Job, record: TrialRecord, on_front: bool) -> Row:
    attributes = record.trial.user_attrs
    costs = record.costs if "costs" in attributes else {}
    row: Row = {
        "trial": record.number,
        "fate": fate(record, job.evaluator.name),
        "feasible": record.complete and record.feasible,
        "on_front": on_front,
        "digest": record.candidate.digest if "candidate" in attributes else None,
        "accuracy": record.accuracy,
        "train_s": attributes.get("train_s"),
        "epochs": attributes.get("epochs"),
        "started": record.trial.datetime_start,
        "duration_s": record.trial.duration.total_seconds() if record.trial.duration else None,
    }
    for i, name in enumerate(job.objectives):
        row[f"objective_{name}"] = float(record.trial.values[i]) if record.complete else None
    for name, estimate in costs.items():
        row |= {name: estimate.value, f"{name}_lower": estimate.lower, f"{name}_upper": estimate.upper}
    row |= {f"violation_{name}": value for name, value in record.violations.items()}
    return row | {f"param_{name}": value for name, value in record.trial.params.items()}


def _budget(cost: str, limit: float, rows: Sequence[FrontRow]) -> Budget:
    return Budget(
        cost,
        limit,
        tuple(row.digest for row in rows if row.kept.get(cost)),
        {row.digest: row.measured[cost][0] for row in rows if row.kept.get(cost) is False},
        tuple(row.digest for row in rows if cost not in row.kept),
    )


def _rows(job: Job, stored: Sequence[Row], trials: Mapping[int, TrialRecord]) -> tuple[FrontRow, ...]:
    rows = [_front_row(job, raw, trials) for raw in stored]
    if rows:
        points = np.array([[_objective(name, row) for name in job.objectives] for row in rows], np.float64)
        kept = non_dominated(points)
        rows = [
            FrontRow(**{**vars(row), "dominated": not keep}) for row, keep in zip(rows, kept, strict=True)
        ]
    return tuple(sorted(rows, key=lambda row: (-row.validation_accuracy, row.digest)))


def _objective(name: str, row: FrontRow) -> float:
    return 1 - row.validation_accuracy if name == ERROR else row.predicted[name].value


def _front_row(job: Job, raw: Row, trials: Mapping[int, TrialRecord]) -> FrontRow:
    measured = {name: (float(m["value"]), float(m["spread"])) for name, m in raw["measured"].items()}
    return FrontRow(
        digest=raw["digest"],
        trial=raw["trial"],
        file=raw["file"],
        predicted={name: Estimate(*numbers) for name, numbers in raw["predicted"].items()},
        measured=measured,
        validation_accuracy=raw["validation_accuracy"],
        test_accuracy=raw["test_accuracy"],
        test_agreement=raw["test_agreement"],
        size_bytes=raw["predicted"][SIZE][0],
        file_bytes=raw["file_bytes"],
        macs=raw["macs"],
        input_shape=tuple(raw["input_shape"]),
        bits=bits_of(raw["layers"]),
        kept={n: measured[n][0] <= limit for n, limit in job.constraints.items() if n in measured},
        runtime=raw.get("runtime", "ONNX Runtime"),
        blocks=blocks_of(raw["layers"]),
        choices={} if raw["layers"] else dict(trials[raw["trial"]].trial.params),
    )
