"""MNN on this machine's CPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.datasets.profilers._capture import printed
from hardsight.datasets.profilers._cpu import CpuRuntimeProfiler, inputs
from hardsight.datasets.profilers._reference import disagreement, fixed_inputs
from hardsight.errors import BackendError


class MnnProfiler(CpuRuntimeProfiler):
    """Alibaba's MNN: its own converter with its default passes, then the Module API.

    Precision is ``high``, MNN's word for fp32 (on x86 the others are no faster). An inference is one
    ``Module.forward``, which runs synchronously, and a look at each output, which copies nothing.

    The converter is called in the extension module ``_tools``, as ``MNN.tools.mnnconvert`` does: that wrapper
    installs a package from the internet when imported, and reports the model's size and this machine's
    identity to a server.
    """

    runtime = "mnn"
    package = "MNN"
    extra = "mnn"
    converter_packages = ("onnx", "onnxruntime")

    @staticmethod
    def convert(model: str, folder: str, mode: str) -> str:
        import _tools
        import onnx

        path = Path(folder) / "model.mnn"
        arguments = ["-f", "ONNX", "--modelFile", model, "--MNNModel", str(path), "--bizCode", "hardsight"]
        proto = onnx.load(model, load_external_data=False)
        if any(node.op_type == "LSTM" for node in proto.graph.node):
            arguments.append("--useOriginRNNImpl")  # made a loop, MNN's default, most LSTMs crash it
        with printed() as out:
            _tools.mnnconvert(["mnnconvert", *arguments])
            said = out.text()
        if not path.exists():  # it returns True all the same
            unknown = re.search(r"These Op Not Support: (.*)", said)
            why = f"MNN has no {unknown[1].strip()}" if unknown else " ".join(said.split()[-30:])
            raise BackendError(f"MNN's converter refused the model: {why}")
        with printed():
            run = MnnProfiler.load(str(path), mode, 1, fixed_inputs(proto)[0])
            outputs = run()
        if wrong := disagreement(model, proto, [np.array(output.read()) for output in outputs]):
            raise BackendError(f"MNN's converter changed the model: {wrong}")
        return str(path)

    @staticmethod
    def load(path: str, mode: str, threads: int, shapes: dict[str, list[int]]) -> Callable[[], Any]:
        from MNN import expr, nn

        config = {"backend": "CPU", "precision": "high", "numThread": threads}
        manager = nn.create_runtime_manager((config,))
        module = nn.load_module_from_file(path, [], [], runtime_manager=manager)
        info = module.get_info()
        types = {expr.float: "float32", expr.int: "int32"}  # MNN computes 64-bit integers in 32 bits
        placeholders = dict(zip(info["inputNames"], info["inputs"], strict=True))
        for name, value in placeholders.items():
            if value.dtype not in types:
                raise BackendError(f"MNN's input '{name}' can be float32 or integer only")
        dtypes = {name: types[value.dtype] for name, value in placeholders.items()}
        arrays = inputs({name: shape for name, shape in shapes.items() if name in dtypes}, dtypes)
        variables = []
        for name, placeholder in placeholders.items():
            variables.append(expr.placeholder(shapes[name], expr.NCHW, placeholder.dtype))
            variables[-1].write(arrays[name])

        def run() -> list[Any]:
            outputs: list[Any] = module.forward(variables)
            if len(outputs) != len(info["outputNames"]):
                raise BackendError("MNN could not run the model: no output")
            for output in outputs:
                output.read()
            return outputs  # which own the memory that their read() looks at

        return run
