"""Worked job: quantized perceptrons for dry beans on an FPGA, with bits per layer against one width for all."""
