"""ONNX to TFLite, by way of PyTorch: the file that LiteRT runs and that Arm's NPU compiler reads."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from hardsight.errors import BackendError, ModelError

_IMAGE_OPERATORS = frozenset(
    {
        "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
        "BatchNormalization", "InstanceNormalization", "GroupNormalization", "Resize", "Upsample",
        "DepthToSpace", "SpaceToDepth", "PRelu",
    }
)  # fmt: skip
"""Operators that tell channels from height and width."""
_ANY_LAYOUT = frozenset(
    {
        "Relu", "Clip", "LeakyRelu", "Elu", "Selu", "Celu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Gelu",
        "Mish", "Softplus", "Softsign", "Erf", "Exp", "Log", "Sqrt", "Abs", "Neg", "Reciprocal", "Add", "Sub", "Mul",
        "Div", "Pow", "Max", "Min", "Sum", "Identity", "Cast", "Pad",
    }
)  # fmt: skip
"""Operators through which a tensor keeps its layout."""


def to_tflite(model: onnx.ModelProto, *, int8: bool) -> bytes:
    """Convert a model with LiteRT's own tools.

    The model becomes a PyTorch module (`hardsight.datasets.to_torch`), which litert-torch converts. Images go in
    and come out channels last, as TFLite's operators want them, so that no transposition is left at either end.

    Args:
        model: with its weights (see `hardsight.datasets.weights.fill_weights`), fixed input shapes, and in float.
        int8: quantize weights (one scale per channel), activations, inputs and outputs to 8 bits by
            ai-edge-quantizer's static recipe, with ranges seen on one random input: right for costs, not for
            accuracy.

    Returns:
        the file's bytes.

    Raises:
        ModelError: when the model cannot be said in PyTorch, or is quantized already.
        NotSupportedError: when it has an operator that PyTorch has no words for.
        BackendError: when a tool is missing or fails on the model.
    """
    from hardsight.datasets.to_torch import to_torch

    if any("Quant" in node.op_type or node.op_type.startswith("QLinear") for node in model.graph.node):
        raise ModelError(
            f"'{model.graph.name}' is quantized already; give the float model, which LiteRT quantizes its own way"
        )
    try:
        import litert_torch
        import torch
    except ImportError as error:
        raise BackendError(f"conversion to TFLite needs the package 'litert-torch': {error}") from error
    module = to_torch(model)
    _reduce_in_place(module)
    images, made = _images(model)
    arguments = tuple(
        argument.movedim(1, -1).contiguous() if i in images else argument
        for i, argument in enumerate(_arguments(model))
    )
    if images or made:
        module = litert_torch.to_channel_last_io(module, args=images, outputs=made).eval()
    with _quiet(), torch.no_grad(), _reasons(model, "litert-torch could not convert"):
        converted = bytes(litert_torch.convert(module, arguments).model_content())
    if not int8:
        return converted
    with _quiet(), _reasons(model, "ai-edge-quantizer could not quantize"):
        return _quantized(converted, [argument.numpy() for argument in arguments])


def _arguments(model: onnx.ModelProto) -> list[Any]:
    """One random input for every argument of the module; integers are zeros and ones, valid as ids and masks."""
    import torch

    from hardsight.datasets.quantize import random_feeds

    return [torch.from_numpy(feed) for feed in random_feeds(model).values()]


def _reduce_in_place(module: Any) -> None:
    """Have means keep their dimensions and lose them afterwards.

    litert-torch moves a reduction to channels last only if it keeps four dimensions, and Vela leaves a mean over
    the last two of four to the CPU.
    """
    import torch

    for node in list(module.graph.nodes):
        if node.target in (torch.mean, torch.amax) and len(node.args) == 3 and node.args[2] is False:
            value, axes, _ = node.args
            node.args = (value, axes, True)
            with module.graph.inserting_after(node):
                squeezed = module.graph.call_function(torch.squeeze, (node, tuple(axes)))
            node.replace_all_uses_with(squeezed, delete_user_cb=lambda user, new=squeezed: user is not new)
    module.recompile()


def _images(model: onnx.ModelProto) -> tuple[list[int], list[int]]:
    """Which inputs, and which outputs, are images: four dimensions, channels second."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    readers: dict[str, list[onnx.NodeProto]] = {}
    producers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
        for name in node.output:
            producers[name] = [node]
    return (
        [i for i, v in enumerate(inputs) if _four(v) and _leads_to_image(v.name, readers, "output")],
        [i for i, v in enumerate(graph.output) if _four(v) and _leads_to_image(v.name, producers, "input")],
    )


def _four(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return len(tensor.shape.dim) == 4 and tensor.elem_type == onnx.TensorProto.FLOAT


def _leads_to_image(start: str, neighbours: dict[str, list[onnx.NodeProto]], side: str) -> bool:
    """Whether an operator on images is next, or behind others that any layout suits."""
    seen, left = {start}, [start]
    while left:
        for node in neighbours.get(left.pop(), ()):
            if node.op_type in _IMAGE_OPERATORS:
                return True
            if node.op_type in _ANY_LAYOUT:
                left += [name for name in getattr(node, side) if name not in seen]
                seen.update(left)
    return False


def _quantized(model: bytes, sample: list[np.ndarray[Any, Any]]) -> bytes:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    signatures = Interpreter(model_content=model).get_signature_list()
    ((name, signature),) = signatures.items()
    feeds = dict(zip(signature["inputs"], sample, strict=True))
    tool = quantizer.Quantizer(model, recipe.static_wi8_ai8())
    ranges = tool.calibrate({name: [feeds]})
    return bytes(tool.quantize(ranges).quantized_model)


@contextlib.contextmanager
def _reasons(model: onnx.ModelProto, failed: str) -> Iterator[None]:
    """Whatever a tool throws becomes the reason."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or "no reason given"
        raise BackendError(f"{failed} '{model.graph.name}': {type(error).__name__}: {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tools' progress off the user's screen."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
