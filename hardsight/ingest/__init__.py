"""ONNX files in, :class:`~hardsight.graph.OperatorGraph` out.

Read in this order::

    load      file, bytes or proto -> ModelProto; weights are cut out before parsing (wire)
    flatten   If, Loop and Scan opened -> one flat, sorted, checked list of nodes
    bind      a number for every dimension of the inputs
    client    types of inner tensors, unless the file states them and they hold together (check);
              found in a process of their own: worker -> infer -> rules, values
    lower     nodes -> operators: constants folded, widths (bits), costs (costs)
"""

from hardsight.ingest.read import read_onnx

__all__ = ["read_onnx"]
