"""Where exceptions end: one sentence on stderr and an exit code; a traceback only with ``--debug``."""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

import typer

from hardsight.cli._text import printable
from hardsight.errors import HardsightError, StorageError

EXIT_UNEXPECTED = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def run() -> NoReturn:
    """Entry point of the installed script."""
    code = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _discard(stream)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; raises nothing.

    ``--debug`` may stand anywhere, so that it can be appended to a line that failed.
    """
    _mend_streams()

    def command(words: list[str]) -> object:
        from hardsight.cli._app import app

        return app(words, prog_name="hardsight", standalone_mode=False)

    return answer(command, argv)


def answer(command: Callable[[list[str]], object], argv: Sequence[str] | None = None) -> int:
    """Call a command with the words of its line, ``--debug`` apart, and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guard(lambda: command([word for word in words if word != "--debug"]), debug="--debug" in words)


def guard(command: Callable[[], object], *, debug: bool = False) -> int:
    """Call a command and return its exit code: 0, an integer it returns, or that of what it raises."""
    try:
        code = command()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except SystemExit as stop:
        # Typer answers a closed pipe with exit code 1, which here means a broken budget.
        if isinstance(stop.__context__, BrokenPipeError):
            return _closed_pipe()
        return stop.code if isinstance(stop.code, int) else EXIT_UNEXPECTED
    except BrokenPipeError:
        return _closed_pipe()
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except typer.TyperException as error:
        return _usage(error)
    except Exception as error:
        if debug:
            traceback.print_exc()
        sentence, exit_code = explain(error)
        say(sentence)
        return exit_code


def say(sentence: str) -> None:
    """Print an error on stderr, on one line; where that is closed or full, the exit code has to do."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"hardsight: {printable(' '.join(sentence.split()))}", file=sys.stderr)


def _usage(error: typer.TyperException) -> int:
    message, context = error.format_message(), getattr(error, "ctx", None)
    if context is not None and message == context.get_help():  # a group without a command
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr)
    else:
        say(f"{message.rstrip('.')}. See '{context.command_path if context else 'hardsight'} --help'.")
    return error.exit_code


def _mend_streams() -> None:
    """Give closed streams somewhere to go, and write out characters that a stream's encoding lacks."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 (open as long as the process)
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def explain(error: Exception) -> tuple[str, int]:
    """The sentence and the exit code for an exception."""
    if isinstance(error, HardsightError):
        return str(error), error.exit_code
    for cause in _chain(error):
        if isinstance(cause, OSError):
            return _storage(cause), StorageError.exit_code
        if isinstance(cause, sqlite3.OperationalError):
            return (
                f"the database cannot be used: {cause}. Check its folder's space and permissions.",
                StorageError.exit_code,
            )
    if isinstance(error, MemoryError):
        return (
            "this machine has not enough memory for that; close other programs or give a smaller job.",
            EXIT_UNEXPECTED,
        )
    return (
        f"unexpected {type(error).__name__}: {error or 'no message'}. This is a fault of Hardsight, "
        "not yours: run again with --debug and report the traceback.",
        EXIT_UNEXPECTED,
    )


def _storage(error: OSError) -> str:
    where = f"'{error.filename}'" if error.filename else "a file"
    return (
        f"cannot use {where}: {error.strerror or error}. Check the path, its permissions and the free space."
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or getattr(current, "orig", None)


def _closed_pipe() -> int:
    _discard(sys.stdout)
    return EXIT_BROKEN_PIPE


def _discard(stream: TextIO) -> None:
    """The interpreter flushes a stream once more as it exits; that must find somewhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
