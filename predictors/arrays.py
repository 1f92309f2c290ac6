"""How long an array of multipliers needs for a kernel, by what is published of it.

Loops are filled up to multiples of what the array takes at once, which is most of what a roofline misses on an
accelerator: a layer with three input channels keeps an array of 32 x 32 as long as one with 32. The same count is
behind ZigZag's ideal cycles (Mei et al., IEEE Transactions on Computers 70(8), 2021) and the estimates of Arm's
compiler for the Ethos-U; mappings are not searched here, and memories but the slowest are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from hardsight.device import Loop, LoopMapping, MacArray, get_device
from hardsight.errors import UnknownNameError
from hardsight.prediction import FloatArray
from hardsight.predictors.features import CATEGORIES, IntArray

_CONVOLUTION = [CATEGORIES.index(name) for name in ("conv", "depthwise")]
_SLIDING = [CATEGORIES.index(name) for name in ("pool", "reduce")]
_RECURRENT, _BINARY, _VIEW = (CATEGORIES.index(name) for name in ("recurrent", "binary", "view"))
_PER_CHANNEL = (2, 3)  # operands that are one constant per channel, see `hardsight.predictors.kernels`

Loops = dict[Loop, FloatArray]


def arrays_of(devices: Iterable[str]) -> dict[str, MacArray]:
    """The arrays of those devices that are known to have one."""
    found = {}
    for name in devices:
        try:
            array = get_device(name).array
        except UnknownNameError:
            continue
        if array is not None:
            found[name] = array
    return found


class ArrayCosts(NamedTuple):
    """What each kernel needs on an array, run once ``(v,)``.

    Args:
        busy: cycles of the array by itself.
        reached: cycles of the slower of it and its memory.
        fetched: bytes of weights and other constants.
        spilled: bytes of features that go to the outer memory and come from there.
    """

    busy: FloatArray
    reached: FloatArray
    fetched: FloatArray
    spilled: FloatArray


def array_costs(c: Mapping[str, FloatArray], category: IntArray, array: MacArray) -> ArrayCosts:
    """Costs of kernels on an array; a number is a byte.

    Args:
        c: columns of `hardsight.predictors.kernels.RAW`, ``(v,)`` each.
        category: ``(v,)`` index into `CATEGORIES`.
        array: of the device.
    """
    elements = np.maximum(c["elements"], 1)
    loops = _loops(c, category, elements, array)
    busy = np.min([_filled(loops, mapping) / mapping.macs_per_cycle for mapping in array.mappings], axis=0)
    priced = c["macs"] > 0
    if array.outputs_per_cycle:
        busy = np.where(priced | np.isin(category, _SLIDING), busy, 0)
        busy = np.maximum(busy, elements / array.outputs_per_cycle)
        priced = category != _VIEW
    fetched = _constants(c, category, elements, array)
    features = _in_bytes(c, "in") + _in_bytes(c, "out")
    if array.weight_bytes_per_cycle is None:
        spilled = features + _partial_sums(loops, elements, array)
        memory = (fetched + spilled) / array.bytes_per_cycle
    else:
        live = c["live_bytes"] * 8 / np.maximum(c["in_bits"], 1)
        spilled = np.where(live > (array.cache_bytes or np.inf), features, 0.0)
        memory = np.maximum(fetched / array.weight_bytes_per_cycle, features / array.bytes_per_cycle)
    costs = (busy, np.maximum(busy, memory), fetched, spilled)
    return ArrayCosts(*(np.where(priced, cost, 0.0) for cost in costs))


def _loops(c: Mapping[str, FloatArray], category: IntArray, elements: FloatArray, array: MacArray) -> Loops:
    """Lengths of a kernel's loops ``(v,)``, named as in `hardsight.device.LoopMapping`; what is left over is ``B``."""
    depth = c["macs"] / elements
    convolution, sliding = np.isin(category, _CONVOLUTION), np.isin(category, _SLIDING)
    kinds = [convolution, category == _RECURRENT, sliding]
    area = c["area"] * _spread(c, array.native_dilation)
    window = np.where(c["area"] > 1, c["area"], np.maximum(c["in_elements"] / elements, 1))
    steps, groups = np.maximum(c["axis"], 1), np.maximum(c["groups"], 1)
    gathered = np.maximum(
        c["c_in"] + c["inner"], 1
    )  # a recurrent layer's product is of its input and its state
    loops: Loops = {
        "G": np.select(kinds, [groups, steps, c["c_out"]], 1.0),
        "K": np.select(kinds, [c["c_out"] / groups, c["macs"] / (steps * gathered), 1.0], c["c_out"]),
        "C": np.select(kinds, [depth / np.maximum(c["area"], 1), gathered, 1.0], depth),
        "F": np.select(kinds, [area, 1.0, window], 1.0),
        "X": np.select(
            kinds,
            [c["width"], 1.0, np.where(c["out_rank"] > 2, c["width"], 1)],
            elements / np.maximum(c["c_out"], 1),
        ),
        "Y": np.where((convolution & (c["rank"] > 1)) | (sliding & (c["out_rank"] > 3)), c["height"], 1.0),
    }
    again = elements / np.maximum(loops["G"] * loops["K"] * loops["X"] * loops["Y"], 1)
    loops["B"] = np.where(convolution, np.maximum(again, 1), 1.0)
    if array.largest_stride:
        apart = convolution & (c["stride"] > array.largest_stride)  # position by position
        loops["B"] = np.where(apart, loops["B"] * loops["X"] * loops["Y"], loops["B"])
        loops["X"], loops["Y"] = np.where(apart, 1.0, loops["X"]), np.where(apart, 1.0, loops["Y"])
    return {name: np.maximum(length, 1) for name, length in loops.items()}


def _spread(c: Mapping[str, FloatArray], native: int | None) -> FloatArray:
    """How many times as many taps a dilated window has where the zeros between them are multiplied too."""
    if native is None:
        return np.ones_like(c["kernel"])
    side, dilation = np.maximum(c["kernel"], 1), np.maximum(c["dilation"], 1)
    left = np.where(dilation % native == 0, dilation / native, dilation)
    spread: FloatArray = (((side - 1) * left + 1) / side) ** np.clip(c["rank"], 1, 2)
    return spread


def _filled(loops: Loops, mapping: LoopMapping) -> FloatArray:
    """Steps of all loops together ``(v,)``, each filled up to a multiple of what is taken at once."""
    lengths = dict(loops)
    if "CF" in mapping.at_once:
        lengths["CF"] = lengths.pop("C") * lengths.pop("F")
    filled = {name: _up(length, mapping.at_once.get(name, 1)) for name, length in lengths.items()}
    positions = np.maximum(filled.pop("X") * filled.pop("Y"), mapping.least_positions)
    steps: FloatArray = np.prod(list(filled.values()), axis=0) * positions
    return steps


def _up(length: FloatArray, multiple: int) -> FloatArray:
    filled: FloatArray = np.ceil(length / multiple - 1e-9) * multiple
    return filled


def _partial_sums(loops: Loops, elements: FloatArray, array: MacArray) -> FloatArray:
    """Bytes of sums, two each, that leave a cache they do not fit and come back, tile of inputs by tile."""
    at_once = array.mappings[-1].at_once
    tiles = np.ceil(loops["C"] * loops["F"] / at_once.get("CF", np.inf))
    leave = 2 * elements > (array.cache_bytes or np.inf)
    return np.where(leave, 2 * 2 * elements * np.maximum(tiles - 1, 0), 0.0)


def _in_bytes(c: Mapping[str, FloatArray], side: str) -> FloatArray:
    """One byte for each number that a kernel reads or writes ``(v,)``."""
    numbers: FloatArray = c[f"bytes_{side}"] * 8 / np.maximum(c[f"{side}_bits"], 1)
    return numbers


def _constants(
    c: Mapping[str, FloatArray], category: IntArray, elements: FloatArray, array: MacArray
) -> FloatArray:
    """Bytes of weights and other constants that are fetched ``(v,)``."""
    steps, gathered = np.maximum(c["axis"], 1), np.maximum(c["c_in"] + c["inner"], 1)
    of_state = (c["c_in"] + c["inner"] * steps) / gathered  # inputs are taken at once, the state step by step
    fetches = np.where(category == _RECURRENT, of_state, 1)
    weights: FloatArray = fetches * c["bytes_weights"] * 8 / np.maximum(c["weight_bits"], 1)
    if array.burst_bytes:  # a constant per channel is fetched anew at every position
        per_position = _up(weights, array.burst_bytes) * elements / np.maximum(weights, 1)
        constant = (category == _BINARY) & np.isin(c["operand"], _PER_CHANNEL)
        weights = np.where(constant, per_position, weights)
    return weights
