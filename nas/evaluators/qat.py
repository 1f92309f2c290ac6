"""Accuracy by really training, with quantization in the loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from hardsight.candidate import Candidate
from hardsight.nas.data import ImageData, Part
from hardsight.nas.evaluators._base import AccuracyEvaluator, Evaluation, TrialFailure
from hardsight.nas.evaluators.module import NetworkModule, initializer_values
from hardsight.nas.spaces import NetworkSpace

if TYPE_CHECKING:
    import onnx

_CALIBRATION_STEPS = 20
_EVALUATION_BATCH = 512


class QatEvaluator(AccuracyEvaluator):
    """Quantization-aware training: float first, then with 8-bit weights and activations in the loop.

    AdamW under a one-cycle learning rate (Smith and Topin, "Super-convergence", 2018). The last
    ``quantized_share`` of the steps simulate the integer arithmetic; a candidate without int8 layers is
    trained in float throughout.

    Args:
        space: whose candidates are trained.
        data: with its split; only train and validation are used by `evaluate`.
        epochs: passes over the training part.
        batch: samples per step; by default 64, less of a small data set so that an epoch has 16 steps.
        learning_rate: peak of the cycle.
        weight_decay: of AdamW.
        label_smoothing: keeps logits, and so activation ranges, small.
        quantized_share: of the steps.
        time_limit_s: for one training; None is no limit.
        threads: of torch; one gives the same numbers on any number of cores.
        torch_device: where tensors live.
    """

    def __init__(
        self,
        space: NetworkSpace,
        data: ImageData,
        epochs: int = 12,
        *,
        batch: int | None = None,
        learning_rate: float = 1e-2,
        weight_decay: float = 1e-2,
        label_smoothing: float = 0.05,
        quantized_share: float = 0.3,
        time_limit_s: float | None = None,
        threads: int = 1,
        torch_device: str = "cpu",
    ) -> None:
        self.space = space
        self.data = data
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.quantized_share = quantized_share
        self.time_limit_s = time_limit_s
        self.threads = threads
        self.torch_device = torch_device

    def evaluate(self, candidate: Candidate, seed: int, epochs: int | None = None) -> Evaluation:
        epochs = epochs or self.epochs
        start = time.perf_counter()
        with _isolated(seed, self.threads):
            try:
                module = self._train(candidate, seed, epochs)
                logits, labels = self._logits(module, "validation"), self._part(module, "validation")[1]
            except (MemoryError, torch.OutOfMemoryError) as error:
                raise TrialFailure("out of memory") from error
            except RuntimeError as error:
                if "memory" not in str(error):
                    raise
                raise TrialFailure("out of memory") from error
        if not torch.isfinite(logits).all():
            raise TrialFailure("diverged")
        return Evaluation(
            candidate,
            float((logits.argmax(dim=1) == labels).double().mean()),
            seed,
            epochs,
            time.perf_counter() - start,
            {
                name: tensor.detach().cpu().contiguous().numpy()
                for name, tensor in module.state_dict().items()
            },
        )

    def to_onnx(self, evaluation: Evaluation) -> onnx.ModelProto:
        values = initializer_values(self._restored(evaluation))
        model = self.space.to_onnx(evaluation.candidate, values)
        facts = {
            "classes": ", ".join(self.data.classes),
            "input_offset": repr(self.data.offset),
            "input_scale": repr(self.data.scale),
            "input": "image = (raw - input_offset) / input_scale, resized to the input's shape",
            "data_sha256": self.data.digest,
            "validation_accuracy": repr(evaluation.accuracy),
        }
        for key, value in facts.items():
            model.metadata_props.add(key=key, value=value)
        return model

    def predict(self, evaluation: Evaluation, part: Part) -> npt.NDArray[Any]:
        with _isolated(evaluation.seed, self.threads):
            return self._logits(self._restored(evaluation), part).numpy()

    def _train(self, candidate: Candidate, seed: int, epochs: int) -> NetworkModule:
        network = self.space.network(candidate)
        n_train = len(self.data.parts["train"])
        n_batches = math.ceil(n_train / (self.batch or min(64, max(8, n_train // 16))))
        steps = epochs * n_batches
        float_steps = steps - max(1, round(steps * self.quantized_share)) if network.quantized else steps
        calibration = max(1, min(_CALIBRATION_STEPS, (steps - float_steps) // 3))
        module = NetworkModule(network, calibration).to(self.torch_device)
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # twice as fast on a CPU
        images, labels = self._part(module, "train")
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
        shuffle = torch.Generator().manual_seed(seed)
        deadline = time.perf_counter() + (self.time_limit_s or math.inf)
        module.train()
        step = 0
        for _ in range(epochs):
            for chosen in torch.randperm(len(images), generator=shuffle).tensor_split(n_batches):
                module.quantizing = step >= float_steps
                loss = functional.cross_entropy(
                    module(images[chosen]), labels[chosen], label_smoothing=self.label_smoothing
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
        return module

    def _restored(self, evaluation: Evaluation) -> NetworkModule:
        module = NetworkModule(self.space.network(evaluation.candidate))
        module.load_state_dict({name: torch.from_numpy(array) for name, array in evaluation.weights.items()})
        module.quantizing = True
        module.eval()
        return module

    def _part(self, module: NetworkModule, part: Part) -> tuple[Tensor, Tensor]:
        images, labels = self.data.part(part, module.network.input_shape[-1])
        tensor = torch.from_numpy(images).to(self.torch_device, memory_format=torch.channels_last)
        return tensor, torch.from_numpy(labels).to(self.torch_device)

    @torch.no_grad()
    def _logits(self, module: NetworkModule, part: Part) -> Tensor:
        images, _ = self._part(module, part)
        return torch.cat([module(chunk) for chunk in torch.split(images, _EVALUATION_BATCH)]).cpu()


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
