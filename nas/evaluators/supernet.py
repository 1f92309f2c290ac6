"""Accuracy with weights inherited from one network that was trained for all candidates together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from hardsight.candidate import Candidate
from hardsight.errors import JobError
from hardsight.nas.data import LabelledData, Part
from hardsight.nas.evaluators import qat
from hardsight.nas.evaluators._base import Evaluation
from hardsight.nas.evaluators.module import NetworkModule
from hardsight.nas.evaluators.shared_weights import SharedWeights, largest
from hardsight.nas.network import Network
from hardsight.nas.spaces import SearchSpace
from hardsight.progress import Progress

if TYPE_CHECKING:
    from hardsight.nas.job import Job

FILE = "supernet.safetensors"
_LOOKED_AT = 50  # candidates that are held against the largest network before a search
_TIMES = 5


class Options(qat.Options):
    """What a job file may set, beside what `qat` has.

    Args:
        quantized_share: of the supernet's steps and of a further training's, the last ones, that simulate the
            quantized arithmetic.
        supernet_epochs: passes over the training part to train the supernet; by default five times the job's
            ``epochs``.
        networks: trained in each step: the largest, the smallest, and others at random.
        calibration: batches from which an inheriting network takes its statistics.
    """

    quantized_share: float = Field(default=0.15, gt=0, le=1)
    supernet_epochs: int | None = Field(default=None, strict=True, ge=1)
    networks: int = Field(default=4, strict=True, ge=2)
    calibration: int = Field(default=20, strict=True, ge=1)


class SupernetEvaluator(qat.QatEvaluator):
    """One network is trained once, candidates inherit its weights; only the front is trained further.

    The sandwich rule with in-place distillation (Yu and Huang, "Universally Slimmable Networks", ICCV 2019; Yu et
    al., "BigNAS", ECCV 2020): each step trains the largest network on the labels, the smallest and some at random
    on the largest's answers. In the last ``quantized_share`` of the steps those have the precisions of their
    candidates; weights are shared by all precisions. A candidate takes its slice of the weights, its statistics
    from some batches, and is judged as it then is.

    The supernet is trained when the first candidate is asked for, and kept in the folder that `begin` names.

    Args:
        space: with a largest network of which all others are parts.
        supernet_seed: of the shared weights.
        The rest is as of `QatEvaluator`. With ``epochs``, `evaluate` trains on from the inherited weights.
    """

    options_type: ClassVar[type[qat.Options]] = Options
    options: Options
    supernet_seed = 0
    _folder: Path | None = None
    _progress: Progress | None = None
    _trained: SharedWeights | None = None

    @cached_property
    def _parts(self) -> dict[tuple[Part, tuple[int, ...]], tuple[Tensor, Tensor]]:
        return {}

    @classmethod
    def for_job(cls, space: SearchSpace, data: LabelledData, job: Job) -> Self:
        if space.fixed_point:
            raise JobError(
                f"space '{space.name}' is for FPGAs, whose networks have no batch normalisation to recalibrate, so "
                "they cannot share weights here; name another evaluator"
            )
        evaluator = super().for_job(space, data, job)
        evaluator.supernet_seed = job.seed
        evaluator.check()
        return evaluator

    @property
    def supernet_epochs(self) -> int:
        return self.options.supernet_epochs or _TIMES * self.epochs

    def check(self) -> None:
        """Hold some candidates against the largest.

        Raises:
            JobError: when one is not a part of it.
        """
        with self._working(self.supernet_seed):
            shared = SharedWeights(self._largest())
            for network, _ in zip(self._random(0), range(_LOOKED_AT), strict=False):
                if reason := shared.misfit(network):
                    raise JobError(
                        f"space '{self.space.name}' has no network of which all others are parts, so they cannot "
                        f"share weights: {reason}; name another evaluator"
                    )

    def begin(self, folder: Path, progress: Progress | None = None) -> None:
        self._folder, self._progress = folder, progress

    def evaluate(self, candidate: Candidate, seed: int, epochs: int | None = None) -> Evaluation:
        if epochs:
            return super().evaluate(candidate, seed, epochs)
        start = time.perf_counter()
        shared = self._shared()
        with self._working(seed):
            module = NetworkModule(self.space.network(candidate), self.options.calibration)
            self._calibrate(shared.lend(self._placed(module)), seed)
            return self._evaluation(candidate, module, seed, 0, start)

    def _module(self, candidate: Candidate, epochs: int) -> NetworkModule:
        """Calibrated, since a short training does not bring the statistics of another network home."""
        made = super()._module(candidate, epochs)
        assert isinstance(made, NetworkModule)
        module = self._shared().lend(made)
        self._calibrate(module, self.supernet_seed)
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.momentum = nn.BatchNorm2d(1).momentum
        return module

    def _shared(self) -> SharedWeights:
        if self._trained is None:
            with self._working(self.supernet_seed):
                self._trained = self._train_shared()
        return self._trained

    def _part(self, network: Network, part: Part) -> tuple[Tensor, Tensor]:
        """Resized once: neighbouring steps train networks of different resolutions."""
        key = (part, network.input_shape)
        if key not in self._parts:
            self._parts[key] = super()._part(network, part)
        return self._parts[key]

    def _largest(self) -> Network:
        return self.space.network(largest(self.space))

    def _random(self, epoch: int) -> Iterator[Network]:
        """Candidates for an epoch; a resumed training draws the same."""
        import optuna

        from hardsight.nas.storage import quiet_optuna

        seed = (self.supernet_seed + 1_000_003 * epoch) % 2**31
        with quiet_optuna():
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        while True:
            yield self.space.network(self.space.suggest(study.ask()))

    def _smallest(self) -> list[Network]:
        return [self.space.network(self.space.at(a)) for a in self.space.anchors()[:1]]

    def _train_shared(self) -> SharedWeights:
        shared = SharedWeights(self._largest())
        shared.to(self.torch_device)
        optimizer = self._optimizer(shared.parameters())
        path = None if self._folder is None else self._folder / FILE
        done = shared.load(path, optimizer) if path is not None and path.exists() else 0
        for epoch in range(done, self.supernet_epochs):
            if self._progress:
                self._progress("supernet", epoch, self.supernet_epochs)
            self._epoch(shared, optimizer, epoch)
            if path is not None:
                shared.save(path, optimizer, epoch + 1)
        if self._progress and done < self.supernet_epochs:
            self._progress("supernet", self.supernet_epochs, self.supernet_epochs)
        return shared

    def _epoch(self, shared: SharedWeights, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        n_batches = self._n_batches()
        total = self.supernet_epochs * n_batches
        float_steps = total - max(1, round(total * self.options.quantized_share))
        shuffle = torch.Generator().manual_seed(self.supernet_seed + 1_000_003 * epoch)
        size = len(self.data.parts["train"])
        drawn, smallest = self._random(epoch), self._smallest()
        for i, chosen in enumerate(torch.randperm(size, generator=shuffle).tensor_split(n_batches)):
            step = epoch * n_batches + i
            for group in optimizer.param_groups:
                group["lr"] = self.options.learning_rate * _cycle(step / total)
            optimizer.zero_grad(set_to_none=True)
            teacher = self._step(shared, shared.network.floating(), chosen, None)
            students = [*smallest, *(next(drawn) for _ in range(self.options.networks - 1 - len(smallest)))]
            for network in students:
                student = network if step >= float_steps else network.floating()
                self._step(shared, student, chosen, teacher)
            nn.utils.clip_grad_norm_(shared.parameters(), self.options.networks)
            optimizer.step()

    def _step(
        self, shared: SharedWeights, network: Network, chosen: Tensor, teacher: Tensor | None
    ) -> Tensor:
        """Add one network's gradients; returns its logits ``(b, classes)``."""
        samples, labels = self._part(network, "train")
        module = shared.lend(self._placed(NetworkModule(network, self.options.calibration)))
        module.train()
        module.quantizing = bool(network.quantized)
        logits = module(samples[chosen])
        if teacher is None:
            smoothing = self.options.label_smoothing
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=smoothing)
        else:
            loss = functional.cross_entropy(logits, teacher.softmax(dim=1))
        if not torch.isfinite(loss):
            rate = self.options.learning_rate
            raise JobError(f"the supernet diverged; give 'evaluator' a 'learning_rate' below {rate:g}")
        loss.backward()  # type: ignore[no-untyped-call]
        shared.take_gradients(module)
        answer: Tensor = logits.detach()
        return answer

    @torch.no_grad()
    def _calibrate(self, module: NetworkModule, seed: int) -> None:
        """Statistics of batch normalisation and activation scales, from the network as it will be judged."""
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.reset_running_stats()
                part.momentum = None  # the mean of all batches
        samples, _ = self._part(module.network, "train")
        module.train()
        module.quantizing = bool(module.network.quantized)
        shuffle = torch.Generator().manual_seed(seed)
        batch = -(-len(samples) // self._n_batches())
        for _ in range(self.options.calibration + 1):  # the scales are set after the last
            module(samples[torch.randperm(len(samples), generator=shuffle)[:batch]])
        module.eval()


def _cycle(share: float) -> float:
    """Learning rate over its peak: up in the first tenth of the steps, down to zero by a cosine."""
    if share < 0.1:
        return 0.1 + 9 * share
    return 0.5 * (1 + float(torch.cos(torch.tensor((share - 0.1) / 0.9 * torch.pi))))
