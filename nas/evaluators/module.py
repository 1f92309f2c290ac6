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

from hardsight.nas.export import LAYER_NORM_EPSILON
from hardsight.nas.network import FLOAT_BITS, INPUT, Layer, Network

_INT32_SAFE = 2.0**30  # a bias stays below half of what int32 holds: the accumulator needs the other half
_LEAST_SCALE = 1e-12
_POSITION_DEVIATION = 0.02  # of position embeddings at the start (Dosovitskiy et al., ICLR 2021)

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
            read = network.tensors[layer.inputs[0]]
            if layer.has_weights:
                self.layers[layer.name] = _weighted(network, layer)
            elif layer.kind == "tokens":
                self.layers[layer.name] = _Positions(*network.tensors[layer.name].shape)
            elif layer.kind == "layer_norm":
                self.layers[layer.name] = nn.LayerNorm(read.channels, eps=LAYER_NORM_EPSILON)
            if layer.kind == "conv":
                norm = nn.BatchNorm2d if len(read.shape) == 3 else nn.BatchNorm1d
                self.norms[layer.name] = norm(layer.channels)
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
        x = inputs[0]
        match layer.kind:
            case "conv":
                y = self.norms[layer.name](self._weigh(layer, x))
                assert isinstance(y, Tensor)
                return y
            case "linear":
                tokens = self.network.tensors[layer.inputs[0]].tokens
                return self._weigh(layer, x if tokens else x.flatten(1))
            case "add":
                return inputs[0] + inputs[1]
            case "mul":
                return inputs[0] * inputs[1]
            case "pool" if self.network.tensors[layer.inputs[0]].tokens:
                return x.mean(dim=1)
            case "pool":
                return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
            case "hard_sigmoid":
                return functional.hardsigmoid(x)
            case "hard_swish":
                return functional.hardswish(x)
            case "gelu":
                return functional.gelu(x)
            case "attention":
                queries, keys, values = (
                    t.reshape(*t.shape[:2], layer.heads, -1).transpose(1, 2) for t in inputs
                )
                mixed = functional.scaled_dot_product_attention(queries, keys, values)
                return mixed.transpose(1, 2).flatten(2)
            case "tokens" | "layer_norm":
                y = self.layers[layer.name](x)
                assert isinstance(y, Tensor)
                return y

    def _weigh(self, layer: Layer, x: Tensor) -> Tensor:
        operator: Any = self.layers[layer.name]
        if layer.weight_bits < FLOAT_BITS and self.quantizing:
            y = operator(x)
        elif layer.kind == "conv":
            convolve = functional.conv2d if x.ndim == 4 else functional.conv1d
            y = convolve(x, operator.weight, None, layer.stride, layer.padding, 1, layer.groups)
        else:
            y = functional.linear(x, operator.weight, operator.bias)
        assert isinstance(y, Tensor)
        return y

    def _held(self, name: str, tensor: Tensor) -> Tensor:
        if not self.quantizing or name not in self.quantizers:
            return tensor
        out = self.quantizers[name](tensor)
        assert isinstance(out, Tensor)
        return out


class _Positions(nn.Module):
    """``(n, channels, *positions)`` → ``(n, tokens, channels)``, plus a learned embedding of the position."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, tokens, channels) * _POSITION_DEVIATION)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2) + self.positions


def _weighted(network: Network, layer: Layer) -> nn.Module:
    in_float = layer.weight_bits == FLOAT_BITS
    if layer.kind == "linear":
        features = network.weight_shape(layer)[1]
        if in_float:
            return nn.Linear(features, layer.channels)
        return _typed(
            qnn.QuantLinear(features, layer.channels, bias=True, weight_quant=Int8WeightPerChannelFloat)
        )
    read = network.tensors[layer.inputs[0]]
    arguments: dict[str, Any] = {
        "in_channels": read.channels,
        "out_channels": layer.channels,
        "kernel_size": layer.kernel,
        "stride": layer.stride,
        "padding": layer.padding,
        "groups": layer.groups,
        "bias": False,
    }
    flat = len(read.shape) == 2
    if in_float:
        return nn.Conv1d(**arguments) if flat else nn.Conv2d(**arguments)
    convolution = qnn.QuantConv1d if flat else qnn.QuantConv2d
    return _typed(convolution(weight_quant=Int8WeightPerChannelFloat, **arguments))


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
        if layer.name not in module.layers:
            continue
        operator: Any = module.layers[layer.name]
        if not layer.has_weights:
            for role, tensor in operator.named_parameters():
                values[f"{layer.name}.{role}"] = tensor.numpy()
            continue
        factor, shift = _affine(module, layer)
        if layer.weight_bits == FLOAT_BITS:
            weight = operator.weight.double().numpy() * _per_channel(factor, operator.weight.ndim)
            values[f"{layer.name}.weight"] = weight.astype(np.float32)
            values[f"{layer.name}.bias"] = shift.astype(np.float32)
        else:
            values.update(_integers(layer.name, operator, factor, shift, scales[layer.inputs[0]]))
        if module.network.tensors[layer.name].tokens:
            _for_matmul(values, layer.name, shift)
    return values


def _for_matmul(values: dict[str, Array], name: str, bias: Array) -> None:
    """A linear layer of tokens is a product from the right, whose bias is added in float."""
    values[f"{name}.weight"] = values[f"{name}.weight"].T
    for role in ("bias_scale", "bias_zero_point"):
        values.pop(f"{name}.{role}", None)
    values[f"{name}.bias"] = bias.astype(np.float32)


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
