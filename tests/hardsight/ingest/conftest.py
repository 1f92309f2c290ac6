"""Models written as ONNX text; tensors declared in the header without a value become weights without data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from onnx import ModelProto, TensorProto, parser

HEADER = (
    '<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1,'
    ' "qonnx.custom_op.general" : 1, "own" : 1]>'
)


def _model(text: str, opset: int = 17) -> ModelProto:
    text = text.strip()
    model = parser.parse_model(text if text.startswith("<") else HEADER.format(opset=opset) + text)
    made = {output for node in model.graph.node for output in node.output}
    for value in list(model.graph.value_info):
        if value.name not in made:
            kind = value.type.tensor_type
            dims = [dim.dim_value for dim in kind.shape.dim]
            weight = TensorProto(name=value.name, data_type=kind.elem_type, dims=dims)
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value="weights.bin")
            model.graph.initializer.append(weight)
            model.graph.value_info.remove(value)
    return model


@pytest.fixture
def model() -> Callable[..., ModelProto]:
    """Make a model from text: ``model("g (float[1] x) => (float[1] y) { y = Relu(x) }", opset=17)``."""
    return _model
