"""Accuracy by really training, with quantization in the loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from hardsight.candidate import Candidate
from hardsight.errors import JobError
from hardsight.nas.data import LabelledData, Part
from hardsight.nas.evaluators._base import AccuracyEvaluator, Evaluation, TrialFailure
from hardsight.nas.evaluators.fixed_point import FixedPointModule, fixed_point_values
from hardsight.nas.evaluators.module import NetworkModule, initializer_values
from hardsight.nas.network import Network
from hardsight.nas.spaces import NetworkSpace, SearchSpace

if TYPE_CHECKING:
    import onnx

    from hardsight.nas.job import Job

_CALIBRATION_STEPS = 20
_EVALUATION_BATCH = 512


Trainable = NetworkModule | FixedPointModule
Module = TypeVar("Module", bound=NetworkModule | FixedPointModule)


def trainable(network: Network, calibration_steps: int = 20) -> Trainable:
    """The module that trains what is exported of the network."""
    kind = FixedPointModule if network.fixed_point else NetworkModule
    return kind(network, calibration_steps)


class Options(BaseModel):
    """What a job file may set.

    Args:
        batch: samples per step; by default 64, less of a small data set so that an epoch has 16 steps.
        learning_rate: peak of the cycle.
        weight_decay: of AdamW.
        label_smoothing: keeps logits, and so activation ranges, small.
        quantized_share: of the steps, the last ones, that simulate the quantized arithmetic; by default 0.3, of
            networks in fixed point, whose few bits take longer to learn, 0.8.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int | None = Field(default=None, strict=True, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    quantized_share: float | None = Field(default=None, gt=0, le=1)


class QatEvaluator(AccuracyEvaluator):
    """Quantization-aware training: float first, then with quantized weights and activations in the loop.

    AdamW under a one-cycle learning rate (Smith and Topin, "Super-convergence", 2018). The last
    ``quantized_share`` of the steps simulate the arithmetic of integers or of fixed-point numbers; a candidate
    without quantized layers is trained in float throughout.

    Args:
        space: whose candidates are trained.
        data: with its split; only train and validation are used by `evaluate`.
        epochs: passes over the training part.
        options: of the training.
        time_limit_s: for one training; None is no limit.
        threads: of torch; one gives the same numbers on any number of cores.
        torch_device: where tensors live.
    """

    options_type: ClassVar[type[Options]] = Options

    def __init__(
        self,
        space: NetworkSpace,
        data: LabelledData,
        epochs: int = 12,
        options: Options | None = None,
        *,
        time_limit_s: float | None = None,
        threads: int = 1,
        torch_device: str = "cpu",
    ) -> None:
        self.space = space
        self.data = data
        self.epochs = epochs
        self.options = options or self.options_type()
        self.time_limit_s = time_limit_s
        self.threads = threads
        self.torch_device = torch_device

    @classmethod
    def for_job(cls, space: SearchSpace, data: LabelledData, job: Job) -> Self:
        if not isinstance(space, NetworkSpace):
            raise JobError(f"candidates of space '{space.name}' cannot be trained; name another evaluator")
        return cls(space, data, job.epochs, cls.options_of(job), time_limit_s=job.trial_timeout)

    def evaluate(self, candidate: Candidate, seed: int, epochs: int | None = None) -> Evaluation:
        epochs = epochs or self.epochs
        start = time.perf_counter()
        with self._working(seed):
            module = self._module(candidate, epochs)
            self._cycle(module, epochs, torch.Generator().manual_seed(seed), self._deadline())
            return self._evaluation(candidate, module, seed, epochs, start)

    def to_onnx(self, evaluation: Evaluation) -> onnx.ModelProto:
        module = self._restored(evaluation)
        if isinstance(module, FixedPointModule):
            values = fixed_point_values(module)
        else:
            values = initializer_values(module)
        model = self.space.to_onnx(evaluation.candidate, values)
        resized = ", resized to the input's shape" if self.data.kind == "images" else ""
        facts = {
            "classes": ", ".join(self.data.classes),
            "input_offset": _numbers(self.data.offset),
            "input_scale": _numbers(self.data.scale),
            "input": "input = (raw - input_offset) / input_scale" + resized,
            "data_sha256": self.data.digest,
            "validation_accuracy": repr(evaluation.accuracy),
        }
        for key, value in facts.items():
            model.metadata_props.add(key=key, value=value)
        return model

    def predict(self, evaluation: Evaluation, part: Part) -> npt.NDArray[Any]:
        with _isolated(evaluation.seed, self.threads):
            return self._logits(self._restored(evaluation), part).numpy()

    @contextlib.contextmanager
    def _working(self, seed: int) -> Iterator[None]:
        """Seeded; what a candidate too large for the memory throws is this candidate's failure."""
        with _isolated(seed, self.threads):
            try:
                yield
            except (MemoryError, torch.OutOfMemoryError) as error:
                raise TrialFailure("out of memory") from error
            except RuntimeError as error:
                if "memory" not in str(error):
                    raise
                raise TrialFailure("out of memory") from error

    def _deadline(self) -> float:
        return time.perf_counter() + (self.time_limit_s or math.inf)

    def _n_batches(self) -> int:
        """Steps of an epoch."""
        n_train = len(self.data.parts["train"])
        return math.ceil(n_train / (self.options.batch or min(64, max(8, n_train // 16))))

    def _float_steps(self, network: Network, steps: int) -> int:
        """How many of the steps of a cycle do not simulate the quantized arithmetic."""
        share = self.options.quantized_share or (0.8 if network.fixed_point else 0.3)
        return steps - max(1, round(steps * share)) if network.quantized else steps

    def _module(self, candidate: Candidate, epochs: int) -> Trainable:
        """The network to be trained in a first cycle of so many epochs."""
        network = self.space.network(candidate)
        steps = epochs * self._n_batches()
        calibration = max(1, min(_CALIBRATION_STEPS, (steps - self._float_steps(network, steps)) // 3))
        return self._placed(trainable(network, calibration))

    def _placed(self, module: Module) -> Module:
        module.to(self.torch_device)
        if len(module.network.input_shape) == 3:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # twice as fast on a CPU
        return module

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        rate, decay = self.options.learning_rate, self.options.weight_decay
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)

    def _cycle(self, module: Trainable, epochs: int, shuffle: torch.Generator, deadline: float) -> None:
        """Train through one cycle of the learning rate; afterwards the module is ready to be judged.

        Raises:
            TrialFailure: when the loss is not finite or the deadline (of `time.perf_counter`) is passed.
        """
        for _ in self._epochs(module, epochs, shuffle, deadline):
            pass

    def _epochs(
        self, module: Trainable, epochs: int, shuffle: torch.Generator, deadline: float
    ) -> Iterator[int]:
        """`_cycle` with a pause after each epoch, for who wants to look at the module as it then is."""
        n_batches = self._n_batches()
        float_steps = self._float_steps(module.network, epochs * n_batches)
        samples, labels = self._part(module.network, "train")
        optimizer = self._optimizer(module.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.options.learning_rate, total_steps=epochs * n_batches
        )
        step = 0
        for epoch in range(epochs):
            module.train()
            for chosen in torch.randperm(len(samples), generator=shuffle).tensor_split(n_batches):
                module.quantizing = step >= float_steps
                loss = functional.cross_entropy(
                    module(samples[chosen]), labels[chosen], label_smoothing=self.options.label_smoothing
                )
                if not torch.isfinite(loss):
                    raise TrialFailure("diverged")
                if time.perf_counter() > deadline:
                    raise TrialFailure("out of time")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                step += 1
            module.eval()
            yield epoch + 1

    def _accuracy(self, module: Trainable) -> float:
        """Of a trained module on the validation part.

        Raises:
            TrialFailure: when the logits are not finite.
        """
        logits, labels = self._logits(module, "validation"), self._part(module.network, "validation")[1]
        if not torch.isfinite(logits).all():
            raise TrialFailure("diverged")
        return float((logits.argmax(dim=1) == labels.cpu()).double().mean())

    def _evaluation(
        self, candidate: Candidate, module: Trainable, seed: int, epochs: int, start: float
    ) -> Evaluation:
        """What to keep of a trained module; ``start`` is of `time.perf_counter`."""
        accuracy = self._accuracy(module)
        weights = {n: t.detach().cpu().contiguous().numpy() for n, t in module.state_dict().items()}
        return Evaluation(candidate, accuracy, seed, epochs, time.perf_counter() - start, weights)

    def _restored(self, evaluation: Evaluation) -> Trainable:
        module = trainable(self.space.network(evaluation.candidate))
        module.load_state_dict({name: torch.from_numpy(array) for name, array in evaluation.weights.items()})
        module.quantizing = True
        module.eval()
        return module

    def _part(self, network: Network, part: Part) -> tuple[Tensor, Tensor]:
        samples, labels = self.data.part(part, network.input_shape)
        layout = torch.channels_last if samples.ndim == 4 else torch.contiguous_format
        tensor = torch.from_numpy(samples).to(self.torch_device, memory_format=layout)
        return tensor, torch.from_numpy(labels).to(self.torch_device)

    @torch.no_grad()
    def _logits(self, module: Trainable, part: Part) -> Tensor:
        samples, _ = self._part(module.network, part)
        return torch.cat([module(chunk) for chunk in torch.split(samples, _EVALUATION_BATCH)]).cpu()


def _numbers(values: npt.NDArray[Any]) -> str:
    """One number, or one per channel or feature."""
    return repr(values.reshape(-1).tolist()) if values.size > 1 else repr(float(values.item()))


@contextlib.contextmanager
def _isolated(seed: int, threads: int) -> Iterator[None]:
    """Torch's global generator and thread count, set for a while and put back."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
