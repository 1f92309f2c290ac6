"""ONNX to PyTorch: the same numbers as ONNX Runtime, plain code, and clear refusals."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import parser

from hardsight.datasets.families import FAMILIES
from hardsight.datasets.quantize import quantize_static, random_feeds
from hardsight.datasets.to_torch import to_torch
from hardsight.datasets.weights import fill_weights
from hardsight.errors import ModelError, NotSupportedError


def member(family: str, seed: int) -> onnx.ModelProto:
    small = replace(FAMILIES[family], macs_range=(1e6, 1e7))
    return fill_weights(small.sample(np.random.default_rng([seed, zlib.crc32(family.encode())])))


def outputs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def run(module: torch.nn.Module, feeds: dict[str, np.ndarray]) -> list[Any]:
    with torch.inference_mode():
        found = module(*(torch.from_numpy(feed) for feed in feeds.values()))
    return [f.numpy() for f in (found if isinstance(found, tuple) else (found,))]


def assert_agrees(model: onnx.ModelProto, seed: int = 0, tolerance: float = 1e-4) -> torch.fx.GraphModule:
    feeds = dict(random_feeds(model, seed))
    module = to_torch(model)
    found, expected = run(module, feeds), outputs(model, feeds)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        scale = np.abs(theirs[np.isfinite(theirs)]).max(initial=1e-6)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)
    return module


def text(body: str, signature: str, opset: int = 17) -> onnx.ModelProto:
    """A model from its text; constants are written in it."""
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {signature} {{ {body} }}')


@pytest.mark.parametrize("family", FAMILIES)
def test_families_agree_with_onnx_runtime(family: str) -> None:
    assert_agrees(member(family, 0))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_more_of_each_family_agrees_with_onnx_runtime(family: str) -> None:
    many = 40 if family in ("single_operator", "small_block") else 4
    for seed in range(1, many):
        assert_agrees(member(family, seed), seed, 1e-3)


IMAGE = "(float[1,4,9,11] x) => (float[N,C,H,W] y)"
ROWS = "(float[3,5] x) => (float[A,B] y)"
SEQUENCE = "(float[6,2,3] x) => (float[A,B,C,D] y)"
OPERATORS = {
    "conv, pads differ": (IMAGE, "w = Constant<value = float[2,4,3,3] {W}>() y = Conv<pads=[1,0,2,1]>(x, w)"),
    "conv, SAME": (
        IMAGE,
        'w = Constant<value = float[2,4,2,2] {W}>() y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)',
    ),
    "conv, groups and dilation": (
        IMAGE,
        "w = Constant<value = float[4,2,3,3] {W}>() y = Conv<group=2, dilations=[2,2]>(x, w)",
    ),
    "transposed conv": (
        IMAGE,
        "w = Constant<value = float[4,2,3,3] {W}>() "
        "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(x, w)",
    ),
    "max pool, ceil": (IMAGE, "y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)"),
    "max pool, wide pads": (IMAGE, "y = MaxPool<kernel_shape=[3,3], pads=[0,1,2,2], strides=[2,2]>(x)"),
    "average pool, pads not counted": (IMAGE, "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)"),
    "average pool, pads differ": (IMAGE, "y = AveragePool<kernel_shape=[3,3], pads=[0,0,1,2]>(x)"),
    "average pool, pads differ and count": (
        IMAGE,
        "y = AveragePool<kernel_shape=[3,3], pads=[0,0,1,2], count_include_pad=1>(x)",
    ),
    "global max": (IMAGE, "y = GlobalMaxPool(x)"),
    "local response": (IMAGE, "y = LRN<size=3, alpha=0.5>(x)"),
    "depth to space, DCR": (IMAGE, "y = DepthToSpace<blocksize=2>(x)"),
    "space to depth": (
        "(float[1,2,4,6] x) => (float[N,C,H,W] y)",
        "y = SpaceToDepth<blocksize=2>(x)",
    ),
    "resize, rounding down": (
        IMAGE,
        'f = Constant<value = float[4] {1,1,2,2}>() y = Resize<mode="nearest", nearest_mode="floor", '
        'coordinate_transformation_mode="asymmetric">(x, , f)',
    ),
    "resize, default nearest": (
        IMAGE,
        'f = Constant<value = float[4] {1,1,0.5,3}>() y = Resize<mode="nearest">(x, , f)',
    ),
    "resize, to a size": (
        IMAGE,
        's = Constant<value = int64[4] {1,4,5,20}>() y = Resize<mode="linear">(x, , , s)',
    ),
    "resize, corners": (
        IMAGE,
        "s = Constant<value = int64[4] {1,4,5,20}>() "
        'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , , s)',
    ),
    "pad, edge": (IMAGE, 'p = Constant<value = int64[8] {0,0,1,2,0,0,0,3}>() y = Pad<mode="edge">(x, p)'),
    "pad, crop and value": (
        IMAGE,
        "p = Constant<value = int64[8] {0,1,-1,2,0,0,0,-3}>() v = Constant<value = float {2.5}>() y = Pad(x, p, v)",
    ),
    "slice, backwards": (
        IMAGE,
        "s = Constant<value = int64[2] {-1,1}>() e = Constant<value = int64[2] {-100,9}>() "
        "a = Constant<value = int64[2] {3,2}>() t = Constant<value = int64[2] {-2,3}>() y = Slice(x, s, e, a, t)",
    ),
    "gather, a table of negatives": (
        ROWS,
        "i = Constant<value = int64[2] {-1,2}>() y = Gather<axis=1>(x, i)",
    ),
    "gather, rows and columns": (
        ROWS,
        "i = Constant<value = int64[1,2,2] {0,4,2,1}>() y = GatherND(x, i)",
    ),
    "gather, by data": (
        "(float[1,5] x) => (float[A,B,C] y)",
        "s = Sign(x) i = Abs(s) t = Cast<to=7>(i) y = Gather<axis=1>(x, t)",
    ),
    "gemm, all attributes": (
        ROWS,
        "b = Constant<value = float[3,4] {W}>() c = Constant<value = float[1,4] {W}>() "
        "y = Gemm<transA=1, alpha=0.5, beta=2.0>(x, b, c)",
    ),
    "gemm, as a dense layer": (
        ROWS,
        "b = Constant<value = float[5,4] {W}>() c = Constant<value = float[4] {W}>() y = Gemm(x, b, c)",
    ),
    "shape arithmetic": (
        ROWS,
        "s = Shape(x) z = Constant<value = int64[1] {0}>() n = Gather(s, z) m = Constant<value = int64[1] {-1}>() "
        "t = Concat<axis=0>(m, n) y = Reshape(x, t)",
    ),
    "expand by a computed shape": (
        "(float[3,1] x) => (float[A,B] y)",
        "f = Constant<value = int64[2] {1,4}>() s = Shape(x) t = Mul(s, f) y = Expand(x, t)",
    ),
    "clamps": (
        ROWS,
        "a = Constant<value = float {0.5}>() b = Constant<value = float {-0.5}>() h = Min(x, a) y = Max(b, h)",
    ),
    "means": (ROWS, "a = Relu(x) y = Mean(x, a, x)"),
    "where": (ROWS, "z = Constant<value = float {0.0}>() c = Less(x, z) n = Neg(x) y = Where(c, n, x)"),
    "reductions": (
        ROWS,
        "a = ReduceL2<axes=[1]>(x) b = ReduceProd<axes=[1]>(x) c = ReduceLogSumExp<axes=[-1]>(x) "
        "d = ReduceSumSquare<axes=[1]>(x) y = Concat<axis=1>(a, b, c, d)",
    ),
    "one number left of a tensor": (
        ROWS,
        "i = Constant<value = float[1,1] {3.0}>() p = Pow(x, i) q = Sub(i, p) y = Div(q, i)",
    ),
    "prelu, per column": (ROWS, "s = Constant<value = float[5] {W}>() y = PRelu(x, s)"),
    "hard sigmoid": (ROWS, "y = HardSigmoid<alpha=0.3>(x)"),
    "tied weights": (
        ROWS,
        "w = Constant<value = float[5,5] {W}>() a = MatMul(x, w) b = MatMul(a, w) y = Add(b, a)",
    ),
    "gru backwards": (
        SEQUENCE,
        "w = Constant<value = float[1,12,3] {W}>() r = Constant<value = float[1,12,4] {W}>() "
        "b = Constant<value = float[1,24] {W}>() "
        'y = GRU<hidden_size=4, linear_before_reset=1, direction="reverse">(x, w, r, b)',
    ),
    "lstm from given states": (
        "(float[6,2,3] x, float[2,2,4] h, float[2,2,4] c) => (float[A,B,C,D] y, float[E,F,G] hn, float[I,J,K] cn)",
        "w = Constant<value = float[2,16,3] {W}>() r = Constant<value = float[2,16,4] {W}>() "
        "b = Constant<value = float[2,32] {W}>() "
        'y, hn, cn = LSTM<hidden_size=4, direction="bidirectional">(x, w, r, b, , h, c)',
    ),
    "rnn with relu, no bias": (
        SEQUENCE,
        "w = Constant<value = float[1,4,3] {W}>() r = Constant<value = float[1,4,4] {W}>() "
        'y = RNN<hidden_size=4, activations=["Relu"]>(x, w, r)',
    ),
}


def filled(body: str) -> str:
    """``{W}`` becomes as many random numbers as the shape before it has elements."""
    import math
    import re

    rng = np.random.default_rng(0)

    def numbers(match: re.Match[str]) -> str:
        n = math.prod(int(d) for d in match[1].split(","))
        return f"[{match[1]}] {{{', '.join(f'{v:.4f}' for v in rng.normal(0, 0.5, n))}}}"

    return re.sub(r"\[([\d,]+)\] \{W\}", numbers, body)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_agree_with_onnx_runtime(name: str) -> None:
    signature, body = OPERATORS[name]
    assert_agrees(text(filled(body), signature))


@pytest.mark.parametrize(
    ("opset", "body"),
    [
        (11, "y = Softmax<axis=1>(x)"),  # over everything from the axis on, until opset 13
        (11, "y = Clip(x)"),
        (6, "y = Clip<min=-0.5, max=0.25>(x)"),
        (11, "y = ReduceMax<axes=[1,2]>(x)"),
        (11, "a, b = Split<axis=2, split=[2,7]>(x) y = Concat<axis=2>(b, a)"),
        (18, "a, b = Split<axis=2, num_outputs=2>(x) y = Concat<axis=2>(b, a)"),
        (9, "s = Constant<value = float[4] {1,1,2,3}>() y = Upsample(x, s)"),
        (20, 'y = Gelu<approximate="tanh">(x)'),
    ],
)
def test_older_and_newer_spellings(opset: int, body: str) -> None:
    assert_agrees(text(body, IMAGE, opset))


def test_quantized_models_are_computed_exactly_as_written() -> None:
    model = quantize_static(member("squeeze_fire", 3))
    assert_agrees(model, tolerance=0.02)  # a rounding that falls the other way moves an output by one step


def test_forward_is_plain_code_with_the_models_weights() -> None:
    w = "w = Constant<value = float[5,4] {W}>() b = Constant<value = float[4] {W}>()"
    module = to_torch(text(filled(f"{w} a = MatMul(x, w) c = Add(b, a) y = Relu(c)"), ROWS))
    calls = [n.target for n in module.graph.nodes if n.op == "call_function"]
    assert calls == [torch.nn.functional.linear, torch.nn.functional.relu]
    assert sorted(tuple(p.shape) for p in module.parameters()) == [(4,), (4, 5)]
    assert not any(p.requires_grad for p in module.parameters())


def test_a_sum_that_others_read_too_stays_apart() -> None:
    w = "w = Constant<value = float[5,4] {W}>() b = Constant<value = float[4] {W}>()"
    assert_agrees(text(filled(f"{w} a = MatMul(x, w) c = Add(b, a) y = Mul(c, a)"), ROWS))


def test_shared_weights_stay_shared() -> None:
    module = to_torch(text(filled(OPERATORS["tied weights"][1]), ROWS))
    assert len(list(module.parameters())) == 1


@pytest.mark.parametrize(
    "family",
    [
        "recurrent",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("inverted_bottleneck_se", "gpt", "unet")),
    ],
)
def test_modules_trace_and_export(family: str) -> None:
    model = member(family, 1)
    inputs = tuple(torch.from_numpy(v) for v in random_feeds(model).values())
    module = to_torch(model)
    with torch.no_grad():
        expected = module(*inputs)
        traced = torch.jit.trace(module, inputs)
        exported = torch.export.export(module, inputs, strict=False).module()
    for other in (traced, exported):
        torch.testing.assert_close(other(*inputs), expected)


@pytest.mark.parametrize("family", ["bert", "recurrent", "unet"])
def test_half_precision_reaches_every_layer(family: str) -> None:
    model = member(family, 2)
    module = to_torch(model, dtype=torch.bfloat16)
    feeds = [torch.from_numpy(v) for v in random_feeds(model).values()]
    with torch.inference_mode():
        half = module(*(f.bfloat16() if f.is_floating_point() else f for f in feeds))
        full = to_torch(model)(*feeds)
    assert half.dtype is torch.bfloat16
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert (half.float() - full).abs().max() < 0.15 * full.abs().max()


def test_shapes_bind_dynamic_inputs() -> None:
    model = text("y = Relu(x)", "(float[n,4] x) => (float[n,4] y)")
    with pytest.raises(ModelError, match="'x' has no fixed shape"):
        to_torch(model)
    assert to_torch(model, shapes={"x": (3, 4)})(torch.ones(3, 4)).shape == (3, 4)


def test_all_unsupported_operators_are_named() -> None:
    model = text("a = Det(x) b = NonZero(x) c = Det(x) y = Relu(x)", "(float[3,3] x) => (float[3,3] y)")
    with pytest.raises(NotSupportedError, match=r"3 operators .*: Det \(2\), NonZero \(1\)"):
        to_torch(model)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('y = Resize<mode="cubic", exclude_outside=1>(x, , f)', "mode cubic"),
        ("y, i = MaxPool<kernel_shape=[2,2]>(x)", "indices"),
        (
            "s = Cast<to=7>(x) t = Flatten<axis=0>(s) q = Squeeze(t) y = Reshape(x, q)",
            "takes input 1 from the data",
        ),
    ],
)
def test_unsupported_variants_say_which(body: str, reason: str) -> None:
    scales = "f = Constant<value = float[4] {1,1,2,2}>() "
    with pytest.raises(NotSupportedError, match=reason):
        to_torch(text(scales + body, IMAGE))


def test_what_is_missing_or_contradicts_is_refused() -> None:
    weightless = FAMILIES["mlp"].sample(np.random.default_rng(0))
    with pytest.raises(ModelError, match=r"has no data; fill the model's weights"):
        to_torch(weightless)
    with pytest.raises(ModelError, match=r"has shape \[3, 5\] in PyTorch; the file says \[3, 6\]"):
        to_torch(text("y = Relu(x)", "(float[3,5] x) => (float[3,6] y)"))
    with pytest.raises(ModelError, match="MatMul 'y' cannot be converted"):
        to_torch(text("y = MatMul(x, x)", ROWS))
