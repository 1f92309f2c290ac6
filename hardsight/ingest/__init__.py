"""ONNX files in, :class:`~hardsight.graph.OperatorGraph` out.

Read in this order::

    load      file, bytes or proto -> ModelProto without weights   (wire: the weights are cut out before parsing)
    flatten   If, Loop, Scan and local functions -> one flat, sorted list of nodes
    shapes    dynamic dimensions bound, what is missing inferred   (client -> worker -> infer: a process of its own)
    lower     nodes -> operators: constants folded, bits (bits), costs (costs)
"""

from hardsight.ingest.read import read_onnx

__all__ = ["read_onnx"]
