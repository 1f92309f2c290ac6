"""Whether what a converter made still computes what the ONNX file says.

Converters drop what they do not understand (pnnx lost the axes of a ReduceMean, and the layer after it
ran a hundred times): a model that was changed on the way has a latency, and it is a wrong label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hardsight.datasets.profilers._cpu import inputs
from hardsight.errors import BackendError

if TYPE_CHECKING:
    import onnx

_TOLERANCE = (
    0.02  # of the largest output; approximations of erf and exp stay below 0.002, mistakes are near 1
)


def fixed_inputs(model: onnx.ModelProto) -> tuple[dict[str, list[int]], dict[str, np.dtype[Any]]]:
    """Shape and type of every input, by name.

    Raises:
        BackendError: when a dimension is not a number.
    """
    from onnx import helper

    weights = {tensor.name for tensor in model.graph.initializer}
    shapes: dict[str, list[int]] = {}
    dtypes: dict[str, np.dtype[Any]] = {}
    for value in model.graph.input:
        if value.name not in weights:
            tensor = value.type.tensor_type
            shapes[value.name] = [dim.dim_value for dim in tensor.shape.dim]
            dtypes[value.name] = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            if not tensor.HasField("shape") or not all(shapes[value.name]):
                raise BackendError(f"input '{value.name}' has no fixed shape; bind its dimensions")
    return shapes, dtypes


def disagreement(path: str, model: onnx.ModelProto, found: Sequence[npt.NDArray[Any]]) -> str:
    """How outputs on the fixed inputs differ from ONNX Runtime's; empty when they do not.

    Args:
        path: of the ONNX file with weights.
        model: what it says, for the inputs.
        found: the converted model's outputs, in the file's order; sizes count, not axes of size one.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    expected = session.run(None, inputs(*fixed_inputs(model)))
    if len(found) != len(expected):
        return f"{len(found)} outputs, not {len(expected)}"
    for spec, ours, theirs in zip(session.get_outputs(), found, expected, strict=True):
        if ours.size != theirs.size:
            return f"output '{spec.name}' has {ours.size} elements, not {theirs.size}"
        error = np.abs(ours.ravel().astype(float) - theirs.ravel()).max(initial=0.0)
        if not error <= _TOLERANCE * np.abs(theirs).max(initial=0.0) + 1e-6:  # so written, NaN is refused too
            return f"output '{spec.name}' is off by {error:.2g}, of at most {np.abs(theirs).max():.2g}"
    return ""
