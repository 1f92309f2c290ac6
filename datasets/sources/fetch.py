"""Downloading a public table: resume, verify, convert, keep."""

from __future__ import annotations

import errno
import hashlib
import http.client
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from hardsight.datasets.sources._base import RemoteFile, Source, plain_folder
from hardsight.errors import BackendError, DataError, InputError, StorageError
from hardsight.progress import Progress

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30.0
_ATTEMPTS = 5
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP answers that another attempt may better."""


@dataclass(frozen=True)
class Original:
    """A downloaded file.

    Args:
        file: what it is a copy of.
        path: where it is kept.
        sha256: of the copy.
    """

    file: RemoteFile
    path: Path
    sha256: str

    @property
    def verified(self) -> bool:
        """Whether the checksum was compared with one that Hardsight ships."""
        return self.file.sha256 is not None


@dataclass(frozen=True)
class Fetched:
    """A table that can be read now.

    Args:
        folder: of the plain copy.
        originals: what it was converted from; empty when the plain copy was there already.
    """

    folder: Path
    originals: tuple[Original, ...] = ()


def fetch(
    source: Source, *, mirror: str | None = None, progress: Progress | None = None, pause_s: float = 1.0
) -> Fetched:
    """Download a source's originals, verify and convert them; what is there already is kept.

    Interrupted at any time, the next call goes on where this one stopped.

    Args:
        source: what to fetch.
        mirror: a folder or the beginning of a URL that has the files under their `RemoteFile.name`; by default
            they come from where they were published.
        progress: told about bytes.
        pause_s: before the second attempt at a file; doubles with every further one.

    Raises:
        InputError: ``mirror`` is neither a folder nor a URL of http or https.
        BackendError: a server cannot be reached or refuses.
        DataError: a file is not what its checksum says, or cannot be converted.
        StorageError: the cache folder cannot be written.
    """
    remote = mirror is not None and "://" in mirror
    if remote and not str(mirror).startswith(("http://", "https://")):
        raise InputError(f"'{mirror}' is no place to fetch from; give a folder, or a URL of http or https")
    plain = plain_folder(source.name)
    if all((plain / name).is_file() for name in source.plain):
        return Fetched(plain)
    raw = plain.with_name("original")
    with _storage(raw):
        raw.mkdir(parents=True, exist_ok=True)
        originals = tuple(_original(file, raw, mirror, progress, pause_s) for file in source.files)
        try:
            _convert(source, raw, plain)
        except DataError:
            _forget(originals)
            raise
    return Fetched(plain, originals)


def _forget(originals: Iterable[Original]) -> None:
    """Delete what was taken on trust, so that the next call asks for it again."""
    for original in originals:
        if not original.verified:
            original.path.unlink()
            _record(original.path).unlink()


def _record(path: Path) -> Path:
    """Where the checksum of an original is written down."""
    return path.with_name(path.name + ".sha256")


def _convert(source: Source, raw: Path, plain: Path) -> None:
    """All plain files or none."""
    with tempfile.TemporaryDirectory(dir=plain.parent) as scratch:
        out = Path(scratch) / "plain"
        out.mkdir()
        source.convert(raw, out)
        missing = [name for name in source.plain if not (out / name).is_file()]
        assert not missing, f"converting '{source.name}' did not write {missing}"
        shutil.rmtree(plain, ignore_errors=True)
        out.replace(plain)


def _original(
    file: RemoteFile, raw: Path, mirror: str | None, progress: Progress | None, pause_s: float
) -> Original:
    path = raw / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    record = _record(path)
    recorded = record.read_text().split() if record.is_file() else []
    expected = file.sha256 or (recorded[0] if recorded else None)
    if path.is_file() and (digest := _sha256(path)) == expected:
        return Original(file, path, digest)
    part = path.with_name(path.name + ".part")
    if mirror is not None and "://" not in mirror:
        _copy(Path(mirror) / file.name, part)
    else:
        url = file.url if mirror is None else f"{mirror.rstrip('/')}/{quote(file.name)}"
        _download(url, file, part, progress, pause_s)
    digest = _sha256(part)
    if expected is not None and digest != expected:
        part.unlink()
        if file.sha256 is not None:
            reason = "is published; try again, or give another mirror with --from"
        else:
            reason = (
                f"was downloaded the first time; if it was meant to change, delete {record} and try again"
            )
        raise DataError(
            f"'{file.name}' has the SHA-256 {digest}, not {expected} as {reason}; it was not kept"
        )
    record.write_text(f"{digest}  {path.name}\n")
    part.replace(path)
    return Original(file, path, digest)


def _copy(origin: Path, part: Path) -> None:
    if not origin.is_file():
        raise DataError(f"the mirror has no file '{origin}'; expected the originals under their own names")
    shutil.copyfile(origin, part)


def _download(url: str, file: RemoteFile, part: Path, progress: Progress | None, pause_s: float) -> None:
    """Fetch ``url`` into ``part``, going on after its last byte."""
    reason: object = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        try:
            return _attempt(url, file, part, progress)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # what is there is as long as the file or longer: not the beginning of it
                part.unlink(missing_ok=True)
            elif error.code not in _PASSING:
                raise BackendError(
                    f"{url} answers {error.code} {error.reason}; the file may have moved: give a mirror with --from"
                ) from error
            reason = error
        except urllib.error.URLError as error:
            reason = error.reason
            if isinstance(reason, socket.gaierror):  # no network, or no such host: trying again is of no use
                break
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = error
    raise BackendError(
        f"cannot download {url}: {reason}. Check the network and run the same command again, which goes on where "
        "this one stopped, or give a mirror with --from"
    )


def _attempt(url: str, file: RemoteFile, part: Path, progress: Progress | None) -> None:
    begun = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "hardsight", "Accept-Encoding": "identity"})
    if begun:
        request.add_header("Range", f"bytes={begun}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        resumed = begun > 0 and answer.status == 206
        done = begun if resumed else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else file.size
        with part.open("ab" if resumed else "wb") as out:
            while chunk := _chunk(answer):
                out.write(chunk)
                done += len(chunk)
                if progress is not None and total:
                    progress(file.name, done, total)
    if total and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _chunk(answer: http.client.HTTPResponse) -> bytes:
    """The next bytes; whatever the socket raises is the network's fault, not the disk's."""
    try:
        return answer.read(_CHUNK_BYTES)
    except OSError as error:
        raise ConnectionError(str(error)) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _storage(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into a sentence."""
    try:
        yield
    except (BackendError, DataError, StorageError):
        raise
    except OSError as error:
        advice = "free some space" if error.errno == errno.ENOSPC else "check its permissions"
        raise StorageError(
            f"cannot write {error.filename or folder}: {error.strerror or error}; {advice} or set HARDSIGHT_HOME "
            "to another folder, then run the same command again"
        ) from error
