"""ONNX to PyTorch: a module whose ``forward`` is the plain code that an eager user would have written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx
import torch
from torch import fx

from hardsight.datasets._torch_emit import Emitter, Op, Value, shape_of, to_tensor, torch_dtype
from hardsight.datasets._torch_rules import RULES
from hardsight.errors import ModelError, NotSupportedError

_STANDARD = ("", "ai.onnx")


def to_torch(
    model: onnx.ModelProto,
    *,
    dtype: torch.dtype = torch.float32,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> fx.GraphModule:
    """The model as a module of torch's own functions, in evaluation mode, on the CPU.

    ``forward`` is generated Python (``module.code`` shows it): one call per operator, tensors freed after
    their last use, shapes and everything computed from constants folded. It traces, exports
    (``torch.export.export(…, strict=False)``) and compiles. Nothing is fused but what exporters took apart:
    MatMul with a constant and the Add of a bias are one ``F.linear``. Recurrent layers are torch's modules.

    Args:
        model: with its weights (see `hardsight.datasets.weights.fill_weights`).
        dtype: what single precision becomes: weights, inputs and casts.
        shapes: input name to shape, for dynamic inputs.

    Returns:
        a module that takes the graph's inputs in their order and returns the output, or a tuple of several.
        Weights are parameters without gradients, under the initializers' names with ``_`` for ``.`` and the like.

    Raises:
        ModelError: when a weight has no data, an input no fixed shape, or the outcome another shape than the
            file says.
        NotSupportedError: naming every operator, or the variant of one, that is not covered.

    Example:
        >>> module = to_torch(fill_weights(model))  # doctest: +SKIP
        >>> module(torch.randn(1, 3, 224, 224)).shape  # doctest: +SKIP
    """
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    graph = model.graph
    _check_operators(graph)
    emit = Emitter(dtype)
    values: dict[str, Value] = {
        tensor.name: emit.named(tensor.name, to_tensor(tensor)) for tensor in graph.initializer
    }
    for spec in graph.input:
        if spec.name not in values:
            shape = tuple(shapes[spec.name]) if shapes and spec.name in shapes else _fixed_shape(spec)
            values[spec.name] = emit.input(spec.name, shape, torch_dtype(spec.type.tensor_type.elem_type))
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    opset = next((o.version for o in model.opset_import if o.domain in _STANDARD), 1)
    for node in graph.node:
        op = Op(
            emit=emit,
            node=node,
            opset=opset,
            inputs=[values[name] if name else None for name in node.input],
            sole=[readers[name] == 1 for name in node.input],
        )
        results = _convert(op)
        values.update((name, value) for name, value in zip(node.output, results, strict=False) if name)
    if not shapes:
        for spec in graph.output:
            _check_shape(spec, values[spec.name])
    return emit.finish([values[spec.name] for spec in graph.output], graph.name or "model")


def _convert(op: Op) -> tuple[Value, ...]:
    try:
        result = RULES[op.node.op_type](op)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
        if isinstance(error, ModelError | NotSupportedError):
            raise
        raise ModelError(f"{op.title} cannot be converted to PyTorch: {error}") from error
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _check_operators(graph: onnx.GraphProto) -> None:
    unknown = Counter(
        f"{node.domain}.{node.op_type}" if node.domain not in _STANDARD else node.op_type
        for node in graph.node
        if node.domain not in _STANDARD or node.op_type not in RULES
    )
    if unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        raise NotSupportedError(
            f"'{graph.name}' has {sum(unknown.values())} operators that are not converted to PyTorch: {listed}"
        )


def _fixed_shape(spec: onnx.ValueInfoProto) -> tuple[int, ...]:
    tensor = spec.type.tensor_type
    if not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in tensor.shape.dim):
        raise ModelError(f"input '{spec.name}' has no fixed shape; give one in shapes")
    return tuple(d.dim_value for d in tensor.shape.dim)


def _check_shape(spec: onnx.ValueInfoProto, value: Value) -> None:
    """The file's word on an output's shape against what the conversion came to."""
    tensor = spec.type.tensor_type
    if not tensor.HasField("shape"):
        return
    found, said = shape_of(value), tensor.shape.dim
    if len(found) != len(said) or any(
        d.HasField("dim_value") and d.dim_value != n for d, n in zip(said, found, strict=True)
    ):
        declared = [d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in said]
        raise ModelError(f"output '{spec.name}' has shape {list(found)} in PyTorch; the file says {declared}")
