"""LiteRT (formerly TensorFlow Lite) on this machine's CPU, with XNNPACK."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from hardsight.datasets.profilers._cpu import CpuRuntimeProfiler, inputs
from hardsight.device import Device

if TYPE_CHECKING:
    import onnx


class LiteRtProfiler(CpuRuntimeProfiler):
    """LiteRT's interpreter, which hands what it can to XNNPACK.

    Models are converted by `hardsight.datasets.to_tflite`: in float for ``fp32-…`` modes, quantized by LiteRT's
    own quantizer for ``int8-…`` modes. One inference sets the inputs, invokes, and copies the outputs out.
    """

    runtime = "litert"
    package = "ai_edge_litert.interpreter"
    distribution = "ai-edge-litert"
    extra = "litert"
    quantizes_anew = True
    converter_packages = (
        "litert_torch",
        "ai_edge_quantizer.quantizer",
        "hardsight.datasets.to_torch",
        "torch._functorch._aot_autograd.graph_compile",  # imported late otherwise, again in each conversion
        "torch._inductor.compile_fx",
        "networkx",
        "scipy.cluster.hierarchy",
        "scipy.sparse.csgraph",
    )

    def tflite(
        self, model: Path | onnx.ModelProto, digest: str, shapes: Mapping[str, Sequence[int]], *, int8: bool
    ) -> AbstractContextManager[tuple[Path, str]]:
        """The TFLite file of a model, made or from the cache, and whence its weights: ``"model"`` or ``"random"``.

        Raises:
            BackendError: when it cannot be converted.
        """
        mode = "int8" if int8 else "fp32"
        return self._loadable(model, digest, shapes, Device(name=f"host/litert/{mode}", kind="cpu"))

    @staticmethod
    def convert(model: str, folder: str, mode: str) -> str:
        import onnx

        from hardsight.datasets.to_tflite import to_tflite

        path = Path(folder) / "model.tflite"
        path.write_bytes(to_tflite(onnx.load(model), int8=mode.startswith("int8")))
        return str(path)

    @staticmethod
    def load(path: str, mode: str, threads: int, shapes: dict[str, list[int]]) -> Callable[[], object]:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=path, num_threads=threads)
        interpreter.allocate_tensors()
        details = interpreter.get_input_details()
        feeds = inputs(  # the file's own shapes: images are channels last there
            {d["name"]: d["shape"].tolist() for d in details}, {d["name"]: d["dtype"] for d in details}
        )
        numbered = [(d["index"], feeds[d["name"]]) for d in details]
        outputs = [d["index"] for d in interpreter.get_output_details()]

        def run() -> object:
            for index, value in numbered:
                interpreter.set_tensor(index, value)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in outputs]

        return run
