"""Network → QONNX in fixed point: what becomes a circuit."""

from __future__ import annotations

import numpy as np
import onnx

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.weights import fill_weights
from hardsight.errors import InputError
from hardsight.nas.export import LOGITS, Values
from hardsight.nas.network import FLOAT_BITS, INPUT, Layer, Network

BIAS_BITS = 16
"""Of a constant in the circuit, whose unused bits cost nothing."""

_ACTIVATION_SCALE = 0.25  # placeholder


def network_to_qonnx(network: Network, values: Values | None = None) -> onnx.ModelProto:
    """Write the network as QONNX (Pappalardo et al., AccML 2022), every scale a power of two.

    Weights are symmetric, with one scale per output channel; a bias has the step of the sum it is added to. Both
    are Quant operators on constants. Activations round halves upwards, as da4ml's circuits do.

    Args:
        network: in fixed point, of convolutions and dense layers.
        values: data for every initializer, as `hardsight.nas.evaluators.fixed_point.fixed_point_values` gives it;
            without it the model has no weights and its scales are placeholders, which is enough to predict its cost.

    Returns:
        a model with input `INPUT` ``(1, *input_shape)`` and output `LOGITS` ``(1, classes)``.

    Raises:
        InputError: a layer that has no form in fixed point.
    """
    build = OnnxBuilder(network.name)
    tensors: dict[str, str] = {}

    def hold(name: str, tensor: str) -> None:
        if name in network.quantized:
            scale = build.constant(np.float32(_ACTIVATION_SCALE), f"{name}.scale")
            signed = name not in network.non_negative
            tensor = build.qonnx_quant(
                tensor, scale, network.quantized[name], signed=signed, rounding="HALF_UP"
            )
        tensors[name] = tensor

    hold(INPUT, build.input(INPUT, (1, *network.input_shape)))
    for layer in network.layers:
        y = _layer(build, network, layer, tensors[layer.inputs[0]])
        hold(layer.name, build.relu(y) if layer.relu else y)
    build.output(tensors[network.layers[-1].name])
    model = build.model()
    model.graph.node[-1].output[0] = model.graph.output[0].name = LOGITS
    return model if values is None else fill_weights(model, values=values)


def check_fixed_point(network: Network, layer: Layer) -> None:
    """Whether the layer can be written and trained in fixed point.

    Raises:
        InputError: when it is of another kind, or something of it is float.
    """
    held = network.quantized.get(layer.inputs[0], FLOAT_BITS)
    if not layer.has_weights or FLOAT_BITS in (layer.weight_bits, held):
        raise InputError(
            f"layer '{layer.name}' ({layer.kind}, weights of {layer.weight_bits} bits, input of {held}) has no form "
            "in fixed point; use conv and linear with 2 to 8 bits for both"
        )


def _layer(build: OnnxBuilder, network: Network, layer: Layer, x: str) -> str:
    check_fixed_point(network, layer)
    shape = network.weight_shape(layer)
    per_channel = (layer.channels, *[1] * (len(shape) - 1))
    weights = [
        _constant(build, f"{layer.name}.weight", shape, per_channel, layer.weight_bits),
        _constant(build, f"{layer.name}.bias", (layer.channels,), (layer.channels,), BIAS_BITS),
    ]
    if layer.kind == "linear":
        flat = x if len(build.shape(x)) == 2 else build.flatten(x)
        return build.node("Gemm", flat, *weights, name=layer.name, alpha=1.0, beta=1.0, transB=1)
    return build.node(
        "Conv", x, *weights, name=layer.name, kernel_shape=[layer.kernel] * 2, strides=[layer.stride] * 2,
        pads=[layer.padding] * 4, dilations=[1, 1], group=layer.groups,
    )  # fmt: skip


def _constant(
    build: OnnxBuilder, name: str, shape: tuple[int, ...], per_channel: tuple[int, ...], bits: int
) -> str:
    """A weight behind its quantizer, which leaves it as it is once it has been trained."""
    scale = build.constant(np.full(per_channel, 2.0 ** (1 - bits), np.float32), f"{name}_scale")
    return build.qonnx_quant(build.weight(name, shape), scale, bits, signed=True, narrow=True)
