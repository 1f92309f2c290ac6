"""A machine's description as tokens in groups: attention within groups, then between them. Loads torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np
import torch
from torch import nn

from hardsight.errors import InputError
from hardsight.prediction import FloatArray
from hardsight.predictors.descent import LEAST_SCALE, one_cycle

if TYPE_CHECKING:
    import pandas as pd

Groups = Mapping[str, Sequence[str]]
_OTHER: Final = 0  # code of a number, and of a word that training did not have
_MISSING: Final = 1
_FIRST_WORD: Final = 2


@dataclass(frozen=True)
class DeviceEncoderConfig:
    """Size and training of the network, most of it as in `hardsight.predictors.transformer.TransformerConfig`.

    Small, for descriptions of machines come in dozens. ``forget`` is the share of words that are shown as unknown
    while training, so that an unknown word means something.
    """

    width: int = 16
    attention_heads: int = 2
    epochs: int = 30
    least_steps: int = 120
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1
    forget: float = 0.1
    seed: int = 0


class DeviceEncoder:
    """Predicts one number from a machine's characteristics, which come in groups.

    After NCPP (Liu et al., "Towards CPU Performance Prediction", arXiv 2407.03385, 2024): a characteristic is a token,
    attention within a group joins its tokens, attention between groups joins the groups, a head reads them all. What
    differs: no convolutions and residual blocks around it; a number is its standardised value along a learned
    direction, a word or a missing value an embedding; a learned query pools a group; the target is whatever `fit` is
    given; size and training are our own.

    Args:
        groups: name of each group to its columns; a column that does not vary in training is left out.
        config: size and training.
    """

    def __init__(self, groups: Groups, config: DeviceEncoderConfig | None = None) -> None:
        self.groups = groups
        self.config = config or DeviceEncoderConfig()
        self._columns: list[_Column] = []
        self._net: _DeviceNet | None = None
        self._mean = self._scale = 0.0

    def fit(self, frame: pd.DataFrame, target: FloatArray) -> Self:
        """Learn a target ``(n,)`` from the rows ``(n, columns)`` of a frame.

        Raises:
            InputError: a column is missing, none of them varies, or the target is not one finite number per row.
        """
        if target.shape != (len(frame),) or not np.isfinite(target).all():
            raise InputError(f"{len(frame)} rows need as many finite numbers, not an array {target.shape}")
        self._check(frame)
        groups = [[n for n in names if frame[n].nunique(dropna=False) > 1] for names in self.groups.values()]
        groups = [names for names in groups if names]
        if not groups:
            raise InputError("no column varies between the rows, so there is nothing to learn from")
        self._columns, start = [], 0
        for name in chain.from_iterable(groups):
            self._columns.append(_Column.of(frame[name], start))
            start += _FIRST_WORD + len(self._columns[-1].words)
        # A target that is nothing but the noise of repeats must not be blown up to unit size.
        self._mean, self._scale = float(target.mean()), max(float(target.std()), LEAST_SCALE)
        y = torch.from_numpy(((target - self._mean) / self._scale).astype(np.float32))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self._net = _DeviceNet(self._columns, list(map(len, groups)), self.config)
            _train(self._net, *self._tokens(frame), y, self.config)
        return self

    def predict(self, frame: pd.DataFrame) -> FloatArray:
        """The target of each row ``(n,)``, each by itself; an InputError without `fit` or a column."""
        if self._net is None:
            raise InputError("the device encoder has learned nothing yet; call fit first")
        self._check(frame)
        with torch.inference_mode():
            found: FloatArray = self._net(*self._tokens(frame)).double().numpy()
        return found * self._scale + self._mean

    def _check(self, frame: pd.DataFrame) -> None:
        if absent := [name for name in chain.from_iterable(self.groups.values()) if name not in frame]:
            raise InputError(f"the frame has no column '{absent[0]}'; it has {', '.join(map(str, frame))}")

    def _tokens(self, frame: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes ``(n, c)`` and standardised numbers ``(n, c)`` of the columns that are looked at."""
        codes, numbers = zip(*(column.read(frame[column.name]) for column in self._columns), strict=True)
        return torch.from_numpy(np.stack(codes, axis=1)), torch.from_numpy(np.stack(numbers, axis=1))


class _Column(NamedTuple):
    """How a column becomes tokens; ``start`` is its first row in the table of embeddings."""

    name: str
    start: int
    words: Mapping[str, int]
    mean: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, values: pd.Series, start: int) -> Self:
        """Learn it from training values: of words unless all are numbers."""
        known = values.dropna()
        numbers = _numbers(known)
        if np.isnan(numbers).any():
            return cls(
                values.name, start, {w: i for i, w in enumerate(sorted(set(map(str, known))), _FIRST_WORD)}
            )
        return cls(values.name, start, {}, float(numbers.mean()), float(numbers.std()) or 1.0)

    def read(self, values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """Codes ``(n,)`` and numbers ``(n,)``; a word or a missing value is a code, and the number 0."""
        numbers = np.zeros(len(values)) if self.words else (_numbers(values) - self.mean) / self.scale
        codes = np.array([self.words.get(str(value), _OTHER) for value in values], dtype=np.int64)
        codes[values.isna().to_numpy()] = _MISSING
        return codes + self.start, np.nan_to_num(numbers).astype(np.float32)


def _numbers(values: pd.Series) -> FloatArray:
    import pandas as pd

    found: FloatArray = pd.to_numeric(values, errors="coerce").to_numpy(float)
    return found


class _DeviceNet(nn.Module):
    """Codes ``(n, c)`` and numbers ``(n, c)`` to standardised targets ``(n,)``; ``sizes`` of groups add up to c."""

    starts: torch.Tensor

    def __init__(self, columns: Sequence[_Column], sizes: list[int], config: DeviceEncoderConfig) -> None:
        super().__init__()
        d, heads = config.width, config.attention_heads
        attention: dict[str, Any] = {"activation": "gelu", "batch_first": True, "norm_first": True}
        layers = [
            nn.TransformerEncoderLayer(d, heads, 2 * d, config.dropout, **attention) for _ in (*sizes, "all")
        ]
        self.sizes = sizes
        self.register_buffer("starts", torch.tensor([column.start for column in columns]))
        self.embedding = nn.Embedding(sum(len(column.words) + _FIRST_WORD for column in columns), d)
        self.direction = nn.Parameter(torch.randn(len(columns), d))
        self.query = nn.Parameter(torch.randn(len(sizes), d) / d**0.5)
        self.within, self.between = nn.ModuleList(layers[:-1]), layers[-1]
        self.head = nn.Sequential(nn.Linear(len(sizes) * d, d), nn.GELU(), nn.Linear(d, 1))

    def forward(self, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        tokens = self.embedding(codes) + numbers[..., None] * self.direction
        pooled = []
        for own, attend, query in zip(tokens.split(self.sizes, dim=1), self.within, self.query, strict=True):
            joined = attend(own)
            pooled.append((torch.softmax(joined @ query, dim=1)[..., None] * joined).sum(dim=1))
        found: torch.Tensor = self.head(self.between(torch.stack(pooled, dim=1)).flatten(1))[:, 0]
        return found


def _train(
    net: _DeviceNet, codes: torch.Tensor, numbers: torch.Tensor, y: torch.Tensor, config: DeviceEncoderConfig
) -> None:
    """AdamW with one cycle of learning rates on the smooth absolute error; leaves the network ready to answer."""
    epochs, optimizer, schedule = one_cycle(net, len(y), config)
    words = codes - net.starts >= _FIRST_WORD
    for _ in range(epochs):
        order = torch.randperm(len(y))
        for start in range(0, len(y), config.batch):
            chosen = order[start : start + config.batch]
            forgotten = words[chosen] & (torch.rand(len(chosen), codes.shape[1]) < config.forget)
            shown = torch.where(forgotten, net.starts + _OTHER, codes[chosen])
            loss = nn.functional.smooth_l1_loss(net(shown, numbers[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    net.eval()
