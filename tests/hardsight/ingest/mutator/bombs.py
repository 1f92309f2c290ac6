"""Small files that ask for much: time, memory, depth, or numbers beyond every type."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

Bomb = Callable[[random.Random], bytes]
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def _info(name: str, shape: Sequence[int | str] | None, code: int = FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, code, shape)


def _weight(name: str, dims: Sequence[int], code: int = FLOAT) -> TensorProto:
    return TensorProto(name=name, dims=dims, data_type=code)


def _ints(name: str, values: Sequence[int]) -> TensorProto:
    return helper.make_tensor(name, INT64, [len(values)], values)


def _model(
    nodes: Iterable[NodeProto],
    weights: Iterable[TensorProto] = (),
    shape: Sequence[int | str] = (1, 8),
    functions: Iterable[FunctionProto] = (),
) -> bytes:
    """A model from ``x`` of that shape to ``y`` of an unstated one."""
    graph = GraphProto(name="g", node=nodes, initializer=weights, input=[_info("x", shape)])
    graph.output.append(_info("y", None))
    imports = [helper.make_opsetid(*pair) for pair in (("", 17), ("own", 1), ("com.microsoft", 1))]
    model = ModelProto(graph=graph, ir_version=10, opset_import=imports, functions=functions)
    return model.SerializeToString()


def _node(op_type: str, inputs: str, outputs: str, **attributes: object) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


def deep_chain(rng: random.Random) -> bytes:
    """Thousands of nodes in a row, perhaps listed backwards."""
    length = rng.choice((300, 1000, 3000, 10_000))
    kinds = rng.choice((("Relu",), ("Relu", "Identity"), ("Cos", "Sigmoid", "Add")))
    nodes = []
    for i in range(length):
        kind = kinds[i % len(kinds)]
        source, made = (f"t{i}" if i else "x"), (f"t{i + 1}" if i + 1 < length else "y")
        nodes.append(_node(kind, f"{source} x" if kind == "Add" else source, made))
    return _model(nodes[::-1] if rng.random() < 0.3 else nodes)


def unknown_chain(rng: random.Random) -> bytes:
    """Operators that nobody knows, whose shapes have to be assumed."""
    names = ["x", *(f"{i}" for i in range(rng.choice((10, 2000)))), "y"]
    pairs = itertools.pairwise(names)
    return _model(_node("Mystery", a, b, domain=rng.choice(("own", ""))) for a, b in pairs)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def nested_bodies(rng: random.Random) -> bytes:
    """If inside If; written by hand because protobuf itself would not build it so deep."""
    leaf = GraphProto(node=[_node("Relu", "x", "y")], output=[_info("y", [1, 8])]).SerializeToString()
    name = rng.choice((b"", b"n" * 60_000))
    for _ in range(rng.choice((3, 20, 31, 100, 5000 if not name else 50))):
        branches = b""
        for key in (b"then_branch", b"else_branch"):
            inner = leaf if key == b"then_branch" or len(leaf) < 20_000 else b""
            branches += _field(5, _field(1, key) + _field(6, inner) + b"\xa0\x01\x05")
        node = _field(1, b"go") + _field(2, b"y") + _field(3, name) + _field(4, b"If") + branches
        leaf = _field(1, node) + _field(12, _info("y", [1, 8]).SerializeToString())
    graph = leaf + _field(11, _info("x", [1, 8]).SerializeToString())
    graph += _field(11, _info("go", [], BOOL).SerializeToString())
    return b"\x08\x08" + _field(7, graph) + _field(8, b"\x10\x11")


def long_names_in_a_body(rng: random.Random) -> bytes:
    """Every name in a body is prefixed with that of the node around it: long times many."""
    inner = [_node("Relu", f"t{i}" if i else "x", f"t{i + 1}") for i in range(1000)]
    body = GraphProto(node=inner, output=[_info("t1000", [1, 8])])
    node = _node("If", "go", "y", then_branch=body, else_branch=body)
    node.name = "n" * rng.choice((10_000, 1_000_000))
    return _model([node], [helper.make_tensor("go", BOOL, [], [1])])


def nested_loops(rng: random.Random) -> bytes:
    """Each runs 2**30 times the one inside it: together beyond every float."""
    depth, trips = rng.choice((2, 5, 24)), rng.choice((3, 2**30, 2**31 - 1, 2**60, -(2**63)))
    nodes = [_node("MatMul", "s0 w", "t0"), _node("Identity", "go", "c0")]
    for i in range(depth):
        state = _info(f"s{i}", [1, 8])
        outer = [_info(f"c{i}", [], BOOL), _info(f"t{i}", [1, 8])]
        body = GraphProto(
            name="b", node=nodes, input=[_info(f"i{i}", [], INT64), _info(f"d{i}", [], BOOL), state]
        )
        body.output.extend(outer)
        loop = _node("Loop", f"trips go s{i + 1}", f"t{i + 1}", body=body)
        nodes = [loop, _node("Identity", "go", f"c{i + 1}")]
    weights = [_weight("w", [8, 8]), helper.make_tensor("go", BOOL, [], [1])]
    weights.append(helper.make_tensor("trips", INT64, [], [trips]))
    nodes[-1].output[0] = "unused"
    return _model([_node("Identity", "x", f"s{depth}"), *nodes, _node("Relu", f"t{depth}", "y")], weights)


def odd_trip_counts(rng: random.Random) -> bytes:
    """A trip count that is no number."""
    body = GraphProto(name="b", node=[_node("Sigmoid", "s", "t"), _node("Identity", "d", "c")])
    body.input.extend([_info("i", [], INT64), _info("d", [], BOOL), _info("s", [1, 8])])
    body.output.extend([_info("c", [], BOOL), _info("t", [1, 8])])
    value = rng.choice((float("nan"), float("inf"), float("-inf"), 1e300))
    trips = helper.make_tensor("m", rng.choice((FLOAT, TensorProto.DOUBLE)), [], [value])
    return _model([_node("Loop", "m go x", "y", body=body)], [trips, helper.make_tensor("go", BOOL, [], [1])])


def long_scan(rng: random.Random) -> bytes:
    """A Scan over a sequence of absurd length, or along an axis that is not there."""
    length, axis = rng.choice((2**20, 2**40, 0)), rng.choice((0, 1, 2, 7, -1, -9, 2**62))
    body = GraphProto(name="b", node=[_node("Sigmoid", "e", "o"), _node("RandomNormal", "", "r", shape=[4])])
    body.input.append(_info("e", [8]))
    body.output.extend([_info("o", [8]), _info("r", [4])])
    source = rng.choice(("x", "ghost", "scalar"))
    node = _node("Scan", source, "y z", body=body, num_scan_inputs=1, scan_input_axes=[axis])
    if source == "ghost":
        node.input[0] = ""
    return _model([node], [helper.make_tensor("scalar", FLOAT, [], [1.0])], shape=(length, 8))


def multiplying_functions(rng: random.Random) -> bytes:
    """Each function calls the one before it twice or more: 2**60 nodes in a kilobyte."""
    calls = rng.choice((2, 3, 10))
    functions = []
    for level in range(rng.choice((3, 12, 18, 22, 60))):
        callee = f"f{level - 1}"
        names = ["x", *(f"h{i}" for i in range(calls - 1)), "y"]
        nodes = [
            _node(callee if level else "Relu", a, b, domain="own" if level else "")
            for a, b in itertools.pairwise(names)
        ]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        functions.append(helper.make_function("own", f"f{level}", ["x"], ["y"], nodes, imports))
    return _model([_node(functions[-1].name, "x", "y", domain="own")], functions=functions)


def recursive_functions(rng: random.Random) -> bytes:
    """A ring of functions, each calling the next."""
    count = rng.choice((1, 2, 50))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function(
            "own", f"f{i}", ["x"], ["y"], [_node(f"f{(i + 1) % count}", "x", "y", domain="own")], imports
        )
        for i in range(count)
    ]
    return _model([_node("f0", "x", "y", domain="own")], functions=functions)


def doubling_tensors(rng: random.Random) -> bytes:
    """A tensor put beside itself again and again."""
    op_type = rng.choice(("Concat", "Tile", "Resize", "Pad", "Expand", "Unsqueeze", "Einsum"))
    nodes, source = [], "x"
    for i in range(rng.choice((10, 35, 70))):
        made = f"t{i}"
        if op_type == "Concat":
            nodes.append(_node("Concat", f"{source} {source}", made, axis=0))
        elif op_type == "Einsum":
            nodes.append(_node("Einsum", f"{source} {source}", made, equation="ab,cb->ac"))
        elif op_type == "Unsqueeze":
            nodes.append(_node("Unsqueeze", f"{source} zero", made))
        else:
            node = _node(op_type, f"{source} two", made)
            if op_type == "Resize":
                node.input[:] = [source, "", "scales"]
            nodes.append(node)
        source = made
    weights = [_ints("two", [2, 2]), _ints("zero", [0])]
    weights.append(helper.make_tensor("scales", FLOAT, [2], [2.0, 2.0]))
    return _model([*nodes, _node("Relu", source, "y")], weights)


def doubling_constants(rng: random.Random) -> bytes:
    """The same on constants, which are computed."""
    nodes, source = [], "c"
    for i in range(rng.choice((5, 40))):
        nodes.append(_node("Concat", f"{source} {source}", f"t{i}", axis=0))
        source = f"t{i}"
    return _model([*nodes, _node("Reshape", f"x {source}", "y")], [_ints("c", [1, 8])])


def outer_products(rng: random.Random) -> bytes:
    """Small constants whose sums, products and selections are large."""
    side = 4096
    weights = [
        helper.make_tensor("a", INT64, [side, 1], [1] * side),
        helper.make_tensor("b", INT64, [1, side], [1] * side),
        helper.make_tensor("i", INT64, [side], [0] * side),
    ]
    kinds = rng.choice((("Add",), ("Mul", "Equal", "Where"), ("Gather",), ("Mod", "Pow", "Concat")))
    nodes = []
    for i in range(rng.choice((4, 60))):
        kind = kinds[i % len(kinds)]
        inputs = {"Gather": "b i", "Where": "a a b", "Concat": "a " * 300}.get(kind, "a b")
        nodes.append(_node(kind, inputs, f"t{i}", **({"axis": 0} if kind in ("Gather", "Concat") else {})))
    return _model([*nodes, _node("Relu", "x", "y")], weights)


def huge_einsum(rng: random.Random) -> bytes:
    """A joint index space of more than 2**1024 points."""
    count = rng.choice((2, 20, 40))
    letters = [chr(ord("A") + i) if i < 26 else chr(ord("a") + i - 26) for i in range(count)]
    equation = ",".join(letters) + "->"
    inputs = "x" + " w" * (count - 1)
    return _model([_node("Einsum", inputs, "y", equation=equation)], [_weight("w", [2**40])], shape=(2**40,))


def huge_work(rng: random.Random) -> bytes:
    """Each tensor is barely possible; the work on them is not."""
    side = rng.choice((2**16, 2**23, 2**24))
    trips = helper.make_tensor("m", INT64, [], [rng.choice((1, 2**30))])
    body = GraphProto(name="b", node=[_node("MatMul", "s s", "t"), _node("Identity", "d", "c")])
    body.input.extend([_info("i", [], INT64), _info("d", [], BOOL), _info("s", [side, side])])
    body.output.extend([_info("c", [], BOOL), _info("t", [side, side])])
    loop = _node("Loop", "m go x", "y", body=body)
    return _model([loop], [trips, helper.make_tensor("go", BOOL, [], [1])], shape=(side, side))


def huge_kernel(rng: random.Random) -> bytes:
    """Windows, pads and strides far larger than what they slide over."""
    number = rng.choice((2**16, 2**31, 2**62))
    pads = [rng.choice((0, number))] * 4
    choices = (
        _node("Conv", "x w", "y", pads=pads, kernel_shape=[number, number]),
        _node("MaxPool", "x", "y", kernel_shape=[number, number], pads=pads),
        _node("AveragePool", "x", "y", kernel_shape=[1, 1], strides=[number, number], dilations=[number] * 2),
        _node("ConvTranspose", "x w", "y", strides=[number, number], output_padding=[number] * 2),
        _node("Mystery", "x", "y", domain="own", kernel_shape=[number] * 60, group=number),
    )
    return _model([rng.choice(choices)], [_weight("w", [3, 3, 2**16, 2**16])], shape=(1, 3, 8, 8))


def many_dimensions(rng: random.Random) -> bytes:
    """Tensors of absurd rank."""
    rank, dim = rng.choice((65, 5000, 100_000)), rng.choice((1, 2**62))
    where = rng.randrange(3)
    weights = [_weight("w", [dim] * rank)] if where == 0 else []
    nodes = [_node("Add", "x w" if where == 0 else "x x", "y")]
    if where == 1:
        nodes.append(helper.make_node("Constant", [], ["c"], value=_weight("c", [dim] * rank)))
    return _model(nodes, weights, shape=[dim] * rank if where == 2 else (1, 8))


def many_outputs(rng: random.Random) -> bytes:
    """More results than parts, and more readers than results."""
    count = rng.choice((9, 1000, 5000))
    parts = " ".join(f"p{i}" for i in range(count))
    nodes = [_node("Split", "x", parts, axis=rng.choice((0, 1, 5))), _node("Sum", parts, "y")]
    if rng.random() < 0.5:
        nodes[0].attribute.append(helper.make_attribute("num_outputs", rng.choice((2, 2**31, 2**62))))
    return _model(nodes)


def many_symbols(rng: random.Random) -> bytes:
    """Hundreds of inputs with open dimensions of many names."""
    data = ModelProto.FromString(_model([_node("Relu", "x", "y")], shape=("N", 8)))
    data.graph.input.extend(_info(f"i{i}", [f"batch{i}", rng.choice((3, f"n{i}"))]) for i in range(500))
    return data.SerializeToString()


def names_made_unique(rng: random.Random) -> bytes:
    """Node names that meet whatever a reader appends to make them differ."""
    names = ["n" + "_2" * i for i in range(1500)]
    if rng.random() < 0.5:
        names = ["n"] * 1500
    tensors = ["x", *(f"t{i}" for i in range(len(names))), "y"]
    nodes = [_node("Sigmoid", a, b) for a, b in itertools.pairwise(tensors)]
    for node, name in zip(nodes, [*names, "n"], strict=True):
        node.name = name
    return _model(nodes)


def fan_out(rng: random.Random) -> bytes:
    """One tensor read thousands of times, and all results read by one node."""
    count = rng.choice((10, 3000))
    op_type = rng.choice(("DequantizeLinear", "Relu", "Identity"))
    made = " ".join(f"t{i}" for i in range(count))
    inputs = "q s" if op_type == "DequantizeLinear" else "x"
    nodes = [_node("QuantizeLinear", "x s", "q"), *(_node(op_type, inputs, name) for name in made.split())]
    return _model([*nodes, _node("Max", made, "y")], [helper.make_tensor("s", FLOAT, [], [0.1])])


def narrow_floats(rng: random.Random) -> bytes:
    """QONNX bit widths that are no widths."""
    widths = rng.choices((float("nan"), float("inf"), -1.0, 0.0, 0.5, 1e30, 64.0, 1e9), k=2)
    weights = [helper.make_tensor(name, FLOAT, [], [w]) for name, w in zip("em", widths, strict=True)]
    weights.append(helper.make_tensor("s", FLOAT, [], [1.0]))
    kind, inputs = rng.choice(
        (("FloatQuant", "x s e m e m"), ("IntQuant", "x s s e"), ("Trunc", "x s s s m"))
    )
    nodes = [_node(kind, inputs, "h", domain="onnx.brevitas"), _node("Relu", "h", "y")]
    return _model(nodes, weights)


def odd_numbers_for_contrib_operators(rng: random.Random) -> bytes:
    """Attributes of other domains, which ONNX does not check."""
    number = rng.choice((0, -1, 2**62, float("nan"), float("inf"), "text", [1.5, 2.5], ["a"]))
    op_type, inputs, names = rng.choice(
        (
            ("MatMulNBits", "x w w", ("N", "K", "bits")),
            ("GroupQueryAttention", "x x x", ("num_heads", "kv_num_heads")),
            ("MultiHeadAttention", "x x x", ("num_heads",)),
            ("QAttention", "x w w", ("num_heads", "qkv_hidden_sizes")),
            ("FusedConv", "x w", ("group", "strides", "pads", "kernel_shape")),
            ("QLinearConcat", "w w x w w", ("axis",)),
            ("GatherBlockQuantized", "w x w", ("gather_axis", "bits")),
        )
    )
    given = {rng.choice(names): number} | dict.fromkeys(names[1:], 2)
    shape = rng.choice(((1, 8), (1, 4, 8), (1, 2, 4, 8), (1, 4, 2, 3, 8)))
    weight = _weight("w", rng.choice(((8, 8), (8, 4, 3, 3), (24,))))
    return _model([_node(op_type, inputs, "y", domain="com.microsoft", **given)], [weight], shape=shape)


def nothing(rng: random.Random) -> bytes:
    """Files with nothing in them."""
    empty = ModelProto(ir_version=8)
    graph = ModelProto(ir_version=8, graph=GraphProto(name="g"))
    through = ModelProto(ir_version=8, graph=GraphProto(input=[_info("x", [1])], output=[_info("x", [1])]))
    bare = ModelProto(graph=GraphProto(node=[NodeProto()] * rng.choice((1, 20_000))))
    silent = ModelProto(graph=GraphProto(node=[_node(rng.choice(("Identity", "Cast", "Relu")), "", "")]))
    attribute = ModelProto(graph=GraphProto(node=[NodeProto(op_type="If", attribute=[AttributeProto()])]))
    whole = rng.choice((empty, graph, through, bare, silent, attribute))
    return rng.choice((b"", b"\0" * 5000, *[whole.SerializeToString()] * 6))


BOMBS: Final[tuple[Bomb, ...]] = (
    deep_chain,
    unknown_chain,
    nested_bodies,
    long_names_in_a_body,
    nested_loops,
    odd_trip_counts,
    long_scan,
    multiplying_functions,
    recursive_functions,
    doubling_tensors,
    doubling_constants,
    outer_products,
    huge_einsum,
    huge_work,
    huge_kernel,
    many_dimensions,
    many_outputs,
    many_symbols,
    names_made_unique,
    fan_out,
    narrow_floats,
    odd_numbers_for_contrib_operators,
    nothing,
)
