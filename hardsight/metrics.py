"""The closed list of quantities Hardsight measures and predicts, in SI units."""

from __future__ import annotations

from enum import StrEnum


class Metric(StrEnum):
    """A quantity; its value is the name used in files, tables and JSON."""

    LATENCY = "latency_s"
    PEAK_MEMORY = "peak_memory_bytes"
    ENERGY = "energy_j"
    CYCLES = "cycles"
    INTERVAL_CYCLES = "interval_cycles"
    LUT = "lut"
    FF = "ff"
    DSP = "dsp"
    BRAM_18K = "bram_18k"
    URAM = "uram"
    LOGIC_CELLS = "logic_cells"
    FMAX = "fmax_hz"
    SRAM = "sram_bytes"
    FLASH = "flash_bytes"
    TRAFFIC = "traffic_bytes"
    ACCURACY = "accuracy"

    @property
    def unit(self) -> str:
        """SI unit, or ``"1"`` for a count or a share."""
        return _UNITS.get(self, "1")

    @property
    def larger_is_better(self) -> bool:
        """True for accuracy and clock rate; everything else here is a cost."""
        return self in (Metric.ACCURACY, Metric.FMAX)

    @property
    def integer(self) -> bool:
        """True for counts: cycles, FPGA resources and bytes."""
        return self not in (Metric.LATENCY, Metric.ENERGY, Metric.FMAX, Metric.ACCURACY)


_UNITS = {
    Metric.LATENCY: "s",
    Metric.PEAK_MEMORY: "B",
    Metric.ENERGY: "J",
    Metric.FMAX: "Hz",
    Metric.SRAM: "B",
    Metric.FLASH: "B",
    Metric.TRAFFIC: "B",
}
