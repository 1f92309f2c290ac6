"""Quantized designs for FPGAs."""

from __future__ import annotations

from hardsight.datasets.families._family import Family

FPGA_FAMILIES: dict[str, Family] = {}
