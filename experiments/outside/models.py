"""Torchvision's classification networks as weightless ONNX, exported by torch at 224 x 224."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hardsight.errors import BackendError
from hardsight.nas.data_torchvision import torchvision_module

RESOLUTION = 224
_MAX_PARAMETERS = 480e6  # an ONNX file holds 2 GiB


def names() -> list[str]:
    """All classification networks that torchvision has.

    Raises:
        BackendError: torchvision is missing.
    """
    models = torchvision_module("models")
    return [str(name) for name in models.list_models(module=models)]


def export(name: str, folder: Path) -> Path:
    """Write ``NAME.onnx`` without weights, unless it is there.

    Raises:
        BackendError: the network is too large for an ONNX file, or cannot be exported.
    """
    path = folder / f"{name}.onnx"
    if path.exists():
        return path
    import onnx
    import torch

    from hardsight.datasets.weights import strip_weights

    folder.mkdir(parents=True, exist_ok=True)
    model = torchvision_module("models").get_model(name, weights=None, **_quiet(name)).eval()
    if sum(p.numel() for p in model.parameters()) > _MAX_PARAMETERS:
        raise BackendError("its weights do not fit into an ONNX file of 2 GiB")
    image = torch.zeros(1, 3, RESOLUTION, RESOLUTION)
    with TemporaryDirectory(dir=folder) as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        heavy = Path(scratch) / "model.onnx"
        try:
            torch.onnx.export(
                model, (image,), str(heavy), dynamo=False, opset_version=17, input_names=["image"]
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise BackendError(f"torch cannot export it: {str(error).splitlines()[0][:120]}") from error
        light = Path(scratch) / "light.onnx"
        light.write_bytes(strip_weights(onnx.load(heavy)).SerializeToString())
        light.replace(path)
    return path


def _quiet(name: str) -> dict[str, Any]:
    """Settings that spare minutes of drawing weights that nobody keeps."""
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
