"""Small networks, trained for real on scikit-learn's digits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from hardsight.candidate import Candidate, Json
from hardsight.nas.data import LabelledData
from hardsight.nas.evaluators.qat import QatEvaluator
from hardsight.nas.spaces import Task, get_space

if TYPE_CHECKING:
    import onnx

_SIDE = 16
_BATCH = 64
_CNN = (
    (1, 16, 3, 1, 1), (16, 16, 3, 16, 1), (16, 32, 1, 1, 1), (32, 32, 3, 1, 2),
    (32, 32, 3, 32, 1), (32, 64, 1, 1, 1), (64, 32, 3, 1, 1),
)  # fmt: skip
"""Convolutions: channels in and out, kernel, groups, stride."""


def _cnn() -> nn.Module:
    """Eight layers that differ in width, groups and reach, so that they differ in sensitivity."""
    layers: list[nn.Module] = []
    for c_in, c_out, kernel, groups, stride in _CNN:
        layers += [
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_CNN[-1][1], 10))


def _mlp() -> nn.Module:
    """Four layers that narrow."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(_SIDE * _SIDE, 128), nn.ReLU(),
        nn.Linear(128, 64), nn.ReLU(),
        nn.Linear(64, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip


def _trained(build: Callable[[], nn.Module], data: LabelledData, seed: int, epochs: int) -> onnx.ModelProto:
    import onnx

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
        images, labels = (torch.from_numpy(x) for x in data.part("train", (1, _SIDE, _SIDE)))
        steps = epochs * (len(images) // _BATCH)
        optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        for _ in range(epochs):
            order = torch.randperm(len(images))
            for k in range(len(images) // _BATCH):
                chosen = order[k * _BATCH : (k + 1) * _BATCH]
                loss = functional.cross_entropy(network(images[chosen]), labels[chosen])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    network.eval()
    with tempfile.TemporaryDirectory(prefix="hardsight-") as folder:
        path = Path(folder) / "network.onnx"
        _export(network, images[:1], path)
        return onnx.load(path)


def _export(network: nn.Module, image: torch.Tensor, path: Path) -> None:
    """With a free batch dimension, so that samples run together."""
    torch.onnx.export(
        network, (image,), path, input_names=["image"], output_names=["logits"], dynamo=False,
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )  # fmt: skip


def _bottlenecks(data: LabelledData, seed: int, epochs: int) -> onnx.ModelProto:
    """Inverted bottlenecks of the search space, all in fp32."""
    space = get_space("quant_cnn").for_task(
        Task(data.shape, len(data.classes), precisions=("fp32",)), precisions=["fp32"]
    )
    block: Json = {"kernel": 3, "expansion": 4, "precision": "fp32"}
    stages: Json = [{"width": width, "blocks": [block, block]} for width in (16, 24, 40)]
    candidate = Candidate(
        "quant_cnn",
        {
            "channels": 1, "classes": 10, "resolution": _SIDE, "stem_width": 16, "stem_precision": "fp32",
            "stages": stages, "head_precision": "fp32",
        },
    )  # fmt: skip
    evaluator = QatEvaluator(space, data)  # type: ignore[arg-type]
    return evaluator.to_onnx(evaluator.evaluate(candidate, seed, epochs))


def network(name: str, data: LabelledData, seed: int, epochs: int = 15) -> onnx.ModelProto:
    """Train one of `NAMES`.

    Args:
        name: which.
        data: with its split; the train part is used.
        seed: of weights and order.
        epochs: passes over it.
    """
    if name == "bottlenecks":
        return _bottlenecks(data, seed, epochs)
    return _trained({"cnn": _cnn, "mlp": _mlp}[name], data, seed, epochs)


NAMES = ("cnn", "mlp", "bottlenecks")
