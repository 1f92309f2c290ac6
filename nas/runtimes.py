"""A delivered network's answers, by what will run it: ONNX Runtime, or the circuit that QONNX becomes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from hardsight.datasets.builder import QONNX
from hardsight.nas.export import LOGITS
from hardsight.nas.network import INPUT

Samples = npt.NDArray[np.float32]


class Runtime(NamedTuple):
    """What computes a network's logits.

    Args:
        name: for the report.
        run: file and samples ``(n, *input_shape)`` → logits ``(n, classes)``.
    """

    name: str
    run: Callable[[Path, Samples], npt.NDArray[Any]]


def runtime_of(model: onnx.ModelProto) -> Runtime:
    """The one that the file's operators are for."""
    in_fixed_point = any(imported.domain == QONNX for imported in model.opset_import)
    return Runtime("da4ml", run_circuit) if in_fixed_point else Runtime("ONNX Runtime", run_onnx)


def run_onnx(path: Path, samples: Samples) -> npt.NDArray[Any]:
    """Logits of a network with batch size 1, sample by sample on one thread of ONNX Runtime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([LOGITS], {INPUT: sample[None]})[0] for sample in samples])


def run_circuit(path: Path, samples: Samples) -> npt.NDArray[Any]:
    """Logits of a QONNX network as its circuit computes them, emulated by da4ml to the last bit.

    Raises:
        BackendError: without da4ml, or when the network cannot become a circuit.
    """
    from hardsight.datasets.fpga.trace import input_quantizer, trace
    from hardsight.datasets.profilers.da4ml import Da4mlProfiler

    Da4mlProfiler().check()
    model = onnx.load(path)
    levels = input_quantizer(model)(samples.astype(np.float64)).reshape(len(samples), -1)
    logits: npt.NDArray[Any] = trace(model, (1, *samples.shape[1:])).predict(levels, n_threads=1)
    return logits
