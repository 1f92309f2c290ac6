"""Data sets: each form is read alike, each fault refused in one sentence."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hardsight.errors import DataError
from hardsight.nas.data import DataSpec, load_data, resize

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (40, 8, 8)).astype(np.uint8)
Y = np.repeat(["cat", "dog"], 20)


def npz(path: Path, x: object = X, y: object = Y) -> DataSpec:
    np.savez(path / "d.npz", x=x, y=y)
    return DataSpec(source=str(path / "d.npz"))


def test_digits_are_split_into_three_parts_without_overlap() -> None:
    data = load_data(DataSpec(), seed=0)
    train, validation, test = (set(data.parts[p].tolist()) for p in ("train", "validation", "test"))
    assert len(train | validation | test) == 1797 == len(train) + len(validation) + len(test)
    assert data.shape == (1, 8, 8)
    assert (data.samples.min(), data.samples.max()) == (0, 1)
    assert set(data.labels[sorted(test)]) == set(range(10))


def test_seed_decides_the_split_and_the_digest_does_not_depend_on_it() -> None:
    one, same, other = (load_data(DataSpec(), seed) for seed in (1, 1, 2))
    assert (one.parts["test"] == same.parts["test"]).all()
    assert not np.array_equal(one.parts["test"], other.parts["test"])
    assert one.digest == other.digest


def test_npz_csv_and_folder_give_the_same_images(tmp_path: Path) -> None:
    from_npz = load_data(npz(tmp_path), 0)
    table = pd.DataFrame(X.reshape(40, -1), columns=[f"p{i}" for i in range(64)]).assign(kind=Y)
    table.to_csv(tmp_path / "d.csv", index=False)
    from_csv = load_data(DataSpec(source=str(tmp_path / "d.csv"), label="kind", shape=(8, 8)), 0)
    for i, (picture, label) in enumerate(zip(X, Y, strict=True)):
        (tmp_path / "pictures" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "pictures" / label / f"{i:02}.png")
    from_folder = load_data(DataSpec(source=str(tmp_path / "pictures"), size=8), 0)
    for other in (from_csv, from_folder):
        assert other.classes == from_npz.classes == ("cat", "dog")
        assert (other.labels == from_npz.labels).all()
        np.testing.assert_allclose(other.samples, from_npz.samples, atol=2 / 255)


def test_channels_last_is_recognised(tmp_path: Path) -> None:
    assert load_data(npz(tmp_path, RNG.random((40, 8, 9, 3))), 0).shape == (3, 8, 9)


def test_rows_of_a_csv_are_a_table_with_moments_of_the_training_part(tmp_path: Path) -> None:
    rows = RNG.normal([5.0, -3.0, 2.0], [1.0, 1000.0, 0.0], (60, 3))
    pd.DataFrame(rows, columns=list("abc")).assign(kind=np.repeat(["x", "y"], 30)).to_csv(
        tmp_path / "d.csv", index=False
    )
    data = load_data(DataSpec(source=str(tmp_path / "d.csv")), 0)
    assert (data.kind, data.shape, data.signed, data.classes) == ("tables", (3,), True, ("x", "y"))
    train, _ = data.part("train")
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(axis=0), [1, 1, 0], atol=1e-5)
    np.testing.assert_allclose(data.samples * data.scale + data.offset, rows, rtol=1e-4, atol=1e-3)
    with pytest.raises(DataError, match="was asked for"):
        data.part("test", (4,))
    with pytest.raises(DataError, match="say the shape of its images"):
        load_data(DataSpec(source=str(tmp_path / "d.csv"), kind="images"), 0)


def test_signals_have_one_scale_per_channel(tmp_path: Path) -> None:
    x = RNG.normal(0, [[1.0], [100.0]], (40, 2, 16))
    spec = npz(tmp_path, x)
    data = load_data(spec.model_copy(update={"kind": "signals"}), 0)
    assert (data.kind, data.shape, data.offset.shape) == ("signals", (2, 16), (2, 1))
    np.testing.assert_allclose(data.part("train")[0].std(axis=(0, 2)), 1, rtol=1e-5)
    one = load_data(npz(tmp_path, x[:, 0]).model_copy(update={"kind": "signals"}), 0)
    assert one.shape == (1, 16)
    with pytest.raises(DataError, match="expected signals"):
        load_data(npz(tmp_path, x[:, 0, 0]).model_copy(update={"kind": "signals"}), 0)


def test_resize_keeps_the_mean_and_a_constant() -> None:
    images = RNG.random((2, 1, 8, 8)).astype(np.float32)
    assert resize(images, 8, 8) == pytest.approx(images)
    for side in (4, 16):
        assert resize(images, side, side).mean() == pytest.approx(images.mean(), abs=0.02)
        assert resize(np.full((1, 1, 8, 8), 0.5, np.float32), side, side) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (
            np.where(np.arange(40)[:, None, None] == 3, np.nan, X.astype(float)),
            Y,
            "NaN or infinity in 1 of 40",
        ),
        (X, np.repeat("cat", 40), "1 class"),
        (X, Y[:-1], "40 samples but 39 labels"),
        (
            X[:7],
            Y[18:25],
            "5 samples of its class 'cat'.*need 6 together|2 samples of its class 'cat'.*need 6",
        ),
        (X[:0], Y[:0], "empty"),
        (X[:, 0, 0], Y, "expected images"),
        (X.astype(str), Y, "expected numbers"),
        (X, np.linspace(0, 1, 40), "whole numbers"),
        (X, np.full(40, np.nan), "NaN or no whole"),
        (X, np.where(np.arange(40) < 20, np.inf, 1), "NaN or no whole"),
        (X, np.full(40, 1j), "type complex128"),
        (X, np.full(40, "NaT", "datetime64[s]"), "type datetime64"),
        (X * 1e300, Y, "NaN or infinity in 40 of 40"),
        (np.where(X > 99, 3e38, -3e38), Y, "too wide"),
    ],
)
def test_faults_in_arrays(tmp_path: Path, x: object, y: object, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load_data(npz(tmp_path, x, y), 0)
    assert "\n" not in str(caught.value)


def test_faults_in_files(tmp_path: Path) -> None:
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "text.csv").write_text("a,b,c,d,y\n1,2,3,x,0\n")
    (tmp_path / "folder" / "cat").mkdir(parents=True)
    (tmp_path / "bad" / "cat").mkdir(parents=True)
    (tmp_path / "bad" / "cat" / "a.png").write_bytes(b"no picture")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], object), y=np.zeros(1))
    np.savez(tmp_path / "names.npz", images=X)
    np.save(tmp_path / "one.npy", X)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("half/cat", "half/dog"):
        (tmp_path / name).mkdir(parents=True)
    Image.fromarray(X[0]).save(tmp_path / "half" / "cat" / "a.png")
    cases = {
        "absent.npz": "does not exist",
        "torn.npz": "cannot be read as .npz",
        "pickled.npz": "cannot be read as .npz",
        "names.npz": "no array x and y",
        "one.npz": "no archive",
        "half": "no images in its subfolder dog",
        "empty.csv": "cannot be read as CSV",
        "text.csv": "not numbers: d",
        "folder": "no images",
        "bad": "cannot be read as an image",
    }
    for name, words in cases.items():
        with pytest.raises(DataError, match=words):
            load_data(DataSpec(source=str(tmp_path / name), shape=(2, 2)), 0)


def test_deep_grey_pictures_keep_their_upper_bits(tmp_path: Path) -> None:
    for i, (picture, label) in enumerate(zip(X, Y, strict=True)):
        (tmp_path / "p" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.astype(np.uint16) * 257).save(tmp_path / "p" / label / f"{i:02}.png")
    data = load_data(DataSpec(source=str(tmp_path / "p"), size=8), 0)
    np.testing.assert_allclose(data.samples[:, 0] * 255, X, atol=1e-3)
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(tmp_path / "p" / "cat" / "deep.tif")
    with pytest.raises(DataError, match="expected 0 to 65535"):
        load_data(DataSpec(source=str(tmp_path / "p"), size=8), 0)
