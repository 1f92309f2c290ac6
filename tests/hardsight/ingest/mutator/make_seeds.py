"""Write the sound models that mutants start from: ``PYTHONPATH=tests/hardsight/ingest python -m mutator.make_seeds``.

They are kept as files, so that neither a change of a family nor of a quantizer changes any mutant.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, parser

HEADER = (
    '<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1, "qonnx.custom_op.general" : 1, "own" : 1]>'
)
TEXTS = {
    "convolution": """g (float[N,3,8,8] x) => (float[N,10] y)
        <float[4,3,3,3] w, float[10,256] f, int64[2] t = {-1, 256}> {
            c = Conv<pads=[1,1,1,1], strides=[1,1], group=1>(x, w)
            r = Relu(c)
            s = Reshape(r, t)
            y = Gemm<transB=1>(s, f)
        }""",
    "loop_if": """g (float[1,8] x) => (float[1,8] y, float[3,1,8] all)
        <int64 m = {3}, bool go = {1}, float[8,8] w> {
            y, all = Loop (m, go, x) <
                body = b (int64 i, bool ci, float[1,8] s) => (bool co, float[1,8] t, float[1,8] h) {
                co = Identity(ci)
                h = MatMul(s, w)
                c = Equal(i, m)
                t = If (c) <then_branch = p () => (float[1,8] u) { u = Relu(h) },
                            else_branch = e () => (float[1,8] v) { v = Softmax<axis=-1>(h) }>
            }>
        }""",
    "qdq": """g (float[1,4,8,8] x) => (float[1,6,8,8] y)
        <int64[4] sizes = {1, 6, 8, 8}, float s = {0.1}, uint8 z = {128}, int8[6,4,3,3] w, float[6] ws,
         int8[6] wz> {
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            wd = DequantizeLinear<axis=0>(w, ws, wz)
            c = Conv<pads=[1,1,1,1]>(d, wd)
            u = Resize<mode="nearest">(c, , , sizes)
            v = Concat<axis=1>(u, c)
            k, l = Split<axis=1>(v)
            y = Einsum<equation="abcd,abcd->abcd">(k, l)
        }""",
    "shape_chain": """g (float[N,3,8,8] x) => (float[N,10] y)
        <float[4,3,3,3] w, float[10,256] f, int64[1] minus = {-1}> {
            c = Conv<pads=[1,1,1,1]>(x, w)
            s = Shape(c)
            zero = Constant<value_int=0>()
            n = Gather(s, zero)
            axes = Constant<value_ints=[0]>()
            n1 = Unsqueeze(n, axes)
            target = Concat<axis=0>(n1, minus)
            r = Reshape(c, target)
            y = Gemm<transB=1>(r, f)
        }""",
    "scan": """g (float[1,8] s, float[7,1,8] x) => (float[1,8] y, float[7,1,8] ys) <float[8,8] w> {
            y, ys = Scan <num_scan_inputs = 1, scan_input_axes = [0],
                body = b (float[1,8] a, float[1,8] e) => (float[1,8] n, float[1,8] o) {
                m = MatMul(e, w)
                n = Add(a, m)
                o = Identity(n)
            }> (s, x)
        }""",
    "branches": """g (float[1,8] x) => (float[8] y) {
            s = Shape(x)
            i = Constant<value_int=0>()
            one = Constant<value_int=1>()
            axes = Constant<value_ints=[0]>()
            wrong = Constant<value_ints=[1]>()
            d = Gather(s, i)
            c = Equal(d, one)
            k = If (c) <
                then_branch = t () => (float[8] p) { p = Squeeze(x, axes) },
                else_branch = e () => (float[8] q) { q = Squeeze(x, wrong) }
            >
            y = Neg(k)
        }""",
    "qonnx": """g (float[1,4,8,8] x) => (float[1,6,8,8] y)
        <float s = {0.1}, float z = {0}, float four = {4}, float three = {3}, float[6,4,3,3] w> {
            q = qonnx.custom_op.general.Quant<signed=1, narrow=0, rounding_mode="ROUND">(x, s, z, four)
            wq = qonnx.custom_op.general.Quant<signed=1, narrow=1, rounding_mode="ROUND">(w, s, z, three)
            c = Conv<pads=[1,1,1,1]>(q, wq)
            b = qonnx.custom_op.general.BipolarQuant(c, s)
            y = Relu(b)
        }""",
    "microsoft": """g (float[1,16,32] x) => (float[1,16,32] y)
        <float[32,96] w, float[96] b, float[32] g1, float[32] g2, uint8[32,1,16] p, float[32] ps> {
            a = com.microsoft.Attention<num_heads=4>(x, w, b)
            s = com.microsoft.SkipLayerNormalization(a, x, g1, g2)
            f = com.microsoft.MatMulNBits<K=32, N=32, bits=4, block_size=32>(s, p, ps)
            y = com.microsoft.Gelu(f)
        }""",
    "sizes_of_data": """g (float[4,5] x, bool[4] keep) => (int64[2,k] y, float[a,5] z, float[4,3] v)
        <int64[1] k3 = {3}> {
            y = NonZero(x)
            z = Compress<axis=0>(x, keep)
            v, i = TopK<axis=1>(x, k3)
        }""",
}
FUNCTIONS = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[1,8] x, float[8,8] w) => (float[1,8] y) { h = own.layer <slope = 0.5> (x, w)  y = own.twice(h, w) }
<domain: "own", opset_import: ["" : 17, "own" : 1]>
twice (x, w) => (y) { h = own.layer<slope = 0.1>(x, w)  y = own.layer<slope = 0.2>(h, w) }
<domain: "own", opset_import: ["" : 17]>
layer <slope> (x, w) => (y) { h = MatMul(x, w)  y = LeakyRelu<alpha: float = @slope>(h) }"""
FAMILIES = (
    "residual_basic",
    "inverted_bottleneck_se",
    "shuffle",
    "unet",
    "vit",
    "bert",
    "recurrent",
    "small_block",
)
QUANTIZED = ("vit",)
NODE_CASES = (
    "test_attention_4d_with_past_and_present", "test_lstm_with_peepholes", "test_gru_batchwise",
    "test_nonmaxsuppression_identical_boxes", "test_loop13_seq", "test_if_seq", "test_scan_sum", "test_scan9_sum",
    "test_sequence_map_add_2_sequences", "test_resize_upsample_scales_cubic", "test_roialign_mode_max",
    "test_qlinearconv", "test_convinteger_with_padding", "test_einsum_batch_matmul",
    "test_split_to_sequence_2", "test_optional_get_element_sequence", "test_layer_normalization_4d_axis1_expanded",
    "test_deform_conv_with_mask_bias", "test_strnormalizer_export_monday_casesensintive_lower",
)  # fmt: skip


def text_models() -> dict[str, ModelProto]:
    """From ONNX text; tensors declared in the header without a value become weights without data."""
    models = {}
    for name, text in TEXTS.items():
        model = models[name] = parser.parse_model(HEADER + text)
        made = {output for node in model.graph.node for output in node.output}
        for value in [v for v in model.graph.value_info if v.name not in made]:
            kind = value.type.tensor_type
            weight = model.graph.initializer.add(name=value.name, data_type=kind.elem_type)
            weight.dims.extend(dim.dim_value for dim in kind.shape.dim)
            model.graph.value_info.remove(value)
    return {**models, "functions": parser.parse_model(FUNCTIONS)}


def family_models() -> dict[str, ModelProto]:
    """A small member of some families, and quantized twins."""
    from hardsight.datasets.families import FAMILIES as ALL
    from hardsight.datasets.quantize import quantize_static
    from hardsight.datasets.weights import fill_weights, strip_weights

    models = {}
    for name in FAMILIES:
        small = replace(ALL[name], macs_range=(1e6, 3e6)).sample(np.random.default_rng(4))
        models[name] = small
        if name in QUANTIZED:
            models[name + "_int8"] = strip_weights(quantize_static(fill_weights(small)))
    return models


def node_models() -> dict[str, ModelProto]:
    """Of the ONNX package's own tests."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = {case.name: case.model for case in collect_testcases(None)}
    return {name.removeprefix("test_"): cases[name] for name in NODE_CASES}


def embedded_model() -> ModelProto:
    """Weights inside the file, sparse and dense, and a table outside it."""
    rng = np.random.default_rng(0)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 16]) for name in "xy")
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [3], [0, 7, 200])
    outside = TensorProto(name="shape", data_type=TensorProto.INT64, dims=[2])
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "8"), ("length", "16")):
        outside.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("MatMul", ["x", "dense"], ["a"]),
        helper.make_node("MatMul", ["a", "sparse"], ["b"]),
        helper.make_node("Reshape", ["b", "shape"], ["y"]),
    ]
    dense = onnx.numpy_helper.from_array(rng.standard_normal((16, 16)).astype(np.float32), "dense")
    graph = helper.make_graph(
        nodes, "g", [x], [y], [dense, outside],
        sparse_initializer=[helper.make_sparse_tensor(values, indices, [16, 16])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def main() -> None:
    """Write them all."""
    folder = Path(__file__).parent / "seeds"
    folder.mkdir(exist_ok=True)
    models = {**text_models(), **family_models(), **node_models(), "embedded": embedded_model()}
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
