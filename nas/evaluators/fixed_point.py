"""Network in fixed point → torch module with Brevitas quantizers; the trained module → numbers of the QONNX file."""

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
    from brevitas.function.ops_ste import floor_ste
    from brevitas.quant.fixed_point import (
        Int8ActPerTensorFixedPoint,
        Int8WeightPerChannelFixedPoint,
        Uint8ActPerTensorFixedPoint,
    )
    from brevitas.quant.scaled_int import Int16Bias

from hardsight.nas.export_qonnx import BIAS_BITS, check_fixed_point
from hardsight.nas.network import INPUT, Layer, Network

Array = npt.NDArray[Any]


class _RoundHalfUp(nn.Module):
    """To the nearest whole number, halves upwards: a circuit's rounding, where halves are frequent."""

    def __init__(self) -> None:  # Brevitas reads the arguments
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        rounded: Tensor = floor_ste(x + 0.5)
        return rounded


class _Signed(Int8ActPerTensorFixedPoint):  # type: ignore[misc]  # Brevitas has no types
    float_to_int_impl = _RoundHalfUp


class _Unsigned(Uint8ActPerTensorFixedPoint):  # type: ignore[misc]
    float_to_int_impl = _RoundHalfUp


class FixedPointModule(nn.Module):
    """Trains what `hardsight.nas.export_qonnx.network_to_qonnx` writes, to the last bit.

    All scales are powers of two: those of weights follow the largest weight of each output channel, those of
    activations are learned after a start from the values seen; a bias has 16 bits in steps of its sum. As long as
    sums fit into float32's 24 bits, torch computes exactly what the circuit does.

    Until ``quantizing`` is set, everything runs in float.

    Args:
        network: what to build.
        calibration_steps: training batches that initialise the activation scales.

    Shapes:
        samples ``(n, *input_shape)`` → logits ``(n, classes)``.

    Raises:
        InputError: a layer that has no form in fixed point.
    """

    def __init__(self, network: Network, calibration_steps: int = 20) -> None:
        super().__init__()
        self.network = network
        self.quantizing = False
        self.layers = nn.ModuleDict({layer.name: _weighted(layer, network) for layer in network.layers})
        self.quantizers = nn.ModuleDict()
        for name, bits in network.quantized.items():
            self.quantizers[name] = qnn.QuantIdentity(
                act_quant=_Unsigned if name in network.non_negative else _Signed,
                bit_width=bits,
                collect_stats_steps=calibration_steps,
                return_quant_tensor=True,  # a layer's bias needs to know the scale
            )

    def forward(self, samples: Tensor) -> Tensor:
        held: dict[str, Any] = {INPUT: self._held(INPUT, samples)}
        for layer in self.network.layers:
            y = self._compute(layer, held[layer.inputs[0]])
            held[layer.name] = self._held(layer.name, functional.relu(y) if layer.relu else y)
        out = held[self.network.layers[-1].name]
        assert isinstance(out, Tensor)
        return out

    def _compute(self, layer: Layer, x: Any) -> Tensor:
        operator: Any = self.layers[layer.name]
        if layer.kind == "linear":
            x = x.flatten(start_dim=1)
        if self.quantizing:
            y = operator(x)
        elif layer.kind == "linear":
            y = functional.linear(x, operator.weight, operator.bias)
        else:
            y = functional.conv2d(
                x, operator.weight, operator.bias, layer.stride, operator.padding, 1, layer.groups
            )
        assert isinstance(y, Tensor)
        return y

    def _held(self, name: str, tensor: Tensor) -> Any:
        if not self.quantizing or name not in self.quantizers:
            return tensor
        return self.quantizers[name](tensor)


@torch.no_grad()
def fixed_point_values(module: FixedPointModule) -> dict[str, Array]:
    """Data for every initializer of the QONNX file, from a module trained with ``quantizing`` set."""
    module.eval()
    values: dict[str, Array] = {}
    for name in module.network.quantized:
        quantizer: Any = module.quantizers[name]
        values[f"{name}.scale"] = _power_of_two(quantizer.act_quant.scale()).reshape(())
    for layer in module.network.layers:
        operator: Any = module.layers[layer.name]
        weight = operator.quant_weight()
        scale = _power_of_two(weight.scale)
        step = values[f"{layer.inputs[0]}.scale"] * scale.reshape(-1)
        high = 2 ** (BIAS_BITS - 1) - 1
        bias = np.clip(np.rint(operator.bias.double().numpy() / step), -high, high)
        values[f"{layer.name}.weight"] = weight.int(float_datatype=True).double().numpy() * scale
        values[f"{layer.name}.weight_scale"] = scale
        values[f"{layer.name}.bias"] = bias * step
        values[f"{layer.name}.bias_scale"] = step
    return {name: value.astype(np.float32) for name, value in values.items()}


def _weighted(layer: Layer, network: Network) -> nn.Module:
    check_fixed_point(network, layer)
    quantizers = {
        "weight_quant": Int8WeightPerChannelFixedPoint,
        "weight_bit_width": layer.weight_bits,
        "bias_quant": Int16Bias,
        "bias_narrow_range": True,
    }
    shape = network.weight_shape(layer)
    if layer.kind == "linear":
        module: Any = qnn.QuantLinear(shape[1], shape[0], bias=True, **quantizers)
    else:
        module = qnn.QuantConv2d(
            network.tensors[layer.inputs[0]].channels,
            layer.channels,
            layer.kernel,
            stride=layer.stride,
            padding=layer.padding,
            groups=layer.groups,
            bias=True,
            **quantizers,
        )
    assert isinstance(module, nn.Module)
    return module


def _power_of_two(scale: Tensor) -> Array:
    """In float64, where it is exact."""
    return np.asarray(np.exp2(np.rint(np.log2(scale.double().numpy()))))
