"""`quantize`: a precision per layer for a given network, measured before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from hardsight.budgets import SIZE, judge
from hardsight.device import get_device
from hardsight.errors import InputError, ModelError, NotSupportedError, StorageError
from hardsight.metrics import Metric
from hardsight.nas.data import DataSpec
from hardsight.nas.mixed_precision.bench import Bench, Measured, measure_all, measurer
from hardsight.nas.mixed_precision.choose import trade_off, within_budgets
from hardsight.nas.mixed_precision.costs import SENSITIVITY, LayerCosts, WholeNetworks, layer_costs
from hardsight.nas.mixed_precision.precisions import make_quantizer, precisions_of
from hardsight.nas.mixed_precision.quantizers import Choice, Quantizer, refuse_quantized
from hardsight.nas.mixed_precision.report import LayerChoice, QuantizeReport, Tried
from hardsight.nas.mixed_precision.samples import first, load_samples
from hardsight.nas.mixed_precision.sensitivity import sensitivities
from hardsight.prediction import FloatArray
from hardsight.progress import Progress

_SHORTLIST = 3
_ADDITIVE = (
    Metric.LATENCY, Metric.LOGIC_CELLS, Metric.LUT, Metric.CYCLES, Metric.ENERGY, Metric.FF, Metric.DSP, Metric.TRAFFIC,
    Metric.FLASH,
)  # fmt: skip
"""What adds up over layers; without budgets, the first of them that is predicted is minimised."""


def quantize(
    model: str | Path | onnx.ModelProto,
    *,
    device: str,
    data: str | DataSpec = "digits",
    budgets: Mapping[str, float] | None = None,
    out: str | Path | None = None,
    max_loss: float = 0.005,
    samples: int = 128,
    seed: int = 0,
    level: float = 0.9,
    force: bool = False,
    measure: bool = True,
    budget_s: float = 5.0,
    progress: Progress | None = None,
) -> QuantizeReport:
    """Choose a precision per layer of a float network, and write the quantized one.

    With budgets: the network of the least summed sensitivity whose prediction keeps them. Without: the cheapest that
    loses at most ``max_loss`` on the validation part of the data. On this machine up to three such are measured, and
    the measurement decides. Where none is faster than the network given, that is what is delivered.

    >>> quantize("net.onnx", device="host/onnxruntime/fp32-t1", data="digits").ratio  # doctest: +SKIP
    1.8

    Args:
        model: ONNX file or loaded model, float, with weights.
        device: name, as ``hardsight devices`` lists them.
        data: as in a job file: ``digits``, an ``.npz``, a ``.csv`` or a folder of images. Its train part calibrates,
            the validation part decides, the test part is for the report alone.
        budgets: quantity to limit in SI units: ``{"latency_s": 0.001}``; held against the interval's upper end.
        out: file to write: the chosen network, which is the one given where nothing is gained. Not written when a
            budget cannot be kept.
        max_loss: share of accuracy (or agreement, or fidelity) that may be lost, without budgets.
        samples: of the train part, for calibration and sensitivity.
        seed: of the data's split.
        level: nominal coverage of the intervals.
        force: deliver the best quantized network even though it gains nothing or breaks a budget.
        measure: measure before and after when the device is this machine.
        budget_s: time for each measurement.
        progress: called as the work goes on.

    Raises:
        ModelError: the model is quantized already, cannot be read, or has nothing to quantize.
        DataError: no data of the right shape.
        NotSupportedError: the device has one precision, or a budget cannot be judged.
        NotCalibratedError: this machine, before ``hardsight adapt --here``.
        StorageError: the file cannot be written.
        InputError: a number out of range, or ``out`` is the file of the model.
    """
    from hardsight.predictors import load_predictor

    _check_numbers(max_loss, samples, level)
    _check_out(model, out)
    target = get_device(device)
    precisions_of(target)
    predictor = load_predictor(device)
    quantities = _quantities([str(m) for name, m in predictor.targets if name == device], budgets, device)
    proto = _load(model)
    refuse_quantized(proto)
    given = load_samples(DataSpec(source=data) if isinstance(data, str) else data, proto, seed)
    calibration = first(given.parts["train"], samples)
    quantizer = make_quantizer(proto, target, calibration.feeds)
    networks = WholeNetworks(quantizer, predictor, device, level)
    validation, test = (Bench(quantizer, given.parts[p], given.classes) for p in ("validation", "test"))
    sensitivity = sensitivities(
        quantizer, calibration.feeds, classifies=validation.classifies, progress=progress
    )
    costs = layer_costs(networks, quantities, progress)
    program = costs.program(sensitivity, quantizer)
    aim = quantities[0]

    notes = [*given.notes, *validation.doubts]
    if quantizer.layers.pairs_left_out:
        notes.append(
            f"{quantizer.layers.pairs_left_out} pairs of neighbours were not priced in the integer program"
        )
    coarsest = (len(quantizer.precisions) - 1,) * len(quantizer.layers)
    if budgets:
        kept = within_budgets(program, networks, budgets, device)
        good, gap = [kept.choice], kept.gap
    else:
        points = trade_off(program, networks, aim)
        least = validation[quantizer.finest].value - max_loss
        # uniform first: it has no conversions inside, and its prediction is the surest
        order = dict.fromkeys([coarsest, *(point.choice for point in points)])
        fitting = [
            choice for choice in order if choice != quantizer.finest and validation[choice].value >= least
        ]
        good, gap = fitting[:_SHORTLIST], max(point.gap for point in points)
    compared = list(dict.fromkeys([quantizer.finest, *good, *([] if good else [coarsest])]))
    taken: Mapping[Choice, Measured] = {}
    if measure:
        how, reason = measurer(target, aim, budget_s)
        if how is None:
            notes.append(reason)
        elif len(compared) > 1:
            taken = measure_all(how, quantizer, compared, progress)
    best = _best([quantizer.finest, *good], aim, networks, taken)
    chosen = best
    if budgets and not kept.kept:
        chosen = kept.choice  # the closest, which is shown but not written
    elif force and best == quantizer.finest and len(compared) > 1:
        chosen = min(compared[1:], key=lambda choice: _cost(choice, aim, networks, taken)[0])
    notes += [f"the chosen network: {assumption}" for assumption in networks.assumptions(chosen)]
    verdicts = tuple(judge(budgets or {}, networks[chosen], int(networks[chosen][SIZE].value), device))
    report = QuantizeReport(
        model=str(model) if isinstance(model, str | Path) else proto.graph.name,
        device=device,
        aim=aim,
        layers=_layer_choices(quantizer, sensitivity, costs, chosen),
        tried=tuple(
            Tried(
                dict(Counter(quantizer.precisions[p] for p in choice)),
                program.total(SENSITIVITY, choice),
                networks[choice],
                validation[choice],
                taken.get(choice, {}),
                choice == chosen,
            )
            for choice in compared
        ),
        verdicts=verdicts,
        before=test[quantizer.finest],
        after=test[chosen],
        gap=gap,
        gain=best != quantizer.finest,
        out=None if out is None or (not force and not all(v.kept for v in verdicts)) else str(out),
        notes=tuple(notes),
    )
    if report.out is not None:
        _save(
            proto if chosen == quantizer.finest and quantizer.converts else quantizer.deployed(chosen),
            report.out,
        )
    return report


def _best(
    choices: Sequence[Choice], aim: str, networks: WholeNetworks, measured: Mapping[Choice, Measured]
) -> Choice:
    """The cheapest, by measurement where there is one; the first unless another is cheaper beyond the noise."""
    found = [_cost(choice, aim, networks, measured) for choice in choices]
    least, noise = min(found)
    value, own = found[0]
    return choices[0] if least >= value * (1 - noise - own) else choices[found.index((least, noise))]


def _cost(
    choice: Choice, aim: str, networks: WholeNetworks, measured: Mapping[Choice, Measured]
) -> tuple[float, float]:
    """Value and noise, measured where it was measured."""
    if choice in measured and aim in measured[choice]:
        return measured[choice][aim]
    return networks[choice][aim].value, 0.0


def _layer_choices(
    quantizer: Quantizer, sensitivity: FloatArray, costs: LayerCosts, choice: Choice
) -> tuple[LayerChoice, ...]:
    names = quantizer.precisions
    return tuple(
        LayerChoice(
            name,
            op_type,
            names[choice[i]],
            dict(zip(names, map(float, sensitivity[i]), strict=True)),
            {
                precision: {q: float(change[i, p]) for q, change in costs.change.items()}
                for p, precision in enumerate(names)
            },
            {q: costs.among_quantized(q, i) for q in costs.change},
        )
        for i, (name, op_type) in enumerate(
            zip(quantizer.layers.names, quantizer.layers.op_types, strict=True)
        )
    )


def _quantities(predicted: Sequence[str], budgets: Iterable[str] | None, device: str) -> list[str]:
    """What the program counts: the budgets' quantities, or the first predicted one; that which judges a gain first.

    Raises:
        NotSupportedError: a budget on what does not add up over layers, or is not predicted.
    """
    known = [str(m) for m in _ADDITIVE if str(m) in predicted]
    wanted = list(budgets or known[:1])
    for quantity in wanted:
        if quantity not in (*known, SIZE):
            how = "predicted, but not as a sum over layers" if quantity in predicted else "not predicted"
            raise NotSupportedError(
                f"{quantity} on '{device}' is {how}, so no precision is chosen for it; "
                f"give a budget on {', '.join([*known, SIZE])}"
            )
    return sorted(wanted, key=lambda quantity: quantity == SIZE)


def _check_numbers(max_loss: float, samples: int, level: float) -> None:
    if not 0 <= max_loss < 1:
        raise InputError(f"max_loss is {max_loss}; expected a share from 0 to below 1, for example 0.005")
    if samples < 1:
        raise InputError(f"samples is {samples}; give at least 1")
    if not 0 < level < 1:
        raise InputError(f"level is {level}; expected a coverage between 0 and 1, for example 0.9")


def _check_out(model: str | Path | onnx.ModelProto, out: str | Path | None) -> None:
    if isinstance(model, onnx.ModelProto) or out is None:
        return
    if Path(out).resolve() == Path(model).resolve():
        raise InputError(
            f"'{out}' is the model given, which would be overwritten; give another file to write"
        )


def _load(model: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy
    try:
        proto = onnx.load(model)
        onnx.checker.check_model(proto)
    except FileNotFoundError as error:
        missing = Path(str(error.filename or model)).name
        raise ModelError(
            f"'{model}' cannot be quantized: '{missing}' does not exist; weights are needed"
        ) from error
    except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"'{model}' cannot be quantized: {reason}") from error
    return proto


def _save(model: onnx.ModelProto, out: str) -> None:
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_bytes(model.SerializeToString())
    except OSError as error:
        raise StorageError(
            f"cannot write '{out}': {error.strerror or error}; check path and space"
        ) from error
