"""``hardsight dataset sources`` and ``hardsight dataset fetch``: measurements that others published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hardsight.cli import _flags, _show
from hardsight.errors import DataError, NotSupportedError
from hardsight.progress import progress_bars

if TYPE_CHECKING:
    from hardsight.datasets.sources import Source


def sources(as_json: _flags.AsJson = False) -> None:
    """List the public tables: rows, licence, what to cite, and whether they are on this machine."""
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
    """Download a public table, verify it and convert it; goes on where an earlier call stopped."""
    from hardsight.datasets.sources import get_source
    from hardsight.datasets.sources.fetch import fetch as download

    with progress_bars() as progress:
        source = get_source(name, progress)
        fetched = download(source, mirror=mirror, progress=progress)
        try:
            table = source.process(fetched.folder)
            found = (
                f"{len(table):,} labels of {len(table.digests):,} networks on {len(table.devices)} devices"
            )
        except NotSupportedError as reason:
            found = f"no labels, for {reason}"
    for original in fetched.originals:
        if not original.verified:
            _show.note(
                f"{original.file.name}: not verified, no checksum of it was ever published; it has the SHA-256 "
                f"{original.sha256}"
            )
    _show.note(f"{name}: {found}")
    _show.note(f"Folder: {fetched.folder}")
    _show.note(f"Licence: {source.licence}. Cite: {source.citation}")


def _folder(source: Source) -> str | None:
    """Where the table is on this machine."""
    try:
        return str(source.find())
    except DataError:
        return None
