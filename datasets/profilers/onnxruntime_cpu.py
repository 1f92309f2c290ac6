"""ONNX Runtime on this machine's CPU."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from hardsight.datasets.profilers._cpu import CpuRuntimeProfiler, inputs
from hardsight.errors import BackendError

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int16)": np.int16,
    "tensor(uint16)": np.uint16,
    "tensor(int32)": np.int32,
    "tensor(uint32)": np.uint32,
    "tensor(int64)": np.int64,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}


class OnnxRuntimeCpuProfiler(CpuRuntimeProfiler):
    """ONNX Runtime's CPU execution provider, all graph optimizations on."""

    runtime = "onnxruntime"
    package = "onnxruntime"
    takes_qdq = True

    def check(self) -> None:
        super().check()
        import onnxruntime

        if "CPUExecutionProvider" not in onnxruntime.get_available_providers():
            raise BackendError("this onnxruntime has no CPU execution provider")

    @staticmethod
    def load(path: str, mode: str, threads: int, shapes: dict[str, list[int]]) -> Callable[[], object]:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        specs = session.get_inputs()
        for spec in specs:
            if spec.type not in _DTYPES:
                raise ValueError(f"input '{spec.name}' has type {spec.type}, which cannot be fed")
        feeds = inputs({s.name: shapes[s.name] for s in specs}, {s.name: _DTYPES[s.type] for s in specs})
        return lambda: session.run(None, feeds)

    @classmethod
    def title(cls) -> str:
        return f"ONNX Runtime {cls.version()}"

    @classmethod
    def reason(cls, error: Exception) -> str:
        """What an exception says, without ONNX Runtime's status codes, source paths and C++ signatures."""
        text = " ".join(str(error).split())
        text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
        text = re.sub(r"^.*(?:FAIL : |Message: )", "", text)
        text = re.sub(r"/onnxruntime_src/\S+ (?:[\w<>:~*& ]*::[\w~]+\([^()]*\)(?: const)? )?", "", text)
        text = re.sub(r"^Load model from .*? failed: ?", "", text)
        return super().reason(type(error)(text)) if text else super().reason(error)
