"""Filling and stripping weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.weights import fill_weights, strip_weights
from hardsight.errors import ModelError


def chain(layers: int = 3) -> onnx.ModelProto:
    net = OnnxBuilder("chain")
    x = net.input("x", (1, 3, 16, 16))
    for i in range(layers):
        x = net.relu(net.conv(x, 32, 3, name=f"conv{i}"))
    net.output(net.linear(net.flatten(net.global_average_pool(x)), 10, name="head"))
    return net.model()


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def test_filling_is_deterministic_and_leaves_the_original() -> None:
    model = chain()
    before = model.SerializeToString()
    first, again, other = fill_weights(model, 1), fill_weights(model, 1), fill_weights(model, 2)
    assert model.SerializeToString() == before
    assert first.SerializeToString() == again.SerializeToString()
    assert first.SerializeToString() != other.SerializeToString()
    assert len(first.SerializeToString()) > 4 * (32 * 27 + 2 * 32 * 32 * 9)
    onnx.checker.check_model(first, full_check=True)


def test_activations_neither_explode_nor_fade_over_60_layers() -> None:
    model = fill_weights(chain(60))
    session = ort.InferenceSession(model.SerializeToString())
    (y,) = session.run(
        None, {"x": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    )
    assert np.isfinite(y).all()
    assert 1e-6 < np.abs(y).max() < 1e6


def test_weights_larger_than_the_tile_keep_their_deviation() -> None:
    net = OnnxBuilder("wide")
    net.output(net.linear(net.input("x", (1, 1024)), 1024, name="wide"))
    weight = arrays(fill_weights(net.model()))["wide.weight"]
    assert weight.std() == pytest.approx(np.sqrt(1.6 / 1024), rel=0.02)
    assert not np.array_equal(weight[0], weight[256])


def test_given_values_win_and_are_checked() -> None:
    ones = np.ones((10, 32))
    filled = arrays(fill_weights(chain(), values={"head.weight": ones}))
    assert filled["head.weight"].dtype == np.float32
    assert (filled["head.weight"] == 1).all()
    with pytest.raises(ModelError, match="nothead"):
        fill_weights(chain(), values={"nothead": ones})
    with pytest.raises(ModelError, match=r"\(10, 32\).*\(32, 10\)"):
        fill_weights(chain(), values={"head.weight": ones.T})


def test_existing_data_stays() -> None:
    filled = fill_weights(chain(), 1)
    assert fill_weights(filled, 2).SerializeToString() == filled.SerializeToString()


def test_strip_is_the_inverse_of_fill() -> None:
    model = chain()
    assert strip_weights(fill_weights(model)).SerializeToString() == model.SerializeToString()


def test_strip_keeps_shapes_and_small_constants() -> None:
    net = OnnxBuilder("reshaped", constants_as_nodes=True)
    x = net.reshape(net.input("x", (1, 64)), (1, 4, 4, 4))
    table = net.constant(np.arange(64, dtype=np.float32).reshape(1, 4, 4, 4), "table")
    net.output(net.clip(net.add(x, table), 0.0, 6.0))
    stripped = strip_weights(net.model())
    (initializer,) = stripped.graph.initializer  # the large Constant node became one, without data
    assert initializer.name == "table"
    assert initializer.data_location == TensorProto.EXTERNAL
    assert sum(node.op_type == "Constant" for node in stripped.graph.node) == 3
    ort.InferenceSession(fill_weights(stripped).SerializeToString())


def test_int8_scales_agree_with_each_other() -> None:
    net = OnnxBuilder("int8")
    x = net.quantized(net.input("x", (1, 8, 8, 8)))
    net.output(net.quantized(net.conv(x, 16, 3, precision="int8", name="c")))
    filled = arrays(fill_weights(net.model()))
    assert filled["c.weight"].dtype == np.int8
    assert 30 < filled["c.weight"].astype(float).std() < 50  # spread over the range
    assert (filled["c.weight_zero_point"] == 0).all()
    np.testing.assert_allclose(
        filled["c.bias_scale"], filled["x.scale"] * filled["c.weight_scale"], rtol=1e-6
    )
    deviation = (filled["c.weight"] * filled["c.weight_scale"].reshape(-1, 1, 1, 1)).std()
    assert deviation == pytest.approx(np.sqrt(1.6 / 72), rel=0.1)


def test_models_above_2_gb_are_refused_before_any_memory_is_taken() -> None:
    net = OnnxBuilder("huge")
    net.output(net.linear(net.input("x", (1, 100_000)), 100_000))
    with pytest.raises(ModelError, match=r"40\.0 GB.*2 GB"):
        fill_weights(net.model())


def test_a_missing_shape_is_not_made_up() -> None:
    net = OnnxBuilder("shape")
    x = net.input("x", (4, 4))
    target = net.constant(np.array([16], np.int64), "target")
    net.output(net.node("Reshape", x, target))
    model = net.model()
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match=r"'target'.*decides a shape"):
        fill_weights(model)


def test_normalisation_gets_positive_variances() -> None:
    net = OnnxBuilder("norm")
    net.output(net.batch_norm(net.input("x", (1, 64, 4, 4)), name="bn"))
    filled = arrays(fill_weights(net.model()))
    assert (filled["bn.running_var"] > 0).all()
    assert filled["bn.weight"].mean() == pytest.approx(1.1, abs=0.1)


def test_weights_inside_a_branch_are_stripped() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "then",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])],
        [numpy_helper.from_array(np.ones(64, np.float32), "w")],
    )
    node = helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body)
    graph = helper.make_graph(
        [node],
        "if",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [64])],
    )
    stripped = strip_weights(helper.make_model(graph))
    branches = [a.g for a in stripped.graph.node[0].attribute]
    assert all(not t.raw_data for branch in branches for t in branch.initializer)
