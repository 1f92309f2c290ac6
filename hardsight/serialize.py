"""Answers as JSON-able dictionaries: the one place that fixes the names scripts rely on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardsight.api import BudgetCheck, DeviceStatus, ModelMeasurement
    from hardsight.nas.report import FrontRow, SearchReport
    from hardsight.nas.status import SearchStatus
    from hardsight.prediction import ModelPrediction
    from hardsight.predictors.adapt import AdaptReport

Record = dict[str, Any]


def prediction_record(answer: ModelPrediction) -> Record:
    """One prediction; a missing interval is null, ``layers`` are there when they were asked for."""
    record: Record = {
        "model": answer.model,
        "digest": answer.digest,
        "device": answer.device,
        "predictor": answer.predictor,
        "predictions": {str(metric): estimate._asdict() for metric, estimate in answer.estimates.items()},
        "unknown_ops": dict(answer.unknown_ops),
        "assumptions": list(answer.assumptions),
    }
    if answer.layers is not None:
        record["layers"] = [layer._asdict() for layer in answer.layers]
    return record


def measurement_record(answer: ModelMeasurement) -> Record:
    """One measured model; what could not be measured is named with the reason."""
    return {
        "model": answer.model,
        "digest": answer.digest,
        "device": answer.device,
        "measurements": {
            str(m.metric): {"value": m.value, "spread": m.spread, "repeats": m.repeats}
            for m in answer.measurements
        },
        "shapes": {name: list(shape) for name, shape in answer.shapes.items()},
        "unavailable": {str(metric): reason for metric, reason in answer.unavailable.items()},
        "versions": dict(answer.versions),
        "assumptions": list(answer.assumptions),
    }


def device_record(status: DeviceStatus) -> Record:
    """One device, its settings and whether it can be predicted and measured."""
    return {
        **status.device.model_dump(mode="json"),
        "origin": status.origin,
        "can_predict": status.can_predict,
        "can_measure": status.can_measure,
    }


def check_record(check: BudgetCheck) -> Record:
    """One model against its budgets."""
    budgets: Sequence[Record] = [
        {**verdict._asdict(), "kept": verdict.kept, "excess": verdict.excess} for verdict in check.verdicts
    ]
    return {
        "model": check.answer.model,
        "digest": check.answer.digest,
        "device": check.answer.device,
        "predictor": check.answer.predictor,
        "kept": check.kept,
        "budgets": budgets,
        "unknown_ops": dict(check.answer.unknown_ops),
        "assumptions": list(check.answer.assumptions),
    }


def adaptation_record(report: AdaptReport) -> Record:
    """What an adaptation did."""
    return {
        "device": report.device,
        "source_device": report.source_device,
        "sources": dict(report.sources),
        "samples": report.samples,
        "scale": dict(report.scale),
        "residual": {metric: _finite(value) for metric, value in report.residual.items()},
        "expected_error": dict(report.expected_error),
        "networks": [network._asdict() for network in report.networks],
        "notes": list(report.notes),
        "folder": str(report.folder),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def search_record(report: SearchReport) -> Record:
    """All that a search's page says: outcome, budgets, front, effort, job."""
    closest = report.closest
    return {
        "study": str(report.folder),
        "device": report.job.device,
        "measured_on": report.measured_on,
        "verified": report.verified,
        "trials": len(report.records),
        "fates": report.counts,
        "search_s": report.search_s,
        "evaluation_s": report.train_s,
        "epochs_saved": report.epochs_saved[0],
        "hypervolumes": report.hypervolumes,
        "least_errors": report.best_error,
        "level": report.job.level,
        "inside_interval": {
            name: dict(zip(("inside", "measured"), report.inside(name), strict=True))
            for name in report.compared
        },
        "budgets": [
            {
                "cost": budget.cost,
                "limit": budget.limit,
                "kept": list(budget.kept),
                "broken": dict(budget.broken),
                "unmeasured": list(budget.unmeasured),
            }
            for budget in report.budgets
        ],
        "closest": closest
        and {
            "trial": closest.trial,
            "digest": closest.digest,
            "misses": {n: {"limit": limit, "upper": upper} for n, (limit, upper) in closest.misses.items()},
        },
        "front": [_delivered(row) for row in report.rows],
        "data": dict(report.data),
        "job": report.job.public().resolved(),
        "versions": dict(report.versions),
        "notes": report.sentences(),
    }


def _delivered(row: FrontRow) -> Record:
    return {
        "file": row.file,
        "digest": row.digest,
        "trial": row.trial,
        "accuracy": row.test_accuracy,
        "validation_accuracy": row.validation_accuracy,
        "agreement": row.test_agreement,
        "runtime": row.runtime,
        "predicted": {name: estimate._asdict() for name, estimate in row.predicted.items()},
        "measured": {name: {"value": v, "spread": s} for name, (v, s) in row.measured.items()},
        "size_bytes": row.size_bytes,
        "file_bytes": row.file_bytes,
        "macs": row.macs,
        "input_shape": list(row.input_shape),
        "kept": dict(row.kept),
        "dominated": row.dominated,
        "bits": dict(row.bits),
        "blocks": [
            {
                "name": block.name,
                "operations": list(block.operations),
                "channels": block.channels,
                "positions": list(block.positions),
                "bits": block.bits,
                "added": ["input" if i < 0 else row.blocks[i].name for i in block.added],
            }
            for block in row.blocks
        ],
        "choices": dict(row.choices),
    }


def status_record(status: SearchStatus) -> Record:
    """How far a search is; what is not known yet is null."""
    return {**vars(status), "folder": str(status.folder), "workers": [w._asdict() for w in status.workers]}
