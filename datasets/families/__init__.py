"""Families of networks to measure: every one samples structures, sizes and exporters' spellings.

``FAMILIES[name].sample(rng)`` returns a weightless model. No family contains a stock torchvision
configuration: those are kept for honest tests.
"""

from __future__ import annotations

from hardsight.datasets.families import (
    branches,
    chain,
    dense_prediction,
    micro,
    micro_sequence,
    mobile,
    modern,
    residual,
    sequence,
    transformers,
)
from hardsight.datasets.families._family import Family
from hardsight.errors import UnknownNameError

__all__ = ["FAMILIES", "TEACHING", "Family", "get_family"]

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        chain.PLAIN_CHAIN,
        residual.RESIDUAL_BASIC,
        residual.RESIDUAL_BOTTLENECK,
        residual.REGNET,
        mobile.INVERTED_BOTTLENECK,
        mobile.INVERTED_BOTTLENECK_SE,
        mobile.GHOST,
        mobile.SHUFFLE,
        mobile.FBNET,
        mobile.OFA,
        branches.DENSE,
        branches.INCEPTION,
        branches.SQUEEZE_FIRE,
        branches.NASBENCH201,
        branches.RANDOM_WIRING,
        modern.CONVNEXT,
        modern.LARGE_KERNEL,
        dense_prediction.UNET,
        dense_prediction.FPN,
        dense_prediction.SUPER_RESOLUTION,
        transformers.VIT,
        transformers.WINDOWED_ATTENTION,
        transformers.HYBRID_ATTENTION,
        transformers.MLP_MIXER,
        transformers.BERT,
        transformers.GPT,
        sequence.TCN,
        sequence.RECURRENT,
        sequence.MLP,
        micro.SINGLE_OPERATOR,
        micro.SMALL_BLOCK,
        micro_sequence.SEQUENCE_OPERATOR,
    )
}
"""Every family by name."""

TEACHING = (micro.SINGLE_OPERATOR.name, micro.SMALL_BLOCK.name, micro_sequence.SEQUENCE_OPERATOR.name)
"""Families that are no networks: they teach what operators cost by themselves."""


def get_family(name: str) -> Family:
    """The family of that name, FPGA designs included.

    Raises:
        UnknownNameError: listing the names there are.
    """
    from hardsight.datasets.families.fpga import FPGA_FAMILIES

    known = {**FAMILIES, **FPGA_FAMILIES}
    if name not in known:
        raise UnknownNameError("family", name, known)
    return known[name]
