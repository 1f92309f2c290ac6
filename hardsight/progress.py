"""Progress on the terminal, for everything that takes over two seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on stderr, one per activity, with the time left; a log without a terminal gets a line per tenth.

    Standard output stays free for results.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    if not console.is_terminal:
        yield _Lines(console.print)
        return
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, object] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

        yield report


class _Lines:
    """Progress for logs: a line when an activity begins, at each tenth of it, and when it ends."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._tenths: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        tenth = 10 * done // total if total else 10
        if self._tenths.get(what) != tenth:
            self._tenths[what] = tenth
            self._write(f"{what}: {done} of {total}")
