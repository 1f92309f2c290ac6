"""Worker process of the ZigZag profiler: one JSON request a line in, one JSON answer a line out.

It imports ZigZag once, and keeps its log messages and prints away from the answers. Nothing is written to disk:
the stages that save and draw are left out, which also makes it nine times faster than ZigZag's own entry point.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any, Final

import zigzag
from zigzag.mapping.temporal_mapping import TemporalMappingType
from zigzag.opt.loma.engine import LomaEngine
from zigzag.parser.workload_factory import LayerNodeFactory
from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
from zigzag.stages.mapping.spatial_mapping_generation import SpatialMappingGeneratorStage
from zigzag.stages.mapping.temporal_mapping_generator_stage import TemporalMappingGeneratorStage
from zigzag.stages.parser.accelerator_parser import AcceleratorParserStage
from zigzag.stages.parser.workload_parser import WorkloadParserStage

_INPUTS: Final = Path(zigzag.__file__).parent / "inputs"
_LPF_LIMIT: Final = 3
_PAIRS: Final = (("OX", "OY"), ("FX", "FY"))


class _Orders(LomaEngine):  # type: ignore[misc]
    """LOMA's loop orders; where x and y are alike, one of each two that differ by swapping x and y."""

    def ordering_generator(self) -> Generator[list[tuple[Any, int]], None, None]:
        pairs = _PAIRS if self._is_square() else ()
        for order in super().ordering_generator():
            names = [dim.name for dim, _ in order]
            there = [(x, y) for x, y in pairs if x in names and y in names]
            if not there or names.index(there[0][0]) < names.index(there[0][1]):
                yield order

    def _is_square(self) -> bool:
        """Whether sizes, loops in time, strides and dilations agree along x and y."""
        sizes = {dim.name: size for dim, size in self.layer.layer_dim_sizes.items()}
        loops: dict[str, list[int]] = {name: [] for name in sizes}
        for dim, size in sorted(self.lpfs):
            loops[dim.name].append(size)
        inputs = list(self.layer.pr_layer_dim_sizes.data.values())
        factors = [[factor for _, factor in pair] for pair in self.layer.pr_scaling_factors.values()]
        return (
            all(sizes.get(x) == sizes.get(y) and loops.get(x) == loops.get(y) for x, y in _PAIRS)
            and inputs[1:] == inputs[:-1]
            and factors[1:] == factors[:-1]
        )


class _Search(TemporalMappingGeneratorStage):  # type: ignore[misc]
    """The temporal mappings of `_Orders`, those with the same cost once."""

    def generate_temporal_mappings(self) -> Generator[Any, None, None]:
        engine = _Orders(
            accelerator=self.accelerator,
            layer=self.layer,
            spatial_mapping=self.spatial_mapping,
            mapping_type=self.mapping_type,
            **self.kwargs,
        )
        seen: set[object] = set()
        for mapping in engine.run():
            if (key := _what_costs(mapping)) not in seen:
                seen.add(key)
                yield mapping


def _what_costs(mapping: Any) -> object:
    """All that the cost model sees of a temporal mapping, for each operand.

    That is, of the loops in a memory level: the product of those that touch other data in each step and of those
    that do not, the size of each that does so together with another (image and kernel), and what is on top.
    """
    relevancy = mapping.layer_node.loop_relevancy_info
    seen = []
    for operand, levels in mapping.mapping_dic_stationary.items():
        other_data = set(relevancy.get_r_layer_dims(operand))
        together = {dim for pair in relevancy.get_pr_layer_dims(operand).values() for dim in pair}
        sizes: list[dict[str, int]] = [{} for _ in levels]
        for products, loops in zip(sizes, levels, strict=True):
            for dim, size in loops:
                what = dim.name if dim in together else "other" if dim in other_data else "same"
                products[what] = products.get(what, 1) * size
        seen.append(
            (
                tuple(frozenset(products.items()) for products in sizes),
                tuple(mapping.top_r_loop_size[operand]),
                tuple(mapping.top_ir_loop_size[operand]),
                mapping.mac_level_data_stationary_cycle[operand],
            )
        )
    return tuple(seen)


@cache
def architecture(hardware: str, mapping: str) -> tuple[Any, list[dict[str, Any]]]:
    """ZigZag's accelerator and mapping, from the files of these names that it ships."""
    accelerator = AcceleratorParserStage.parse_accelerator(str(_INPUTS / "hardware" / f"{hardware}.yaml"))
    return accelerator, WorkloadParserStage.parse_mapping_data(str(_INPUTS / "mapping" / f"{mapping}.yaml"))


def price(
    layer: dict[str, Any], hardware: str, mapping: str, *, exhaustive: bool = False
) -> tuple[float, float]:
    """Clock cycles and picojoules of one layer under its fastest mapping; of two as fast, the frugal one.

    Args:
        layer: in the form of ZigZag's workload files, without id, name and sources.
        hardware: stem of a shipped hardware file.
        mapping: stem of a shipped mapping file.
        exhaustive: search every loop order, as ZigZag's own entry point does.
    """
    accelerator, mappings = architecture(hardware, mapping)
    sources = {"W": 1, "I": 0}  # the weights are the layer's own, its input is another's
    node = {**layer, "id": 1, "name": "layer", "operand_source": sources}
    search = SpatialMappingGeneratorStage(
        [TemporalMappingGeneratorStage if exhaustive else _Search, CostModelStage],
        accelerator=accelerator,
        layer=LayerNodeFactory(node, mappings).create(),
        loma_lpf_limit=_LPF_LIMIT,
        loma_show_progress_bar=False,
        nb_mappings_generated=3,
        enable_mix_spatial_mapping_generation=_in_memory(accelerator),
        access_same_data_considered_as_no_access=True,
        temporal_mapping_type=TemporalMappingType.UNEVEN,
    )
    return min((float(found.latency_total2), float(found.energy_total)) for found, _ in search.run())


def _in_memory(accelerator: Any) -> bool:
    """Whether it computes in memory; ZigZag then mixes dimensions in one side of the array."""
    return hasattr(accelerator.operational_array, "tclk")


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """``{"cycles", "energy_pj"}`` or ``{"error"}`` for ``{"layer", "hardware", "mapping"}``."""
    try:
        cycles, energy_pj = price(request["layer"], request["hardware"], request["mapping"])
    except MemoryError:  # the machine's limit, not ZigZag's: no answer to keep
        raise
    except Exception as error:  # whatever ZigZag throws becomes the cell's reason
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")}
    return {"cycles": cycles, "energy_pj": energy_pj}


def main() -> None:
    """Serve requests until the other side closes; then nothing keeps this process alive."""
    logging.disable(logging.CRITICAL)
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            answers.write(json.dumps(answer(json.loads(line))) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
