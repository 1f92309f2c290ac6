"""Three published networks, written out in torch and exported by torch: models from outside the package.

Their ONNX files come from another exporter than the data set's, in another style (constants as nodes, no
inner shapes, attention spelt out in small operators), and no data set of the package holds them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from hardsight.errors import StorageError

RESOLUTION = 224


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, Deep Residual Learning, figure 2)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(width_in, width, 3, stride), nn.ReLU(inplace=True), *_conv(width, width, 3, 1)
        )
        narrow = stride == 1 and width_in == width
        self.shortcut = nn.Identity() if narrow else nn.Sequential(*_conv(width_in, width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` to ``(n, width, h / stride, w / stride)``."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 for ImageNet: 11,689,512 parameters (He et al. 2016, table 1)."""
    widths = (64, 64, 128, 128, 256, 256, 512, 512)
    blocks = [
        ResidualBlock(before, width, 2 if width > before else 1)
        for before, width in zip((64, *widths), widths, strict=False)
    ]
    stem = (*_conv(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project (Sandler et al. 2018, MobileNetV2, table 1)."""

    def __init__(self, width_in: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [*_conv(width_in, inner, 1, 1), nn.ReLU6(inplace=True)]
        layers += [*_conv(inner, inner, 3, stride, groups=inner), nn.ReLU6(inplace=True)]
        self.body = nn.Sequential(*layers, *_conv(inner, width, 1, 1))
        self.residual = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` to ``(n, width, h / stride, w / stride)``."""
        y: Tensor = self.body(x)
        return x + y if self.residual else y


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 1.0 for ImageNet: 3,504,872 parameters (Sandler et al. 2018, table 2)."""
    layers: list[nn.Module] = [*_conv(3, 32, 3, 2), nn.ReLU6(inplace=True)]
    before = 32
    # expansion t, channels c, repeats n, stride s
    for t, c, n, s in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(n):
            layers.append(InvertedBottleneck(before, c, s if i == 0 else 1, t))
            before = c
    head = (*_conv(320, 1280, 1, 1), nn.ReLU6(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, *head, nn.Linear(1280, 1000))


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron (Dosovitskiy et al. 2021, equations 2 and 3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, tokens, width)`` to the same shape."""
        n, tokens, width = x.shape
        split = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = (split[:, :, i].transpose(1, 2) for i in range(3))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, tokens, width))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class VisionTransformer(nn.Module):
    """ViT with a class token (Dosovitskiy et al. 2021, section 3.1)."""

    def __init__(self, width: int, depth: int, heads: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, (RESOLUTION // patch) ** 2 + 1, width))
        self.layers = nn.Sequential(*(EncoderLayer(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, 3, 224, 224)`` to ``(n, 1000)``."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], dim=1) + self.position
        y: Tensor = self.head(self.norm(self.layers(tokens))[:, 0])
        return y


def vit_tiny() -> nn.Module:
    """ViT-Tiny/16: 5,717,416 parameters (Touvron et al. 2021, DeiT, table 1)."""
    return VisionTransformer(width=192, depth=12, heads=3, patch=16)


STOCK: dict[str, Callable[[], nn.Module]] = {
    "resnet18": resnet18,
    "mobilenet_v2": mobilenet_v2,
    "vit_tiny": vit_tiny,
}


def export(name: str, folder: Path) -> Path:
    """Write a stock network with random weights as ONNX, the way torch exports it.

    Args:
        name: in `STOCK`.
        folder: for the file ``NAME.onnx``.

    Raises:
        StorageError: when the folder cannot be written.
    """
    path = folder / f"{name}.onnx"
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the classic exporter needs no further package, and says it is classic
        torch.manual_seed(0)
        model = STOCK[name]().eval()
        image = torch.zeros(1, 3, RESOLUTION, RESOLUTION)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.onnx.export(
                model, (image,), str(path), dynamo=False, opset_version=17, input_names=["image"]
            )
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error}") from error
    return path


def _conv(
    width_in: int, width: int, kernel: int, stride: int, *, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(width_in, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(width)
