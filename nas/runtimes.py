"""Delivered networks and their answers, by what will run them: ONNX Runtime, the circuit of QONNX, or LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from hardsight.datasets.builder import QONNX
from hardsight.device import Device
from hardsight.nas.export import LOGITS
from hardsight.nas.network import INPUT

Samples = npt.NDArray[np.float32]
_CALIBRATION = 256


class Runtime(NamedTuple):
    """What computes a network's logits.

    Args:
        name: for the report.
        run: file and samples ``(n, *input_shape)`` → logits ``(n, classes)``.
    """

    name: str
    run: Callable[[Path, Samples], npt.NDArray[Any]]


class Delivery(NamedTuple):
    """A network as its user gets it.

    Args:
        content: of the file.
        suffix: of its name.
        runtime: that runs it.
    """

    content: bytes
    suffix: str
    runtime: Runtime


def deliver(model: onnx.ModelProto, device: Device, samples: Callable[[], Samples]) -> Delivery:
    """The file for a device: ONNX, or for an NPU the TFLite file that its compiler reads.

    Args:
        model: trained, in QDQ form, QONNX or float.
        device: that it is for.
        samples: gives ``(n, *input_shape)`` of the training part where ranges of activations have to be found.

    Raises:
        BackendError: it cannot be converted.
    """
    if device.kind != "npu":
        return Delivery(model.SerializeToString(), ".onnx", runtime_of(model))
    from hardsight.datasets.dequantize import dequantized
    from hardsight.datasets.profilers._capture import printed
    from hardsight.datasets.to_tflite import to_tflite

    feeds = [{INPUT: sample[None]} for sample in samples()[:_CALIBRATION]]
    with printed():  # what the tools say, also as they are imported
        content = to_tflite(dequantized(model), int8=True, samples=feeds)
    return Delivery(content, ".tflite", Runtime("LiteRT", run_tflite))


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


def run_tflite(path: Path, samples: Samples) -> npt.NDArray[Any]:
    """Logits of an int8 TFLite network with batch size 1, sample by sample; images go in channels last."""
    from ai_edge_litert.interpreter import Interpreter

    from hardsight.datasets.profilers._capture import printed

    with printed():
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
    (read,), (written,) = interpreter.get_input_details(), interpreter.get_output_details()
    last = np.moveaxis(samples, 1, -1)
    given = last if samples.ndim == 4 and last.shape[1:] == tuple(read["shape"][1:]) else samples
    scale, zero_point = read["quantization"]
    limits = np.iinfo(read["dtype"])
    levels = np.clip(np.round(given / scale) + zero_point, limits.min, limits.max).astype(read["dtype"])
    logits = []
    for sample in levels:
        interpreter.set_tensor(read["index"], np.ascontiguousarray(sample[None]))
        interpreter.invoke()
        logits.append(interpreter.get_tensor(written["index"])[0])
    scale, zero_point = written["quantization"]
    found: npt.NDArray[Any] = (np.array(logits, np.float32) - zero_point) * np.float32(scale)
    return found
