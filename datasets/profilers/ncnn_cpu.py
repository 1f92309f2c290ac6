"""ncnn on this machine's CPU."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardsight.datasets.profilers._capture import printed
from hardsight.datasets.profilers._cpu import CpuRuntimeProfiler, inputs
from hardsight.datasets.profilers._reference import disagreement, fixed_inputs
from hardsight.errors import BackendError, ModelError, NotSupportedError

if TYPE_CHECKING:
    import onnx

_CONVERSION_S = 120.0


class NcnnProfiler(CpuRuntimeProfiler):
    """Tencent's ncnn, on models that pnnx has converted.

    pnnx reads the ONNX file itself; where that leaves an operator that ncnn lacks (it has no Gather) or comes
    to other results, it reads what `to_torch` traces to instead (where Gather is an embedding). fp16 and
    bf16, by default on where the processor has them, are off in storage and arithmetic alike; Winograd and
    im2col convolutions, channel packing and the light mode (tensors freed after their last use) stay on. An
    inference is a new extractor, inputs set, each output extracted: synchronous, as in ncnn's own benchmark.
    """

    runtime = "ncnn"
    package = "ncnn"
    extra = "ncnn"
    converter_packages = ("onnx", "onnxruntime", "torch")

    def check(self) -> None:
        super().check()
        _pnnx()

    @staticmethod
    def convert(model: str, folder: str, mode: str) -> str:
        import onnx

        proto = onnx.load(model)
        out = Path(folder, "model")
        reasons = []
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for source in _sources(proto, Path(scratch)):
                reason = _convert(source, proto, out)
                if not reason:
                    with printed():
                        run = NcnnProfiler.load(f"{out}.param", mode, 1, fixed_inputs(proto)[0])
                        mats = run()
                    wrong = disagreement(model, proto, [mat.numpy(batch_index=0) for mat in mats])
                    reason = f"ncnn's converter changed the model: {wrong}" if wrong else ""
                if not reason:
                    return f"{out}.param"
                reasons.append(reason)
        raise BackendError(reasons[0])

    @staticmethod
    def load(path: str, mode: str, threads: int, shapes: dict[str, list[int]]) -> Callable[[], Any]:
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
            {name: shape for name, shape in shapes.items() if name in ends},
            {name: "float32" if kind == "f" else "int32" for name, (_, kind, _) in ends.items()},
        )
        mats = [
            (blob, ncnn.Mat(arrays[name], batch_index=batch_index).clone())
            for name, (blob, _, batch_index) in ends.items()
        ]
        outputs = net.output_names()

        def run() -> list[Any]:
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
        the reason why there is no such model; empty when there is.
    """
    import ncnn

    shapes, dtypes = fixed_inputs(proto)
    kinds = {"float32": "f32", "int64": "i64", "int32": "i32"}
    for name, dtype in dtypes.items():
        if dtype.name not in kinds:
            return f"ncnn's input '{name}' can be float32 or integer, not {dtype.name}"
    given = [f"[{','.join(map(str, shapes[n]))}]{kinds[dtypes[n].name]}" for n in shapes]
    param, example = out.with_suffix(".param"), source.with_suffix(".py")
    files = {"ncnnparam": param, "ncnnbin": out.with_suffix(".bin"), "ncnnpy": example}
    files |= dict.fromkeys(("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx"), Path("/dev/null"))
    command = [_pnnx(), str(source), f"inputshape={','.join(given)}", "fp16=0"]
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
    except subprocess.TimeoutExpired:
        return f"ncnn's converter did not end within {_CONVERSION_S:.0f} s"
    if done.returncode or not param.exists() or not example.exists():
        said = (done.stdout.strip().splitlines() or ["it said nothing"])[-1][-300:]
        return f"ncnn's converter failed (exit status {done.returncode}): {said}"
    with printed() as log:
        failed = ncnn.Net().load_param(str(param))
        said = log.text()
    if failed:
        unknown = re.search(r"layer (\S+) not exists", said)
        return f"ncnn has no layer for the model's {unknown[1]}" if unknown else " ".join(said.split()[-30:])
    # the example that pnnx writes is the only place that tells whether an input's first axis is a batch
    feeds = re.findall(r"ncnn\.Mat\(in(\d+)\.numpy\(\), batch_index=(\d+)\)", example.read_text())
    names = list(shapes)
    ends = {names[int(i)]: (f"in{i}", dtypes[names[int(i)]].kind, int(batch)) for i, batch in feeds}
    out.with_suffix(".json").write_text(json.dumps(ends))
    return ""


def _sources(proto: onnx.ModelProto, scratch: Path) -> Iterator[Path]:
    """What to convert, best first: the ONNX file, and the model as TorchScript where it can be one."""
    import onnx

    source = scratch / "model.onnx"
    onnx.save(proto, source)  # a copy, since pnnx writes beside what it reads
    yield source

    import torch

    from hardsight.datasets.quantize import random_feeds
    from hardsight.datasets.to_torch import to_torch

    try:
        module = to_torch(proto)
    except (ModelError, NotSupportedError):
        return
    feeds = tuple(torch.from_numpy(array) for array in random_feeds(proto).values())
    with torch.no_grad():
        traced = torch.jit.trace(module, feeds, check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, str(scratch / "model.pt"))
    yield scratch / "model.pt"
