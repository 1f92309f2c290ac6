"""Devices known from a few measurements: tables of published tasks, and search under a latency constraint."""
