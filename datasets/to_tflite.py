"""ONNX to TFLite, by way of PyTorch: the file that LiteRT runs and that Arm's NPU compiler reads."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from hardsight.errors import BackendError, ModelError

if TYPE_CHECKING:
    import torch

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
_LEFT_IN_FLOAT = frozenset({"LEAKY_RELU", "ELU", "EXP", "LOG", "ABS", "RELU6", "RELU_0_TO_1"})
"""Operators with integer kernels in LiteRT, for any scales, that ai-edge-quantizer does not know."""


def to_tflite(
    model: onnx.ModelProto,
    *,
    int8: bool,
    samples: Sequence[Mapping[str, npt.NDArray[Any]]] | None = None,
) -> bytes:
    """Convert a model with LiteRT's own tools.

    The model becomes a PyTorch module (`hardsight.datasets.to_torch`), which litert-torch converts. Images go in
    and come out channels last, as TFLite's operators want them, so that no transposition is left at either end.

    Args:
        model: with its weights (see `hardsight.datasets.weights.fill_weights`), fixed input shapes, and in float.
        int8: quantize weights (one scale per channel), activations, inputs and outputs to 8 bits by
            ai-edge-quantizer's static recipe.
        samples: inputs to find their ranges with, one mapping from input name to array each. Without them one
            random input is drawn: right for costs, not for accuracy.

    Returns:
        the file's bytes.

    Raises:
        ModelError: when the model cannot be said in PyTorch, or is quantized already.
        NotSupportedError: when it has an operator that PyTorch has no words for.
        BackendError: when a tool is missing or fails on the model.
    """
    if any("Quant" in node.op_type or node.op_type.startswith("QLinear") for node in model.graph.node):
        raise ModelError(
            f"'{model.graph.name}' is quantized already; give the float model, which LiteRT quantizes its own way"
        )
    try:
        import litert_torch
        import torch
        from ai_edge_quantizer import quantizer  # noqa: F401
    except ImportError as error:
        raise BackendError(
            f"conversion to TFLite needs litert-torch and ai-edge-quantizer: {error}"
        ) from error
    from hardsight.datasets._tflite_words import reword
    from hardsight.datasets.quantize import random_feeds
    from hardsight.datasets.to_torch import to_torch

    drawn = random_feeds(model)
    feeds = [torch.from_numpy(feed) for feed in drawn.values()]
    plain = to_torch(model)
    disguised = reword(plain, feeds)
    module: torch.nn.Module = plain
    images, made = _images(model)

    def as_file(feed: list[torch.Tensor]) -> list[torch.Tensor]:
        return [f.movedim(1, -1).contiguous() if i in images else f for i, f in enumerate(feed)]

    if images or made:
        feeds = as_file(feeds)
        module = litert_torch.to_channel_last_io(module, args=images, outputs=made).eval()
    with _quiet(), torch.no_grad(), _reasons(model, "litert-torch could not convert"):
        converted = bytes(litert_torch.convert(module, tuple(feeds)).model_content())
    if disguised:
        converted = _unmask(converted)
    if not int8:
        return converted
    with _quiet(), _reasons(model, "ai-edge-quantizer could not quantize"):
        seen = [[f.numpy() for f in feeds]]
        if samples:
            given = ([torch.from_numpy(sample[name]) for name in drawn] for sample in samples)
            seen = [[f.numpy() for f in as_file(feed)] for feed in given]
        return _fold(_quantized(converted, seen))


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


def _quantized(model: bytes, samples: Sequence[Sequence[npt.NDArray[Any]]]) -> bytes:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    reader = Interpreter(model_content=model)
    ((name, signature),) = reader.get_signature_list().items()
    inputs = reader.get_signature_runner(name).get_input_details()
    feeds = [
        {
            key: feed.astype(inputs[key]["dtype"])
            for key, feed in zip(signature["inputs"], sample, strict=True)
        }
        for sample in samples
    ]
    tool = quantizer.Quantizer(model, recipe.static_wi8_ai8())
    ranges = tool.calibrate({name: feeds})
    return bytes(tool.quantize(ranges).quantized_model)


def _unmask(model: bytes) -> bytes:
    """Cosines back to the ELUs that they stood for."""
    from ai_edge_litert import schema_py_generated as schema

    root, names = _read(model)
    for code, name in zip(root.operatorCodes, names, strict=True):
        if name == "COS":
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ELU
    return _write(root)


def _fold(model: bytes) -> bytes:
    """Take away dequantizations around operators that could have stayed in integers.

    int8 → Dequantize → LeakyRelu → Quantize → int8 becomes int8 → LeakyRelu → int8, with the scales there are.
    """
    root, names = _read(model)
    (graph,) = root.subgraphs
    producers = {tensor: op for op in graph.operators for tensor in op.outputs}
    readers: dict[int, list[Any]] = {tensor: [None] for tensor in graph.outputs}
    for op in graph.operators:
        for tensor in op.inputs:
            readers.setdefault(tensor, []).append(op)
    gone: set[int] = set()
    for op in graph.operators:
        if names[op.opcodeIndex] not in _LEFT_IN_FLOAT:
            continue
        before, after = producers.get(op.inputs[0]), readers[op.outputs[0]]
        if (
            before is not None
            and names[before.opcodeIndex] == "DEQUANTIZE"
            and len(after) == 1
            and after[0] is not None
            and names[after[0].opcodeIndex] == "QUANTIZE"
        ):
            readers[op.inputs[0]].remove(op)
            gone |= {id(after[0])} if readers[op.inputs[0]] else {id(after[0]), id(before)}
            op.inputs, op.outputs = [before.inputs[0], *op.inputs[1:]], after[0].outputs
    if not gone:
        return model
    graph.operators = [op for op in graph.operators if id(op) not in gone]
    return _write(root)


def _read(model: bytes) -> tuple[Any, list[str]]:
    """The file as objects, and the name of each of its operator codes."""
    from ai_edge_litert import schema_py_generated as schema

    root = schema.ModelT.InitFromPackedBuf(model, 0)
    for buffer in root.buffers:
        if (
            buffer.offset > 1
        ):  # large files keep data behind the tables, where writing them anew would lose it
            buffer.data = np.frombuffer(model, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    return root, [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in root.operatorCodes]


def _write(root: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder()
    builder.Finish(root.Pack(builder), b"TFL3")
    return bytes(builder.Output())


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
