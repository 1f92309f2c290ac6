"""A float network as an FPGA design: QONNX quantizers with power-of-two scales, a weight width per layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from hardsight.datasets.builder import QONNX
from hardsight.datasets.fpga.quantizer import Quantizer as FixedPoint
from hardsight.datasets.fpga.quantizer import constants, is_quant
from hardsight.datasets.quantize import Feeds
from hardsight.nas.mixed_precision.quantizers import Choice, Quantizer, channel_axis
from hardsight.nas.mixed_precision.sensitivity import run

Array = npt.NDArray[np.float64]

_ACTIVATION_BITS: Final = 8
_VIEWS: Final = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "MaxPool", "Concat")
_MERGED_INTO: Final = ("Relu", "Add")  # what is quantized behind it instead


class QonnxQuantizer(Quantizer):
    """Weights of the chosen width per layer and output channel, activations of 8 bits, all scales powers of two.

    Scales are the least that hold the largest value seen (weights) or seen in calibration (activations). Biases have
    the step of the sums they are added to.

    Args:
        model: float, with weights.
        precisions: ``int8``, ``int7`` and so on.
        samples: inputs to calibrate with.
    """

    converts = False

    def __init__(self, model: onnx.ModelProto, precisions: Sequence[str], samples: Sequence[Feeds]) -> None:
        super().__init__(model, precisions)
        self._bits = [int(precision.removeprefix("int")) for precision in self.precisions]
        self._known = constants(self.model)
        self._scales = self._activations(samples)

    def quantized(self, choice: Choice) -> onnx.ModelProto:
        return lowered(self._qonnx(choice))

    def deployed(self, choice: Choice) -> onnx.ModelProto:
        """The QONNX file, of batch size 1."""
        model = self._qonnx(choice)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        return model

    def _activations(self, samples: Sequence[Feeds]) -> dict[str, tuple[float, bool]]:
        """Scale and sign of every tensor to quantize."""
        graph = self.model.graph
        readers: dict[str, list[str]] = {}
        for node in graph.node:
            for tensor in node.input:
                readers.setdefault(tensor, []).append(node.op_type)
        outputs = {value.name for value in graph.output}
        names = [
            node.output[0]
            for node in graph.node
            if node.op_type not in _VIEWS
            and node.output[0] not in outputs
            and not (len(of := readers.get(node.output[0], [])) == 1 and of[0] in _MERGED_INTO)
        ]
        probed = onnx.ModelProto()
        probed.CopyFrom(self.model)
        del probed.graph.output[:]
        probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        (entry,) = (value.name for value in graph.input if value.name not in self._known)
        seen = dict(zip(names, run(probed, samples), strict=True)) if names else {}
        seen[entry] = np.concatenate([np.asarray(feed[entry], np.float64) for feed in samples])
        found = {}
        for name, values in seen.items():
            signed = bool(values.min() < 0)
            levels = 2 ** (_ACTIVATION_BITS - signed) - 1
            found[name] = (float(power_of_two(np.abs(values).max() / levels)), signed)
        return found

    def _qonnx(self, choice: Choice) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.node[:], model.graph.value_info[:]
        writer = _Writer(model)
        renamed = {name: writer.quant(name, scale, _ACTIVATION_BITS, signed=signed)
                   for name, (scale, signed) in self._scales.items() if self._is_input(name)}  # fmt: skip
        steps = {name: scale for name, (scale, _) in self._scales.items()}
        bits = {name: self._bits[p] for name, p in zip(self.layers.names, choice, strict=True)}
        for given in self.model.graph.node:
            node = onnx.NodeProto()
            node.CopyFrom(given)
            if given.op_type in _VIEWS and given.input[0] in steps:
                steps[given.output[0]] = steps[given.input[0]]
            for slot, tensor in enumerate(given.input):
                node.input[slot] = renamed.get(tensor, tensor)
            if given.name in bits:
                self._weights(writer, node, given, bits[given.name], steps.get(given.input[0]))
            model.graph.node.append(node)
            name = given.output[0]
            if name in self._scales:
                scale, signed = self._scales[name]
                renamed[name] = writer.quant(name, scale, _ACTIVATION_BITS, signed=signed)
        return model

    def _is_input(self, name: str) -> bool:
        return any(value.name == name for value in self.model.graph.input)

    def _weights(
        self, writer: _Writer, node: onnx.NodeProto, given: onnx.NodeProto, bits: int, step: float | None
    ) -> None:
        weight = self._known.get(given.input[1])
        if weight is None:
            return
        axis = channel_axis(given) % weight.ndim
        others = tuple(d for d in range(weight.ndim) if d != axis)
        largest = np.abs(weight).max(axis=others, keepdims=True)
        scale = power_of_two(largest / (2 ** (bits - 1) - 1))
        node.input[1] = writer.quant(given.input[1], scale, bits, signed=True, narrow=True)
        bias = self._known.get(given.input[2]) if len(given.input) > 2 else None
        if bias is not None:
            largest_bias = float(np.abs(bias).max())
            fine = float(power_of_two(float(scale.min()) * step if step else largest_bias / 2**15))
            width = max(2, math.ceil(math.log2(largest_bias / fine + 1)) + 1)
            node.input[2] = writer.quant(given.input[2], fine, width, signed=True)


class _Writer:
    """Adds quantizers to a model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._known: dict[str, str] = {}
        model.opset_import.append(helper.make_opsetid(QONNX, 1))

    def quant(
        self, tensor: str, scale: float | Array, bits: int, *, signed: bool, narrow: bool = False
    ) -> str:
        """Name of a tensor's quantized twin; one quantizer for all readers."""
        if tensor in self._known:
            return self._known[tensor]
        out = f"{tensor}.quantized"
        numbers = []
        for what, value in (("scale", scale), ("zero_point", 0.0), ("bits", bits)):
            numbers.append(f"{out}.{what}")
            self._model.graph.initializer.append(
                numpy_helper.from_array(np.asarray(value, np.float32), numbers[-1])
            )
        self._model.graph.node.append(
            helper.make_node(
                "Quant", [tensor, *numbers], [out], f"{out}.quant", domain=QONNX,
                signed=int(signed), narrow=int(narrow), rounding_mode="ROUND",
            )
        )  # fmt: skip
        self._known[tensor] = out
        return out


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same numbers in standard operators: constants rounded, activations divided, floored and clipped."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = constants(model)
    del copy.graph.node[:], copy.opset_import[:]
    copy.opset_import.extend(o for o in model.opset_import if o.domain in ("", "ai.onnx"))
    used = {tensor for node in model.graph.node for tensor in node.input}
    taken = {node.input[0] for node in model.graph.node if is_quant(node)} & known.keys()
    kept = [t for t in copy.graph.initializer if t.name in used - taken]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)

    def constant(name: str, value: npt.ArrayLike) -> str:
        copy.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    for node in model.graph.node:
        if not is_quant(node):
            copy.graph.node.append(node)
            continue
        fixed, out = FixedPoint.read(node, known), node.output[0]
        if node.input[0] in known:
            constant(out, fixed(known[node.input[0]]))
            continue
        steps = (
            ("Div", constant(f"{out}.s", fixed.scale)),
            ("Add", constant(f"{out}.half", 0.5)),
            ("Floor",),
            ("Clip", constant(f"{out}.low", fixed.low), constant(f"{out}.high", fixed.high)),
            ("Mul", f"{out}.s"),
        )
        tensor = node.input[0]
        for k, (op_type, *operands) in enumerate(steps):
            result = out if k == len(steps) - 1 else f"{out}.{k}"
            copy.graph.node.append(
                helper.make_node(op_type, [tensor, *operands], [result], f"{out}.{op_type}")
            )
            tensor = result
    return copy


def power_of_two(least: npt.ArrayLike) -> Array:
    """The smallest powers of two that are not below ``least``; 2^-20 at least, which is all that hardware keeps."""
    return np.asarray(2.0 ** np.ceil(np.log2(np.maximum(least, 2.0**-20))), np.float64)
