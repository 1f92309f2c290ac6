"""Networks of published search spaces: both ways of building them agree, and their totals are the published ones."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from hardsight.datasets.builder import OnnxBuilder
from hardsight.datasets.sources import (
    _graphs_fbnet,
    _graphs_hat,
    _graphs_nas_bench_macro,
    _graphs_nb201,
    _graphs_ofa,
    _graphs_tfnas,
)
from hardsight.datasets.sources._graphs import Build
from hardsight.datasets.sources._graphs_blocks import GraphBlocks, Network, to_graph, to_onnx
from hardsight.datasets.weights import fill_weights
from hardsight.errors import DataError, InputError
from hardsight.graph import OperatorGraph
from hardsight.ingest import read_onnx

MIXED = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|"
LARGEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
ENCODER = _graphs_hat.Encoder("iwslt14deen", 512, (2048, 512), (8, 2))
DECODER = _graphs_hat.Decoder("iwslt14deen", 640, 512, (1024, 512), (4, 2), (8, 4), (3, 1))


def parameters(graph: OperatorGraph) -> int:
    """Trainable parameters as authors count them: a folded bias stands for the two of a batch normalisation."""
    total = 0
    for op in graph.operators:
        if op.op_type in ("Conv", "Gemm"):
            total += sum(map(math.prod, op.weight_shapes))
        if op.op_type == "Conv" and len(op.weight_shapes) == 2:
            total += op.weight_shapes[1][0]
        if op.op_type == "BatchNormalization":
            total += 2 * op.weight_shapes[0][0]
    return total


@pytest.mark.parametrize(
    ("space", "encoding"),
    [
        (_graphs_nb201, _graphs_nb201.encode(MIXED, batch=32)),
        (_graphs_nb201, _graphs_nb201.encode(LARGEST, classes=120, side=16)),
        (_graphs_fbnet, _graphs_fbnet.encode([0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 1] * 2, batch=64)),
        (_graphs_fbnet, _graphs_fbnet.encode([8] * 22, form="imagenet")),
        (_graphs_ofa, _graphs_ofa.encode(132, [2, 3, 4, 2, 3], [3, 5, 7, 3] * 5, [3, 4, 6, 6] * 5)),
        (_graphs_nas_bench_macro, "01210120"),
        (_graphs_hat, ENCODER.encode()),
        (_graphs_hat, DECODER.encode()),
        (_graphs_tfnas, "32 14 80 240 160 80 5 1 swish"),
        (_graphs_tfnas, "1 112 16 16 0 24 3 2 relu"),
    ],
)
def test_the_graph_built_at_once_is_that_of_the_onnx_model(space: ModuleType, encoding: str) -> None:
    graph, read = space.graph(encoding), read_onnx(to_onnx(space.describe, encoding))
    assert graph.digest == read.digest
    assert (graph.macs, graph.weight_bytes, graph.unknown_ops) == (read.macs, read.weight_bytes, {})
    for ours, theirs in zip(graph.operators, read.operators, strict=True):
        assert (ours.bytes, ours.repeats, ours.inputs) == (theirs.bytes, theirs.repeats, theirs.inputs)
    assert [spec.shape for spec in graph.outputs] == [spec.shape for spec in read.outputs]


@pytest.mark.parametrize(
    ("space", "encoding"),
    [
        (_graphs_nas_bench_macro, "01210120"),
        (_graphs_tfnas, "1 14 80 96 80 80 5 1 swish"),
        pytest.param(_graphs_hat, DECODER.encode(), marks=pytest.mark.slow),
    ],
    ids=["chain", "block", "loop"],
)
def test_a_model_is_valid_and_runs(space: ModuleType, encoding: str) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="runs a model")
    model = fill_weights(to_onnx(space.describe, encoding))
    onnx.checker.check_model(model)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    feeds = {i.name: np.ones(i.shape, kinds[i.type]) for i in session.get_inputs()}
    (result,) = session.run(None, feeds)
    assert result.shape == space.graph(encoding).outputs[0].shape
    assert np.isfinite(result).all()


# --- blocks --------------------------------------------------------------------------------------------------


def doubled(net: OnnxBuilder, x: str) -> str:
    return net.scaled(x, 2.0)


def halves(net: OnnxBuilder, x: str) -> tuple[str, ...]:
    return tuple(net.split(x, [4, 4]))


def total(net: OnnxBuilder, a: str, b: str) -> str:
    return net.add(a, b)


def describe_loop(net: Network, _: str) -> None:
    left, right = net.blocks(halves, net.input("x", (2, 8)))

    def step(number: str, states: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
        assert net.shape(number) == ()
        x = net.block(total, net.block(doubled, states[0]), right)  # right comes from outside
        return (x,), x

    net.output(net.block(doubled, net.loop(5, [left], step)))


def test_a_loop_counts_every_pass() -> None:
    graph = to_graph(describe_loop, "loop")
    assert graph.digest == read_onnx(to_onnx(describe_loop, "loop")).digest
    assert [(op.op_type, op.repeats) for op in graph.operators] == [
        ("Split", 1),
        ("Loop", 5),
        ("Mul", 5),
        ("Add", 5),
        ("Mul", 1),
    ]
    assert graph.outputs[0].shape == (5, 2, 4)


def test_integers_keep_their_type() -> None:
    net = GraphBlocks("ids")
    net.output(net.input("tokens", (1, 3), TensorProto.INT64))
    assert net.graph().inputs[0].dtype == net.graph().outputs[0].dtype == "int64"


def test_a_network_without_output_is_refused() -> None:
    with pytest.raises(InputError, match="no output"):
        GraphBlocks("empty").graph()


# --- published totals ----------------------------------------------------------------------------------------


def test_nas_bench_201_has_the_published_totals() -> None:
    """Dong and Yang, ICLR 2020: the benchmark's largest network has 220.12 MFLOPs and 1.53 M parameters on CIFAR-10."""
    graph = _graphs_nb201.graph(_graphs_nb201.encode(LARGEST, classes=10))
    # stem 16 x 3 x 9 x 32^2; per cell 6 x 9 C^2 S^2, C S being 512 in each stage; 15 cells
    cells = 15 * 6 * 9 * 512**2
    # two residual blocks: 3 x 3 with half the channels in, 3 x 3, and 1 x 1 on the pooled image
    reductions = sum((9 * c * c // 2 + 9 * c * c + c * c // 2) * s * s for c, s in ((32, 16), (64, 8)))
    assert graph.macs == 16 * 3 * 9 * 32**2 + cells + reductions + 64 * 10 == 220_119_680
    assert parameters(graph) == 1_531_546  # as NASLib counts for this cell


def test_nas_bench_201_cells_are_built_as_written() -> None:
    swapped = "|skip_connect~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|"
    straight = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"  # the same function
    graphs = [_graphs_nb201.graph(_graphs_nb201.encode(cell)) for cell in (swapped, straight)]
    assert graphs[0].macs == graphs[1].macs
    assert graphs[0].digest != graphs[1].digest
    # 15 cells, and a Mul by zero for every edge called none
    assert [sum(op.op_type == "Mul" for op in graph.operators) for graph in graphs] == [45, 60]


def test_the_batch_is_in_the_graph() -> None:
    one, many = (_graphs_nb201.graph(_graphs_nb201.encode(MIXED, batch=b)) for b in (1, 256))
    assert many.macs == 256 * one.macs
    assert many.weight_bytes == one.weight_bytes
    assert many.inputs[0].shape == (256, 3, 32, 32)


def test_fbnet_c_has_the_published_totals() -> None:
    """Wu et al., CVPR 2019: FBNet-C has 5.5 M parameters and 375 M MACs; timm's fbnetc_100 5.57 M and 0.4 G."""
    choices = [0, 3, 8, 0, 0, 7, 6, 7, 3, 7, 6, 7, 7, 7, 7, 7, 6, 7, 7, 7, 7, 3]
    graph = _graphs_fbnet.graph(_graphs_fbnet.encode(choices, form="imagenet"))
    assert round(parameters(graph) / 1e6, 2) == 5.57
    assert graph.macs == pytest.approx(375e6, rel=0.03)


def test_fbnet_on_cifar_keeps_the_image_large() -> None:
    graph = _graphs_fbnet.graph(_graphs_fbnet.encode([0] * 22))
    assert graph.operators[0].output_shapes == ((1, 16, 32, 32),)
    assert {op.output_shapes[0][2:] for op in graph.operators if op.op_type == "Conv"} == {
        (32, 32),
        (16, 16),
        (8, 8),
        (4, 4),
    }
    assert graph.outputs[0].shape == (1, 100)


def test_the_ofa_supernet_has_the_published_parameters() -> None:
    """Cai et al., ICLR 2020, section 3.2: all subnetworks share 7.7 M parameters, those of the largest."""
    graph = _graphs_ofa.graph(_graphs_ofa.encode(224, [4] * 5, [7] * 20, [6] * 20))
    assert round(parameters(graph) / 1e6, 1) == 7.7


def test_an_ofa_network_ignores_what_its_depths_leave_out() -> None:
    kernels, other = [3] * 20, [3, 3, 7, 7] * 5
    shallow = [_graphs_ofa.encode(160, [2] * 5, k, [4] * 20) for k in (kernels, other)]
    deep = [_graphs_ofa.encode(160, [3] * 5, k, [4] * 20) for k in (kernels, other)]
    assert shallow[0] == shallow[1]
    assert deep[0] != deep[1]
    assert (
        sum(
            op.op_type == "Conv" and op.attributes["group"] != 1
            for op in _graphs_ofa.graph(deep[0]).operators
        )
        == 16
    )


@pytest.mark.parametrize(("channels", "divided"), [(16 * 3, 48), (40 // 4, 16), (112 * 6 // 4, 168), (3, 8)])
def test_widths_are_divisible_by_eight(channels: int, divided: int) -> None:
    assert _graphs_ofa.divisible(channels) == divided


@pytest.mark.parametrize(
    ("arch", "macs", "params"),
    [("02012100", 47327744, 890666), ("11111221", 65012224, 2181386), ("00011110", 31390208, 1118378)],
)
def test_nas_bench_macro_has_the_published_totals(arch: str, macs: int, params: int) -> None:
    """Su et al., CVPR 2021: first rows of nas-bench-macro_cifar10.json."""
    graph = _graphs_nas_bench_macro.graph(arch)
    assert (graph.macs, parameters(graph)) == (macs, params)


def test_hat_has_the_published_parameters() -> None:
    """Wang et al., ACL 2020: 48 M parameters without embeddings for HAT_wmt14ende_raspberrypi@6.9s_bleu@28.4."""
    encoder = _graphs_hat.Encoder("wmt14ende", 512, (3072,) * 6, (8, 4, 8, 8, 8, 8))
    decoder = _graphs_hat.Decoder(
        "wmt14ende",
        512,
        512,
        (2048, 2048, 3072, 3072, 2048),
        (8, 8, 8, 4, 8),
        (4, 8, 8, 8, 8),
        (1, 2, 2, 2, 1),
    )
    weights = 0
    for network in (encoder, decoder):
        for op in _graphs_hat.graph(network.encode()).operators:
            if op.op_type in ("MatMul", "Add", "LayerNormalization"):
                shapes = (s for s in op.weight_shapes if 32768 not in s and len(s) in (1, 2))
                weights += sum(map(math.prod, shapes))
    assert round(weights / 1e6) == 48


def test_hat_decodes_as_many_steps_as_the_sentence_has_tokens() -> None:
    graph = _graphs_hat.graph(DECODER.encode())
    assert {op.repeats for op in graph.operators} == {1, 23}
    # keys and values of the encoder are computed once: three layers of 23 tokens, beam 5, 512 to 512, two matrices
    once = [op for op in graph.operators if op.op_type == "MatMul" and op.repeats == 1]
    assert [op.macs for op in once] == [3 * 23 * 5 * 512 * 512] * 2 + [23 * 5 * 512 * 512] * 2
    words = next(op for op in graph.operators if op.weight_shapes == ((640, 6632),))
    assert (words.macs, words.repeats) == (5 * 640 * 6632, 23)


def test_a_tfnas_block_has_the_parts_it_should() -> None:
    graph = _graphs_tfnas.graph("1 14 80 240 160 80 5 1 swish")
    # 80 to 240, depthwise 5 x 5, squeeze and excite on one pixel, 240 to 80
    assert graph.macs == (80 * 240 + 25 * 240 + 240 * 80) * 14 * 14 + 2 * 240 * 160
    assert graph.operators[-1].op_type == "Add"
    assert not any(op.op_type == "Add" for op in _graphs_tfnas.graph("1 14 80 240 0 112 5 1 swish").operators)
    bare = _graphs_tfnas.graph("1 112 16 16 0 24 3 2 relu")
    assert bare.macs == (9 * 16 + 16 * 24) * 56 * 56  # as wide as the input: no expansion


# --- bad encodings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "encoding", "says"),
    [
        (
            _graphs_nb201.graph,
            "|skip~0|+|none~0|none~1|+|none~0|none~1|none~2| batch 1 classes 10 side 32",
            "skip",
        ),
        (_graphs_fbnet.graph, "1,2,3 batch 1 form cifar100", "22 numbers"),
        (_graphs_fbnet.graph, _graphs_fbnet.encode([9] * 22), "0 to 8"),
        (_graphs_nas_bench_macro.graph, "01234567", "eight digits"),
        (_graphs_nas_bench_macro.graph, "0101", "eight digits"),
        (_graphs_hat.graph, _graphs_hat.Encoder("wmt20", 512, (512,), (2,)).encode(), "wmt20"),
    ],
)
def test_an_encoding_of_nothing_is_refused(graph: Build, encoding: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        graph(encoding)


def test_settings_of_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="five numbers"):
        _graphs_ofa.encode(224, [2, 2, 2, 2, 5], [3] * 20, [3] * 20)
    with pytest.raises(DataError, match="20 of each"):
        _graphs_ofa.encode(224, [2] * 5, [3] * 19, [3] * 20)
    block = {"batch": 1, "resolution": 14, "c_in": 80, "c_se": 0, "c_out": 80, "kernel": 3, "stride": 1}
    with pytest.raises(DataError, match="at least as many"):
        _graphs_tfnas.encode(**block, c_mid=40, act="relu")
