"""OpenVINO on this machine's CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hardsight.datasets.profilers._cpu import CpuRuntimeProfiler, inputs
from hardsight.errors import BackendError


class OpenVinoProfiler(CpuRuntimeProfiler):
    """OpenVINO's CPU plugin: one stream, one request at a time, straight from the ONNX file.

    Modes ``fp32-…`` and ``int8-…`` compute in fp32 what is not quantized, ``bf16-…`` in bfloat16: left to
    itself the plugin takes bfloat16 on a processor with AMX. Threads are not pinned, so that the affinity of
    the process decides where they run. Inputs are set once, outputs are read in place: an
    inference runs synchronously, in the calling thread when there is one.
    """

    runtime = "openvino"
    package = "openvino"
    extra = "openvino"
    takes_qdq = True

    @staticmethod
    def load(path: str, mode: str, threads: int, shapes: dict[str, list[int]]) -> Callable[[], object]:
        import openvino as ov

        core = ov.Core()
        model = core.read_model(path)
        if any(value.get_partial_shape().is_dynamic for value in model.inputs):
            model.reshape({value: shapes[_name(value, shapes)] for value in model.inputs})
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": "1",
                "INFERENCE_NUM_THREADS": str(threads),
                "INFERENCE_PRECISION_HINT": "bf16" if mode.startswith("bf16") else "f32",
                "ENABLE_CPU_PINNING": False,
            },
        )
        granted = compiled.get_property("INFERENCE_NUM_THREADS")
        if granted != threads:  # it silently takes fewer where the process may use fewer cores
            raise BackendError(
                f"OpenVINO took {granted} threads, not {threads}; let this process use {threads} cores"
            )
        names = {_name(value, shapes): value for value in compiled.inputs}
        dtypes = {name: value.element_type.to_dtype() for name, value in names.items()}
        request = compiled.create_infer_request()
        for name, array in inputs(
            {name: shape for name, shape in shapes.items() if name in names}, dtypes
        ).items():
            request.get_tensor(names[name]).data[...] = array  # a shared array would not be kept alive
        return lambda: request.infer(share_outputs=True)


def _name(value: Any, shapes: dict[str, list[int]]) -> str:
    """The ONNX name of an input, of which a tensor may have several."""
    return next(name for name in shapes if name in value.names)
