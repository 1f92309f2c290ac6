"""A converted model is compared with ONNX Runtime before it may be measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from hardsight.datasets.profilers._cpu import inputs
from hardsight.datasets.profilers._reference import disagreement, fixed_inputs
from hardsight.errors import BackendError

HEAD = '<ir_version: 8, opset_import: ["" : 17]> '
TEXT = HEAD + "g (float[4,8] x, int64[4] i) => (float[4,8] y, int64[4] j) { y = Neg(x) j = Neg(i) }"


def test_only_what_computes_the_same_passes(tmp_path: Path) -> None:
    model = parser.parse_model(TEXT)
    path = str(tmp_path / "m.onnx")
    onnx.save(model, path)
    feeds = inputs(*fixed_inputs(model))
    y, j = -feeds["x"], -feeds["i"]
    assert disagreement(path, model, [y, j]) == ""
    assert disagreement(path, model, [y.reshape(1, 32) * 1.001, j.astype(np.int32)]) == ""
    assert disagreement(path, model, [y]) == "1 outputs, not 2"
    assert disagreement(path, model, [y[:2], j]) == "output 'y' has 16 elements, not 32"
    assert disagreement(path, model, [y, 1 - j]).startswith("output 'j' is off by")
    assert disagreement(path, model, [np.full_like(y, np.nan), j]).startswith("output 'y' is off by nan")


def test_an_open_dimension_is_refused() -> None:
    with pytest.raises(BackendError, match="input 'x' has no fixed shape"):
        fixed_inputs(parser.parse_model(HEAD + "g (float[n,8] x) => (float[n,8] y) { y = Neg(x) }"))
