"""``hardsight kit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardsight.cli import _flags, _show
from hardsight.progress import progress_bars


def kit(
    device: Annotated[
        str,
        typer.Option(
            "--device",
            "-d",
            metavar="NAME",
            help="Name for the machine to be measured: NAME/onnxruntime/MODE or NAME/litert/MODE, where MODE "
            "is fp32-t1, int8-t1, ... (t1: one thread).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.zip", help="Archive to write.")] = Path(
        "kit.zip"
    ),
    networks: Annotated[
        int, typer.Option("--networks", min=1, max=50, metavar="N", help="Reference networks to pack.")
    ] = 14,
    as_json: _flags.AsJson = False,
) -> None:
    """Pack networks and one script to measure a machine where Hardsight is not installed.

    There, the script needs Python 3.9, numpy and the runtime. Its results come back by 'hardsight adapt
    --measurements' or 'hardsight dataset import'.
    """
    from hardsight.jobs import build_kit

    with progress_bars() as progress:
        made = build_kit(device, out, networks=networks, progress=progress)
    size = made.path.stat().st_size
    if as_json:
        _show.line(
            {
                "path": str(made.path),
                "size_bytes": size,
                "networks": made.networks,
                "left_out": dict(made.left_out),
            }
        )
        return
    _show.note(f"{made.path}: {made.networks} networks, {_show.amount(size, 'size_bytes')}")
    for digest, reason in made.left_out.items():
        _show.note(f"left out {digest[:8]}: {reason}")
    _show.note("There: unpack it, then: python measure.py (README.txt says more)")
    mode = device.split("/")[2]
    _show.note(f"Here, with what it wrote: hardsight adapt --measurements results-{mode}.jsonl")
