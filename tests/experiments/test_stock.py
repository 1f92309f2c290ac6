"""The stock networks are the published ones: parameters and MACs as their papers count them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from hardsight.errors import StorageError
from hardsight.experiments.stock import STOCK, export
from hardsight.ingest import read_onnx

# Parameters exactly, as torchvision and timm count them; MACs of convolutions and matrix products.
PUBLISHED = {
    "resnet18": (11_689_512, 1.81e9),
    "mobilenet_v2": (3_504_872, 300e6),
    "vit_tiny": (5_717_416, 1.26e9),
}


@pytest.mark.parametrize("name", STOCK)
def test_is_the_published_network(name: str, tmp_path: Path) -> None:
    parameters, macs = PUBLISHED[name]
    assert sum(p.numel() for p in STOCK[name]().parameters()) == parameters
    path = export(name, tmp_path)
    onnx.checker.check_model(path)
    graph = read_onnx(path)
    assert graph.macs == pytest.approx(macs, rel=0.01)
    assert graph.unknown_ops == {}
    assert graph.inputs[0].shape == (1, 3, 224, 224)


def test_an_unwritable_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        export("mobilenet_v2", tmp_path / "file")
