"""Files damaged at random: read, or refused by a ModelError; nothing else ever escapes."""

from __future__ import annotations

import random

import pytest
from onnx import ModelProto, numpy_helper

from hardsight.errors import ModelError
from hardsight.ingest import read_onnx

TEXTS = [
    """g (float[N,3,8,8] x) => (float[N,10] y) <float[4,3,3,3] w, float[10,256] f, int64[2] t = {-1, 256}> {
        c = Conv<pads=[1,1,1,1], strides=[1,1], group=1>(x, w)
        r = Relu(c)
        s = Reshape(r, t)
        y = Gemm<transB=1>(s, f)
    }""",
    """g (float[1,8] x) => (float[1,8] y) <int64 m = {3}, bool go = {1}, float[8,8] w> {
        y = Loop (m, go, x) <body = b (int64 i, bool ci, float[1,8] s) => (bool co, float[1,8] t) {
            co = Identity(ci)
            h = MatMul(s, w)
            c = Equal(i, m)
            t = If (c) <then_branch = p () => (float[1,8] u) { u = Relu(h) },
                        else_branch = e () => (float[1,8] v) { v = Softmax<axis=-1>(h) }>
        }>
    }""",
    """g (float[1,4,8,8] x) => (float[1,6,8,8] y)
    <float s = {0.1}, uint8 z = {128}, int8[6,4,3,3] w, float[6] ws, int8[6] wz> {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        wd = DequantizeLinear<axis=0>(w, ws, wz)
        c = Conv<pads=[1,1,1,1]>(d, wd)
        u = Resize<mode="nearest">(c, , , sizes)
        v = Concat<axis=1>(u, c)
        k, l = Split<axis=1>(v)
        y = Einsum<equation="abcd,abcd->abcd">(k, l)
    }""".replace("<float s", "<int64[4] sizes = {1, 6, 8, 8}, float s"),
]
NUMBERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 7, 2**31, 2**40, 2**62, 2**63 - 1)
TYPES = (
    "Relu",
    "Conv",
    "Reshape",
    "MatMul",
    "Concat",
    "LSTM",
    "Loop",
    "If",
    "Scan",
    "Shape",
    "Split",
    "TopK",
    "",
    "§",
)


def _mutate_proto(model: ModelProto, rng: random.Random) -> None:
    """One change that keeps the file well-formed."""
    graph = model.graph
    node = rng.choice(graph.node)
    action = rng.randrange(10)
    if action == 0:
        node.op_type = rng.choice(TYPES)
    elif action == 1 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(
            ["", *(o for n in graph.node for o in n.output), "x"]
        )
    elif action == 2 and node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice(["", "x", "y", "new"])
    elif action == 3 and node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.i = rng.choice(NUMBERS)
        for index in range(len(attribute.ints)):
            attribute.ints[index] = rng.choice(NUMBERS)
        attribute.type = rng.choice([attribute.type, rng.randrange(15)])
    elif action == 4:
        weight = rng.choice(graph.initializer)
        weight.dims.extend([rng.choice(NUMBERS)])
    elif action == 5:
        weight = rng.choice(graph.initializer)
        weight.data_type = rng.randrange(40)
    elif action == 6:
        value = rng.choice([*graph.input, *graph.output, *graph.value_info])
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_value = rng.choice(NUMBERS)
    elif action == 7:
        graph.node.append(rng.choice(graph.node))
    elif action == 8 and node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]
    else:
        node.domain = rng.choice(["com.microsoft", "ai.onnx.ml", "own", "ai.onnx"])
        model.opset_import.add(domain=node.domain, version=rng.choice([0, 1, 3, 2**31]))


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(damaged))
        action = rng.randrange(3)
        if action == 0:
            damaged[at] = rng.randrange(256)
        elif action == 1:
            del damaged[at : at + rng.randint(1, 8)]
        else:
            damaged[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 4)))
    return bytes(damaged)


@pytest.mark.parametrize("text", range(len(TEXTS)))
def test_damaged_models(model, text, record_property):
    rng = random.Random(2026 + text)
    base = model(TEXTS[text])
    read_onnx(base)
    read = 0
    for number in range(160):
        victim = ModelProto()
        victim.CopyFrom(base)
        if number % 2:
            for _ in range(rng.randint(1, 3)):
                _mutate_proto(victim, rng)
            data = victim.SerializeToString()
        else:
            data = _mutate_bytes(victim.SerializeToString(), rng)
        try:
            graph = read_onnx(data, name="damaged")
        except ModelError as error:
            assert "\n" not in str(error)
            continue
        read += 1
        assert graph.digest
        assert graph.macs >= 0
        assert all(op.bytes >= 0 and op.repeats >= 0 for op in graph.operators)
    record_property("read", read)
    assert 0 < read < 160


def test_damaged_constants_are_no_crash(model):
    base = model(TEXTS[0])
    shape = next(t for t in base.graph.initializer if t.name == "t")
    shape.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(shape), "t"))
    shape.raw_data = shape.raw_data[:-3]
    with pytest.raises(ModelError):
        read_onnx(base)
