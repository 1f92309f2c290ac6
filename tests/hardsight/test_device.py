"""Devices: names, and the user's own files, however damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from hardsight.device import Device, device_folder, get_device, kind_of, user_devices
from hardsight.errors import StorageError

GOOD, BAD = "board/onnxruntime/fp32-t1", "phone/onnxruntime/fp32-t1"


@pytest.mark.parametrize("name", ["a/../b", "a/b/..", "a/.b/c", "../a/b", "a/b", "a/b/c/d", "a//c", "A/b/c"])
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Device(name=name, kind="cpu")


@pytest.mark.parametrize("content", [b"", b"kind: [", b"name: x\n", b"\xff\xfe", b"[" * 5000])
def test_a_damaged_device_costs_only_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path))
    for name, data in ((GOOD, f"name: {GOOD}\nkind: cpu\n".encode()), (BAD, content)):
        device_folder(name).mkdir(parents=True)
        (device_folder(name) / "device.yaml").write_bytes(data)
    assert list(user_devices()) == [GOOD]
    assert get_device("host/onnxruntime/fp32-t1").kind == "cpu"
    with pytest.raises(StorageError, match=r"'phone.*is damaged; run 'hardsight adapt' again or delete"):
        get_device(BAD)


def test_only_devices_of_the_package_have_a_kind_of_their_own() -> None:
    assert kind_of("xcup/da4ml/lc5") == "fpga"
    assert kind_of("host/cuda/eager-fp32") == kind_of("phone/onnxruntime/fp32-t1") == "cpu"
