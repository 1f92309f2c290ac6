"""Hardsight: what a neural network costs on a device before it runs there."""
