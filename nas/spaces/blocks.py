"""Blocks that networks are made of, and the layers of each."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hardsight.nas.network import INPUT, Kind, Layer, Precision
from hardsight.nas.spaces._options import Strict

Activation = Literal["relu", "hard_swish", "gelu"]
BlockKind = Literal["conv", "mbconv", "residual", "bottleneck", "transformer"]

FIELDS: dict[BlockKind, dict[str, int]] = {
    "conv": {"kernel": 3},
    "mbconv": {"kernel": 3, "expansion": 4, "squeeze": False},
    "residual": {"kernel": 3},
    "bottleneck": {"kernel": 3, "expansion": 4},
    "transformer": {"heads": 2, "expansion": 2},
}
"""What else can be chosen of each kind of block, with its default."""

_SQUEEZE = 4  # a gate's hidden channels are a quarter of the gated ones


class Block(Strict):
    """A block with every choice made; `hardsight.nas.spaces.stages.Stage` says what its keys mean."""

    block: BlockKind
    width: int = Field(ge=1)
    stride: int = Field(ge=1)
    kernel: int = Field(default=1, ge=1)
    expansion: int = Field(default=1, ge=1)
    squeeze: bool = False
    heads: int = Field(default=1, ge=1)
    precision: Precision


class LayerStack:
    """Layers put one on the other, each with the precision it runs in.

    Args:
        channels: of the input.
        activation: behind convolutions and in transformers.
    """

    def __init__(self, channels: int, activation: Activation = "relu") -> None:
        self.layers: list[tuple[Layer, Precision]] = []
        self.top, self.channels, self.tokens = INPUT, channels, False
        self._activation = activation

    def put(self, name: str, kind: Kind, precision: Precision, *inputs: str, **fields: Any) -> str:
        """Put a layer of ``kind`` on the top, or on the named ``inputs``; returns its name."""
        layer = Layer(name, kind, inputs or (self.top,), **fields)
        self.layers.append((layer, precision))
        self.top, self.channels = name, layer.channels or self.channels
        return name

    def activated(self, name: str, kind: Kind, precision: Precision, *inputs: str, **fields: Any) -> str:
        """`put`, followed by the activation; a ReLU is part of the layer."""
        if self._activation == "relu":
            return self.put(name, kind, precision, *inputs, relu=True, **fields)
        self.put(name, kind, precision, *inputs, **fields)
        return self.put(f"{name}_act", self._activation, precision)

    def block(self, name: str, block: Block) -> None:
        """Put a whole block."""
        match block.block:
            case "conv":
                self.activated(
                    name,
                    "conv",
                    block.precision,
                    channels=block.width,
                    kernel=block.kernel,
                    stride=block.stride,
                )
            case "mbconv":
                self._mbconv(name, block)
            case "residual" | "bottleneck":
                self._residual(name, block)
            case "transformer":
                self._transformer(name, block)

    def head(self, classes: int, precision: Precision) -> None:
        """Mean over pixels or tokens, then the classifier."""
        if self.tokens:
            self.put("norm", "layer_norm", "fp32")
        self.put("pool", "pool", "fp32" if self.tokens else precision)
        self.put("classifier", "linear", precision, channels=classes)

    def _mbconv(self, name: str, block: Block) -> None:
        """Expand (unless by 1), depthwise, gate, project; the input is added where shapes allow."""
        x, c_in, precision = self.top, self.channels, block.precision
        hidden = c_in * block.expansion
        if block.expansion > 1:
            self.activated(f"{name}_expand", "conv", precision, channels=hidden)
        self.activated(
            f"{name}_depthwise",
            "conv",
            precision,
            channels=hidden,
            kernel=block.kernel,
            stride=block.stride,
            groups=hidden,
        )
        if block.squeeze:
            self._gate(name, precision)
        self.put(f"{name}_project", "conv", precision, channels=block.width)
        if block.stride == 1 and c_in == block.width:
            self.put(f"{name}_add", "add", precision, self.top, x)

    def _gate(self, name: str, precision: Precision) -> None:
        """Squeeze and excite (Hu et al., CVPR 2018), with the hard sigmoid of MobileNetV3."""
        x, channels = self.top, self.channels
        self.put(f"{name}_squeeze", "pool", precision)
        hidden = max(1, channels // _SQUEEZE)
        self.put(f"{name}_reduce", "conv", precision, channels=hidden, relu=True)
        self.put(f"{name}_excite", "conv", precision, channels=channels)
        self.put(f"{name}_gate", "hard_sigmoid", precision)
        self.put(f"{name}_scale", "mul", precision, x, self.top)

    def _residual(self, name: str, block: Block) -> None:
        """Two convolutions, or three around a narrow one; the input is added, projected where shapes differ."""
        x, c_in, precision = self.top, self.channels, block.precision
        window = {"kernel": block.kernel, "stride": block.stride}
        if block.block == "residual":
            self.activated(f"{name}_conv1", "conv", precision, channels=block.width, **window)
            self.put(f"{name}_conv2", "conv", precision, channels=block.width, kernel=block.kernel)
        else:
            inner = max(1, block.width // block.expansion)
            self.activated(f"{name}_conv1", "conv", precision, channels=inner)
            self.activated(f"{name}_conv2", "conv", precision, channels=inner, **window)
            self.put(f"{name}_conv3", "conv", precision, channels=block.width)
        y = self.top
        if block.stride > 1 or c_in != block.width:
            x = self.put(f"{name}_shortcut", "conv", precision, x, channels=block.width, stride=block.stride)
        self.activated(f"{name}_add", "add", precision, y, x)

    def _transformer(self, name: str, block: Block) -> None:
        """Attention and a perceptron, each normalised first and added (ViT); patches are cut before the first.

        The sum that runs through all blocks, the normalisation and softmax stay in float; linear layers have the
        block's precision, and with it what attention multiplies.
        """
        if not self.tokens:
            self.put(
                "patches",
                "conv",
                block.precision,
                channels=block.width,
                kernel=block.stride,
                stride=block.stride,
            )
            self.put("tokens", "tokens", "fp32")
            self.tokens = True
        x, width = self.top, block.width
        norm = self.put(f"{name}_norm1", "layer_norm", "fp32")
        projected = [
            self.put(f"{name}_{part}", "linear", block.precision, norm, channels=width)
            for part in ("query", "key", "value")
        ]
        self.put(f"{name}_attention", "attention", "fp32", *projected, heads=block.heads)
        self.put(f"{name}_project", "linear", block.precision, channels=width)
        x = self.put(f"{name}_add1", "add", "fp32", self.top, x)
        self.put(f"{name}_norm2", "layer_norm", "fp32")
        self.activated(f"{name}_expand", "linear", block.precision, channels=width * block.expansion)
        self.put(f"{name}_reduce", "linear", block.precision, channels=width)
        self.put(f"{name}_add2", "add", "fp32", self.top, x)
