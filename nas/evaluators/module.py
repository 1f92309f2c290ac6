"""Network → torch module with Brevitas quantizers, and the trained module → numbers of the ONNX file."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Brevitas uses what torch deprecates
    import brevitas.nn as qnn
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Uint8ActPerTensorFloat

from hardsight.nas.network import FLOAT_BITS, INPUT, Layer, Network

_INT32_SAFE = 2.0**30  # a bias stays below half of what int32 holds: the accumulator needs the other half
_LEAST_SCALE = 1e-12

Array = npt.NDArray[Any]


class NetworkModule(nn.Module):
    """Trains what `hardsight.nas.export.network_to_onnx` writes.

    Weights of int8 layers have 8 bits and one scale per output channel; activations have 8 bits and one
    learned scale per tensor, initialised from the largest values seen (Jacob et al., CVPR 2018, with
    Brevitas' straight-through estimators). Until ``quantizing`` is set, everything runs in float: most of
    the training is done at that speed.

    Args:
        network: what to build.
        calibration_steps: training batches that initialise the activation scales.

    Shapes:
        samples ``(n, *input_shape)`` → logits ``(n, classes)``.
    """

    def __init__(self, network: Network, calibration_steps: int = 20) -> None:
        super().__init__()
        self.network = network
        self.quantizing = False
        self.layers = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        self.quantizers = nn.ModuleDict()
        for layer in network.layers:
            if layer.has_weights:
                self.layers[layer.name] = _weighted(layer, network.channels[layer.inputs[0]])
            if layer.kind == "conv":
                self.norms[layer.name] = nn.BatchNorm2d(layer.channels)
        for name in network.quantized:
            scheme = Uint8ActPerTensorFloat if name in network.non_negative else Int8ActPerTensorFloat
            self.quantizers[name] = qnn.QuantIdentity(act_quant=scheme, collect_stats_steps=calibration_steps)

    def forward(self, samples: Tensor) -> Tensor:
        held = {INPUT: self._held(INPUT, samples)}
        for layer in self.network.layers:
            y = self._compute(layer, [held[name] for name in layer.inputs])
            held[layer.name] = self._held(layer.name, functional.relu(y) if layer.relu else y)
        return held[self.network.layers[-1].name]

    def _compute(self, layer: Layer, inputs: list[Tensor]) -> Tensor:
        if layer.kind == "add":
            return inputs[0] + inputs[1]
        if layer.kind == "pool":
            return inputs[0].mean(dim=(2, 3))
        operator: Any = self.layers[layer.name]
        x = inputs[0]
        if layer.weight_bits < FLOAT_BITS and self.quantizing:
            y = operator(x)
        elif layer.kind == "conv":
            padding = (layer.kernel - 1) // 2
            y = functional.conv2d(x, operator.weight, None, layer.stride, padding, 1, layer.groups)
        else:
            y = functional.linear(x, operator.weight, operator.bias)
        if layer.kind == "conv":
            y = self.norms[layer.name](y)
        assert isinstance(y, Tensor)
        return y

    def _held(self, name: str, tensor: Tensor) -> Tensor:
        if not self.quantizing or name not in self.quantizers:
            return tensor
        out = self.quantizers[name](tensor)
        assert isinstance(out, Tensor)
        return out


def _weighted(layer: Layer, in_channels: int) -> nn.Module:
    if layer.kind == "linear":
        if layer.weight_bits == FLOAT_BITS:
            return nn.Linear(in_channels, layer.channels)
        return _typed(
            qnn.QuantLinear(in_channels, layer.channels, bias=True, weight_quant=Int8WeightPerChannelFloat)
        )
    arguments: dict[str, Any] = {
        "kernel_size": layer.kernel,
        "stride": layer.stride,
        "padding": (layer.kernel - 1) // 2,
        "groups": layer.groups,
        "bias": False,
    }
    if layer.weight_bits == FLOAT_BITS:
        return nn.Conv2d(in_channels, layer.channels, **arguments)
    return _typed(
        qnn.QuantConv2d(in_channels, layer.channels, weight_quant=Int8WeightPerChannelFloat, **arguments)
    )


def _typed(module: Any) -> nn.Module:
    assert isinstance(module, nn.Module)
    return module


@torch.no_grad()
def initializer_values(module: NetworkModule) -> dict[str, Array]:
    """Data for every initializer of the ONNX file, from a module trained with ``quantizing`` set.

    Batch normalisation is folded exactly: it multiplies an output channel by ``f`` and shifts it, so the
    integer weights stay as they were trained (negated where ``f < 0``) and only their scale becomes ``|f|``
    times as large. What is rounded anew is the bias, to int32 in steps of input scale × weight scale.
    """
    module.eval()
    values: dict[str, Array] = {}
    scales: dict[str, float] = {}
    for name in module.network.quantized:
        quantizer: Any = module.quantizers[name]
        scales[name] = max(float(quantizer.act_quant.scale()), _LEAST_SCALE)
        values[f"{name}.scale"] = np.array(scales[name], np.float32)
        values[f"{name}.zero_point"] = np.array(0 if name in module.network.non_negative else 128, np.uint8)
    for layer in module.network.layers:
        if not layer.has_weights:
            continue
        operator: Any = module.layers[layer.name]
        factor, shift = _affine(module, layer)
        if layer.weight_bits == FLOAT_BITS:
            weight = operator.weight.double().numpy() * _per_channel(factor, operator.weight.ndim)
            values[f"{layer.name}.weight"] = weight.astype(np.float32)
            values[f"{layer.name}.bias"] = shift.astype(np.float32)
        else:
            values.update(_integers(layer.name, operator, factor, shift, scales[layer.inputs[0]]))
    return values


def _affine(module: NetworkModule, layer: Layer) -> tuple[Array, Array]:
    """What follows the product with the weights, per output channel: ``factor * y + shift``, in float64."""
    if layer.kind == "linear":
        linear: Any = module.layers[layer.name]
        bias = linear.bias.double().numpy()
        return np.ones_like(bias), bias
    norm: Any = module.norms[layer.name]
    gamma, beta, mean, var = (
        t.double().numpy() for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    factor = gamma / np.sqrt(var + norm.eps)
    return factor, beta - mean * factor


def _integers(name: str, operator: Any, factor: Array, shift: Array, input_scale: float) -> dict[str, Array]:
    quantized = operator.quant_weight()
    integers = quantized.int(float_datatype=False).numpy().astype(np.float64)
    trained = quantized.scale.double().numpy().reshape(-1)
    folded = trained * np.abs(factor)
    # a channel that normalisation all but switches off keeps a scale with which its bias fits into int32
    scale = np.maximum(folded, np.maximum(np.abs(shift) / (input_scale * _INT32_SAFE), _LEAST_SCALE))
    scale = scale.astype(np.float32).astype(np.float64)
    exact = np.isclose(scale, folded, rtol=1e-6)
    ratio = np.where(exact, 1.0, folded / scale) * np.sign(factor)
    bias_scale = (np.float32(input_scale) * scale.astype(np.float32)).astype(np.float32)
    return {
        f"{name}.weight": np.rint(integers * _per_channel(ratio, integers.ndim)).astype(np.int8),
        f"{name}.weight_scale": scale.astype(np.float32),
        f"{name}.weight_zero_point": np.zeros(len(scale), np.int8),
        f"{name}.bias": np.rint(shift / bias_scale.astype(np.float64)).astype(np.int32),
        f"{name}.bias_scale": bias_scale,
        f"{name}.bias_zero_point": np.zeros(len(scale), np.int32),
    }


def _per_channel(values: Array, ndim: int) -> Array:
    return values.reshape(-1, *[1] * (ndim - 1))
