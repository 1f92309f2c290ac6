"""``hardsight devices``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hardsight.cli import _flags, _show

if TYPE_CHECKING:
    from hardsight.api import DeviceStatus


def devices(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show this device only, with its settings.")
    ] = None,
    as_json: _flags.AsJson = False,
) -> None:
    """List the devices that can be predicted or measured.

    Names read hardware/runtime/mode; 'host' is this machine.
    """
    from hardsight import api
    from hardsight.serialize import device_record

    found = api.devices(name)
    if as_json:
        for status in found:
            _show.line(device_record(status))
    elif name is not None:
        record = {
            key: value for key, value in device_record(found[0]).items() if value not in (None, "", {}, [])
        }
        _show.table(("setting", "value"), ((key, str(value)) for key, value in record.items()))
    else:
        _show.table(
            ("device", "kind", "labels", "predict", "measure here"),
            (
                (
                    status.device.name,
                    status.device.kind,
                    status.device.provenance,
                    _predicts(status),
                    "yes" if status.can_measure else "no",
                )
                for status in found
            ),
        )


def _predicts(status: DeviceStatus) -> str:
    if status.can_predict:
        return "yes"
    return "after 'hardsight adapt --here'" if status.origin == "this machine" else "not yet"
