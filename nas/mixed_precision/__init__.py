"""A precision per layer of a given network: sensitivity, predicted cost, integer program, measurement."""

from hardsight.nas.mixed_precision.program import Pair, Program, Solution, solve
from hardsight.nas.mixed_precision.report import QuantizeReport
from hardsight.nas.mixed_precision.run import quantize

__all__ = ["Pair", "Program", "QuantizeReport", "Solution", "quantize", "solve"]
