"""PyTorch eager on this machine's CPU."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hardsight.datasets.profilers._cpu import CpuRuntimeProfiler, inputs


class TorchProfiler(CpuRuntimeProfiler):
    """Eager inference of the network written in PyTorch (`hardsight.datasets.to_torch.to_torch`).

    Modes are ``fp32-t1``, ``fp32-t2`` and ``channels-last-t1``, which keeps images and the weights of their
    convolutions with the channels innermost, as PyTorch recommends on CPUs. ``forward`` is straight code: the
    2 µs or so that an ``nn.Module`` call takes per layer are not in the labels.

    Whoever uses PyTorch has the network in PyTorch, so reading the ONNX file does not count as memory: the
    peak is that of weights, activations and what PyTorch makes at the first runs.
    """

    runtime = "torch"
    package = "torch"

    @staticmethod
    def load(path: str, mode: str, threads: int, shapes: dict[str, list[int]]) -> Callable[[], object]:
        import onnx
        import torch

        from hardsight.datasets.to_torch import to_torch

        torch.set_num_threads(threads)
        model = onnx.load(path)
        module = to_torch(model, shapes=shapes)
        dtypes = {
            spec.name: onnx.helper.tensor_dtype_to_np_dtype(spec.type.tensor_type.elem_type)
            for spec in model.graph.input
        }
        feeds = {name: torch.from_numpy(array) for name, array in inputs(shapes, dtypes).items()}
        arguments = [feeds[spec.name] for spec in model.graph.input if spec.name in feeds]
        if mode.startswith("channels-last"):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # in place
            arguments = [
                x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in arguments
            ]

        def run() -> object:
            with torch.inference_mode():
                return module(*arguments)

        del model
        _forget_peak()
        return run

    def _ask(self, request: dict[str, Any], packages: str = "") -> dict[str, Any]:
        # imported once in the worker, not in each of its forks, where it would count as the model's memory
        return super()._ask(request, packages or f"{self.package},hardsight.datasets.to_torch")


def _forget_peak() -> None:
    """Give freed memory back and have the kernel count this process's peak from here (proc(5), clear_refs)."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)
        Path("/proc/self/clear_refs").write_text("5")
