"""FPGA resources of quantized networks by open synthesis: da4ml's Verilog through yosys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hardsight.datasets.profilers._base import Profiler
from hardsight.datasets.profilers._cpu import _has_weights
from hardsight.device import Device
from hardsight.errors import BackendError, NotSupportedError
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import onnx

    from hardsight.datasets.fpga.flow import Target


class Da4mlProfiler(Profiler):
    """Logic cells, flip-flops and pipeline depth in Xilinx UltraScale+ logic (7-series counts are the same).

    The network is unrolled wholly: da4ml (Sun et al., ACM TRETS 2025) turns it into shared additions and
    cuts these into pipeline stages, yosys synthesises the Verilog for ``xcup``, out of context. A new
    sample enters at every clock (``interval_cycles`` is 1), and leaves ``cycles`` clocks after it was registered.
    There are neither DSP nor block-RAM labels, for distributed arithmetic uses none. ``logic_cells`` is
    yosys's estimate, without placement, and no clock rate comes with it.

    The mode ``lc5`` of a device puts registers after at most 5 adders in a row.

    A weightless model gets random weights that suit its quantizers; since the network *is* the circuit,
    another draw of weights gives another circuit (see the data card for by how much). Labels carry da4ml's own
    estimate of LUTs in ``versions`` as a baseline to compare with; it is almost the label, so no predictor may
    see it.

    Args:
        cache: not used; nothing here is worth keeping.
        seed: of random weights.
        limit_s: processor time per process for one design.
    """

    anywhere: ClassVar[bool] = True
    target: ClassVar[Target] = "xcup"
    packages: ClassVar[tuple[str, ...]] = ("da4ml", "pyosys")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric.LOGIC_CELLS, Metric.FF, Metric.CYCLES, Metric.INTERVAL_CYCLES,
    )  # fmt: skip

    def __init__(self, cache: Path | None = None, *, seed: int = 0, limit_s: float = 120.0) -> None:
        super().__init__(cache)
        self.seed = seed
        self.limit_s = limit_s

    def check(self) -> None:
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            raise BackendError(
                f"FPGA synthesis needs the packages {', '.join(missing)}: pip install 'hardsight[fpga]'"
            )

    def measure(
        self,
        model: Path | onnx.ModelProto,
        device: Device,
        metrics: Sequence[Metric] | None = None,
        *,
        budget_s: float = 10.0,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> list[Measurement]:
        """See `Profiler.measure`. Nothing is repeated, so ``budget_s`` has no part: the tools are deterministic."""
        import onnx

        from hardsight.datasets.fpga.flow import run
        from hardsight.datasets.fpga.quantizer import random_weights
        from hardsight.datasets.weights import fill_weights
        from hardsight.ingest import read_onnx

        self.check()
        cutoff = re.fullmatch(r"lc(\d+)", device.mode)
        if cutoff is None:
            raise BackendError(
                f"'{device.name}' has mode '{device.mode}'; FPGA modes are lc1, lc2, … (adders per stage)"
            )
        wanted = tuple(metrics or self.metrics)
        for metric in wanted:
            if metric not in self.metrics:
                raise NotSupportedError(f"{device.name} has no {metric}; it has {', '.join(self.metrics)}")
        graph = read_onnx(model, shapes=shapes)
        if isinstance(model, Path):
            proto, folder = onnx.load(model, load_external_data=False), model.parent
            if _has_weights(proto, folder):
                onnx.load_external_data_for_model(proto, str(folder))
        else:
            proto = model
        drawn = random_weights(proto, self.seed)
        data = fill_weights(proto, self.seed, drawn).SerializeToString()
        figures = run(data, graph.inputs[0].shape, self.target, int(cutoff[1]), limit_s=self.limit_s)
        versions = {
            **{package: metadata.version(package.replace("_", "-")) for package in self.packages},
            "weights": f"random, seed {self.seed}" if drawn else "model",
            "da4ml_cost": f"{figures['da4ml_cost']:.0f}",
        }
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return [
            Measurement(
                digest=graph.digest,
                device=device.name,
                metric=metric,
                value=float(figures[metric]),
                spread=0.0,
                repeats=1,
                time=now,
                versions=versions,
                provenance="synthesised",
            )
            for metric in wanted
        ]
