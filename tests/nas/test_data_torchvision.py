"""Data sets of torchvision: read where their files are, refused in one sentence where they are not."""

import struct
from pathlib import Path

import numpy as np
import pytest

from hardsight.errors import BackendError, DataError, UnknownNameError
from hardsight.nas.data import DataSpec, load_data
from hardsight.nas.data_torchvision import torchvision_module
from hardsight.nas.job import load_job

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (40, 28, 28)).astype(np.uint8)
LABELS = np.tile(np.arange(4, dtype=np.uint8), 10)


@pytest.fixture(autouse=True)
def _installed() -> None:
    try:
        torchvision_module("datasets")
    except BackendError as error:
        pytest.skip(str(error))


def write_idx(folder: Path, part: str, pictures: np.ndarray, labels: np.ndarray) -> None:
    """Files as MNIST's authors define them: a big-endian head, then bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{part}-images-idx3-ubyte").write_bytes(
        struct.pack(">IIII", 0x803, *pictures.shape) + pictures.tobytes()
    )
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(
        struct.pack(">II", 0x801, len(labels)) + labels.tobytes()
    )


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_the_training_part_is_read(tmp_path: Path, name: str) -> None:
    write_idx(tmp_path / name / "raw", "train", PICTURES, LABELS)
    write_idx(tmp_path / name / "raw", "t10k", PICTURES[:4] * 0, LABELS[:4])
    data = load_data(DataSpec(source=f"torchvision:{name}", root=str(tmp_path)), seed=0)
    assert (data.name, data.kind, data.shape) == (name, "images", (1, 28, 28))
    assert data.classes == ("0", "1", "2", "3")
    np.testing.assert_allclose(data.samples[:, 0], PICTURES / 255, atol=1e-6)
    assert (data.labels == LABELS).all()


def test_a_relative_root_begins_at_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "j.yaml").write_text("data: {source: 'torchvision:MNIST', root: here}")
    assert load_job(tmp_path / "j.yaml").data.root == str(tmp_path / "here")


def test_missing_files_are_refused_and_not_downloaded(tmp_path: Path) -> None:
    for name in ("MNIST", "CIFAR10"):
        with pytest.raises(
            DataError, match=f"torchvision:{name}' cannot be read in .*: Dataset not found.*'root'"
        ):
            load_data(DataSpec(source=f"torchvision:{name}", root=str(tmp_path)), 0)
    assert not list(tmp_path.iterdir())


def test_torn_files_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw", "train", PICTURES, LABELS)
    write_idx(tmp_path / "MNIST" / "raw", "t10k", PICTURES, LABELS)
    torn = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    torn.write_bytes(torn.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read"):
        load_data(DataSpec(source="torchvision:MNIST", root=str(tmp_path)), 0)


def test_cifar_batches_that_are_not_the_published_ones_are_never_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for part in (
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
    ):
        (folder / part).write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "harm").encode() + b"'\ntR.")
    (folder / "batches.meta").write_bytes(b"")
    with pytest.raises(DataError, match="not found or corrupted"):
        load_data(DataSpec(source="torchvision:CIFAR10", root=str(tmp_path)), 0)
    assert not (tmp_path / "harm").exists()


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match="FashionMNIST"):
        load_data(DataSpec(source="torchvision:CIFAR11"), 0)
