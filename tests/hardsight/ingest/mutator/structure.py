"""Damage to what a file says; it stays a well-formed protobuf message."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final

from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    helper,
)

Change = Callable[[ModelProto, random.Random], None]

NUMBERS: Final = (
    -(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 1000, 2**16, 2**31 - 1, 2**31, 2**40, 2**60, 2**62, 2**63 - 1,
)  # fmt: skip
FLOATS: Final = (float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 0.5, 1e-45, 3e38)
WORDS: Final = (
    "", "x", "y", "new", "§", "a\nb", "nul\0", "\x1b[31m", "\u202e", "'", "%s{0}", "a/Select/b", "/", "..",
)  # fmt: skip
OPERATORS: Final = (
    "Relu", "Conv", "ConvTranspose", "Reshape", "MatMul", "Gemm", "Concat", "LSTM", "Loop", "If", "Scan",
    "SequenceMap", "Shape", "Size", "Split", "TopK", "Identity", "Cast", "Dropout", "Constant", "Slice", "Pad",
    "Tile", "Expand", "Resize", "Einsum", "Gather", "ScatterND", "NonZero", "Range", "QuantizeLinear",
    "DequantizeLinear", "QLinearConv", "MaxPool", "AveragePool", "GlobalAveragePool", "Attention", "Unsqueeze",
    "Squeeze", "Transpose", "OneHot", "SequenceConstruct", "SequenceAt", "Optional", "ConstantOfShape",
    "Attention", "MatMulNBits", "QAttention", "GroupQueryAttention", "Quant", "Begin", "Trunc", "", "§",
)  # fmt: skip
DOMAINS: Final = (
    "com.microsoft", "ai.onnx", "ai.onnx.ml", "own", "hardsight", "qonnx.custom_op.general", "onnx.brevitas", "",
)  # fmt: skip
LOCATIONS: Final = (
    "weights.bin", "missing.bin", "pipe", "folder", "link", "loop", "..", "../secret", "a/../../b", "/dev/zero",
    "/etc/passwd", "C:\\w", "", ".", "w" * 5000, "nul\0", "\n",
)  # fmt: skip
NAMED_NUMBERS: Final = (
    "kernel_shape", "pads", "strides", "dilations", "axes", "perm", "split", "output_shape", "shape", "starts",
    "ends", "group", "axis", "to", "bits", "N", "K", "num_heads", "kv_num_heads", "hidden_size", "num_outputs",
    "transA", "transBatchA", "ceil_mode", "start", "end", "blocksize", "num_scan_inputs", "scan_input_axes",
    "allowzero", "q_num_heads", "kv_num_heads", "qkv_hidden_sizes", "states", "batched", "stacked", "at", "keepdims",
)  # fmt: skip


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _graph(model: ModelProto, rng: random.Random) -> GraphProto:
    """The main graph or one inside it."""
    return rng.choice([model.graph, *_graphs(model.graph)])


def _nodes(model: ModelProto, rng: random.Random) -> list[NodeProto]:
    """One node, or none where there is none; of functions, too."""
    everywhere = [node for graph in _graphs(model.graph) for node in graph.node]
    everywhere += [node for function in model.functions for node in function.node]
    return rng.choices(everywhere) if everywhere else []


def _attributes(model: ModelProto, rng: random.Random) -> list[AttributeProto]:
    found = [a for graph in _graphs(model.graph) for node in graph.node for a in node.attribute]
    return rng.choices(found) if found else []


def _weights(model: ModelProto, rng: random.Random) -> list[TensorProto]:
    """One initializer or tensor of a Constant."""
    found = [tensor for graph in _graphs(model.graph) for tensor in graph.initializer]
    found += [
        a.t
        for graph in _graphs(model.graph)
        for node in graph.node
        for a in node.attribute
        if a.HasField("t")
    ]
    return rng.choices(found) if found else []


def _values(model: ModelProto, rng: random.Random) -> list[ValueInfoProto]:
    found = [v for graph in _graphs(model.graph) for v in (*graph.input, *graph.output, *graph.value_info)]
    return rng.choices([*model.graph.input, *model.graph.output, *found]) if found else []


def _names(model: ModelProto) -> list[str]:
    graph = model.graph
    made = [output for node in graph.node for output in node.output]
    return [*made, *(v.name for v in graph.input), *(t.name for t in graph.initializer), "x"]


# --- types and shapes ---------------------------------------------------------------------------


def change_dimensions(model: ModelProto, rng: random.Random) -> None:
    for value in _values(model, rng):
        for dim in value.type.tensor_type.shape.dim:
            if rng.random() < 0.5:
                dim.dim_value = rng.choice(NUMBERS)


def open_dimensions(model: ModelProto, rng: random.Random) -> None:
    for value in _values(model, rng):
        for dim in value.type.tensor_type.shape.dim:
            if rng.random() < 0.5:
                dim.dim_param = rng.choice(("N", "batch", "seq", "height", "n" * 5000, *WORDS))


def change_the_rank(model: ModelProto, rng: random.Random) -> None:
    for value in _values(model, rng):
        dims = value.type.tensor_type.shape.dim
        if dims and rng.random() < 0.5:
            del dims[rng.randrange(len(dims))]
        else:
            for _ in range(rng.choice((1, 2, 70))):
                dims.add(dim_value=rng.choice((1, *NUMBERS)))


def drop_the_shape(model: ModelProto, rng: random.Random) -> None:
    for value in _values(model, rng):
        value.type.tensor_type.ClearField("shape")


def drop_the_type(model: ModelProto, rng: random.Random) -> None:
    for value in _values(model, rng):
        value.ClearField("type")


def change_the_element_type(model: ModelProto, rng: random.Random) -> None:
    for value in _values(model, rng):
        value.type.tensor_type.elem_type = rng.choice((rng.randrange(40), -1, 2**31 - 1))


def wrap_the_type(model: ModelProto, rng: random.Random) -> None:
    for value in _values(model, rng):
        kind = TypeProto()
        kind.CopyFrom(value.type)
        for _ in range(rng.choice((1, 2, 12))):
            outer = TypeProto()
            if rng.random() < 0.3:
                outer.map_type.key_type = TensorProto.INT64
                outer.map_type.value_type.CopyFrom(kind)
            else:
                held = outer.sequence_type if rng.random() < 0.5 else outer.optional_type
                held.elem_type.CopyFrom(kind)
            kind = outer
        value.type.CopyFrom(kind)


def forget_inner_shapes(model: ModelProto, rng: random.Random) -> None:
    for graph in _graphs(model.graph):
        del graph.value_info[:]


# --- weights ------------------------------------------------------------------------------------


def change_weight_dimensions(model: ModelProto, rng: random.Random) -> None:
    for tensor in _weights(model, rng):
        for index in range(len(tensor.dims)):
            if rng.random() < 0.5:
                tensor.dims[index] = rng.choice(NUMBERS)


def change_the_weight_rank(model: ModelProto, rng: random.Random) -> None:
    for tensor in _weights(model, rng):
        if tensor.dims and rng.random() < 0.5:
            del tensor.dims[rng.randrange(len(tensor.dims))]
        else:
            tensor.dims.extend(rng.choices((1, *NUMBERS), k=rng.choice((1, 2, 70))))


def change_the_weight_type(model: ModelProto, rng: random.Random) -> None:
    for tensor in _weights(model, rng):
        tensor.data_type = rng.choice((rng.randrange(40), -1, 2**31 - 1))


def claim_gigabytes(model: ModelProto, rng: random.Random) -> None:
    for tensor in _weights(model, rng):
        tensor.ClearField("raw_data")
        tensor.dims[:] = rng.choice(((2**20, 2**20), (2**34,), (2**48,), (0, 2**62, 2**62), (2**24, 2**24)))


def damage_the_data(model: ModelProto, rng: random.Random) -> None:
    for tensor in _weights(model, rng):
        if tensor.raw_data and rng.random() < 0.5:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data))]
        else:
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = rng.randbytes(rng.choice((1, 8, 4000)))


def change_a_constant(model: ModelProto, rng: random.Random) -> None:
    """Numbers that decide shapes, trip counts, axes."""
    for tensor in _weights(model, rng):
        count = 1
        for dim in tensor.dims:
            count *= dim
        if 0 <= count <= 64:
            size = count
            name, dims = tensor.name, list(tensor.dims)
            if rng.random() < 0.7:
                code, values = TensorProto.INT64, rng.choices(NUMBERS, k=size)
            else:
                code, values = TensorProto.DOUBLE, rng.choices(FLOATS, k=size)
            tensor.CopyFrom(helper.make_tensor(name, code, dims, values))


def move_weights_out(model: ModelProto, rng: random.Random) -> None:
    for tensor in _weights(model, rng):
        for field in ("raw_data", "float_data", "int64_data", "external_data"):
            tensor.ClearField(field)
        if rng.random() < 0.5:
            tensor.data_type = TensorProto.INT64
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=rng.choice(LOCATIONS))
        for key in ("offset", "length"):
            value = rng.choice(("", "0", "-1", "8", "1e9", "x", str(2**63), "9" * 400, "9" * 6000))
            tensor.external_data.add(key=key, value=value)


def remove_a_weight(model: ModelProto, rng: random.Random) -> None:
    weights = _graph(model, rng).initializer
    if weights:
        del weights[rng.randrange(len(weights))]


def repeat_a_weight(model: ModelProto, rng: random.Random) -> None:
    for tensor in _weights(model, rng):
        _graph(model, rng).initializer.append(tensor)


def make_a_weight_sparse(model: ModelProto, rng: random.Random) -> None:
    weights = model.graph.initializer
    if weights:
        tensor = weights.pop(rng.randrange(len(weights)))
        sparse = model.graph.sparse_initializer.add(dims=rng.choice((tensor.dims, (2**40, 2**40), (-1,), ())))
        sparse.values.CopyFrom(tensor)
        sparse.indices.dims.append(rng.choice(NUMBERS))


def change_quantisation_parameters(model: ModelProto, rng: random.Random) -> None:
    """Scales and zero points of a wrong length or type."""
    readers = [n for n in model.graph.node if n.op_type.endswith(("QuantizeLinear", "DequantizeLinear"))]
    named = {name for node in readers for name in node.input[1:]}
    for tensor in model.graph.initializer:
        if tensor.name in named and rng.random() < 0.5:
            tensor.ClearField("raw_data")
            tensor.dims[:] = rng.choice(((), (0,), (2,), (3,), (1000,), (3, 3), (2**40,)))
            if rng.random() < 0.3:
                tensor.data_type = rng.choice((1, 2, 3, 6, 7, 10, 17, 21))


# --- nodes --------------------------------------------------------------------------------------


def change_the_operator(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        node.op_type = rng.choice(OPERATORS)


def change_the_domain(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        node.domain = rng.choice(DOMAINS)
        if rng.random() < 0.5:
            model.opset_import.add(domain=node.domain, version=rng.choice((1, *NUMBERS)))


def forge_an_inner_node(model: ModelProto, rng: random.Random) -> None:
    """The reader ties bodies to their surroundings by nodes of its own; a file may name them, too."""
    for node in _nodes(model, rng):
        node.domain, node.op_type = "hardsight", rng.choice(("Begin", "End", "Select"))


def rewire_an_input(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(_names(model))


def dangle_an_input(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(("ghost", *WORDS))


def close_a_cycle(model: ModelProto, rng: random.Random) -> None:
    graph = model.graph
    if graph.node:
        first = rng.randrange(len(graph.node))
        last = graph.node[rng.randrange(first, len(graph.node))]
        graph.node[first].input.extend(last.output[:1])


def remove_an_input(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        if node.input:
            del node.input[rng.randrange(len(node.input))]


def repeat_an_input(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        if node.input:
            node.input.extend([rng.choice(node.input)] * rng.choice((1, 2, 1000)))


def rename_an_output(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        if node.output:
            node.output[rng.randrange(len(node.output))] = rng.choice((*WORDS, *_names(model)))


def remove_an_output(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        if node.output:
            del node.output[rng.randrange(len(node.output))]


def add_outputs(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        node.output.extend(f"more{i}" for i in range(rng.choice((1, 3, 300))))


def remove_a_node(model: ModelProto, rng: random.Random) -> None:
    nodes = _graph(model, rng).node
    if nodes:
        del nodes[rng.randrange(len(nodes))]


def repeat_a_node(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        _graph(model, rng).node.append(node)


def shuffle_the_nodes(model: ModelProto, rng: random.Random) -> None:
    graph = _graph(model, rng)
    nodes = list(graph.node)
    rng.shuffle(nodes)
    del graph.node[:]
    graph.node.extend(nodes)


# --- attributes ---------------------------------------------------------------------------------


def remove_an_attribute(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        if node.attribute:
            del node.attribute[rng.randrange(len(node.attribute))]


def change_an_attributes_numbers(model: ModelProto, rng: random.Random) -> None:
    for attribute in _attributes(model, rng):
        attribute.i = rng.choice(NUMBERS)
        for index in range(len(attribute.ints)):
            if rng.random() < 0.7:
                attribute.ints[index] = rng.choice(NUMBERS)


def change_an_attributes_length(model: ModelProto, rng: random.Random) -> None:
    for attribute in _attributes(model, rng):
        if attribute.ints and rng.random() < 0.5:
            del attribute.ints[rng.randrange(len(attribute.ints)) :]
        else:
            attribute.type = AttributeProto.INTS
            attribute.ints.extend(rng.choices((0, 1, *NUMBERS), k=rng.choice((1, 3, 100))))


def change_an_attributes_type(model: ModelProto, rng: random.Random) -> None:
    for attribute in _attributes(model, rng):
        attribute.type = rng.randrange(15)
        attribute.f = rng.choice(FLOATS)
        attribute.floats.extend(rng.choices(FLOATS, k=3))
        attribute.s = rng.choice(WORDS).encode()
        attribute.strings.extend((b"\xff\xfe", b"kernel"))


def change_an_attributes_name(model: ModelProto, rng: random.Random) -> None:
    for attribute in _attributes(model, rng):
        attribute.name = rng.choice((*NAMED_NUMBERS, *WORDS, "operands", "value"))


def add_a_number(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        name = rng.choice(NAMED_NUMBERS)
        kind = rng.randrange(5)
        if kind == 0:
            node.attribute.append(helper.make_attribute(name, rng.choice(NUMBERS)))
        elif kind == 1:
            node.attribute.append(helper.make_attribute(name, rng.choices(NUMBERS, k=rng.choice((1, 2, 4)))))
        elif kind == 2:
            node.attribute.append(helper.make_attribute(name, rng.choice(FLOATS)))
        elif kind == 3:
            node.attribute.append(helper.make_attribute(name, rng.choices(FLOATS, k=rng.choice((1, 2, 4)))))
        else:
            node.attribute.append(helper.make_attribute(name, ["kernel", "\u202e"]))


def change_a_text(model: ModelProto, rng: random.Random) -> None:
    """Equations, modes and padding rules."""
    texts = (
        "abc,cd->abd",
        "...,...",
        "i" * 300,
        "SAME_UPPER",
        "VALID",
        "bidirectional",
        "§,§->",
        "->",
        ",,,,",
    )
    for attribute in _attributes(model, rng):
        if attribute.type == AttributeProto.STRING or rng.random() < 0.2:
            attribute.type = AttributeProto.STRING
            attribute.s = rng.choice((*texts, *WORDS)).encode()


def take_anothers_attributes(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        for other in _nodes(model, rng):
            node.attribute.extend(list(other.attribute))


def repeat_an_attribute(model: ModelProto, rng: random.Random) -> None:
    for node in _nodes(model, rng):
        if node.attribute:
            node.attribute.append(rng.choice(node.attribute))
            node.attribute[-1].i = rng.choice(NUMBERS)


# --- bodies and functions -----------------------------------------------------------------------


def empty_a_body(model: ModelProto, rng: random.Random) -> None:
    inner = list(_graphs(model.graph))[1:]
    if inner:
        body = rng.choice(inner)
        part = rng.choice((body.node, body.input, body.output))
        del part[rng.randrange(len(part) + 1) :]


def add_to_a_body(model: ModelProto, rng: random.Random) -> None:
    inner = list(_graphs(model.graph))[1:]
    if inner:
        part = rng.choice(("input", "output", "value_info"))
        getattr(rng.choice(inner), part).add(name=rng.choice((*WORDS, *_names(model))))


def change_a_function(model: ModelProto, rng: random.Random) -> None:
    """Calls itself, is missing, is there twice, or has another signature."""
    if model.functions:
        function = rng.choice(model.functions)
        action = rng.randrange(6)
        if action == 0 and function.node:
            node = rng.choice(function.node)
            node.domain, node.op_type = function.domain, function.name
        elif action == 1:
            model.functions.remove(function)
        elif action == 2:
            model.functions.append(function)
        elif action == 3:
            del function.input[:]
        elif action == 4:
            function.output.append(rng.choice(WORDS))
        else:
            del function.opset_import[:]


# --- the file as a whole --------------------------------------------------------------------------


def change_an_opset(model: ModelProto, rng: random.Random) -> None:
    if model.opset_import:
        rng.choice(model.opset_import).version = rng.choice((1, 6, 8, 9, 11, 13, 18, *NUMBERS))


def drop_the_opsets(model: ModelProto, rng: random.Random) -> None:
    del model.opset_import[:]


def change_the_ir_version(model: ModelProto, rng: random.Random) -> None:
    model.ir_version = rng.choice((3, 4, *NUMBERS))


def change_graph_outputs(model: ModelProto, rng: random.Random) -> None:
    outputs = model.graph.output
    action = rng.randrange(4)
    if action == 0:
        outputs.add(name=rng.choice((*WORDS, *_names(model))))
    elif action == 1 and outputs:
        outputs.append(rng.choice(outputs))
    elif action == 2:
        del outputs[:]
    else:
        outputs.extend(list(model.graph.input))


def change_graph_inputs(model: ModelProto, rng: random.Random) -> None:
    inputs = model.graph.input
    action = rng.randrange(3)
    if action == 0:
        del inputs[rng.randrange(len(inputs) + 1) :]
    elif action == 1 and inputs:
        inputs.append(rng.choice(inputs))
    else:
        inputs.extend(ValueInfoProto(name=tensor.name) for tensor in model.graph.initializer)


def empty_the_graph(model: ModelProto, rng: random.Random) -> None:
    del model.graph.node[:]
    if rng.random() < 0.5:
        del model.graph.output[:]


def lengthen_a_name(model: ModelProto, rng: random.Random) -> None:
    """Up to a megabyte: no message may print it whole."""
    name = rng.choice(("n", "§", "/", "a b")) * rng.choice((500, 20_000, 300_000))
    graph, action = model.graph, rng.randrange(8)
    for node in _nodes(model, rng):
        if action == 0:
            node.name = name
        elif action == 1:
            node.op_type = name
        elif action == 2:
            node.domain = name
        elif action == 3 and node.input:
            node.input[0] = name
        elif action == 4 and node.output:
            node.output[0] = name
        elif action == 5 and node.attribute:
            node.attribute[0].name = name
        elif action == 6 and graph.input:
            graph.input[0].name = name
        elif action == 7:
            graph.name = name
    for tensor in _weights(model, rng):
        if rng.random() < 0.3:
            tensor.name = name


def rename_everywhere(model: ModelProto, rng: random.Random) -> None:
    """One tensor gets an odd name consistently, so that the reader comes further."""
    old, new = rng.choice(_names(model)), rng.choice((*WORDS, "n" * 100_000))
    for graph in _graphs(model.graph):
        for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            if item.name == old:
                item.name = new
        for node in graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = new


def name_nodes_oddly(model: ModelProto, rng: random.Random) -> None:
    name = rng.choice(WORDS)
    for node in model.graph.node:
        node.name = name


STRUCTURE: Final[tuple[Change, ...]] = (
    change_dimensions,
    open_dimensions,
    change_the_rank,
    drop_the_shape,
    drop_the_type,
    change_the_element_type,
    wrap_the_type,
    forget_inner_shapes,
    change_weight_dimensions,
    change_the_weight_rank,
    change_the_weight_type,
    claim_gigabytes,
    damage_the_data,
    change_a_constant,
    move_weights_out,
    remove_a_weight,
    repeat_a_weight,
    make_a_weight_sparse,
    change_quantisation_parameters,
    change_the_operator,
    change_the_domain,
    forge_an_inner_node,
    rewire_an_input,
    dangle_an_input,
    close_a_cycle,
    remove_an_input,
    repeat_an_input,
    rename_an_output,
    remove_an_output,
    add_outputs,
    remove_a_node,
    repeat_a_node,
    shuffle_the_nodes,
    remove_an_attribute,
    change_an_attributes_numbers,
    change_an_attributes_length,
    change_an_attributes_type,
    change_an_attributes_name,
    add_a_number,
    change_a_text,
    take_anothers_attributes,
    repeat_an_attribute,
    empty_a_body,
    add_to_a_body,
    change_a_function,
    change_an_opset,
    drop_the_opsets,
    change_the_ir_version,
    change_graph_outputs,
    change_graph_inputs,
    empty_the_graph,
    lengthen_a_name,
    rename_everywhere,
    name_nodes_oddly,
)
