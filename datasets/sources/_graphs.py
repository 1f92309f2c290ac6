"""Digests of thousands of published networks: computed once, then read; graphs only where somebody looks."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path

from hardsight.datasets.sources._base import cache_folder
from hardsight.graph import OperatorGraph
from hardsight.progress import Progress

Build = Callable[[str], OperatorGraph]
"""From a network's encoding, as one line of text, to its graph."""

_KEPT = 1024  # graphs held at a time: of a whole search space they would fill gigabytes


class LazyGraphs(Mapping[str, OperatorGraph]):
    """Digest to graph; a graph is built when it is asked for, and forgotten when many others were.

    Args:
        encodings: digest to the network's encoding.
        build: makes the graph.
    """

    def __init__(self, encodings: Mapping[str, str], build: Build) -> None:
        self._encodings = encodings
        self._build = lru_cache(_KEPT)(build)

    def __getitem__(self, digest: str) -> OperatorGraph:
        return self._build(self._encodings[digest])

    def __iter__(self) -> Iterator[str]:
        return iter(self._encodings)

    def __len__(self) -> int:
        return len(self._encodings)


def lazy_graphs(
    source: str, encodings: Sequence[str], build: Build, progress: Progress | None = None
) -> tuple[list[str], LazyGraphs]:
    """The digest of each network, and the graphs by digest.

    Digests are the true ones. They are kept in the cache folder, one line per network, in a file whose name holds
    a fingerprint of the code that makes graphs: other code, other file. A killed run goes on where it stopped.

    Args:
        source: name of the table; part of the file's name.
        encodings: one line of text per network; repeats are welcome.
        build: from encoding to graph; a function of the module that says what the networks are.
        progress: told about the digests that have to be computed.

    Returns:
        digests ``(n,)`` in the order of ``encodings``; two encodings of one graph have the same.
    """
    path = cache_folder() / "digests" / f"{source}-{_fingerprint(build)}.tsv"
    known = _read(path)
    missing = [e for e in dict.fromkeys(encodings) if e not in known]
    with contextlib.ExitStack() as stack:
        lines = None
        if missing:
            # without a writable cache everything works, only slower the next time
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                lines = stack.enter_context(path.open("a", encoding="utf-8"))
        for done, encoding in enumerate(missing, 1):
            known[encoding] = build(encoding).digest
            if lines is not None:
                with contextlib.suppress(OSError):
                    lines.write(f"\n{encoding}\t{known[encoding]}\n")
            if progress is not None:
                progress(f"graphs of {source}", done, len(missing))
    digests = [known[e] for e in encodings]
    return digests, LazyGraphs({d: e for e, d in zip(encodings, digests, strict=True)}, build)


def _read(path: Path) -> dict[str, str]:
    """Encoding to digest; a torn line ends in no digest of full length and is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = (line.rpartition("\t") for line in text.splitlines())
    return {encoding: digest for encoding, _, digest in pairs if len(digest) == 32}


def _fingerprint(build: Build) -> str:
    """Of the code that decides over a digest: the network's module, the builders and the reader."""
    module = sys.modules[build.__module__].__file__
    assert module is not None
    return hashlib.sha256((_core() + Path(module).read_text()).encode()).hexdigest()[:16]


@cache
def _core() -> str:
    import onnx

    from hardsight import graph, ingest
    from hardsight.datasets import builder
    from hardsight.datasets.sources import _graphs_blocks

    files = [Path(m.__file__ or "") for m in (graph, builder, _graphs_blocks)]
    files += sorted(Path(ingest.__file__ or "").parent.glob("*.py"))
    return onnx.__version__ + "".join(file.read_text() for file in files)
