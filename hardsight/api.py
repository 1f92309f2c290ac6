"""Questions about a model: the verbs of ``import hardsight as hs``. The long jobs are in `hardsight.jobs`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import ValidationError

from hardsight.device import (
    HOST,
    Device,
    device_folder,
    get_device,
    host_devices,
    shipped_devices,
    user_devices,
)
from hardsight.errors import InputError
from hardsight.metrics import Metric
from hardsight.prediction import LayerCost, ModelPrediction, covered

if TYPE_CHECKING:
    import onnx

    from hardsight.budgets import Verdict
    from hardsight.graph import OperatorGraph
    from hardsight.measurement import Measurement
    from hardsight.predictors import Predictor
    from hardsight.predictors.adapt import AdaptReport
    from hardsight.progress import Progress

    Model = str | Path | bytes | onnx.ModelProto

HERE = f"{HOST}/onnxruntime/fp32-t1"
"""The device that 'this machine' means unless another mode is named."""

Shapes = Mapping[str, Sequence[int]]


def predict(
    model: Model, *, device: str, shapes: Shapes | None = None, level: float = 0.9, layers: bool = False
) -> ModelPrediction:
    """What a model costs on a device: ``predict("m.onnx", device=NAME)["latency_s"].upper``.

    Args:
        model: ONNX file, its bytes, or a loaded model; the weights are not needed.
        device: name, as ``hardsight devices`` lists them.
        shapes: input name to shape, for dynamic inputs.
        level: nominal coverage of the intervals.
        layers: also share the latency out over the operators.

    Raises:
        ModelError: the model cannot be read.
        UnknownNameError: no such device.
        NotCalibratedError: this machine, before ``hardsight adapt --here``.
        NotSupportedError: nothing covers the device.
    """
    return predict_many([model], device=device, shapes=shapes, level=level, layers=layers)[0]


def predict_many(
    models: Iterable[Model],
    *,
    device: str,
    shapes: Shapes | None = None,
    level: float = 0.9,
    layers: bool = False,
) -> list[ModelPrediction]:
    """`predict` for many models at once, in their order; the first that cannot be read raises."""
    from hardsight.ingest import read_onnx

    given = list(models)
    return _answer(given, [read_onnx(model, shapes=shapes) for model in given], device, level, layers)


def _answer(
    models: Sequence[Model], graphs: Sequence[OperatorGraph], device: str, level: float, layers: bool
) -> list[ModelPrediction]:
    from hardsight.predictors import load_predictor

    if not 0 < level < 1:
        raise InputError(f"level is {level}; expected a coverage between 0 and 1, for example 0.9")
    predictor = load_predictor(_named(device))
    if not graphs:
        return []
    table = predictor.predict(graphs, device, level)
    return [
        replace(
            table.row(i),
            model=_label(model, graph),
            digest=graph.digest,
            layers=_layers(predictor, graph, device) if layers else None,
        )
        for i, (model, graph) in enumerate(zip(models, graphs, strict=True))
    ]


def _layers(predictor: Predictor, graph: OperatorGraph, device: str) -> tuple[LayerCost, ...]:
    costs = predictor.layer_costs(graph, device)
    return tuple(
        LayerCost(op.name, op.op_type, float(cost), op.macs * op.repeats, op.bytes * op.repeats)
        for op, cost in zip(graph.operators, costs, strict=True)
    )


def _named(device: object) -> str:
    if not isinstance(device, str):
        raise InputError(f"device is {device!r}; give a name that 'hardsight devices' lists")
    return device


def _label(model: Model, graph: OperatorGraph) -> str:
    return str(model) if isinstance(model, str | Path) else graph.name


@dataclass(frozen=True)
class ModelMeasurement:
    """One model as measured on this machine.

    Args:
        model: what was measured, for messages.
        digest: the graph's identity.
        device: name of the device.
        measurements: one per metric.
        unavailable: metrics that cannot be measured here, with the reason.
        assumptions: what had to be assumed to read and run it.
        shapes: input name to shape, as run.
    """

    model: str
    digest: str
    device: str
    measurements: tuple[Measurement, ...]
    unavailable: Mapping[Metric, str]
    assumptions: tuple[str, ...] = ()
    shapes: Shapes = field(default_factory=dict)

    def __getitem__(self, metric: str) -> Measurement:
        return {m.metric: m for m in self.measurements}[
            covered(metric, [m.metric for m in self.measurements])
        ]

    @property
    def versions(self) -> Mapping[str, str]:
        """Runtime and hardware as found."""
        return self.measurements[0].versions if self.measurements else {}


def measure(
    model: str | Path | onnx.ModelProto,
    *,
    device: str = HERE,
    shapes: Shapes | None = None,
    metrics: Sequence[Metric] | None = None,
    budget_s: float = 10.0,
) -> ModelMeasurement:
    """Run a model on this machine and take its cost.

    Args:
        model: ONNX file or loaded model.
        device: a ``host/…`` device.
        shapes: input name to shape, for dynamic inputs.
        metrics: what to measure; None means everything that can be.
        budget_s: time for the repeats.

    Raises:
        ModelError: the model cannot be read.
        NotSupportedError: the device is not this machine.
        BackendError: the runtime failed.
    """
    from hardsight.datasets.profilers import get_profiler
    from hardsight.ingest import read_onnx

    target = get_device(_named(device))
    profiler = get_profiler(target)
    profiler.check()
    graph = read_onnx(model, shapes=shapes)
    source = Path(model) if isinstance(model, str) else model
    taken = profiler.measure(source, target, metrics, budget_s=budget_s, shapes=shapes)
    return ModelMeasurement(
        _label(model, graph),
        graph.digest,
        device,
        tuple(taken),
        profiler.unavailable(),
        graph.assumptions,
        {spec.name: spec.shape for spec in graph.inputs},
    )


class DeviceStatus(NamedTuple):
    """A device and what can be done with it.

    Args:
        device: its settings.
        origin: who knows it: the package, an adaptation, or this machine.
        can_predict: a predictor answers for it.
        can_measure: this machine is it, or it is simulated or synthesised.
    """

    device: Device
    origin: Literal["shipped", "adapted", "this machine"]
    can_predict: bool
    can_measure: bool


def devices(name: str | None = None) -> list[DeviceStatus]:
    """Every device there is, or the one of that name.

    Raises:
        UnknownNameError: listing the names there are.
    """
    if name is not None:
        return [_status(get_device(name))]
    known = {**shipped_devices(), **user_devices(), **host_devices()}
    return [_status(device) for device in known.values()]


def _status(device: Device) -> DeviceStatus:
    from hardsight.predictors import load_shipped_predictor

    adapted = (device_folder(device.name) / "predictor").exists()
    if device.hardware == HOST and device.name in host_devices():
        return DeviceStatus(device, "this machine", adapted, can_measure=True)
    covered = adapted or any(name == device.name for name, _ in load_shipped_predictor().targets)
    anywhere = device.provenance in ("simulated", "synthesised")  # what prices them is software
    return DeviceStatus(device, "adapted" if adapted else "shipped", covered, can_measure=anywhere)


def adapt(
    *,
    device: str = HERE,
    name: str | None = None,
    measurements: str | Path | None = None,
    samples: int = 14,
    measure_all: bool = False,
    trust_units: bool = False,
    progress: Progress | None = None,
) -> AdaptReport:
    """Make a predictor for a device from a handful of measurements.

    Args:
        device: what was measured, or is to be measured here; the results of a kit say it themselves.
        name: name of the new device; by default the device's own, and that of a kit. Lines that 'hardsight
            measure' printed need it.
        measurements: file of measurements taken elsewhere; None measures reference networks on this machine.
        samples: reference networks to measure at most (1 to 50).
        measure_all: go on when more would not help.
        trust_units: measured values sixty times or more off those of every known device are meant. Those measured
            here, or by a kit, always are.
        progress: called after each.

    Raises:
        InputError: a name is missing, malformed, or taken by the package.
        DataError: the measurements cannot be used.
        BackendError: this machine cannot be measured.
        StorageError: the result cannot be written.
    """
    from hardsight.datasets.store import load_shipped
    from hardsight.measurement import MeasurementTable
    from hardsight.predictors.adapt import adapt_here, adapt_to
    from hardsight.predictors.measured import is_kit, read_measured

    if name is not None:
        check_device_name(name)
    if measurements is None:
        if name is not None:
            check_same_mode(name, get_device(device).name)
        return adapt_here(device, samples, save_as=name, measure_all=measure_all, progress=progress)
    if name is None and not is_kit(Path(measurements)):
        raise InputError(
            "measurements taken elsewhere need a name for the device: --name NEW, for example --name "
            "my-phone/onnxruntime/fp32-t1"
        )
    shipped = load_shipped()
    measured = read_measured(Path(measurements), shipped.graphs, device)
    if measured.device is not None and name is None:
        check_device_name(measured.device.name)
    target = measured.device or get_device(device)
    if name is not None:
        check_same_mode(name, target.name)
    notes = [f"left out: {reason}" for reason in measured.failures.values()]
    table = MeasurementTable(measured.table.rows, measured.table.graphs, shipped.families)
    trusted = trust_units or measured.device is not None
    return adapt_to(table, target, name or target.name, notes=notes, trust_units=trusted)


def check_device_name(name: str) -> None:
    """Refuse a malformed name before a minute of measuring, not after it."""
    try:
        Device(name=name, kind="cpu")
    except ValidationError as error:
        raise InputError(
            f"'{name}' is not a device name; write hardware/runtime/mode in lower case, for example "
            "my-laptop/onnxruntime/fp32-t1"
        ) from error
    if name in shipped_devices():
        raise InputError(f"'{name}' is a device of the package; give the adapted one a name of its own")


def check_same_mode(name: str, measured: str) -> None:
    """Refuse to call what was measured by the name of another mode, or of another runtime."""
    _, runtime, mode = name.split("/")
    _, other_runtime, other = measured.split("/")
    if (runtime, mode) != (other_runtime, other):
        what = "mode" if mode != other else "runtime"
        raise InputError(
            f"{measured} was measured, and '{name}' names another {what}; give a name that ends in "
            f"/{other_runtime}/{other}"
        )


@dataclass(frozen=True)
class BudgetCheck:
    """A prediction held against budgets.

    Args:
        answer: the prediction.
        verdicts: one per budget.
    """

    answer: ModelPrediction
    verdicts: tuple[Verdict, ...]

    @property
    def kept(self) -> bool:
        """True when every budget holds at the upper end of its interval."""
        return all(verdict.kept for verdict in self.verdicts)


def check(
    model: Model,
    *,
    device: str,
    budgets: Mapping[str, float],
    shapes: Shapes | None = None,
    level: float = 0.9,
) -> BudgetCheck:
    """Hold a model against budgets, judged on the upper end of the interval.

    Args:
        model: as in `predict`.
        device: as in `predict`.
        budgets: quantity to limit in SI units: ``{"latency_s": 0.01, "size_bytes": 1e6}``.
        shapes: as in `predict`.
        level: nominal coverage of the intervals.

    Raises:
        InputError: no budget.
        NotSupportedError: a budget that cannot be judged.
    """
    from hardsight.budgets import judge
    from hardsight.ingest import read_onnx

    if not budgets:
        raise InputError("there is no budget to check; give at least one, for example --max latency=10ms")
    graph = read_onnx(model, shapes=shapes)
    (answer,) = _answer([model], [graph], device, level, layers=False)
    return BudgetCheck(answer, tuple(judge(budgets, answer, graph.weight_bytes, device)))


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Read ``["in=1,3,224,224"]`` into ``{"in": (1, 3, 224, 224)}``.

    Raises:
        InputError: a text that is no shape, a dimension below 1, or an input named twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, dims = text.rpartition("=")
        try:
            shape = tuple(int(d) for d in dims.split(",")) if dims.strip() else ()
        except ValueError:
            shape = (0,)
        if not equals or not name or any(d < 1 for d in shape):
            raise InputError(
                f"'{text}' is not a shape; write input=dimensions, for example --shape in=1,3,224,224"
            )
        if name in shapes:
            raise InputError(f"there are two shapes for input '{name}'; give one")
        shapes[name] = shape
    return shapes
