"""The job file of a search: what the user has and wants."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from hardsight.budgets import SIZE, parse_budget
from hardsight.errors import InputError, JobError
from hardsight.metrics import Metric
from hardsight.nas._text import did_you_mean, fault, faults
from hardsight.nas._yaml import read_yaml
from hardsight.nas.data import DataSpec
from hardsight.nas.data_torchvision import PREFIX
from hardsight.units import parse_quantity

ERROR = "error"
"""Objective: share of validation samples classified wrong."""

STAGES = "stages"
"""Space of a file that names none."""

SAMPLER_NAMES = ("nsga2", "nsga3", "tpe", "gp", "random", "screening")
COSTS = (*(str(m) for m in Metric if not m.larger_is_better), SIZE)


EFFORT = ("trials", "refine_trials", "timeout", "trial_timeout", "front_size", "measure_budget_s")
"""Keys that say how far a search goes, not what it finds: a resumed one may change them."""


def _seconds(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{value} is no time, for example 10min")
    return parse_quantity(value, "s") if isinstance(value, str) else value


Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0, allow_inf_nan=False),
    WithJsonSchema({"type": "time such as 10min, or seconds"}),
]
Count = Annotated[int, Field(strict=True, ge=1)]


class _Named(BaseModel):
    """Something of a table by name; every other key is an option of it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class SpaceSpec(_Named):
    """A search space."""

    name: str = "quant_cnn"


class EvaluatorSpec(_Named):
    """An accuracy evaluator."""

    name: str = "qat"


class Job(BaseModel):
    """A search, as ``JOB.yaml`` says it; an unknown key is refused.

    Args:
        data: a data set's name or path, or a `DataSpec`.
        space: a space's name, or a mapping with ``name`` and its options, or a YAML file that holds such a mapping.
        evaluator: of accuracies by name, or a mapping with ``name`` and its options.
        device: hardware, runtime and mode that the networks are searched for.
        objectives: ``error`` and at most two costs, all minimised.
        constraints: limit by cost, on the upper end of the predicted interval: ``latency_s: 2ms``,
            ``size_bytes: 200kB`` (of weights and other constants; the structure of the file comes on top).
        level: nominal coverage of that interval, a share.
        sampler: how Optuna chooses the next candidate; ``screening`` predicts the costs of many before each trial.
        trials: how many to finish, those without training (infeasible or seen before) included.
        refine_trials: how many more to finish with ``--refine``; by default a quarter of ``trials``.
        timeout: time for all trials, for example ``10min``; what is running then ends first.
        trial_timeout: time for one training; a longer one counts as a failed trial.
        epochs: of a trial's training.
        final_epochs: of the front's training; 0 keeps the networks as the search trained them.
        front_size: how many networks of the front to train finally, export and measure at most, spread along it.
        measure_budget_s: time to measure each of them.
        seed: of everything random.
        output: folder of the study; by default the job file's name without its ending, in the current folder.
        storage: another Optuna storage than the journal file in that folder, for workers on other machines:
            ``postgresql+psycopg://USER@HOST/DATABASE``, or ``grpc://HOST:PORT`` of Optuna's proxy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: DataSpec = DataSpec()
    space: SpaceSpec = SpaceSpec()
    evaluator: EvaluatorSpec = EvaluatorSpec()
    device: str = "host/onnxruntime/fp32-t1"
    objectives: tuple[str, ...] = Field(default=(ERROR, str(Metric.LATENCY)), min_length=1, max_length=3)
    constraints: dict[str, float] = Field(default_factory=dict)
    level: float = Field(default=0.9, gt=0, lt=1)
    sampler: Literal["nsga2", "nsga3", "tpe", "gp", "random", "screening"] = "screening"
    trials: Count = 40
    refine_trials: Count | None = None
    timeout: Duration | None = None
    trial_timeout: Duration | None = None
    epochs: Count = 12
    final_epochs: int = Field(default=30, strict=True, ge=0)
    front_size: Count = 8
    measure_budget_s: Duration = 5.0
    seed: int = Field(default=0, strict=True, ge=0, lt=2**31)
    output: str | None = None
    storage: str | None = None

    @field_validator("data", mode="before")
    @classmethod
    def _named_data(cls, value: object) -> object:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("space", "evaluator", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("objectives", mode="before")
    @classmethod
    def _one_objective(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("constraints", mode="before")
    @classmethod
    def _limits(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise ValueError("expected limits by cost, for example 'latency_s: 2ms'")
        limits: dict[str, float] = {}
        for name, limit in value.items():
            quantity, number = _limit(str(name), limit)
            if quantity in limits:
                raise ValueError(f"there are two limits for {quantity}; give one")
            if number <= 0:
                raise ValueError(f"the limit '{limit}' for {name} is not above zero")
            limits[quantity] = number
        return limits

    @model_validator(mode="after")
    def _known_objectives(self) -> Self:
        for name in self.objectives:
            if name not in (ERROR, *COSTS):
                raise ValueError(f"objective '{name}' is unknown.{did_you_mean(name, (ERROR, *COSTS))}")
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("an objective is named twice")
        if ERROR not in self.objectives:
            raise ValueError(
                f"'{ERROR}' must be among the objectives: the cheapest network is not worth a search"
            )
        return self

    def resolved(self) -> dict[str, Any]:
        """Plain values with every default filled in; `parse_job` of it gives the same job."""
        plain = self.model_dump(mode="json")
        for key in ("timeout", "trial_timeout"):
            if plain[key] is not None:
                plain[key] = f"{plain[key]:.12g}s"
        return plain

    def to_yaml(self) -> str:
        return str(yaml.safe_dump(self.resolved(), sort_keys=False))

    def public(self) -> Job:
        """The job without the password in its storage's URL, to be shown and logged."""
        if self.storage is None:
            return self
        return self.model_copy(update={"storage": re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", self.storage)})

    def difference(self, other: Job) -> list[str]:
        """One phrase per key whose value differs, folder and `EFFORT` apart: ``"epochs: 12 → 20"``."""
        mine, theirs = flat(self.resolved()), flat(other.resolved())
        keys = [key for key in dict.fromkeys([*mine, *theirs]) if key not in ("output", *EFFORT)]
        return [f"{k}: {mine.get(k)} → {theirs.get(k)}" for k in keys if mine.get(k) != theirs.get(k)]


def shared(job: Job) -> dict[str, Any]:
    """What a worker on another machine has to know: not where this one keeps things."""
    return job.model_copy(update={"output": None, "storage": None}).resolved()


def load_job(path: Path) -> Job:
    """Read a job file; relative paths of data and space in it are taken from the file's folder.

    Raises:
        JobError: naming every wrong key or value.
        StorageError: when the file cannot be read.
    """
    raw = read_yaml(path, "job")
    job = parse_job(raw, str(path))
    changes: dict[str, Any] = {}
    if job.data.source != "digits":
        key = "root" if job.data.source.startswith(PREFIX) else "source"
        found = (path.parent / Path(getattr(job.data, key)).expanduser()).resolve()
        changes["data"] = job.data.model_copy(update={key: str(found)})
    if job.space.name.endswith((".yaml", ".yml")):
        changes["space"] = _described(job.space, path.parent)
    if job.output is None:
        changes["output"] = path.stem
    return job.model_copy(update=changes)


def parse_job(raw: object, source: str = "job") -> Job:
    """Check what a job file holds.

    Args:
        raw: parsed YAML.
        source: for messages.

    Raises:
        JobError: naming every wrong key or value.
    """
    if not isinstance(raw, Mapping):
        raise JobError(
            f"{source} holds {'nothing' if raw is None else 'no keys'}; expected keys such as 'data' "
            "and 'device'"
        )
    try:
        return Job.model_validate(dict(raw))
    except ValidationError as error:
        raise JobError(
            f"{source} is not valid: {'; '.join(_fault(e) for e in faults(map(dict, error.errors())))}"
        ) from error


def _described(spec: SpaceSpec, folder: Path) -> SpaceSpec:
    """A space whose name is a file: what may stand in the job stands there, options of the job on top.

    Raises:
        JobError: a file that is missing or holds something else.
    """
    path = folder / Path(spec.name).expanduser()
    raw = read_yaml(path, "space")
    if not isinstance(raw, Mapping) or not isinstance(raw.get("name", STAGES), str):
        raise JobError(
            f"space file '{path}' holds no keys of a space; expected for example 'stages' (docs/job.md)"
        )
    return SpaceSpec.model_validate({"name": STAGES, **raw, **spec.options})


def _limit(name: str, limit: object) -> tuple[str, float]:
    if isinstance(limit, bool) or not isinstance(limit, str | int | float):
        raise ValueError(f"the limit '{limit}' for {name} is not a quantity, for example 2ms")
    if name in COSTS and _is_number(limit):  # the key itself names the SI unit
        return name, float(limit)
    try:
        return parse_budget(name, limit)
    except InputError as error:
        raise ValueError(str(error)) from error


def _is_number(limit: str | float) -> bool:
    try:
        return math.isfinite(float(limit))  # YAML 1.1 reads 2e-3 as text
    except ValueError:
        return False


def _fault(error: Mapping[str, Any]) -> str:
    return fault(error, DataSpec.model_fields if len(error["loc"]) > 1 else Job.model_fields)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined with dots: ``data.source``."""
    plain: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            plain |= flat(value, f"{prefix}{key}.")
        else:
            plain[f"{prefix}{key}"] = value
    return plain


if __name__ == "__main__":
    import sys

    from hardsight.nas.job_reference import reference

    sys.stdout.write(reference())
