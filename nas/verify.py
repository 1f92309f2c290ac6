"""The front for real: trained to the end, exported, run in its runtime, measured here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardsight.budgets import SIZE
from hardsight.device import HOST, Device, get_device
from hardsight.errors import BackendError, InputError, NotSupportedError
from hardsight.measurement import Measurement
from hardsight.nas.evaluators import Evaluation, TrialFailure
from hardsight.nas.network import INPUT
from hardsight.nas.pareto import spread
from hardsight.nas.refine import comparison
from hardsight.nas.runtimes import Runtime, deliver
from hardsight.nas.spaces import NetworkSpace
from hardsight.nas.study import StudyFolder, TrialRecord, write_bytes, write_json
from hardsight.progress import Progress

if TYPE_CHECKING:
    from hardsight.nas.search import Measure, Setting

_PACKAGES = (
    "torch",
    "brevitas",
    "optuna",
    "onnx",
    "onnxruntime",
    "numpy",
    "da4ml",
    "pyosys",
    "ai-edge-litert",
    "ethos-u-vela",
)

Row = dict[str, Any]


def verify_front(
    setting: Setting,
    folder: StudyFolder,
    records: Sequence[TrialRecord],
    trials: int,
    measure: Measure | None = None,
    progress: Progress | None = None,
    known: Sequence[Row] = (),
) -> list[Row]:
    """Train, export, run and measure the front; write ``front/*.onnx`` and ``front.json``.

    The test part of the data is read here and nowhere else. What was trained before with the same seed and
    epochs is not trained again.

    Args:
        setting: of the search.
        folder: of the study.
        records: the whole front; of a long one `Job.front_size` networks spread along it are taken.
        trials: finished when the front was taken, by which one sees later whether it is still that of all.
        measure: instead of this machine's profiler.
        progress: called with what is done, how much of it, and how much there is.
        known: rows of networks that need not be trained and measured again.

    Returns:
        one row per network, as stored.
    """
    notes: list[str] = [setting.evaluator.note] if setting.evaluator.note else []
    chosen = list(records)
    if len(chosen) > setting.job.front_size:
        values = np.array([r.trial.values for r in records], np.float64)
        chosen = [records[i] for i in spread(values, setting.job.front_size)]
        notes.append(f"The front has {len(records)} networks; {len(chosen)} spread along it were verified.")
    target, measure, reason = measurer(setting, measure)
    if reason:
        notes.append(reason)
    rows = []
    before = {row["digest"]: row for row in known if row["measured"]}
    for i, record in enumerate(chosen):
        if progress:
            progress("verify front", i, len(chosen))
        if record.candidate.digest in before:
            rows.append(before[record.candidate.digest] | _judged(record))
            continue
        row = _verify(setting, folder, record, target, measure, notes)
        rows += [] if row is None else [row]
    if progress and chosen:
        progress("verify front", len(chosen), len(chosen))
    kept = {row["file"] for row in rows}
    for stale in (*folder.front.glob("*.onnx"), *folder.front.glob("*.tflite")):
        if f"front/{stale.name}" not in kept:
            stale.unlink()
    write_json(
        folder.front_file,
        {
            "rows": rows,
            "trials": trials,
            "notes": list(dict.fromkeys([*notes, *comparison(setting, rows)])),
            "measured_on": target.name if target and measure else None,
            "versions": _versions(),
        },
    )
    return rows


def _judged(record: TrialRecord) -> Row:
    """What the search said of a network."""
    return {
        "trial": record.number,
        "predicted": {name: list(estimate) for name, estimate in record.costs.items()},
    }


def _verify(
    setting: Setting,
    folder: StudyFolder,
    record: TrialRecord,
    target: Device | None,
    measure: Measure | None,
    notes: list[str],
) -> Row | None:
    from hardsight.ingest import read_onnx

    evaluation = _final(setting, folder, record, notes)
    if evaluation is None:
        return None
    model = setting.evaluator.to_onnx(evaluation)
    digest = record.candidate.digest
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    try:
        content, suffix, runtime = deliver(
            model, setting.device, lambda: setting.data.part("train", shape)[0]
        )
    except BackendError as error:
        notes.append(f"Network {digest[:8]} is left out: {error}.")
        return None
    path = folder.front / f"{digest}{suffix}"
    write_bytes(path, content)
    accuracy, agreement = _tested(setting, evaluation, path, shape, runtime)
    measured: dict[str, Row] = {}
    if target is not None and measure is not None:
        try:
            measured = {
                str(m.metric): {"value": m.value, "spread": m.spread, "repeats": m.repeats}
                for m in measure(path, target)
            }
        except BackendError as error:
            notes.append(f"Network {digest[:8]} could not be measured: {error}.")
    graph = read_onnx(model)
    measured[SIZE] = {"value": float(graph.weight_bytes), "spread": 0.0, "repeats": 1}
    return {
        "digest": digest,
        "graph": graph.digest,
        **_judged(record),
        "file": f"front/{path.name}",
        "file_bytes": path.stat().st_size,
        "candidate": record.candidate.to_json(),
        "macs": graph.macs,
        "input_shape": list(shape),
        "layers": _layers(setting, record),
        "measured": measured,
        "validation_accuracy": evaluation.accuracy,
        "runtime": "table" if agreement is None else runtime.name,
        "test_accuracy": accuracy,
        "test_agreement": agreement,
        "epochs": evaluation.epochs,
        "train_s": evaluation.duration_s,
    }


def _tested(
    setting: Setting, evaluation: Evaluation, path: Path, shape: tuple[int, ...], runtime: Runtime
) -> tuple[float, float | None]:
    """Accuracy on the test part, and how often the file chooses the class that it chose where it was trained."""
    known = setting.evaluator.test_accuracy(evaluation)
    if known is not None:
        return known, None
    samples, labels = setting.data.part("test", shape)
    chosen = runtime.run(path, samples).argmax(axis=1)
    here = setting.evaluator.predict(evaluation, "test").argmax(axis=1)
    return float((chosen == labels).mean()), float((chosen == here).mean())


def _final(setting: Setting, folder: StudyFolder, record: TrialRecord, notes: list[str]) -> Evaluation | None:
    """The better of the search's weights and those of a longer training, judged on the validation part.

    What the search gave up early is always trained to the end; None where that fails.
    """
    job, candidate = setting.job, record.candidate
    searched = _searched(setting, folder, record, notes)
    epochs = job.final_epochs or (job.epochs if searched.pruned else 0)
    if epochs == 0:
        return searched
    path = folder.weights / f"{candidate.digest}-final.safetensors"
    if path.exists():
        final = Evaluation.load(path)
    else:
        try:
            final = setting.evaluator.evaluate(candidate, job.seed, epochs)
        except TrialFailure as failure:
            otherwise = "it is left out" if searched.pruned else "the search's is used"
            notes.append(
                f"The final training of network {candidate.digest[:8]} failed ({failure}); {otherwise}."
            )
            return None if searched.pruned else searched
        final.save(path)
    return final if searched.pruned or final.accuracy >= searched.accuracy else searched


def _searched(setting: Setting, folder: StudyFolder, record: TrialRecord, notes: list[str]) -> Evaluation:
    """What the trial trained; trained again from the same seed where its file was deleted."""
    path = folder.weights / f"{record.candidate.digest}.safetensors"
    if not path.exists():
        setting.evaluator.evaluate(record.candidate, setting.job.seed).save(path)
        notes.append(
            f"The weights of network {record.candidate.digest[:8]} were missing; it was trained again."
        )
    return Evaluation.load(path)


def measurer(setting: Setting, measure: Measure | None) -> tuple[Device | None, Measure | None, str]:
    """Where and how to measure, and what the reader must know about it.

    A simulator or a synthesis tool answers for the device itself, wherever it runs.
    """
    from hardsight.datasets.profilers import get_profiler

    device, budget_s = setting.device, setting.job.measure_budget_s
    if measure is not None and device.provenance == "published":
        return (
            device,
            measure,
            f"Costs on '{device.name}' were looked up in its public table, not measured here.",
        )
    name = f"{HOST}/{device.runtime}/{device.mode}"
    try:
        try:
            target, profiler = device, get_profiler(device)
        except NotSupportedError:  # another machine's: this one's runtime may do
            target = get_device(name)
            profiler = get_profiler(target)
        if measure is None:
            profiler.check()

            def measure(path: Path, on: Device) -> list[Measurement]:
                return profiler.measure(path, on, budget_s=budget_s)

    except (InputError, BackendError) as error:
        return None, None, f"Nothing was measured: {error}."
    if target.name == device.name:
        return target, measure, ""
    return (
        target,
        measure,
        (
            f"Predictions are for '{device.name}', measurements are of this machine ('{name}'): "
            "they agree only if the two are alike."
        ),
    )


def _layers(setting: Setting, record: TrialRecord) -> list[Row]:
    """What a report says and draws of each layer; bits of those with weights, in fixed point also of what they read."""
    if not isinstance(setting.space, NetworkSpace):
        return []
    network = setting.space.network(record.candidate)
    read = {INPUT: network.input_bits, **{layer.name: layer.output_bits for layer in network.layers}}
    rows = []
    for layer in network.layers:
        written = network.tensors[layer.name]
        row: Row = {
            "name": layer.name,
            "kind": layer.kind,
            "inputs": list(layer.inputs),
            "channels": written.channels,
            "positions": list(written.shape[:-1] if written.tokens else written.shape[1:]),
            "kernel": layer.kernel,
            "groups": layer.groups,
        }
        if layer.has_weights:
            row["bits"] = layer.weight_bits
            row |= {"activation_bits": read[layer.inputs[0]]} if network.fixed_point else {}
        rows.append(row)
    return rows


def _versions() -> dict[str, str]:
    import hardsight

    found = {"hardsight": str(getattr(hardsight, "__version__", "unknown"))}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
