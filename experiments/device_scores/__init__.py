"""Benchmark scores of servers that were never seen: attention over their description, and simpler models."""
