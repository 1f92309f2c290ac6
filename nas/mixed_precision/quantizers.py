"""A model with a precision per layer: what a device runs, made from a float model."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from hardsight.datasets.layers import Layers, find_layers, name_nodes
from hardsight.datasets.quantize import Feeds, prepare, quantize_static
from hardsight.errors import ModelError

Choice = tuple[int, ...]
"""Index of each layer's precision."""


class Quantizer(ABC):
    """Makes the quantized model of a choice.

    Args:
        model: float, with weights.
        precisions: to choose from, the finest first; the first one is what others are held against.

    Raises:
        ModelError: the model is quantized already, or has no layer to choose a precision for.
    """

    converts: ClassVar[bool]
    """Whether the first precision is float, so that tensors are converted where it meets another."""

    def __init__(self, model: onnx.ModelProto, precisions: Sequence[str]) -> None:
        refuse_quantized(model)
        self.precisions = tuple(precisions)
        self.model = name_nodes(prepare(model))
        self.layers: Layers = find_layers(self.model)
        if not len(self.layers):
            raise ModelError(
                f"'{model.graph.name}' has no convolution and no matrix product, so there is no precision to choose; "
                "measure it in float"
            )

    @property
    def finest(self) -> Choice:
        """Every layer in the first precision."""
        return (0,) * len(self.layers)

    def alone(self, layer: int, precision: int) -> Choice:
        """One layer in a precision, the others in the first."""
        return (*self.finest[:layer], precision, *self.finest[layer + 1 :])

    @abstractmethod
    def quantized(self, choice: Choice) -> onnx.ModelProto:
        """A model for ONNX Runtime that computes what the device computes."""

    def deployed(self, choice: Choice) -> onnx.ModelProto:
        """The model as the device's runtime takes it."""
        return self.quantized(choice)


class QdqQuantizer(Quantizer):
    """fp32 or int8 per layer, as QDQ by ONNX Runtime's static quantization.

    An operator between layers is int8 where every layer that feeds it is.

    Args:
        model: float, with weights.
        samples: inputs to calibrate with.
    """

    converts = True

    def __init__(self, model: onnx.ModelProto, samples: Sequence[Feeds]) -> None:
        super().__init__(model, ("fp32", "int8"))
        self._samples = samples
        self._folder = tempfile.TemporaryDirectory(prefix="hardsight-")

    def quantized(self, choice: Choice) -> onnx.ModelProto:
        chosen = frozenset(i for i, precision in enumerate(choice) if precision)
        if not chosen:
            return self.model
        return quantize_static(
            self.model,
            samples=self._samples,
            nodes=self.layers.nodes(chosen),
            ranges=Path(self._folder.name) / "ranges.json",
        )


class WeightQuantizer(Quantizer):
    """Weights of 2 to 8 bits per layer, rounded in place: the arithmetic stays float, so it shows accuracy, not cost.

    Symmetric, with a scale per output channel that the channel's largest weight sets; activations and biases keep
    their precision.

    Args:
        model: float, with weights.
        bits: to choose from, the most first.
    """

    converts = False

    def __init__(self, model: onnx.ModelProto, bits: Sequence[int] = (8, 7, 6, 5, 4, 3, 2)) -> None:
        super().__init__(model, [f"int{b}" for b in bits])
        self._bits = tuple(bits)

    def quantized(self, choice: Choice) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
        nodes = {node.name: node for node in copy.graph.node}
        for name, precision in zip(self.layers.names, choice, strict=True):
            node = nodes[name]
            for slot in range(2):
                tensor = tensors.get(node.input[slot])
                if tensor is not None:
                    weight = numpy_helper.to_array(tensor)
                    rounded = round_weight(weight, self._bits[precision], channel_axis(node))
                    tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
        return copy


def round_weight(weight: npt.NDArray[np.floating], bits: int, axis: int) -> npt.NDArray[np.floating]:
    """Each channel to ``2^bits - 1`` values, symmetric around zero, the outermost at its largest weight."""
    axis %= weight.ndim
    others = tuple(d for d in range(weight.ndim) if d != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    step = np.maximum(largest / (2 ** (bits - 1) - 1), np.finfo(np.float32).tiny)
    return np.asarray(np.rint(weight / step) * step, weight.dtype)


def channel_axis(node: onnx.NodeProto) -> int:
    """The dimension of a layer's weight that counts its outputs."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else -1


def refuse_quantized(model: onnx.ModelProto) -> None:
    """Refuse a model with quantizers in it.

    Raises:
        ModelError: saying how many.
    """
    found = [
        node.op_type
        for node in model.graph.node
        if "Quant" in node.op_type or node.op_type.startswith("QLinear")
    ]
    if found:
        raise ModelError(
            f"'{model.graph.name}' is quantized already ({len(found)} quantizers, such as {found[0]}); "
            "give the float model that it was made from"
        )
