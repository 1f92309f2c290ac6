"""Our proxies on NAS-Bench-201 beside published ones of the same cells (NAS-Bench-Suite-Zero, a sample of 725)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional

from hardsight.datasets.journal import Journal
from hardsight.datasets.sources.nb201_accuracy import Nb201ZeroCost
from hardsight.experiments.readme_tables import markdown
from hardsight.nas.evaluators.proxies import PROXIES
from hardsight.progress import Progress

CELLS = 40
COLUMNS = {
    "parameters": "params", "macs": "flops", "grad_norm": "grad_norm", "snip": "snip", "synflow": "synflow",
    "naswot": "nwot", "jacob_cov": "jacov",
}  # fmt: skip
_BATCH, _SIDE, _CLASSES = 16, 32, 10
_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
_SKIP, _NONE, _CONV3, _CONV1, _POOL = range(5)


def score(folder: Path, progress: Progress) -> None:
    """Scores that are missing in the folder's journal, of cells drawn by a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / "published.jsonl")
    source = Nb201ZeroCost()
    table = source.table(source.find())
    table = table[table["dataset"] == "cifar10"].sample(CELLS, random_state=0)
    have = {row["cell"] for row in journal}
    for i, row in enumerate(table.to_dict("records")):
        progress("published", i, CELLS)
        cell = row["naslib_arch"]
        if cell in have:
            continue
        torch.manual_seed(0)
        module = Nb201(tuple(int(code) for code in cell.strip("()").split(",")))
        # the images are not here: noise, with labels at random
        samples, labels = torch.randn(_BATCH, 3, _SIDE, _SIDE), torch.randint(_CLASSES, (_BATCH,))
        ours = {name: proxy(module, samples, labels) for name, proxy in PROXIES.items()}
        theirs = {name: float(row[column]) for name, column in COLUMNS.items()}
        accuracy = float(row["val_accuracy"])
        journal.append([{"cell": cell, "accuracy": accuracy, "ours": ours, "theirs": theirs}])


def published_table(folder: Path) -> str:
    """Rank correlations of our scores with theirs, and of both with the accuracy."""
    rows = list(Journal(folder / "published.jsonl"))
    accuracy = np.array([row["accuracy"] for row in rows])
    lines = []
    for name in COLUMNS:
        ours, theirs = (np.array([row[who][name] for row in rows]) for who in ("ours", "theirs"))
        pairs = ((ours, theirs), (ours, accuracy), (theirs, accuracy))
        lines.append((f"`{name}`", *(f"{spearmanr(a, b).statistic:.2f}" for a, b in pairs)))
    columns = ("", "ours with theirs", "ours with accuracy", "theirs with accuracy")
    return f"{markdown(columns, lines)}\n\nSpearman over {len(rows)} cells, validation accuracy on CIFAR-10."


class Nb201(nn.Module):
    """The network around a cell (Dong and Yang, ICLR 2020), with torch's own initial weights.

    Args:
        codes: operation of each edge in NASLib's order.
    """

    def __init__(self, codes: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        body: list[nn.Module] = []
        for width in (16, 32, 64):
            if width > 16:
                body.append(_Reduction(width))
            body += [_Cell(codes, width) for _ in range(5)]
        self.body = nn.Sequential(*body)
        self.norm = nn.BatchNorm2d(64)
        self.head = nn.Linear(64, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.body(self.stem(x))))
        out = self.head(x.mean(dim=(2, 3)))
        assert isinstance(out, Tensor)
        return out


class _Cell(nn.Module):
    def __init__(self, codes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {
                f"{a}{b}": _operation(code, width)
                for (a, b), code in zip(_EDGES, codes, strict=True)
                if code != _NONE
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for b in (1, 2, 3):
            terms = [self.edges[f"{a}{b}"](nodes[a]) for a in range(b) if f"{a}{b}" in self.edges]
            nodes.append(sum(terms, torch.zeros_like(x)))
        return nodes[-1]


class _Reduction(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = _conv(width // 2, width, 3, 2), _conv(width, width, 3)
        self.short = nn.Conv2d(width // 2, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.b(self.a(x)) + self.short(functional.avg_pool2d(x, 2))
        assert isinstance(out, Tensor)
        return out


def _operation(code: int, width: int) -> nn.Module:
    if code == _SKIP:
        return nn.Identity()
    if code == _POOL:
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return _conv(width, width, 3 if code == _CONV3 else 1)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(outputs))
