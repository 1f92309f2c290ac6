"""Refining a search: the surrogate adapted with what was measured, and a study with all trials judged by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx

from hardsight.candidate import Candidate
from hardsight.errors import BackendError, DataError, InputError, NotSupportedError
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric
from hardsight.nas.costs import CostModel
from hardsight.nas.evaluators import Evaluation
from hardsight.nas.job import ERROR
from hardsight.nas.report_words import cost_words, networks
from hardsight.nas.study import StudyFolder, TrialRecord, finished, new_name, record_violations, write_text
from hardsight.prediction import Estimate
from hardsight.predictors import Predictor

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from hardsight.device import Device
    from hardsight.nas.search import Measure, Setting

WANTED = "wanted"
"""Of a refined study: how many trials there are to be at its end."""
_MEASURED = "measured"

Row = Mapping[str, Any]
Measured = Mapping[str, Mapping[str, float]]
"""Costs by name, by the candidate's JSON."""


class Refined(NamedTuple):
    """What a search has learned of its device.

    Args:
        predictor: adapted.
        measured: what it was adapted with.
    """

    predictor: Predictor
    measured: Measured


def load_refined(folder: StudyFolder) -> Refined | None:
    """The refined predictor of the folder's study; None before it was refined.

    Raises:
        StorageError: it is damaged.
    """
    from hardsight.predictors.persist import load_saved, read_meta

    if not folder.exists or not folder.predictor.exists():
        return None
    return Refined(load_saved(folder.predictor), read_meta(folder.predictor)["info"][_MEASURED])


def check_refinable(setting: Setting, measure: Measure | None) -> None:
    """Refuse at the start what could not be refined at the end.

    Raises:
        InputError: a predictor that cannot be adapted.
        NotSupportedError: the job's device cannot be measured here.
    """
    _base(setting)
    _device_here(setting, measure)


def next_round(
    setting: Setting, folder: StudyFolder, study: optuna.Study, rows: Sequence[Row], measure: Measure | None
) -> Setting:
    """Adapt the surrogate, and make the study of the next round that of the folder.

    All measurements so far correct the predictor that the search began with. Trials are predicted and judged again;
    those that were not trained, and would now keep the constraints, are tried first.

    Args:
        setting: of the last round.
        folder: of the search; keeps the predictor.
        study: of the last round; stays in the storage as it is.
        rows: networks that were verified.
        measure: as for `hardsight.nas.verify.verify_front`.

    Raises:
        DataError: too few networks are there to be measured, or nothing can be learned of them.
    """
    from hardsight.nas.search import first_costs
    from hardsight.predictors.persist import save_predictor

    done = finished(study)
    measured = {**setting.costs.measured, **_of_rows(rows)}
    measured |= _more(setting, folder, done, measured, measure)
    predictor = _adapted(setting, measured)
    job, unrefined = setting.job, setting.unrefined or setting.costs
    costs = CostModel(setting.space, predictor, job, measured, unrefined.floating)
    trials, waiting = _judged_again(done, costs, job.objectives)
    job = job.model_copy(update={"trials": len(trials) + (job.refine_trials or math.ceil(job.trials / 4))})
    refined = replace(setting, job=job, costs=costs, unrefined=unrefined)

    name = new_name()
    save_predictor(predictor, folder.predictor_of(name), {_MEASURED: measured})
    following = folder.open(job, name)
    for trial in trials:
        following.add_trial(trial)
    for params in waiting[: job.trials - len(trials)]:
        following.enqueue_trial(params)
    facts = {key: value for key, value in study.user_attrs.items() if key.startswith("data_")}
    for key, value in {**facts, "first_costs": first_costs(refined), WANTED: job.trials}.items():
        following.set_user_attr(key, value)
    write_text(folder.name_file, f"{name}\n")  # last: until then the old study is the folder's
    return refined


def comparison(setting: Setting, rows: Sequence[Row]) -> list[str]:
    """In sentences: error and interval of predictions against measurements, before and after refining."""
    before, after = setting.unrefined, setting.costs
    if before is None:
        return []
    found = []
    known = [(Candidate.from_json(text), costs) for text, costs in after.measured.items()]
    new = [
        (Candidate.from_json(text), costs)
        for text, costs in _of_rows(rows).items()
        if text not in after.measured
    ]
    for metric in dict.fromkeys((*setting.job.objectives, *setting.job.constraints)):
        old = _deviation(before, known, metric)
        if old is None:
            continue
        learned = f"{len(known)} measured {networks(len(known))}"
        sentence = f"Refined with {learned}: until then {cost_words(metric)} was {old}"
        then, now = _deviation(before, new, metric), _deviation(after, new, metric)
        if then and now:
            sentence += f"; of {len(new)} measured since it is {now}, and without refining would be {then}"
        found.append(f"{sentence}.")
    return found


def _deviation(
    model: CostModel, measured: Sequence[tuple[Candidate, Mapping[str, float]]], metric: str
) -> str | None:
    """Medians over the networks; None where none has that metric."""
    pairs = [
        (model(candidate)[metric], costs[metric]) for candidate, costs in measured if costs.get(metric, 0) > 0
    ]
    if not pairs:
        return None
    error = float(np.median([abs(estimate.value / value - 1) for estimate, value in pairs]))
    widths = [_width(estimate) for estimate, _ in pairs]
    width = (
        "without intervals"
        if None in widths
        else f"in intervals {np.median(np.array(widths, float)):.1%} wide"
    )
    return f"{error:.1%} off, {width}"


def _width(estimate: Estimate) -> float | None:
    """Of the interval, relative to the value."""
    if estimate.lower is None or estimate.upper is None or estimate.value <= 0:
        return None
    return (estimate.upper - estimate.lower) / estimate.value


def _base(setting: Setting) -> Predictor:
    """What is adapted: the predictor that the search began with."""
    predictor = (setting.unrefined or setting.costs).predictor
    if not isinstance(predictor, Predictor):
        raise InputError(
            f"--refine adapts a Predictor, and this search was given a {type(predictor).__name__}; leave "
            "--refine out"
        )
    return predictor


def _device_here(setting: Setting, measure: Measure | None) -> tuple[Device, Measure]:
    from hardsight.nas.verify import measurer

    target, measure, reason = measurer(setting, measure)
    if target is None or measure is None or target.name != setting.device.name:
        raise NotSupportedError(
            f"--refine needs measurements of '{setting.device.name}', and here are none. {reason}"
        )
    return target, measure


def _of_rows(rows: Sequence[Row]) -> Measured:
    metrics = set(map(str, Metric))
    found = {
        row["candidate"]: {name: m["value"] for name, m in row["measured"].items() if name in metrics}
        for row in rows
    }
    return {candidate: costs for candidate, costs in found.items() if costs}


def _more(
    setting: Setting,
    folder: StudyFolder,
    records: Sequence[TrialRecord],
    known: Measured,
    measure: Measure | None,
) -> Measured:
    """Networks behind the front, as they were trained, measured until there are enough for an interval."""
    from hardsight.predictors.adapted import MIN_FOR_INTERVAL

    target, measure = _device_here(setting, measure)
    trained = {r.candidate.to_json(): r for r in records if r.complete and r.accuracy is not None}
    behind = sorted(trained.items(), key=lambda item: (not item[1].feasible, item[1].trial.values))
    more: dict[str, dict[str, float]] = {}
    for text, record in behind:
        if len(known) + len(more) >= MIN_FOR_INTERVAL:
            break
        weights = folder.weights / f"{record.candidate.digest}.safetensors"
        if text in known or not weights.exists():
            continue
        with TemporaryDirectory(prefix="hardsight-") as scratch:
            path = Path(scratch, "network.onnx")
            onnx.save(setting.evaluator.to_onnx(Evaluation.load(weights)), path)
            try:
                more[text] = {str(m.metric): m.value for m in measure(path, target)}
            except BackendError:  # one that cannot be measured does not cost the others
                continue
    if len(known) + len(more) < MIN_FOR_INTERVAL:
        raise DataError(
            f"{len(known) + len(more)} networks could be measured, and refining needs {MIN_FOR_INTERVAL}; search "
            "with more 'trials', then go on with --resume --refine"
        )
    return more


def _adapted(setting: Setting, measured: Measured) -> Predictor:
    """The base, corrected in each metric that can be learned; the others as they are."""
    from hardsight.predictors.adapt import adapted
    from hardsight.predictors.joined import Joined

    base, device = _base(setting).only(setting.job.device), setting.device
    graphs = {text: setting.costs.graph(Candidate.from_json(text)) for text in measured}
    labels = [
        Measurement(graphs[text].digest, device.name, Metric(name), value, 0.0, 1)
        for text, costs in measured.items()
        for name, value in costs.items()
    ]
    table = MeasurementTable.from_measurements(labels, {graph.digest: graph for graph in graphs.values()})
    parts: dict[tuple[str, Metric], Predictor] = {
        target: base for target in base.targets if target[0] == device.name
    }
    refused = []
    for metric in table.metrics:
        if (device.name, metric) not in parts:
            continue
        try:
            fits = adapted(base, table.select(metric=metric), device, trust_units=True).fits
        except (DataError, NotSupportedError) as error:  # such as a count that is 0 for all
            refused.append(str(error))
            continue
        parts |= {(device.name, m): fit for m, fit in fits.items()}
    if all(part is base for part in parts.values()):
        raise DataError(f"nothing can be learned of the measured networks: {'; '.join(refused)}")
    return Joined(parts)


def _judged_again(
    records: Sequence[TrialRecord], costs: CostModel, objectives: Sequence[str]
) -> tuple[list[FrozenTrial], list[dict[str, Any]]]:
    """Finished trials with new costs and constraints, and parameters of those that are worth training now."""
    trials, waiting = [], []
    for record in records:
        trial = deepcopy(record.trial)
        if "candidate" in trial.user_attrs:
            predicted = costs(record.candidate)
            broken = costs.violations(record.candidate, predicted)
            if record.complete and record.accuracy is None and all(v <= 0 for v in broken.values()):
                waiting.append(trial.params)
                continue
            attributes = {name: list(estimate) for name, estimate in predicted.items()}
            trial.user_attrs = {**trial.user_attrs, "costs": attributes}
            # a constraint can be set once
            kept = {k: v for k, v in trial.system_attrs.items() if k.partition(":")[0] != "constraints"}
            trial.system_attrs = kept
            record_violations(trial, broken)
            if record.complete:
                trial.values = [
                    old if name == ERROR else predicted[name].value
                    for name, old in zip(objectives, record.trial.values, strict=True)
                ]
        trials.append(trial)
    return trials, waiting
