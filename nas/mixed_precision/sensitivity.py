"""How much a layer's precision changes what the network says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx

from hardsight.datasets.quantize import Feeds
from hardsight.errors import BackendError
from hardsight.nas.mixed_precision.quantizers import Quantizer
from hardsight.prediction import FloatArray
from hardsight.progress import Progress

Array = npt.NDArray[np.floating]
Outputs = tuple[FloatArray, ...]
"""One array per output of the model, its first dimension the ``n`` samples."""

_LEAST_PROBABILITY = 1e-12


def run(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> Outputs:
    """Every output for every input, in ONNX Runtime on one thread.

    Args:
        model: with weights.
        feeds: ``k`` runs, of one sample or of many.

    Raises:
        BackendError: when it cannot run.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        answers = [session.run(None, dict(feed)) for feed in feeds]
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BackendError(f"ONNX Runtime could not run '{model.graph.name}': {reason}") from error
    return tuple(
        np.concatenate([np.atleast_1d(np.asarray(part, np.float64)) for part in parts])
        for parts in zip(*answers, strict=True)
    )


def sensitivities(
    quantizer: Quantizer, feeds: Sequence[Feeds], *, classifies: bool, progress: Progress | None = None
) -> FloatArray:
    """What each precision of each layer alone changes: masked-layer divergence.

    As in OHQ (Huang et al., "On-chip hardware-aware quantization", 2023), one layer is quantized, weights and
    activations, and the outputs' distribution held against that of the network whose layers all have the first
    precision.

    Args:
        quantizer: of the network.
        feeds: inputs.
        classifies: the only output is logits or probabilities.
        progress: called after each layer.

    Returns:
        ``(l, p)``; the first column is zero.
    """
    reference = run(quantizer.quantized(quantizer.finest), feeds)
    found = np.zeros((len(quantizer.layers), len(quantizer.precisions)))
    for i in range(len(found)):
        if progress:
            progress("sensitivity of layers", i, len(found))
        for p in range(1, found.shape[1]):
            outputs = run(quantizer.quantized(quantizer.alone(i, p)), feeds)
            found[i, p] = divergence(reference, outputs, classifies=classifies)
    if progress:
        progress("sensitivity of layers", len(found), len(found))
    return found


def divergence(reference: Outputs, outputs: Outputs, *, classifies: bool) -> float:
    """Mean KL divergence of class probabilities in nats; else mean squared error over the reference's variance.

    Args:
        reference: what the finest network says.
        outputs: what another one says.
        classifies: the only output is logits or probabilities, ``(n, classes)``.
    """
    if classifies:
        p, q = (probabilities(x[0]) for x in (reference, outputs))
        logs = np.log(np.maximum(p, _LEAST_PROBABILITY)) - np.log(np.maximum(q, _LEAST_PROBABILITY))
        return max(0.0, float((p * logs).sum(axis=-1).mean()))
    errors = []
    for right, given in zip(reference, outputs, strict=True):
        spread = float(right.var()) or float((right**2).mean()) or 1.0
        errors.append(float(((given - right) ** 2).mean()) / spread)
    return float(np.mean(errors))


def probabilities(outputs: FloatArray) -> FloatArray:
    """Softmax over the last dimension; outputs that are probabilities stay."""
    if (outputs >= 0).all() and np.allclose(outputs.sum(axis=-1), 1.0, atol=1e-3):
        return outputs
    shifted = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float64)
