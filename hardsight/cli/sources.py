"""``hardsight dataset sources`` and ``hardsight dataset fetch``: measurements that others published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hardsight.cli import _flags, _show
from hardsight.errors import DataError
from hardsight.progress import progress_bars

if TYPE_CHECKING:
    from hardsight.datasets.sources import Source


def sources(as_json: _flags.AsJson = False) -> None:
    """List public tables of measurements.

    With rows, licence, what to cite, and whether a copy is on this machine.
    """
    from hardsight.datasets.sources import SOURCES, get_source

    known = [get_source(name) for name in SOURCES]
    if as_json:
        for source in known:
            _show.line(
                {
                    "name": source.name,
                    "rows": source.rows,
                    "licence": source.licence,
                    "citation": source.citation,
                    "urls": [file.url for file in source.files],
                    "devices": [device.name for device in source.devices],
                    "folder": _folder(source),
                }
            )
        return
    _show.table(
        ("name", "rows", "licence", "here", "cite"),
        (
            (s.name, f"{s.rows:,}", s.licence, "yes" if _folder(s) else "-", s.citation)
            for s in sorted(known, key=lambda s: s.name)
        ),
        "Public tables; get one with 'hardsight dataset fetch NAME'",
    )


def fetch(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Table, as 'hardsight dataset sources' lists them.")
    ],
    mirror: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PLACE",
            help="Folder or beginning of a URL that has the original files; by default the publisher.",
        ),
    ] = None,
) -> None:
    """Download, verify and convert a public table.

    Goes on where an interrupted call stopped; what is here already is not asked for again.
    """
    from hardsight.datasets.sources import get_source
    from hardsight.datasets.sources.fetch import fetch as download

    source = get_source(name)
    with progress_bars() as progress:
        fetched = download(source, mirror=mirror, progress=progress)
    rows = len(source.table(fetched.folder))
    for original in fetched.originals:
        if not original.verified:
            _show.note(
                f"{original.file.name}: not verified, no checksum of it was ever published; it has the SHA-256 "
                f"{original.sha256}"
            )
    devices = ", ".join(device.name for device in source.devices)
    _show.note(f"{name}: {rows:,} rows; {f'labels of {devices}' if devices else 'a table without labels'}")
    _show.note(f"Folder: {fetched.folder}")
    _show.note(f"Licence: {source.licence}. Cite: {source.citation}")


def _folder(source: Source) -> str | None:
    """Where the table is on this machine."""
    try:
        return str(source.find())
    except DataError:
        return None
