"""The vocabulary that families share: a builder with a style, and the blocks that papers have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hardsight.datasets.builder import OnnxBuilder

OPSETS = (13, 14, 15, 16, 17, 18, 19, 20, 21)
COMMON_ACTIVATIONS = (
    "Relu",
    "Relu",
    "Relu",
    "Relu6",
    "LeakyRelu",
    "HardSwish",
    "Silu",
    "Gelu",
    "PRelu",
    "Elu",
)


@dataclass(frozen=True)
class Style:
    """How one exporter would write one author's network; drawn once per model.

    Args:
        activation: used wherever the family does not insist on one.
        decomposed: composite functions spelled out as older exporters do, although the opset may have them.
        erf_gelu: Gelu by the error function rather than by tanh.
        reduce_pool: global pooling written as ReduceMean.
        reshape_flatten: flattening written as Reshape.
        linear_gate: squeeze-excite with dense layers rather than 1x1 convolutions.
        hard_gate: HardSigmoid in gates.
        bias: of layers where it is optional.
        divisor: channels are multiples of it.
    """

    activation: str
    decomposed: bool
    erf_gelu: bool
    reduce_pool: bool
    reshape_flatten: bool
    linear_gate: bool
    hard_gate: bool
    bias: bool
    divisor: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Style:
        return cls(
            activation=str(rng.choice(COMMON_ACTIVATIONS)),
            decomposed=bool(rng.random() < 0.5),
            erf_gelu=bool(rng.random() < 0.75),
            reduce_pool=bool(rng.random() < 0.3),
            reshape_flatten=bool(rng.random() < 0.2),
            linear_gate=bool(rng.random() < 0.3),
            hard_gate=bool(rng.random() < 0.3),
            bias=bool(rng.random() < 0.85),
            divisor=int(rng.choice([1, 2, 4, 8, 8, 8, 16, 16])),
        )


class Net(OnnxBuilder):
    """A builder whose widths follow ``size`` and whose spelling follows a `Style`.

    A family draws its structure from ``rng`` and asks `ch` for every width. The same generator state with
    another ``size`` gives the same structure, wider or narrower: that is how a target size is met.
    """

    def __init__(self, name: str, rng: np.random.Generator, size: float) -> None:
        opset = int(rng.choice(OPSETS))
        super().__init__(name, opset, constants_as_nodes=bool(rng.random() < 0.3))
        self.style = Style.sample(rng)
        self.size = size

    def ch(self, channels: float, divisor: int | None = None) -> int:
        """``channels`` times the size, rounded to the style's divisor, never below it."""
        step = divisor or self.style.divisor
        return max(step, 4, round(channels * self.size / step) * step)

    def image(self, rng: np.random.Generator, low: int = 32, high: int = 224, multiple: int = 8) -> str:
        """An RGB (sometimes grey) image of log-uniform side."""
        side = max(low, round(log_uniform(rng, low, high) / multiple) * multiple)
        channels = 1 if rng.random() < 0.1 else 3
        return self.input("image", (1, channels, side, side))

    def finish(self, *tensors: str) -> Net:
        for tensor in tensors:
            self.output(tensor)
        return self

    # --- activations -------------------------------------------------------------------------------------

    def act(self, x: str, kind: str | None = None) -> str:
        """Any activation by name, in this model's spelling; ``"Identity"`` adds nothing."""
        kind = kind or self.style.activation
        if kind == "Identity":
            return x
        if kind == "Relu6":
            return self.clip(x, 0.0, 6.0)
        if kind == "LeakyRelu":
            return self.node("LeakyRelu", x, alpha=0.1)
        if kind == "PRelu":
            slope = self.weight(
                self.unique("prelu") + ".weight", (self.channels(x), *[1] * (len(self.shape(x)) - 2))
            )
            return self.node("PRelu", x, slope)
        if kind == "HardSwish":
            return self._hard_swish(x)
        if kind == "Silu":
            return self.mul(x, self.sigmoid(x))
        if kind == "Gelu":
            return self._gelu(x)
        if kind == "Mish":
            return self.mul(x, self.node("Tanh", self.node("Softplus", x)))
        return self.node(kind, x)

    def _hard_swish(self, x: str) -> str:
        if not self.style.decomposed and self.opset >= 14:
            return self.node("HardSwish", x)
        if self.style.erf_gelu:
            return self.mul(x, self.node("HardSigmoid", x, alpha=1 / 6, beta=0.5))
        shifted = self.add(x, self.constant(np.float32(3)))
        return self.node("Div", self.mul(x, self.clip(shifted, 0.0, 6.0)), self.constant(np.float32(6)))

    def _gelu(self, x: str) -> str:
        if not self.style.decomposed and self.opset >= 20:
            return self.node("Gelu", x, approximate="none" if self.style.erf_gelu else "tanh")
        if self.style.erf_gelu:
            inner = self.node("Erf", self.node("Div", x, self.constant(np.float32(math.sqrt(2)))))
            return self.scaled(self.mul(x, self.add(inner, self.constant(np.float32(1)))), 0.5)
        cube = self.node("Pow", x, self.constant(np.float32(3)))
        inner = self.scaled(self.add(x, self.scaled(cube, 0.044715)), math.sqrt(2 / math.pi))
        gate = self.add(self.node("Tanh", inner), self.constant(np.float32(1)))
        return self.mul(self.scaled(x, 0.5), gate)

    # --- normalisation -----------------------------------------------------------------------------------

    def layer_norm(self, x: str) -> str:
        """Over the last dimension: the operator where the opset has it, otherwise spelled out."""
        name = self.unique("layer_norm")
        scale = self.weight(f"{name}.weight", self.shape(x)[-1:])
        bias = self.weight(f"{name}.bias", self.shape(x)[-1:])
        if self.opset >= 17 and not self.style.decomposed:
            return self.node("LayerNormalization", x, scale, bias, name=name, axis=-1, epsilon=1e-5)
        return self.add(self.mul(self._standardised(x), scale), bias)

    def rms_norm(self, x: str) -> str:
        """Root-mean-square normalisation (Zhang and Sennrich 2019), which exporters always spell out."""
        square = self.node("Pow", x, self.constant(np.float32(2)))
        mean = self.add(self.reduce_mean(square, [-1]), self.constant(np.float32(1e-6)))
        inverse = self.node("Div", self.constant(np.float32(1)), self.node("Sqrt", mean))
        scale = self.weight(self.unique("rms_norm") + ".weight", self.shape(x)[-1:])
        return self.mul(scale, self.mul(x, inverse))

    def channel_norm(self, x: str) -> str:
        """Layer normalisation over the channels of an image: permute, normalise, permute back."""
        y = self.layer_norm(self.transpose(x, (0, 2, 3, 1)))
        return self.transpose(y, (0, 3, 1, 2))

    def group_norm(self, x: str, groups: int) -> str:
        """Group normalisation as exporters write it: InstanceNormalization of a reshaped tensor."""
        shape = self.shape(x)
        name = self.unique("group_norm")
        ones = self.weight(f"{name}.ones", (groups,))
        zeros = self.weight(f"{name}.zeros", (groups,))
        y = self.node("InstanceNormalization", self.reshape(x, (0, groups, -1)), ones, zeros, epsilon=1e-5)
        y = self.reshape(y, shape)
        parameters = (shape[1], *[1] * (len(shape) - 2))
        y = self.mul(y, self.weight(f"{name}.weight", parameters))
        return self.add(y, self.weight(f"{name}.bias", parameters))

    def _standardised(self, x: str) -> str:
        centred = self.node("Sub", x, self.reduce_mean(x, [-1]))
        variance = self.reduce_mean(self.node("Pow", centred, self.constant(np.float32(2))), [-1])
        deviation = self.node("Sqrt", self.add(variance, self.constant(np.float32(1e-5))))
        return self.node("Div", centred, deviation)

    # --- convolutional blocks ----------------------------------------------------------------------------

    def conv_act(
        self,
        x: str,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        act: str | None = None,
    ) -> str:
        """Convolution with folded batch normalisation, then an activation."""
        return self.act(
            self.conv(x, out_channels, kernel, stride=stride, groups=groups, dilation=dilation), act
        )

    def depthwise(self, x: str, kernel: int, *, stride: int = 1, dilation: int = 1) -> str:
        channels = self.channels(x)
        return self.conv(x, channels, kernel, stride=stride, groups=channels, dilation=dilation)

    def pooled(self, x: str) -> str:
        """Global average over space, kept as 1x1."""
        if self.style.reduce_pool:
            return self.reduce_mean(x, list(range(2, len(self.shape(x)))))
        return self.global_average_pool(x)

    def flat(self, x: str) -> str:
        return self.reshape(x, (1, -1)) if self.style.reshape_flatten else self.flatten(x)

    def squeeze_excite(self, x: str, reduction: float, act: str | None = None) -> str:
        """Channel gate (Hu et al., "Squeeze-and-excitation networks", CVPR 2018)."""
        channels = self.channels(x)
        hidden = max(4, round(channels / reduction))
        s = self.pooled(x)
        if self.style.linear_gate:
            s = self.linear(self.act(self.linear(self.flat(s), hidden), "Relu"), channels)
            s = self.reshape(s, (1, channels, 1, 1))
        else:
            s = self.conv(self.act(self.conv(s, hidden, 1), act or "Relu"), channels, 1)
        gate = self.node("HardSigmoid", s, alpha=1 / 6, beta=0.5) if self.style.hard_gate else self.sigmoid(s)
        return self.mul(x, gate)

    def channel_shuffle(self, x: str, groups: int) -> str:
        """Interleave the groups' channels (Zhang et al., "ShuffleNet", CVPR 2018)."""
        n, channels, height, width = self.shape(x)
        y = self.reshape(x, (n, groups, channels // groups, height, width))
        return self.reshape(self.transpose(y, (0, 2, 1, 3, 4)), (n, channels, height, width))

    def stem(self, x: str, channels: int, reduce: int, kernel: int = 3) -> str:
        """Strided convolutions (max pooling halves last after a big kernel) that reduce the side."""
        if reduce == 1:
            return self.conv_act(x, channels, 3)
        x = self.conv_act(x, channels, kernel, stride=2)
        if reduce >= 4:
            x = (
                self.max_pool(x, 3, stride=2, padding=1)
                if kernel > 3
                else self.conv_act(x, channels, 3, stride=2)
            )
        return x

    def classifier(self, x: str, classes: int) -> str:
        """Global pooling and one dense layer."""
        return self.linear(self.flat(self.pooled(x)), classes)

    # --- attention ---------------------------------------------------------------------------------------

    def heads(self, x: str, heads: int, perm: tuple[int, int, int, int] = (0, 2, 1, 3)) -> str:
        """``(b, tokens, heads x d)`` to ``(b, heads, tokens, d)``, or with the last two swapped for keys."""
        b, tokens, dim = self.shape(x)
        return self.transpose(self.reshape(x, (b, tokens, heads, dim // heads)), perm)

    def attention(
        self, x: str, heads: int, *, fused: bool, mask: str | None = None, bias: str | None = None
    ) -> str:
        """Multi-head self-attention (Vaswani et al. 2017) as the chain of operators that exporters write.

        Args:
            x: shape ``(b, tokens, dim)``.
            fused: one projection for query, key and value, then split; otherwise three.
            mask: added to the scores; shape broadcastable to ``(b, heads, tokens, tokens)``.
            bias: the same, such as relative positions.
        """
        b, tokens, dim = self.shape(x)
        width = dim // heads
        if fused:
            packed = self.reshape(self.linear(x, 3 * dim, bias=self.style.bias), (b, tokens, 3, heads, width))
            pieces = self.split(self.transpose(packed, (2, 0, 3, 1, 4)), (1, 1, 1), axis=0)
            q, k, v = (self.squeeze(piece, (0,)) for piece in pieces)
            k = self.transpose(k, (0, 1, 3, 2))
        else:
            q = self.heads(self.linear(x, dim, bias=self.style.bias), heads)
            k = self.heads(self.linear(x, dim, bias=self.style.bias), heads, (0, 2, 3, 1))
            v = self.heads(self.linear(x, dim, bias=self.style.bias), heads)
        scores = self._scores(q, k, width)
        for extra in (bias, mask):
            if extra is not None:
                scores = self.add(scores, extra)
        y = self.matmul(self.softmax(scores), v)
        y = self.reshape(self.transpose(y, (0, 2, 1, 3)), (b, tokens, dim))
        return self.linear(y, dim)

    def _scores(self, q: str, k: str, width: int) -> str:
        if self.style.decomposed:
            return self.node("Div", self.matmul(q, k), self.constant(np.float32(math.sqrt(width))))
        root = width**-0.25  # torch's scaled_dot_product_attention exports a factor on either side
        return self.matmul(self.scaled(q, root), self.scaled(k, root))

    def feed_forward(self, x: str, hidden: int, act: str = "Gelu") -> str:
        return self.linear(self.act(self.linear(x, hidden), act), self.shape(x)[-1])

    def tokens(self, x: str) -> str:
        """``(n, c, h, w)`` to ``(n, h x w, c)``."""
        n, channels, height, width = self.shape(x)
        return self.transpose(self.reshape(x, (n, channels, height * width)), (0, 2, 1))

    def untokens(self, x: str, height: int, width: int) -> str:
        """``(n, h x w, c)`` to ``(n, c, h, w)``."""
        n, _, channels = self.shape(x)
        return self.reshape(self.transpose(x, (0, 2, 1)), (n, channels, height, width))

    def positions(self, x: str) -> str:
        """Add a learned table of position embeddings."""
        return self.add(x, self.weight(self.unique("positions"), (1, *self.shape(x)[1:])))


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform between those of ``low`` and ``high``."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def log_integer(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer from ``low`` to ``high``, small ones as likely per octave as large ones."""
    return min(high, int(log_uniform(rng, low, high + 1)))


def depths(rng: np.random.Generator, stages: int, low: int = 1, high: int = 6) -> list[int]:
    """Blocks per stage."""
    return [log_integer(rng, low, high) for _ in range(stages)]


def pick_classes(rng: np.random.Generator) -> int:
    """Number of outputs of a classifier."""
    return int(rng.choice([2, 10, 10, 37, 100, 200, 365, 1000]))
