"""INT8 twins of a float model, whole or in part, by ONNX Runtime's own static quantization."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from hardsight.datasets.layers import find_layers, name_nodes
from hardsight.errors import BackendError, ModelError

_WARNING, _FATAL = 2, 4  # ONNX Runtime's severities; the first is its default, which cannot be asked for

Feeds = Mapping[str, npt.NDArray[Any]]


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants and batch normalisations, infer shapes: what `quantize_static` does first.

    Args:
        model: with its weights.

    Returns:
        a new float model, marked as prepared; one that is marked already is returned as it is.

    Raises:
        BackendError: when ONNX Runtime's quantization is not installed or fails on it.
    """
    if _is_prepared(model):
        return model
    with _reported(model.graph.name), tempfile.TemporaryDirectory(prefix="hardsight-") as folder:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        given, prepared = (Path(folder, f"{step}.onnx") for step in ("given", "prepared"))
        onnx.save(model, given)  # handed over in memory, the model's weights would be moved out of it
        # symbolic inference asserts on some transformers
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        result = onnx.load(prepared)
    result.graph.name = model.graph.name
    return result


def quantize_static(
    model: onnx.ModelProto,
    *,
    samples: Sequence[Feeds] | None = None,
    seed: int = 0,
    nodes: Sequence[str] | None = None,
    ranges: Path | None = None,
) -> onnx.ModelProto:
    """Insert QuantizeLinear and DequantizeLinear around everything ONNX Runtime can run on integers.

    Activations become uint8, weights int8 with a scale per output channel, ranges are the minimum and maximum
    seen in calibration (Jacob et al., "Quantization and training of neural networks", CVPR 2018).

    Args:
        model: with its weights (see `hardsight.datasets.weights.fill_weights`) and fixed input shapes.
        samples: inputs to calibrate with, one mapping from input name to array each. Without them one random
            input is drawn: right for costs, not for accuracy.
        seed: of that random input.
        nodes: names of the operators to quantize, as `prepare` leaves them; None means all.
        ranges: file that keeps what calibration found, written when it is missing; one model's many
            quantizations then calibrate once.

    Returns:
        a new model in QDQ form.

    Raises:
        ModelError: when the model cannot be run or holds nothing to quantize.
        BackendError: when ONNX Runtime's quantization is not installed or fails on it.
    """
    feeds = list(samples) if samples else [random_feeds(model, seed)]
    name = model.graph.name
    ready = prepare(model)
    with _reported(name), tempfile.TemporaryDirectory(prefix="hardsight-") as folder:
        from onnxruntime import quantization

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self._left = iter(feeds)

            def get_next(self) -> Feeds | None:
                return next(self._left, None)

        prepared, quantized = (Path(folder, f"{step}.onnx") for step in ("prepared", "quantized"))
        onnx.save(ready, prepared)
        quantization.quantize_static(
            prepared,
            quantized,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            nodes_to_quantize=None if nodes is None else list(nodes),
            calibration_cache_path=ranges,
        )
        result = onnx.load(quantized)
    if not any(node.op_type == "QuantizeLinear" for node in result.graph.node):
        raise ModelError(f"'{name}' has no operator that ONNX Runtime quantizes; measure it in float")
    result.graph.name = name
    return result


def quantize_some(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """Quantize some layers of a model, and leave at least one in float.

    How many is drawn evenly; which, with even odds: any of them, or a run of neighbours, as where the first and the
    last stay in float. An operator between layers is quantized where every layer that feeds it is.

    Args:
        model: with its weights and fixed input shapes.
        rng: draws the layers.

    Returns:
        a new model in QDQ form.

    Raises:
        ModelError: when there are fewer than two layers, or the model cannot be run.
        BackendError: when ONNX Runtime's quantization is not installed or fails on it.
    """
    ready = name_nodes(prepare(model))
    layers = find_layers(ready)
    total = len(layers)
    if total < 2:
        raise ModelError(
            f"'{model.graph.name}' has {total} of the two or more layers of which some can be quantized; "
            "quantize it whole"
        )
    count = int(rng.integers(1, total))
    if rng.random() < 0.5:
        chosen = rng.permutation(total)[:count]
    else:
        chosen = rng.integers(total - count + 1) + np.arange(count)
    return quantize_static(ready, nodes=layers.nodes(frozenset(chosen.tolist())))


def random_feeds(model: onnx.ModelProto, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """One input of every graph input's shape: normal floats; zeros and ones for integers.

    Zeros and ones are valid as token ids, indices, masks and flags alike.

    Raises:
        ModelError: when an input has an unbound dimension.
    """
    rng = np.random.default_rng(seed)
    initializers = {tensor.name for tensor in model.graph.initializer}
    feeds: dict[str, npt.NDArray[Any]] = {}
    for value in model.graph.input:
        if value.name in initializers:
            continue
        tensor = value.type.tensor_type
        if not tensor.HasField("shape") or any(d.dim_value <= 0 for d in tensor.shape.dim):
            raise ModelError(
                f"input '{value.name}' has no fixed shape; bind its dimensions before quantizing"
            )
        shape = [d.dim_value for d in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind == "f":
            feeds[value.name] = rng.standard_normal(shape).astype(dtype)
        else:
            feeds[value.name] = rng.integers(0, 2, shape).astype(dtype)
    return feeds


def _is_prepared(model: onnx.ModelProto) -> bool:
    return any(p.key == "onnx.quant.pre_process" for p in model.metadata_props)


@contextlib.contextmanager
def _reported(name: str) -> Iterator[None]:
    """Work of ONNX Runtime's quantization without its remarks; whatever it throws becomes the reason."""
    try:
        import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise BackendError(f"static quantization needs the package 'onnxruntime': {error}") from error
    try:
        with _quiet():
            yield
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else "no reason given"
        raise BackendError(
            f"ONNX Runtime could not quantize '{name}': {type(error).__name__}: {reason}. "
            "Measure it in float, or give a model that is quantized already"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's remarks off the user's screen, and the root logger as it was."""
    import onnxruntime

    root = logging.getLogger()
    handlers, disabled = list(root.handlers), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
        logging.disable(disabled)
        for handler in root.handlers[:]:
            if handler not in handlers:  # logging.warning() sets one up when there is none
                root.removeHandler(handler)
