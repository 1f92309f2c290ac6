"""Quantized networks as FPGA designs by open tools: QONNX to Verilog (da4ml), synthesis (yosys), place and route."""
