"""Layers of hls4ml designs: cycles, resources and feasibility of shapes that were never seen."""
