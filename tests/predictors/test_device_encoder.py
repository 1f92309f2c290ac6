"""The device encoder: what it learns, and what it does with values it never saw."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hardsight.errors import InputError
from hardsight.predictors.device_encoder import DeviceEncoder, DeviceEncoderConfig

GROUPS = {"cpu": ("cores", "model"), "memory": ("channels", "part"), "same": ("board",)}
QUICK = DeviceEncoderConfig(epochs=1, least_steps=3)


def machines(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "cores": rng.integers(8, 64, n),
            "model": rng.choice(["a", "b", "c"], n),
            "channels": rng.choice([4.0, 8.0, np.nan], n),
            "part": rng.choice(["x", "y"], n),
            "board": "one",
        }
    )


def law(frame: pd.DataFrame) -> np.ndarray:
    """Cores, model and channels matter; a missing number of channels is one of its own."""
    channels = frame["channels"].map({4.0: -0.5, 8.0: 0.5}).fillna(1.0)
    return np.log(frame["cores"].to_numpy()) + 0.5 * (frame["model"] == "b").to_numpy() + channels.to_numpy()


def test_it_learns_numbers_words_and_what_is_missing() -> None:
    train, test = machines(300, 0), machines(100, 1)
    encoder = DeviceEncoder(GROUPS, DeviceEncoderConfig(least_steps=300)).fit(train, law(train))
    error = np.abs(encoder.predict(test) - law(test)).mean()
    spread = np.abs(law(test) - np.median(law(train))).mean()
    assert error < 0.25 * spread


def test_a_column_that_does_not_vary_is_not_looked_at() -> None:
    frame = machines(20, 0)
    encoder = DeviceEncoder(GROUPS, QUICK).fit(frame, law(frame))
    np.testing.assert_array_equal(encoder.predict(frame.assign(board="two")), encoder.predict(frame))


def test_unknown_words_are_alike_and_finite() -> None:
    frame = machines(20, 0)
    encoder = DeviceEncoder(GROUPS, QUICK).fit(frame, law(frame))
    said = encoder.predict(frame.assign(model="never seen"))
    np.testing.assert_array_equal(said, encoder.predict(frame.assign(model="nor this")))
    assert np.isfinite(said).all()
    assert np.isfinite(encoder.predict(frame.assign(model=None, cores="many", channels=np.nan))).all()


def test_an_answer_does_not_depend_on_the_batch_nor_on_the_seed_of_others() -> None:
    frame = machines(20, 0)
    encoder = DeviceEncoder(GROUPS, QUICK).fit(frame, law(frame))
    alone = np.concatenate([encoder.predict(frame[i : i + 1]) for i in range(len(frame))])
    np.testing.assert_allclose(alone, encoder.predict(frame), atol=1e-5)
    again = DeviceEncoder(GROUPS, QUICK).fit(frame, law(frame))
    np.testing.assert_array_equal(again.predict(frame), encoder.predict(frame))
    other = DeviceEncoder(GROUPS, DeviceEncoderConfig(epochs=1, least_steps=3, seed=1)).fit(frame, law(frame))
    assert not np.array_equal(other.predict(frame), encoder.predict(frame))


def test_noise_is_not_blown_up() -> None:
    frame = machines(50, 0)
    noise = 1e-4 * np.random.default_rng(0).standard_normal(50)
    assert np.abs(DeviceEncoder(GROUPS, QUICK).fit(frame, noise).predict(machines(50, 1))).max() < 0.1


def test_what_cannot_be_learned_is_refused_in_words() -> None:
    frame = machines(4, 0)
    with pytest.raises(InputError, match="no column 'cache'"):
        DeviceEncoder({"cpu": ("cores", "cache")}, QUICK).fit(frame, law(frame))
    with pytest.raises(InputError, match="as many finite numbers"):
        DeviceEncoder(GROUPS, QUICK).fit(frame, law(frame)[:3])
    with pytest.raises(InputError, match="no column varies"):
        DeviceEncoder({"same": ("board",)}, QUICK).fit(frame, law(frame))
    with pytest.raises(InputError, match="call fit first"):
        DeviceEncoder(GROUPS, QUICK).predict(frame)
