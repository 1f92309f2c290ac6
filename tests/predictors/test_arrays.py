"""What arrays of multipliers need, by hand and against what the vendor's compiler said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from worlds import conv, relu

from hardsight.device import LoopMapping, MacArray, get_device
from hardsight.graph import Operator, OperatorGraph, TensorSpec
from hardsight.measurement import Measurement, MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors.arrays import arrays_of
from hardsight.predictors.encoding import OF_ARRAY, PRIORS, encode_graphs
from hardsight.predictors.graphnet import GraphNetConfig, GraphNetPredictor

TPU, ETHOS = "tpu-like/zigzag/int8", "ethos-u55-128/vela/int8"


def all_costs(op: Operator, device: str) -> list[float]:
    """Of one operator, in the order of `OF_ARRAY`."""
    x = TensorSpec("x", op.input_shapes[0], "float", 32)
    graph = OperatorGraph("g", (op,), (x,), (), ((0, 0),), op.bytes_weights)
    found: list[float] = (
        encode_graphs([graph], list(arrays_of([device]).values())).priors[0, len(PRIORS) :].tolist()
    )
    return found


def costs(op: Operator, device: str) -> tuple[float, float]:
    """Cycles of the array, and with its memory, of one operator."""
    busy, reached, *_ = all_costs(op, device)
    return busy, reached


def test_channels_are_filled_up_to_the_array() -> None:
    busy, reached = costs(conv("c", -1, 3, 40, 28), TPU)
    assert busy == 64 * 32 * 9 * 28 * 28 / 1024
    assert reached == max(busy, (3 * 28 * 28 + 40 * 28 * 28 + 3 * 40 * 9) / 8)


def test_input_channels_and_taps_may_be_one_loop() -> None:
    """ZigZag's dimc has 128 rows: 3 x 9 of them do for a window over three channels."""
    busy, _ = costs(conv("c", -1, 3, 100, 16), "dimc/zigzag/int8")
    assert busy == 128 * 128 * 16 * 16 / 2048


def test_only_products_cost_anything_on_zigzag() -> None:
    assert costs(relu("r", -1, 8, 16, "Exp"), TPU) == (0, 0)


def pointwise(channels: int, positions: int) -> Operator:
    size = 4 * channels * positions
    shape = (1, channels, positions)
    return Operator(
        "p", "Conv", ((-1, 0),), (shape,), (shape,), ((channels, channels, 1),),
        {"kernel_shape": (1,), "strides": (1,), "group": 1}, weight_bits=32, macs=channels**2 * positions,
        bytes_in=size, bytes_out=size, bytes_weights=4 * channels**2,
    )  # fmt: skip


def test_what_vela_says_of_a_pointwise_convolution() -> None:
    """Vela 5.2 reports 3,616,237 cycles of the NPU for 624 to 624 channels at 1,158 positions."""
    busy, _ = costs(pointwise(624, 1158), ETHOS)
    assert busy == pytest.approx(3_616_237, rel=2e-3)


def test_zeros_of_a_dilated_window_are_multiplied_beyond_the_native_dilation() -> None:
    """Vela 5.2 on seven taps: as long dilated by 2; 13 taps' time dilated by 4 (1.86 times), 25 by 8 (3.57 times)."""

    def dilated(by: int) -> float:
        op = pointwise(208, 499)
        taps = {"kernel_shape": (7,), "dilations": (by,), "strides": (1,), "group": 1}
        return costs(replace(op, attributes=taps, weight_shapes=((208, 208, 7),), macs=7 * op.macs), ETHOS)[0]

    assert dilated(2) == dilated(1)
    assert dilated(4) / dilated(1) == pytest.approx(1.86, rel=0.01)
    assert dilated(8) / dilated(1) == pytest.approx(3.57, rel=0.01)
    assert dilated(3) / dilated(1) == pytest.approx(19 / 7, rel=0.06)


def test_few_positions_take_as_long_as_many() -> None:
    assert costs(pointwise(64, 1), ETHOS)[0] == costs(pointwise(64, 16), ETHOS)[0]
    assert costs(pointwise(64, 32), ETHOS)[0] == 2 * costs(pointwise(64, 16), ETHOS)[0]


def test_a_long_stride_is_made_position_by_position() -> None:
    near = conv("c", -1, 8, 8, 16)
    far = replace(near, attributes={**near.attributes, "strides": (4, 4)})
    single = replace(near, output_shapes=((1, 8, 1, 1),), macs=near.macs // 256)
    assert costs(far, ETHOS)[0] == 256 * costs(single, ETHOS)[0]


def test_depthwise_layers_have_a_mapping_of_their_own() -> None:
    dense = conv("c", -1, 64, 64, 16)
    shape = {"weight_shapes": ((64, 1, 3, 3),), "macs": dense.macs // 64, "bytes_weights": 64 * 9 * 4}
    depthwise = replace(dense, attributes={**dense.attributes, "group": 64}, **shape)
    assert costs(depthwise, ETHOS)[0] == 64 * 12 * 256 / 16
    assert costs(depthwise, TPU)[0] == 64 * costs(conv("c", -1, 1, 1, 16), TPU)[0]


def test_the_slower_of_array_and_memory_counts() -> None:
    busy, reached = costs(pointwise(640, 1), ETHOS)
    assert reached == 640 * 640 > busy  # a byte of weights a cycle


@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 40), st.sampled_from((1, 3, 5)),
    st.sampled_from((TPU, ETHOS, "dimc/zigzag/int8", "edge-tpu-like/zigzag/int8", "ethos-u65-512/vela/int8")),
)  # fmt: skip
def test_no_array_is_faster_than_its_multipliers(
    c_in: int, c_out: int, side: int, kernel: int, device: str
) -> None:
    op = conv("c", -1, c_in, c_out, side, kernel)
    busy, reached = costs(op, device)
    array = get_device(device).array
    assert array is not None
    assert reached >= busy >= op.macs / array.mappings[0].macs_per_cycle * (1 - 1e-9)


def test_constants_per_channel_are_fetched_at_every_position() -> None:
    """Vela 5.2 reports 4,608 bytes of flash for 42 factors at 36 positions: bursts of 128 bytes."""
    shape = (1, 6, 6, 42)
    op = Operator(
        "m", "Mul", ((-1, 0),), (shape,), (shape,), ((42,),), weight_bits=32, bytes_in=4 * 36 * 42,
        bytes_out=4 * 36 * 42, bytes_weights=4 * 42,
    )  # fmt: skip
    assert all_costs(op, ETHOS)[OF_ARRAY.index("fetched")] == 4608


def test_features_leave_only_a_cache_that_is_too_small() -> None:
    spilled = OF_ARRAY.index("spilled")
    small, large = conv("c", -1, 16, 16, 64), conv("c", -1, 16, 16, 256)
    assert all_costs(small, "ethos-u65-256/vela/int8")[spilled] == 0
    assert all_costs(large, "ethos-u65-256/vela/int8")[spilled] == 2 * 16 * 256**2
    assert all_costs(large, ETHOS)[spilled] == 0  # features stay in SRAM, which has no limit there
    assert all_costs(small, TPU)[spilled] == 2 * 16 * 64**2


def test_partial_sums_leave_a_cache_that_they_do_not_fit() -> None:
    """128 rows take 3 x 9 inputs at once, and 64 x 9 in five steps; 32 KiB hold the sums of 16 x 16 positions only."""
    spilled, dimc = OF_ARRAY.index("spilled"), "dimc/zigzag/int8"
    assert all_costs(conv("c", -1, 64, 64, 16), dimc)[spilled] == 2 * 64 * 16**2
    assert all_costs(conv("c", -1, 3, 64, 32), dimc)[spilled] == (3 + 64) * 32**2
    assert all_costs(conv("c", -1, 64, 64, 32), dimc)[spilled] == (2 + 4 * 4) * 64 * 32**2


def test_what_is_used_of_a_cache_is_never_more_than_it_has() -> None:
    device, cache = "ethos-u65-256/vela/int8", 393216
    nets = {}
    for width in range(4, 68, 2):
        op = conv("c", -1, 3, width, 128)
        net = OperatorGraph("g", (op,), (TensorSpec("x", (1, 3, 128, 128), "float", 32),), (), ((0, 0),), 99)
        nets[net.digest] = net
    rows = [
        Measurement(
            d, device, Metric.SRAM, float(min(g.operators[0].bytes_out / 4, cache)), spread=0.0, repeats=1,
            provenance="simulated",
        )
        for d, g in nets.items()
    ]  # fmt: skip
    table = MeasurementTable.from_measurements(rows, nets)
    predictor = GraphNetPredictor(GraphNetConfig(members=1, epochs=5, least_steps=100)).fit(table)
    found = predictor.point(list(nets.values()), device, Metric.SRAM)
    assert max(found) <= cache * (1 + 1e-6)
    assert np.mean(np.abs(found / [m.value for m in rows] - 1)) < 0.1


def test_devices_without_an_array_and_unknown_ones_are_left_out() -> None:
    assert list(arrays_of([TPU, "epyc-zen5/onnxruntime/fp32-t1", "lab/onnxruntime/fp32-t1"])) == [TPU]


def test_a_loop_of_another_name_is_refused() -> None:
    with pytest.raises(ValidationError, match="at_once"):
        LoopMapping.model_validate({"macs_per_cycle": 1, "at_once": {"M": 8}})
    with pytest.raises(ValidationError, match="mappings"):
        MacArray(mappings=(), bytes_per_cycle=1)


def test_a_network_is_learned_from_few_layers_where_the_array_explains_them(tmp_path: Path) -> None:
    """Labels are the array's own cycles, on sizes twice those of training; loaded again, the answers are the same."""
    rng = np.random.default_rng(0)

    def network(size: int) -> OperatorGraph:
        c_in, ops = 3, []
        for i in range(3):
            c_out = int(rng.integers(4, size))
            ops.append(conv(f"c{i}", i - 1, c_in, c_out, 16))
            c_in = c_out
        x = TensorSpec("x", (1, 3, 16, 16), "float", 32)
        return OperatorGraph("g", tuple(ops), (x,), (), ((2, 0),), sum(op.bytes_weights for op in ops))

    def label(graph: OperatorGraph) -> float:
        reached = len(PRIORS) + OF_ARRAY.index("reached")
        return float(encode_graphs([graph], list(arrays_of([TPU]).values())).priors[:, reached].sum())

    seen = {g.digest: g for g in (network(100) for _ in range(40))}
    rows = [
        Measurement(d, TPU, Metric.CYCLES, label(g), spread=0.0, repeats=1, provenance="simulated")
        for d, g in seen.items()
    ]
    table = MeasurementTable.from_measurements(rows, seen)
    predictor = GraphNetPredictor(GraphNetConfig(members=1, epochs=5, least_steps=50)).fit(table)
    unseen = [network(200) for _ in range(20)]
    found = predictor.point(unseen, TPU, Metric.CYCLES)
    assert np.median(np.abs(found / [label(g) for g in unseen] - 1)) < 0.1
    loaded = GraphNetPredictor.load_state(tmp_path, predictor.save_state(tmp_path))
    assert list(loaded.point(unseen, TPU, Metric.CYCLES)) == list(found)


def test_a_recurrent_layer_fetches_the_weights_of_its_state_at_every_step() -> None:
    def layer(steps: int) -> Operator:
        return Operator(
            "lstm", "LSTM", ((-1, 0),), ((steps, 1, 8),), ((steps, 1, 1, 64),), ((1, 256, 8), (1, 256, 64)),
            {"hidden_size": 64}, weight_bits=32, macs=steps * 256 * 72, bytes_in=32 * steps,
            bytes_out=256 * steps, bytes_weights=4 * 256 * 72,
        )  # fmt: skip

    assert costs(layer(10), TPU)[1] == (256 * (8 + 10 * 64) + 10 * 8 + 10 * 64) / 8
