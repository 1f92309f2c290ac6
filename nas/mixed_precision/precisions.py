"""Which precisions a device leaves to choose, and what makes models of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx

from hardsight.datasets.quantize import Feeds
from hardsight.device import Device
from hardsight.errors import NotSupportedError
from hardsight.nas.mixed_precision.qonnx import QonnxQuantizer
from hardsight.nas.mixed_precision.quantizers import QdqQuantizer, Quantizer

_QDQ_RUNTIMES = ("onnxruntime", "openvino")
"""Runtimes that run a QDQ file as it is, quantized layers on integers and the others in float."""
_QONNX_RUNTIMES = ("da4ml", "nextpnr")
"""Flows that make a circuit of a QONNX file, each layer with weights of its own width."""


def precisions_of(device: Device) -> tuple[str, ...]:
    """Precisions that a layer can have there, the finest first.

    Raises:
        NotSupportedError: a device without a choice, saying why.
    """
    if device.runtime in _QDQ_RUNTIMES:
        if device.mode.startswith("fp32"):
            return ("fp32", "int8")
        other = re.sub(r"^[a-z0-9]+", "fp32", device.mode)
        raise NotSupportedError(
            f"'{device.name}' converts a float model whole, so there is no precision to choose; name the mode that "
            f"runs a file as it is: {device.hardware}/{device.runtime}/{other}"
        )
    if device.runtime in _QONNX_RUNTIMES:
        return tuple(sorted(device.precisions, key=lambda precision: -int(precision.removeprefix("int"))))
    only = device.precisions[0] if len(device.precisions) == 1 else device.mode.split("-")[0]
    raise NotSupportedError(
        f"'{device.name}' runs every layer in {only}, so there is no precision to choose per layer"
    )


def make_quantizer(model: onnx.ModelProto, device: Device, samples: Sequence[Feeds]) -> Quantizer:
    """What writes the files of a device.

    Args:
        model: float, with weights.
        device: with a choice of precisions.
        samples: inputs to calibrate with.

    Raises:
        NotSupportedError: a device without a choice.
        ModelError: a model without one.
    """
    precisions = precisions_of(device)
    if device.runtime in _QDQ_RUNTIMES:
        return QdqQuantizer(model, samples)
    return QonnxQuantizer(model, precisions, samples)
