"""ncnn on this machine's CPU."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hardsight.datasets.profilers._capture import printed
from hardsight.datasets.profilers._cpu import CpuRuntimeProfiler, inputs
from hardsight.errors import BackendError, ModelError, NotSupportedError

if TYPE_CHECKING:
    import onnx

_CONVERSION_S = 120.0


class NcnnProfiler(CpuRuntimeProfiler):
    """Tencent's ncnn, on models that pnnx has converted.

    pnnx reads the ONNX file itself; where that leaves an operator that ncnn lacks (it has no Gather), it reads
    what `to_torch` traces to instead (where that is an embedding). fp16 and bf16, by default on where the
    processor has them, are off in storage and arithmetic alike; Winograd and im2col convolutions, channel
    packing and the light mode (tensors freed after their last use) stay on. An inference is a new extractor,
    inputs set, each output extracted: synchronous, as in ncnn's own benchmark.
    """

    runtime = "ncnn"
    package = "ncnn"
    extra = "ncnn"
    converter_packages = ("onnx", "torch")

    def check(self) -> None:
        super().check()
        _pnnx()

    @staticmethod
    def convert(model: str, folder: str, mode: str) -> str:
        import onnx

        proto = onnx.load(model)
        out = Path(folder, "model")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source = Path(scratch, "model.onnx")
            source.symlink_to(Path(model).absolute())  # pnnx writes beside what it reads
            lacks = _convert(source, proto, out)
            if lacks and (traced := _trace(proto, Path(scratch, "model.pt"))):
                lacks = _convert(traced, proto, out)
        if lacks:
            raise BackendError(f"ncnn has no layer for the model's {lacks}")
        return str(out.with_suffix(".param"))

    @staticmethod
    def load(path: str, mode: str, threads: int, shapes: dict[str, list[int]]) -> Callable[[], object]:
        import ncnn

        net = ncnn.Net()
        net.opt.num_threads = threads
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
            setattr(net.opt, f"use_{name}", False)
        file = Path(path)
        if net.load_param(str(file)) or net.load_model(str(file.with_suffix(".bin"))):
            raise BackendError("ncnn could not load the converted model")
        ends = json.loads(file.with_suffix(".json").read_text())
        arrays = inputs(
            {name: shapes[name] for _, name, _, _ in ends}, {name: dtype for _, name, dtype, _ in ends}
        )
        mats = [
            (blob, ncnn.Mat(arrays[name], batch_index=batch_index).clone())
            for blob, name, _, batch_index in ends
        ]
        outputs = net.output_names()

        def run() -> list[object]:
            with net.create_extractor() as extractor:
                for blob, mat in mats:
                    extractor.input(blob, mat)
                results = [extractor.extract(blob) for blob in outputs]
            if any(code for code, _ in results):
                raise BackendError("ncnn could not run the converted model")
            return [mat for _, mat in results]

        return run


def _pnnx() -> str:
    """The converter's executable; its Python package would import torch to start it.

    Raises:
        BackendError: when it is not installed.
    """
    spec = find_spec("pnnx")
    if spec is None or not spec.submodule_search_locations:
        raise BackendError("the ncnn profiler needs the package 'pnnx': pip install 'hardsight[ncnn]'")
    return str(Path(spec.submodule_search_locations[0], "pnnx"))


def _convert(source: Path, proto: onnx.ModelProto, out: Path) -> str:
    """Write ``out.param``, ``out.bin`` and ``out.json`` (what to feed, and how).

    Args:
        source: an ONNX or TorchScript file.
        proto: the model in it.

    Returns:
        name of a layer that ncnn lacks; empty when it has all of them.
    """
    import ncnn

    given = _inputs(proto)
    param, example = out.with_suffix(".param"), source.with_suffix(".py")
    files = {"ncnnparam": param, "ncnnbin": out.with_suffix(".bin"), "ncnnpy": example}
    files |= dict.fromkeys(("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx"), Path("/dev/null"))
    command = [_pnnx(), str(source), f"inputshape={','.join(shape for _, _, shape in given)}", "fp16=0"]
    command += [f"{key}={path}" for key, path in files.items()]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_CONVERSION_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"ncnn's converter did not end within {_CONVERSION_S:.0f} s") from error
    if done.returncode or not param.exists() or not example.exists():
        said = (done.stdout.strip().splitlines() or ["it said nothing"])[-1][-300:]
        raise BackendError(f"ncnn's converter failed (exit status {done.returncode}): {said}")
    with printed() as log:
        failed = ncnn.Net().load_param(str(param))
        said = log.text()
    if failed:
        unknown = re.search(r"layer (\S+) not exists", said)
        return unknown[1] if unknown else " ".join(said.split()[-30:])
    # the example that pnnx writes is the only place that tells whether an input's first axis is a batch
    feeds = re.findall(r"ncnn\.Mat\(in(\d+)\.numpy\(\), batch_index=(\d+)\)", example.read_text())
    ends = [(f"in{i}", *given[int(i)][:2], int(batch_index)) for i, batch_index in feeds]
    out.with_suffix(".json").write_text(json.dumps(ends))
    return ""


def _inputs(proto: onnx.ModelProto) -> list[tuple[str, str, str]]:
    """Name, type that ncnn computes it in, and shape (as pnnx wants it) of every input.

    Raises:
        BackendError: when ncnn has no such input.
    """
    from onnx import TensorProto

    kinds: dict[int, tuple[str, str]] = {
        TensorProto.FLOAT: ("float32", "f32"),
        TensorProto.INT64: ("int32", "i64"),
        TensorProto.INT32: ("int32", "i32"),
    }
    weights = {tensor.name for tensor in proto.graph.initializer}
    found = []
    for value in proto.graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        sizes = [dim.dim_value for dim in tensor.shape.dim]
        if tensor.elem_type not in kinds:
            raise BackendError(f"ncnn's input '{value.name}' can be float32 or integer only")
        if not sizes or not all(sizes):
            raise BackendError(f"input '{value.name}' has no fixed shape, which ncnn's converter needs")
        dtype, kind = kinds[tensor.elem_type]
        found.append((value.name, dtype, f"[{','.join(map(str, sizes))}]{kind}"))
    return found


def _trace(proto: onnx.ModelProto, path: Path) -> Path | None:
    """Write the model as TorchScript; None when it cannot be turned into PyTorch."""
    import torch

    from hardsight.datasets.quantize import random_feeds
    from hardsight.datasets.to_torch import to_torch

    feeds = tuple(torch.from_numpy(array) for array in random_feeds(proto).values())
    try:
        module = to_torch(proto)
    except (ModelError, NotSupportedError):
        return None
    with torch.no_grad():
        traced = torch.jit.trace(module, feeds, check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, str(path))
    return path
